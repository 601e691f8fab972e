"""The report of a sweep, held against sweeps whose answer is known, and W&B's record of how trials ended."""

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from cluster.sweeps import charts
from cluster.sweeps.charts import Key, Line
from cluster.sweeps.importance import LEAST, importance
from cluster.sweeps.report import read_sweep, short_names, write_report
from configs import load
from data.errors import PenstockError
from flows.domain import load_domain
from flows.run import create
from tests.cluster.sweeps.made_up import KEYS, sweep_file
from tests.flows.offline_wandb import OfflineRun, offline_files


@pytest.mark.parametrize("count, bad", [(32, 5), (8, 2), (1, 0), (3, 3), (0, 0)])
def test_a_report_of_any_size(tmp_path: Path, count: int, bad: int) -> None:
    sweep_file(tmp_path / "some", count, bad)
    text = write_report(tmp_path / "some").read_text()
    assert text.count('class="one') == (2 * count - bad + (bad // 2) if count else 0)  # curves, then settings
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
        assert "nan" not in svg.replace("(out of memory?)", "")
    assert "killed by SIGKILL (out of memory?) after 2 attempts &lt;b&gt;" in text or not bad
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert ("beyond" in text or "within chance" in text) == (count - bad >= LEAST)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_stands_first_and_what_failed_last(tmp_path: Path, mode: str) -> None:
    said = sweep_file(tmp_path / "some", 12, 3, mode)
    found = read_sweep(tmp_path / "some")
    metrics = [trial["metric"] for trial in said["trials"] if trial["metric"] is not None]
    assert [trial.metric for trial in found.measured] == sorted(metrics, reverse=mode == "max")
    assert [trial.name for trial in found.trials[-3:]] == ["t009", "t010", "t011"]
    text = write_report(tmp_path / "some").read_text()
    best = (max if mode == "max" else min)(metrics)
    first = next(trial["name"] for trial in said["trials"] if trial["metric"] == best)
    assert f'<th scope="row">{first}</th>' in text.split("<tbody>")[1].split("</tr>")[0]


def test_a_trial_that_was_stopped_early_is_not_the_best(tmp_path: Path) -> None:
    said = sweep_file(tmp_path / "some", 6)
    said["trials"][0] |= {"state": "stopped", "metric": 0.01}
    said["trials"][4] |= {"state": "done", "metric": 0.02}
    (tmp_path / "some" / "trials.json").write_text(json.dumps(said))
    text = write_report(tmp_path / "some").read_text()
    assert ">trial t004<" in text
    assert "A trial that was stopped early had come further" in text


def test_a_file_that_is_no_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match=r"trials\.json cannot be read"):
        write_report(tmp_path)
    (tmp_path / "trials.json").write_text('{"trials": [3]}')
    with pytest.raises(PenstockError, match="expected the trials of a sweep"):
        write_report(tmp_path)


def test_values_that_are_not_finite_are_no_metric(tmp_path: Path) -> None:
    said = sweep_file(tmp_path / "some", 3)
    said["trials"][0] |= {"metric": math.inf, "state": "done"}
    (tmp_path / "some" / "trials.json").write_text(json.dumps(said))
    assert [trial.metric is None for trial in read_sweep(tmp_path / "some").trials] == [False, False, True]
    write_report(tmp_path / "some")


# ------------------------------------------------------------------------------------------------------ importance


def test_the_share_is_the_effect_size_of_kruskal_and_wallis() -> None:
    random = np.random.default_rng(0)
    losses = random.normal(size=40).round(1)  # with ties, as the test's correction for them is in it
    words = [str(word) for word in random.choice(["a", "b", "c"], 40)]
    found = importance(losses.tolist(), words)
    assert found is not None
    groups = [losses[np.array(words) == word] for word in "abc"]
    assert found.share == pytest.approx(stats.kruskal(*groups).statistic / 39)
    numbers = random.permutation(40) * 0.1
    found = importance(losses.tolist(), numbers.tolist())
    assert found is not None
    quarters = [losses[(numbers >= 0.1 * first - 1e-9) & (numbers < 0.1 * first + 0.95)] for first in (0, 10, 20, 30)]
    assert found.share == pytest.approx(stats.kruskal(*quarters).statistic / 39)


def test_chance_passes_its_mark_in_one_of_twenty() -> None:
    random = np.random.default_rng(1)
    beyond = 0
    for k in range(100):
        found = importance(random.normal(size=24).tolist(), random.uniform(size=24).tolist(), seed=k)
        assert found is not None
        beyond += found.beyond_chance
    assert stats.binomtest(beyond, 100, 0.05).pvalue > 1e-3


def test_a_setting_with_its_best_in_the_middle_is_found() -> None:
    values = np.linspace(-1, 1, 24)
    found = importance((values**2).tolist(), values.tolist())
    assert found is not None
    assert found.beyond_chance
    assert set(found.best) <= set(range(6, 18))


def test_too_few_trials_or_too_little_variation_say_nothing() -> None:
    assert importance([1.0] * 4 + [2.0] * 4, ["a"] * 4 + ["b"] * 4) is None
    assert importance(list(range(20)), ["a"] * 20) is None
    assert importance([1.0] * 20, list(range(20))) is None


# ---------------------------------------------------------------------------------------------------------- charts


def line(name: str, place: float | None, **values: Any) -> Line:
    metric = values.pop("metric", None)
    return Line(name, f"{name} said", place, [(10, 1.0), (20, 0.5)], values, metric)


def paths(svg: str) -> dict[str, list[tuple[float, float]]]:
    """Where the visible line of each trial passes the axes."""
    found = {}
    for group in ElementTree.fromstring(svg).iter("g"):
        if group.attrib.get("class", "").startswith("one"):
            numbers = [float(one) for one in re.findall(r"-?[\d.]+", group.findall("path")[1].attrib["d"])]
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            found[(group.findtext("title") or "").split()[0]] = [points[0], *points[3::3]]
    return found


def test_lines_pass_the_axes_at_their_settings() -> None:
    keys = {"a.lr": Key(log=True, limits=(1e-4, 1e-2)), "a.width": Key(words=("8", "16", "128")),
            "a.drop": Key(limits=(0.0, 0.4))}  # fmt: skip
    lines = [
        line("low", 0.0, **{"a.lr": 1e-4, "a.width": "8", "a.drop": 0.0, "metric": 1.0}),
        line("mid", 0.5, **{"a.lr": 1e-3, "a.width": "16", "a.drop": 0.2, "metric": 2.0}),
        line("top", 1.0, **{"a.lr": 1e-2, "a.width": "128", "a.drop": 0.4, "metric": 3.0}),
        line("bad", None, **{"a.lr": 1e-3, "a.width": "16", "a.drop": 0.2}),
        line("part", 0.7, **{"a.drop": 0.2, "metric": 2.0}),
    ]
    svg = charts.parallel(lines, keys, "val/loss")
    assert svg is not None
    found = paths(svg)
    bottom, top = found["low"][0][1], found["top"][0][1]
    assert bottom > top
    assert [y for _, y in found["low"]] == pytest.approx([bottom] * 4)
    assert [y for _, y in found["mid"]] == pytest.approx([(bottom + top) / 2] * 4)
    assert [y for _, y in found["top"]] == pytest.approx([top] * 4)
    assert found["bad"][-1][1] > bottom  # below the metric's axis
    assert [x for x, _ in found["part"]] == [x for x, _ in found["low"]][2:]  # a key that it does not have is left out
    assert len({x for points in found.values() for x, _ in points}) == 4


def test_colours_go_by_rank() -> None:
    assert charts.colour(0.0) == "#{:02x}{:02x}{:02x}".format(*charts.BEST)
    assert charts.colour(1.0) == "#{:02x}{:02x}{:02x}".format(*charts.WORST)
    assert charts.colour(None) not in (charts.colour(0.0), charts.colour(1.0))


def test_what_users_call_things_is_text() -> None:
    name = "<script>&\"'"
    svg = charts.parallel([Line(name, name, 0.0, [], {name: name}, 1.0)], {name: Key(words=(name,))}, f"{name} loss")
    assert svg is not None
    assert "<script>" not in svg
    assert "<script>" not in (charts.curves([Line(name, name, 0.0, [(1, 1.0)], {}, 1.0)], name) or "")
    assert "<script>" not in charts.bars([(name, 0.5, 0.2, name)], name)


def test_short_names_are_as_long_as_they_must_be() -> None:
    keys = ["vae.optimizer.lr", "flow.optimizer.lr", "flow.network.width", "seed"]
    assert list(short_names(keys).values()) == ["vae.optimizer.lr", "flow.optimizer.lr", "width", "seed"]
    assert short_names(["a.lr", "lr"]) == {"a.lr": "a.lr", "lr": "lr"}


# ------------------------------------------------------------------------------------------------------------- W&B


def test_wandb_learns_once_how_every_trial_ended(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep, domain = runs / "some", load_domain("toy")
    said = sweep_file(sweep, 4, 2, keys={"flow.network.width": KEYS["patchtst.network.layers"]})
    said["trials"][1]["state"] = "running"
    (sweep / "trials.json").write_text(json.dumps(said))
    config = load.resolve(
        domain.config, [*load.preset_layers("toy", "debug"), load.override_layer({"wandb": "offline"})]
    )
    for k in range(4):
        create(sweep / "trials", domain, config, "debug", f"t{k:03d}")
    write_report(sweep)
    ended = {file.run["display_name"]: file for file in map(OfflineRun, offline_files(sweep))}
    states = {name: (file.summary["state"], file.exit_code) for name, file in ended.items()}
    assert states == {"t000": ("stopped", 0), "t002": ("failed", 1), "t003": ("nan", 1)}
    assert ended["t000"].summary["metric"] == said["trials"][0]["metric"]
    assert "SIGKILL" in ended["t002"].summary["reason"]
    assert all(file.config["flow.network.width"] == said["trials"][int(name[1:])]["config"]["flow.network.width"]
               for name, file in ended.items())  # fmt: skip

    said["trials"][1]["state"] = "done"
    (sweep / "trials.json").write_text(json.dumps(said))
    write_report(sweep)
    again = [OfflineRun(file).run["display_name"] for file in offline_files(sweep)]
    assert sorted(again) == ["t000", "t001", "t002", "t003"]
