"""Sweeps on a cluster of one machine: what they must do when trials, or the sweep itself, come to harm."""

import csv
import json
import math
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.simulated import ray_processes
from tests.flows.conftest import started

BUDGET = 400


def write_space(path: Path, **said: Any) -> Path:
    path.write_text(yaml.safe_dump({"metric": "val/loss"} | said))
    return path


def start(log: Path, *words: str) -> subprocess.Popen[bytes]:
    """`penstock WORDS` as a process group of its own."""
    return started(words, log)


def ended(process: subprocess.Popen[bytes], log: Path, seconds: float = BUDGET) -> tuple[int, str]:
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"not through after {seconds} s:\n{log.read_text()[-3000:]}") from None
    return code, log.read_text(errors="replace")


def results(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep / "trials.json").read_text())
    return found | {"by_name": {trial["name"]: trial for trial in found["trials"]}}


def metrics(run: Path, name: str) -> list[tuple[int, float]]:
    with (run / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == name]


def wait_for(condition: Any, seconds: float = BUDGET) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def ray_processes_of(runs: Path) -> set[int]:
    """Processes of Ray that commands on these runs started: they have its folder in their environment."""
    found = set()
    for number in ray_processes():
        with suppress(OSError):
            if str(runs).encode() in Path(f"/proc/{number}/environ").read_bytes():
                found.add(number)
    return found


def assert_nothing_left(runs: Path) -> None:
    wait_for(lambda: not ray_processes_of(runs), 60)


def test_a_small_sweep_from_the_space_file_to_the_best_model(probe_runs: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path / "space.yaml",
        search={"class": "Grid"},
        space={"flow.optimizer.lr": {"choice": [1e-1, 1e-2]}},
        fixed={"flow.trainer.steps": 20},
    )
    words = ["sweep", "probe.flow", "--space", str(space), "--name", "s"]
    code, said = ended(start(tmp_path / "log", *words), tmp_path / "log")
    assert code == 0, said
    found = results(probe_runs / "s")
    values = [trial["metric"] for trial in found["trials"]]
    assert values == pytest.approx([1 + 1 / 21, 1 / 21], rel=1e-6)  # the loss of the probe by its definition
    assert metrics(probe_runs / "s" / "trials" / "t001", "val/loss")[-1][1] == pytest.approx(1 / 21, rel=1e-6)
    assert json.loads((probe_runs / "s" / "best" / "best.json").read_text())["trial"] == "t001"
    assert (probe_runs / "s" / "report.html").is_file()
    assert not (probe_runs / "s" / "ray").exists()
    assert_nothing_left(probe_runs)


