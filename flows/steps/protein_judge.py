"""The last word on a backbone from a program of the user's choice: the place for ProteinMPNN and a folding model.

Such a command gets one PDB file and prints one JSON object as its last line, for example

    {"accept": true, "score": 1.3}

`accept` is needed; `score` may be any number (a self-consistency RMSD, say), and whatever else it says is kept.
"""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.batch import Backbone
from data.errors import PenstockError
from data.export.backbone import write_backbone

PLACE = "{pdb}"
_SHOWN = 600
"""Characters of a failed command's last words that the message shows."""


@dataclass(frozen=True)
class Opinion:
    """What an external judge said of one backbone."""

    accept: bool
    score: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else it printed."""


def check_judge(command: str) -> list[str]:
    """The words of a judge's command, split as a shell would; no shell ever runs it.

    Raises:
        PenstockError: {pdb} is missing, a quote is not closed, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise PenstockError(f"judge: expected a command, got {command!r} ({error}).") from None
    if not words or not any(PLACE in word for word in words[1:]):
        raise PenstockError(
            f"judge: expected a command with {PLACE} where the file goes, like 'python judge.py {PLACE}'; "
            f"got {command!r}."
        )
    if shutil.which(words[0]) is None:
        raise PenstockError(
            f"judge: there is no program '{words[0]}' to run. Give its full path, and see that it is executable."
        )
    return words


def ask_judge(command: str, backbone: Backbone, *, timeout: float = 600.0) -> Opinion:
    """What the command says of a backbone, which it gets as a PDB file (residues without a type are GLY) in a folder
    of its own that is removed afterwards. `timeout` in seconds; what the command started ends with it.

    Raises:
        PenstockError: the command cannot be run, fails, takes too long, or does not answer as agreed.
    """
    words = check_judge(command)
    with tempfile.TemporaryDirectory(prefix="penstock-judge-") as folder:
        path = Path(folder) / "backbone.pdb"
        write_backbone(backbone, path)
        output = _run([word.replace(PLACE, str(path)) for word in words], command, timeout)
    return _understood(output, command)


def _run(words: list[str], command: str, timeout: float) -> str:
    """Standard output of the command."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except OSError as error:
        raise PenstockError(f"judge: {command!r} could not be run: {error}.") from None
    try:
        output, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise PenstockError(
            f"judge: {command!r} did not answer within {timeout:g} s and was ended. Raise pairs.judge_seconds, or see "
            "why it hangs by running it by hand on a PDB file."
        ) from None
    finally:
        _end(process)
    if process.returncode != 0:
        words_left = (said.strip() or output.strip())[-_SHOWN:] or "(it said nothing)"
        raise PenstockError(f"judge: {command!r} failed with exit status {process.returncode}:\n{words_left}")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    """End the command and all that it left running in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _understood(output: str, command: str) -> Opinion:
    lines = [line for line in output.splitlines() if line.strip()]
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("accept"), bool):
        got = f"got {lines[-1][:_SHOWN]!r}" if lines else "it printed nothing"
        raise PenstockError(
            f'judge: expected {command!r} to print a JSON object like {{"accept": true, "score": 1.3}} as its last '
            f"line; {got}."
        )
    score = answer.get("score")
    if score is not None and (
        isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score)
    ):
        raise PenstockError(f"judge: expected a finite number as score from {command!r}, got {score!r}.")
    details = {name: value for name, value in answer.items() if name not in ("accept", "score")}
    return Opinion(answer["accept"], None if score is None else float(score), details)
