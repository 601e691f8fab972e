"""W&B's offline files, read by W&B's own program."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


def wandb(*words: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder, `settings` as environment variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_ERROR_REPORTING": "false", **settings}
    return subprocess.run(
        [sys.executable, "-m", "wandb", *words], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


def offline_files(folder: Path) -> list[Path]:
    """Every .wandb file under FOLDER/wandb, in the order in which they were begun."""
    files = (folder / "wandb").glob("offline-run-*/*.wandb")
    return sorted(files, key=lambda path: (path.parent / "files").stat().st_ctime_ns)


class OfflineRun:
    """The records of one .wandb file."""

    def __init__(self, file: Path) -> None:
        # `wandb leet inspect --json FILE`, without the seconds that the import of wandb takes.
        words = ["leet", "inspect", "--no-observability", "--json", "--run-file", str(file), str(file.parent.parent)]
        done = subprocess.run([get_core_path(), *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        self.folder = file.parent
        self.records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        [self.run] = [record["run"] for record in self.records if record["type"] == "run"]

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run["config"]["update"]
        return found

    @property
    def exit_code(self) -> int | None:
        """None where the process ended without a word."""
        codes = [record["exit"].get("exit_code", 0) for record in self.records if record["type"] == "exit"]
        return codes[0] if codes else None

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in self.records:
            if record["type"] == "summary":
                found |= record["summary"].get("update", {})
        return found

    def history(self) -> list[dict[str, Any]]:
        return [record["history"]["item"] for record in self.records if record["type"] == "history"]

    def curve(self, name: str, axis: str) -> dict[int, float]:
        """Value by step, as the axis counts it."""
        return {int(row[axis]): float(row[name]) for row in self.history() if name in row}
