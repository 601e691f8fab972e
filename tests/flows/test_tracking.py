"""What W&B is told, read back from its offline files by W&B's own program."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs import load
from flows.domain import load_domain
from flows.reporting.drawing import Plot
from flows.run import Run, create
from flows.tracking import FLUSH_SECONDS, Metric, read_metrics, record_end, tracked
from tests.flows.offline_wandb import OfflineRun, offline_files, wandb
from tests.flows.wandb_server import wandb_server

Penstock = Callable[..., tuple[int, str, str]]
VARIED = {"flow.network.width": 8, "flow.trainer.steps": 40}


@pytest.fixture
def sweep(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep with one trial, t000, that is not started yet; W&B offline."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = runs / "width"
    (folder / "trials").mkdir(parents=True)
    (folder / "sweep.yaml").write_text("{}\n")
    (folder / "trials.json").write_text(json.dumps({"trials": [{"name": "t000", "config": VARIED}]}))
    return folder


def made(folder: Path, name: str, **settings: str) -> Run:
    """A toy run that has done nothing."""
    domain = load_domain("toy")
    layers = [*load.preset_layers("toy", "debug"), load.override_layer({"wandb": "offline"} | settings)]
    return create(folder, domain, load.resolve(domain.config, layers), "debug", name)


def rows(run: Run, name: str) -> list[Metric]:
    return [row for row in read_metrics(run.metrics_file) if row.name == name]


def losses(run: Run) -> dict[int, float]:
    return {row.step: row.value for row in rows(run, "train/loss")}


def test_a_trial_is_one_run_over_all_its_steps(sweep: Path, penstock: Penstock) -> None:
    settings = {key: str(value) for key, value in VARIED.items()} | {"flow.trainer.log_every": "5"}
    run = made(sweep / "trials", "t000", **settings)
    code, _, err = penstock("train", "toy.flow", "--run", str(run.path))
    assert code == 0, err
    with tracked(run, "sample") as tracker:
        tracker.log_pictures({"chart": Plot((0, 1), (0, 1)).svg, "picture": lambda: PNG})
        tracker.log({"samples/radius": 0.5})
    assert record_end(run, "done", failed=False, metric=0.25, reason=None)

    trained, sampled, ended = files = [OfflineRun(file) for file in offline_files(sweep)]
    for file in files:
        assert (file.run["run_group"], file.run["display_name"], file.run["run_id"]) == ("width", "t000", "width-t000")
        assert (file.run["project"], file.run["job_type"]) == ("penstock-toy", "trial")
        assert file.run["resume"] is True  # what makes `wandb sync` join the files instead of replacing one by the next
        assert {key: file.config[key] for key in VARIED} == VARIED
        assert file.config["config"]["flow"]["network"] == {"width": 8}
        assert file.exit_code == 0

    written = losses(run)
    assert sorted(written) == list(range(5, 41, 5))
    assert trained.curve("flow/train/loss", "flow/step") == pytest.approx(written, rel=1e-8)
    assert [record["metric"]["step_metric"] for record in trained.records if record["type"] == "metric"] == [
        "flow/step"
    ]
    pictures = sorted(path.suffix for path in (sampled.folder / "files" / "media").rglob("*") if path.is_file())
    assert pictures == [".html", ".png"]
    assert sampled.summary["samples/radius"] == 0.5
    assert (ended.summary["state"], ended.summary["metric"]) == ("done", 0.25)

    listed = wandb("sync", "--dry-run", cwd=sweep).stderr
    assert "Would sync 3 run(s)" in listed
    assert all(str(file.relative_to(sweep)) in listed for file in offline_files(sweep))
    assert not (run.path / "wandb").exists()


@pytest.mark.slow
def test_a_sweep_is_synced_as_a_whole(sweep: Path, tmp_path: Path) -> None:
    """`wandb sync` sends every trial to one run of the group, all its steps and attempts joined."""
    told = [{"name": name, "config": {"flow.network.width": k}} for k, name in enumerate(("t000", "t001"))]
    (sweep / "trials.json").write_text(json.dumps({"trials": told}))
    for name in ("t000", "t001"):
        run = made(sweep / "trials", name)
        with tracked(run, "train_flow") as tracker:
            for step in (10, 20, 30):
                tracker.log({"val/loss": 1 / step}, step)
        with tracked(run, "train_flow") as tracker:  # again, from a checkpoint after step 20
            for step in (30, 40):
                tracker.log({"val/loss": 1 / step}, step)
        with tracked(run, "sample") as tracker:
            tracker.log_pictures({"picture": lambda: PNG})
            tracker.log({"samples/radius": 0.5})
        record_end(run, "done", failed=False, metric=1 / 40)
    with wandb_server() as server:
        settings = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path)}
        done = wandb("sync", "--yes", cwd=sweep, **settings)
        assert done.returncode == 0, done.stderr
        assert "Syncing 8 run(s)" in done.stderr
        assert set(server.runs) == {"width-t000", "width-t001"}
        for k, (identity, run_there) in enumerate(sorted(server.runs.items())):
            assert (run_there.group, run_there.name, run_there.project) == ("width", f"t00{k}", "penstock-toy")
            assert run_there.config["flow.network.width"] == {"value": k}, identity
            rows_there = [row for row in run_there.history if "flow/step" in row]
            assert [row["flow/step"] for row in rows_there] == [10, 20, 30, 30, 40]
            assert [row["flow/val/loss"] for row in rows_there] == [1 / row["flow/step"] for row in rows_there]
            counted = [row["_step"] for row in run_there.history]
            assert counted == sorted(set(counted))
            assert len(counted) == 7
            assert not run_there.overwritten
            assert any(name.endswith(".png") for name in run_there.files)
            expected = {"state": "done", "metric": 1 / 40, "samples/radius": 0.5, "flow/val/loss": 1 / 40}
            assert {name: run_there.summary[name] for name in expected} == expected
            assert run_there.summary["pictures"]["count"] == 1
            assert run_there.exit_codes[-1] == 0
        assert wandb("sync", "--dry-run", cwd=sweep).stderr.count("Skipped 8 synced") == 1


def test_a_killed_trial_leaves_a_readable_run(sweep: Path, tmp_path: Path) -> None:
    run = made(sweep / "trials", "t000", **{"flow.trainer.steps": "100000", "flow.trainer.log_every": "5"})
    # This process has a W&B service then; the one that is killed must not be a client of it.
    assert record_end(made(sweep / "trials", "t001"), "done", failed=False)
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "train", "toy.flow", "--run", str(run.path)],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        # On a busy machine W&B takes a while before it writes.
        _until(lambda: any("t000" in file.name and file.stat().st_size > 1000 for file in offline_files(sweep)))
        begun = rows(run, "train/loss")[-1].seconds
        _until(lambda: rows(run, "train/loss")[-1].seconds > begun + 8 * FLUSH_SECONDS)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    [file] = (file for file in offline_files(sweep) if "t000" in file.name)
    killed = OfflineRun(file)
    assert killed.exit_code is None
    assert (killed.run["run_group"], killed.run["display_name"]) == ("width", "t000")
    assert {key: killed.config[key] for key in VARIED} == VARIED
    curve, written = killed.curve("flow/train/loss", "flow/step"), losses(run)
    assert curve == pytest.approx({step: written[step] for step in curve}, rel=1e-8)
    # All but what came in the last seconds.
    end = rows(run, "train/loss")[-1].seconds
    sure = [row.step for row in rows(run, "train/loss") if row.seconds < end - 5 * FLUSH_SECONDS]
    assert sure
    assert set(sure) <= set(curve)
    # How it ended is said by who killed it.
    record_end(run, "failed", failed=True, reason="killed by SIGKILL")
    last = OfflineRun(offline_files(sweep)[-1])
    assert (last.exit_code, last.run["run_id"]) == (1, killed.run["run_id"])
    assert (last.summary["state"], last.summary["reason"]) == ("failed", "killed by SIGKILL")


def test_outside_of_a_sweep_every_step_is_a_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = made(runs, "alone")
    for step in ("train_flow", "sample"):
        with tracked(run, step) as tracker:
            tracker.log({"train/loss": 2.0}, 7)
    files = [OfflineRun(file) for file in offline_files(run.path)]
    assert [file.run["run_id"] for file in files] == ["alone-train_flow", "alone-sample"]
    assert [file.run["display_name"] for file in files] == ["alone/train_flow", "alone/sample"]
    for file in files:
        assert file.run["run_group"] == "alone"
        assert file.curve("train/loss", "_step") == {7: 2.0}
        assert not set(VARIED) & set(file.config)


@pytest.mark.slow
@pytest.mark.parametrize("domain, media", [
    ("shape", {".glb", ".png"}), ("protein", {".pdb", ".png"}), ("forecast", {".html"}),
    ("turbulence", {".html"}),
])  # fmt: skip
def test_every_domain_sends_samples_to_look_at(
    runs: Path, penstock: Penstock, monkeypatch: pytest.MonkeyPatch, domain: str, media: set[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, out, err = penstock("sample", domain, "--preset", "debug", "--name", "drawn")
    assert code == 0, err
    assert "going on without it" not in out
    file = OfflineRun(next(f for f in offline_files(runs / "drawn") if f.parent.name.endswith("-sample")))
    found = [path for path in (file.folder / "files" / "media").rglob("*") if path.is_file()]
    assert media <= {path.suffix for path in found}
    assert all(path.stat().st_size > 500 for path in found)


def test_a_step_that_fails_is_a_failed_run(sweep: Path) -> None:
    run = made(sweep / "trials", "t000")
    with pytest.raises(ZeroDivisionError), tracked(run, "sample"):
        raise ZeroDivisionError
    [file] = offline_files(sweep)
    assert OfflineRun(file).exit_code == 1


def test_nothing_is_drawn_when_it_is_off(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "off")
    drawn: list[int] = []
    run = made(sweep / "trials", "t000")
    with tracked(run, "sample") as tracker:
        tracker.log_pictures({"one": lambda: drawn.append(1) or ""})
    assert not drawn
    assert not record_end(run, "done", failed=False)
    assert not (sweep / "wandb").exists()


def test_what_fails_in_a_picture_stops_nothing(sweep: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = made(sweep / "trials", "t000")

    def broken() -> Any:
        raise ValueError("no picture today")

    with tracked(run, "sample") as tracker:
        tracker.log_pictures({"one": broken})
        tracker.log({"samples/radius": 0.5})
    assert "W&B: ValueError: no picture today; going on without it" in capfd.readouterr().out


def _until(condition: Callable[[], Any], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645"
    "400000000049454e44ae426082"
)
"""One pixel."""
