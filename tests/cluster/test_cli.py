"""The command line: quick help, one message and exit code 2 for what a user can mend."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cli import VERBS, main

Penstock = Callable[..., tuple[int, str, str]]


def test_help_answers_in_under_a_second() -> None:
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.monotonic() - begun)
    assert all(verb in done.stdout for verb in VERBS)
    assert min(seconds) < 1


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from cluster.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'yaml', 'lightning', 'metaflow', 'wandb'} & set(sys.modules)\n"
    code += "assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(penstock: Penstock, verb: str) -> None:
    code, out, _ = penstock(verb, "--help")
    assert code == 0
    assert f"example: penstock {verb}" in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "tox"], ["unknown domain 'tox'", "Did you mean 'toy'"]),
        (["run", "toy", "--preset", "debgu"], ["unknown preset 'debgu'", "Did you mean 'debug'"]),
        (["run", "toy", "--flow.network.widht", "3"], ["command line", "flow.network.widht", "flow.network.width"]),
        (["run", "toy", "--flow.network.width", "wide"], ["command line", "expects int", "'wide'"]),
        (["run", "toy", "--presset", "debug"], ["unknown key 'presset'"]),
        (["run", "toy", "--data", "nowhere"], ["no file or folder", "nowhere"]),
        (["run", "toy", "--config", "nowhere.yaml"], ["no config file nowhere.yaml"]),
        (["run", "toy", "--wandb", "sometimes"], ["--wandb expects one of: online, offline, off"]),
        (["train", "toy.flwo"], ["no stage 'flwo'", "Did you mean 'flow'"]),
        (["sample", "nothing"], ["not a run directory"]),
        (["runs", "show", "nothing"], ["not a run directory"]),
        (["resume"], ["no unfinished run"]),
        (["import", "--from", "elsewhere", "file"], ["no importer for 'elsewhere'"]),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    penstock: Penstock, runs: Path, words: list[str], parts: list[str]
) -> None:
    code, out, err = penstock(*words)
    assert code == 2
    assert err.startswith("penstock: ")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in out + err
    for part in parts:
        assert part in err
    assert not runs.exists() or not list(runs.iterdir())


def test_a_folder_that_is_no_run(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for verb in ("resume", "sample", "export", "report"):
        code, _, err = penstock(verb, str(tmp_path / "folder"))
        assert (code, "is not a run directory: it has no status.json" in err) == (2, True)
    (tmp_path / "folder" / "status.json").write_text("{}")
    code, _, err = penstock("resume", str(tmp_path / "folder"))
    assert (code, "not the status of a run" in err) == (2, True)


def test_no_verb_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: penstock" in capsys.readouterr().out


def test_runs_show_says_what_died(penstock: Penstock, runs: Path) -> None:
    assert penstock("prepare", "toy", "--name", "hurt")[0] == 0
    assert "WHAT" not in penstock("runs", "show", "hurt")[1]
    lost = {"time": 0.0, "place": "flow", "what": "lost", "causes": ["worker 1 died"], "step": 40, "again": True}
    back = {"time": 9.0, "place": "flow", "what": "went on", "step": 30, "steps_lost": 10, "seconds_lost": 9.5}
    (runs / "hurt" / "events.json").write_text(json.dumps([lost, back]))
    shown = [" ".join(line.split()[1:]) for line in penstock("runs", "show", "hurt")[1].splitlines()]
    assert "flow lost step 40, worker 1 died" in shown
    assert "flow went on step 30, 10 steps, 9.5 s lost" in shown
