"""Trainings of the toy domain as processes that a test may kill, on clusters of its own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOY = Path(__file__).resolve().parents[2] / "toy"


class Training:
    """`penstock WORDS` as a process of its own."""

    def __init__(self, runs: Path, name: str, *words: str, **environment: str) -> None:
        self.run, self.log = runs / name, runs.parent / f"{name}.log"
        variables = {"PENSTOCK_RUNS": str(runs), "WANDB_MODE": "off", "PENSTOCK_PROGRESS_SECONDS": "0.2"}
        variables |= {"PYTHONPATH": str(TOY), "OMP_NUM_THREADS": "1"} | environment
        self.begun = self.log.stat().st_size if self.log.exists() else 0
        self.others = _training_processes()  # of a node that died a worker may live on
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cluster.cli", *words],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=os.environ | variables,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it printed so far."""
        return self.log.read_text()[self.begun :]

    def step(self) -> int:
        """The last step that its progress told of."""
        found = re.findall(r"» train \w+  (\d+)/", self.text())
        return int(found[-1]) if found else 0

    def wait_for(self, what: Callable[[], Any], seconds: float = 120) -> None:
        """Until `what` holds; it must, while the process runs, within so many seconds."""
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.05)

    def wait(self, seconds: float = 180) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.text()) from None

    def workers(self) -> list[int]:
        """Its processes that train now, from the process table, in the order of their numbers."""
        return sorted(_training_processes() - self.others)

    def events(self) -> list[dict[str, Any]]:
        file = self.run / "events.json"
        return json.loads(file.read_text()) if file.exists() else []

    def weights(self) -> bytes:
        return (self.run / "models" / "flow" / "model.safetensors").read_bytes()


def _training_processes() -> set[int]:
    return {pid for pid in descendants(os.getpid()) if b"RayTrainWorker" in command(pid)}


def command(pid: int) -> bytes:
    """A process's command line; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(root: int) -> set[int]:
    """All processes that `root` has started, directly or not, and that are still its or its children's."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        fresh = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(fresh)
        waiting += fresh
    return found