@pytest.mark.slow
def test_bad_trials_leave_the_others_alone_and_say_why(probe_runs: Path, tmp_path: Path) -> None:
    """One raises, one gives NaN, one wants more memory than it may have, one dies: a fifth is not disturbed."""
    faults = ["none", "raise", "nan", "memory", "kill", "kill-once"]
    space = write_space(
        tmp_path / "space.yaml",
        search={"class": "Grid"},
        space={"flow.fault": {"choice": faults}},
        fixed={"flow.marks": str(tmp_path / "mark")},
        then=["sample"],
    )
    words = ["sweep", "probe.flow", "--space", str(space), "--name", "s", "--memory-per-trial", "2"]
    code, said = ended(start(tmp_path / "log", *words, "--max-failures", "1"), tmp_path / "log")
    assert code == 0, said
    found = {trial["config"]["flow.fault"]: trial for trial in results(probe_runs / "s")["trials"]}
    states = {fault: trial["state"] for fault, trial in found.items()}
    assert states == {
        "none": "done", "raise": "failed", "nan": "nan", "memory": "failed", "kill": "failed", "kill-once": "done",
    }  # fmt: skip
    assert "a fault that the test asked for" in found["raise"]["reason"]
    assert "val/loss was nan after step 30" in found["nan"]["reason"]
    assert "out of memory" in found["memory"]["reason"]
    assert "its process died 2 times" in found["kill"]["reason"]
    assert all(trial["reason"] in said for trial in found.values() if trial["reason"])
    # By the definition of the probe's loss, at its own learning rate of 1e-2.
    assert found["none"]["metric"] == pytest.approx(1 / 61, rel=1e-6)
    assert found["none"]["history"] == found["kill-once"]["history"]
    assert (found["none"]["attempts"], found["kill-once"]["attempts"]) == (1, 2)
    for fault in ("none", "kill-once"):
        assert (probe_runs / "s" / "trials" / found[fault]["name"] / "samples" / "drawn.txt").is_file()
    best = json.loads((probe_runs / "s" / "best" / "best.json").read_text())
    assert best["value"] == pytest.approx(1 / 61, rel=1e-6)
    assert (probe_runs / "s" / "best" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_brings_each_trial_to_its_end_exactly_once(probe_runs: Path, tmp_path: Path) -> None:
    """16 trials; SIGKILL when a few are done and others are in their middle; every step is done once in the end."""
    space = write_space(
        tmp_path / "space.yaml",
        samples=16,
        space={"flow.optimizer.lr": {"loguniform": [1e-4, 1.0]}},
        fixed={"flow.pause": 0.05},
    )
    log, folder = tmp_path / "log", probe_runs / "s"
    process = start(log, "sweep", "probe.flow", "--space", str(space), "--name", "s")
    wait_for(lambda: (folder / "trials.json").is_file())

    def states() -> Counter[str]:
        return Counter(trial["state"] for trial in results(folder)["trials"])

    def in_the_middle() -> bool:
        running = [trial for trial in results(folder)["trials"] if trial["state"] == "running"]
        return states()["done"] >= 4 and any(20 <= trial["step"] <= 40 for trial in running)

    wait_for(lambda: in_the_middle() or process.poll() is not None)
    assert ray_processes_of(probe_runs)  # they are found, so that their absence in the end means something
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {t["name"]: t for t in results(folder)["trials"] if t["state"] == "done"}
    assert 4 <= len(finished) < 16
    stamps = {name: (folder / "trials" / name / "status.json").stat().st_mtime_ns for name in finished}
    code, said = ended(start(log, "resume", "s"), log)
    assert code == 0, said
    assert states() == {"done": 16}
    for name, trial in results(folder)["by_name"].items():
        run = folder / "trials" / name
        lr = trial["config"]["flow.optimizer.lr"]
        rows = metrics(run, "val/loss")
        assert Counter(step for step, _ in rows) == Counter(range(10, 61, 10))  # no step twice, none left out
        assert trial["metric"] == pytest.approx(abs(math.log10(lr) + 2) + 1 / 61, rel=1e-5)
        if name in finished:
            assert (run / "status.json").stat().st_mtime_ns == stamps[name]  # not touched again
            assert trial["attempts"] == 1
    assert len(list((folder / "trials").glob("t*"))) == 16
    assert any(trial["attempts"] > 1 for trial in results(folder)["trials"])
    again, _ = ended(start(log, "resume", "s"), log)
    assert again == 0
    assert "nothing is missing" in log.read_text()
    assert_nothing_left(probe_runs)


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_saves_its_trials(probe_runs: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path / "space.yaml",
        samples=3,
        space={"flow.optimizer.lr": {"loguniform": [1e-4, 1.0]}},
        fixed={"flow.pause": 0.3, "flow.trainer.checkpoint_every_steps": 1000},
    )
    log, folder = tmp_path / "log", probe_runs / "s"
    process = start(log, "sweep", "probe.flow", "--space", str(space), "--name", "s", "--concurrent", "1")
    first = folder / "trials" / "t000"
    wait_for(lambda: (first / "metrics.csv").is_file() and metrics(first, "val/loss"))
    asked = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    code, said = ended(process, log)
    assert code == 130, said
    assert "penstock resume s" in said
    assert time.monotonic() - asked < 60
    assert list(first.glob("checkpoints/flow/step-*.ckpt"))  # none was due by itself
    assert [trial["state"] for trial in results(folder)["trials"]] == ["pending"] * 3
    assert_nothing_left(probe_runs)


@pytest.mark.long
@pytest.mark.slow
def test_halving_stops_bad_trials_early_and_marks_them(probe_runs: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path / "space.yaml",
        scheduler={"class": "ASHA", "grace": 10, "reduction": 2},
        search={"class": "Grid"},
        space={"flow.optimizer.lr": {"choice": [1e-2, 2e-2, 1.0, 1e-4, 0.9, 2e-4]}},
        fixed={"flow.pause": 0.05},
    )
    code, said = ended(
        start(tmp_path / "log", "sweep", "probe.flow", "--space", str(space), "--name", "s"), tmp_path / "log"
    )
    assert code == 0, said
    found = {trial["config"]["flow.optimizer.lr"]: trial for trial in results(probe_runs / "s")["trials"]}
    assert found[1e-2]["state"] == "done"  # nobody is better anywhere
    stopped = [trial for trial in found.values() if trial["state"] == "stopped"]
    assert len(stopped) >= 2
    for trial in stopped:
        assert trial["step"] < 60
        assert "ASHA" in trial["reason"]
        status = json.loads((probe_runs / "s" / "trials" / trial["name"] / "status.json").read_text())
        assert status["steps"]["train_flow"]["state"] == "pending"
    assert json.loads((probe_runs / "s" / "best" / "best.json").read_text())["settings"]["flow.optimizer.lr"] == 1e-2


@pytest.mark.long
@pytest.mark.slow
def test_optuna_looks_where_earlier_trials_did_well(probe_runs: Path, tmp_path: Path) -> None:
    """On a loss that depends on one setting, the later trials lie nearer to its optimum than the first."""
    space = write_space(
        tmp_path / "space.yaml",
        samples=14,
        search={"class": "Optuna", "startup": 6},
        space={
            "flow.optimizer.lr": {"loguniform": [1e-6, 1e2]},
            "flow.network": {"choice": [{"width": 4}, {"width": 8}]},
        },
    )
    code, said = ended(
        start(tmp_path / "log", "sweep", "probe.flow", "--space", str(space), "--name", "s"), tmp_path / "log"
    )
    assert code == 0, said
    trials = results(probe_runs / "s")["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 14
    assert {trial["config"]["flow.network.width"] for trial in trials} <= {4, 8}
    distance = [abs(math.log10(trial["config"]["flow.optimizer.lr"]) + 2) for trial in trials]
    assert sum(distance[8:]) / 6 < sum(distance[:6]) / 6


@pytest.mark.long
@pytest.mark.slow
def test_population_takes_over_weights_and_its_settings_take_effect(probe_runs: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path / "space.yaml",
        samples=2,
        scheduler={"class": "PBT", "every": 20, "quantile": 0.5},
        space={"flow.optimizer.lr": {"loguniform": [1e-5, 1.0]}},
        fixed={"flow.pause": 0.1, "flow.trainer.steps": 80},
    )
    words = ["sweep", "probe.flow", "--space", str(space), "--name", "s"]
    code, said = ended(start(tmp_path / "log", *words), tmp_path / "log")
    assert code == 0, said
    trials = results(probe_runs / "s")["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 2
    took = 0
    for trial in trials:
        run = probe_runs / "s" / "trials" / trial["name"]
        changes = json.loads((run / "trial.json").read_text())["took_over"]
        rates = dict(metrics(run, "train/lr"))
        for index, change in enumerate(changes):
            took += 1
            until = changes[index + 1]["step"] if index + 1 < len(changes) else 80
            lr = change["settings"]["flow.optimizer.lr"]
            for step, rate in rates.items():
                if change["step"] < step <= until:
                    # The rate that the schedule gives for the new setting, not the one that the checkpoint brought.
                    assert rate == pytest.approx(lr / (1 + (step - 1) / 100), rel=1e-5)
        if changes:
            assert trial["config"] == changes[-1]["settings"]
            assert f"lr: {changes[-1]['settings']['flow.optimizer.lr']}"[:10] in (run / "config.yaml").read_text()
    assert took >= 1, said


@pytest.mark.long
@pytest.mark.slow
def test_trials_of_two_workers(probe_runs: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path / "space.yaml", search={"class": "Grid"}, space={"flow.optimizer.lr": {"choice": [1e-2, 1e-1]}}
    )
    words = ["sweep", "probe.flow", "--space", str(space), "--name", "s", "--on", "ray", "--workers", "2"]
    code, said = ended(start(tmp_path / "log", *words), tmp_path / "log")
    assert code == 0, said
    found = {trial["config"]["flow.optimizer.lr"]: trial for trial in results(probe_runs / "s")["trials"]}
    assert found[1e-2]["metric"] == pytest.approx(1 / 61, rel=1e-6)
    assert found[1e-1]["metric"] == pytest.approx(1 + 1 / 61, rel=1e-6)
