"""A fifth domain by its own files alone runs through every verb of a spine that has never heard of it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.model_folder import read_model
from flows.run import DONE, all_runs
from flows.tracking import read_metrics

HOUSE = Path(__file__).resolve().parent.parent.parent
TOY = HOUSE / "tests" / "toy"
Penstock = Callable[..., tuple[int, str, str]]


def test_it_takes_less_than_a_hundred_lines() -> None:
    files = [path for path in TOY.rglob("*") if path.suffix in (".py", ".yaml")]
    assert sum(bool(line.strip()) for path in files for line in path.read_text().splitlines()) < 100


def test_the_spine_names_no_domain() -> None:
    spine = [
        *(HOUSE / "cluster").glob("*.py"),
        *(HOUSE / "flows" / name for name in ("run.py", "domain.py", "workflow.py", "lock.py", "models.py")),
        *(HOUSE / "flows" / "steps" / name for name in ("training.py", "importing.py", "reporting.py")),
        *(HOUSE / "configs" / name for name in ("load.py", "training.py")),
    ]
    # As a module or as a text; `.shape` of a tensor is none.
    names = r"(?:shape|protein|turbulence|forecast)"
    named = re.compile(rf"""(?:import|from)\s[\w.]*\b{names}\b|["']{names}["']""")
    for path in spine:
        assert not named.findall(path.read_text()), path


def test_every_verb(penstock: Penstock, runs: Path) -> None:
    assert penstock("prepare", "toy", "--name", "first", "--seed", "3", "--flow.trainer.steps", "20")[0] == 0
    [run] = all_runs(runs)
    assert run.finished() == ["prepare"]
    assert run.config.seed == 3

    code, out, err = penstock("sample", "first", "--count", "6")
    assert code == 0, err
    assert "sample needs train_flow first" in out
    assert "20/20 steps  100%" in out
    before = np.load(run.samples / "points.npy")
    assert before.shape == (6, 2)

    code, out, _ = penstock("train", "toy.flow", "--run", "first")
    assert (code, "finished before, kept" in out) == (0, True)
    for verb in ("evaluate", "export", "report"):
        assert penstock(verb)[0] == 0
    assert penstock("export", "model", "first")[0] == 0
    assert all((run.path / name).exists() for name in ("evaluation.json", "exports/points.csv", "report.html"))
    exported = read_model(run.exports / "models" / "flow")
    assert exported.config["network"] == {"width": 32}
    assert exported.provenance["data"]["fingerprint"] == run.provenance()["data"]["fingerprint"]
    assert run.state() == DONE

    code, out, _ = penstock("sample", "first", "--count", "9")
    assert "out of date now: evaluate, export, report" in out
    np.testing.assert_allclose(np.load(run.samples / "points.npy")[:6], before, rtol=1e-5)
    assert penstock("runs")[1].count("\n") == 2
    code, out, _ = penstock("runs", "show", "first")
    assert "unfinished" in out
    assert "train/loss" in out
    assert penstock("doctor")[0] == 0
    assert penstock("version")[1].startswith("penstock 0.")


def test_a_verb_on_a_domain_makes_a_run_and_what_it_needs(penstock: Penstock, runs: Path) -> None:
    code, out, err = penstock("train", "toy", "--flow.trainer.steps=5", "--flow.network.width", "8")
    assert code == 0, err
    assert "train_flow needs prepare first" in out
    [run] = all_runs(runs)
    assert run.finished() == ["prepare", "train_flow"]
    rows = read_metrics(run.metrics_file)
    assert {row.stage for row in rows} == {"flow"}


def test_print_config_prints_and_does_nothing(penstock: Penstock, runs: Path) -> None:
    for words in (["run", "toy"], ["train", "toy.flow"], ["prepare", "toy"]):
        code, out, _ = penstock(*words, "--flow.network.width", "7", "--print-config")
        assert (code, "width: 7" in out, runs.exists()) == (0, True, False)


def test_same_seed_gives_the_same_bits(penstock: Penstock, runs: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert penstock("sample", "toy", "--name", name, "--seed", seed, "--flow.trainer.steps", "12")[0] == 0
    weights = {run.name: (run.model("flow") / "model.safetensors").read_bytes() for run in all_runs(runs)}
    samples = {run.name: (run.samples / "points.npy").read_bytes() for run in all_runs(runs)}
    assert weights["a"] == weights["b"] != weights["c"]
    assert samples["a"] == samples["b"] != samples["c"]


def test_checkpoints_are_saved_by_the_clock(penstock: Penstock, runs: Path) -> None:
    words = ("--flow.trainer.steps", "4", "--flow.trainer.checkpoint_every_steps", "1000")
    words += ("--flow.trainer.checkpoint_every_seconds", "1e-9", "--flow.trainer.keep_checkpoints", "9")
    assert penstock("train", "toy", "--name", "clock", *words)[0] == 0
    saved = sorted(path.name for path in (runs / "clock" / "checkpoints" / "flow").glob("*.ckpt"))
    assert saved == [f"step-{step:08d}.ckpt" for step in (1, 2, 3, 4)]
