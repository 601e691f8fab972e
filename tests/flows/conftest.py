"""The toy domain, and runs to work on."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from cluster.cli import main

TOY = Path(__file__).resolve().parent.parent / "toy"
PACKAGES = ("configs", "data", "flows", "flows.steps", "modules")

Command = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session", autouse=True)
def toy_on_path() -> None:
    """The toy domain as if its folder had been on PYTHONPATH from the start."""
    for name in PACKAGES:
        folder = str(TOY / name.replace(".", "/"))
        package = import_module(name)
        if folder not in package.__path__:
            package.__path__.append(folder)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for runs, W&B off, with which both `penstock` here and in processes work."""
    monkeypatch.setenv("PENSTOCK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "off")
    monkeypatch.setenv("PENSTOCK_PROGRESS_SECONDS", "0.2")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    return tmp_path / "runs"


@pytest.fixture
def penstock(runs: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main(list(words))
        except SystemExit as stopped:  # argparse's own mistakes and --help
            code = int(stopped.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def started(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """`penstock WORDS` as a process group of its own, which a test may kill."""
    with log.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *words],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
