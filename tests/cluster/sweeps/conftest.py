"""The toy domain, and one whose trainings fail where a test says."""

import os
from importlib import import_module
from pathlib import Path

import pytest

PROBE = Path(__file__).resolve().parent / "probe"


@pytest.fixture(scope="session", autouse=True)
def probe_on_path() -> None:
    """The probe domain as if its folder had been on PYTHONPATH from the start."""
    for name in ("configs", "flows", "flows.steps"):
        folder = str(PROBE / name.replace(".", "/"))
        package = import_module(name)
        if folder not in package.__path__:
            package.__path__.append(folder)


@pytest.fixture
def probe_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for runs; Ray's processes find both domains."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROBE), os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return runs
