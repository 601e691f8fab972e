"""The sections that every run has, from the files in its folder.

A report must not fail because a file is missing or odd after hours of work: what cannot be read is left out, or said in
the section's place.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.reporting.sections import (
    Command,
    Curve,
    Duration,
    Durations,
    Headline,
    KeyValues,
    LossCurves,
    Point,
    Report,
    Section,
    Source,
    Value,
)

_LONGEST_TEXT = 200_000  # characters of a configuration that travel into the page


def report_of_run(
    folder: Path,
    results: Sequence[Section],
    *,
    headlines: Sequence[Headline] = (),
    summary: str = "",
    domain: str | None = None,
) -> Report:
    """A whole report: the domain's `results` first, then curves, durations, configuration, provenance, command."""
    status = _json(folder / "status.json")
    provenance = _json(folder / "provenance.json")
    steps = durations(status)
    common = [losses(folder / "metrics.csv"), steps, configuration(folder / "config.yaml"),
              origin(provenance), command(provenance)]  # fmt: skip
    return Report(
        run=folder.resolve().name,
        domain=domain or str(status.get("domain", "")),
        sections=[*results, *(section for section in common if section is not None)],
        headlines=headlines,
        date=_moment(status.get("created")),
        seconds=sum(step.seconds for step in steps.steps) if steps else None,
        summary=summary,
    )


def losses(path: Path) -> LossCurves | None:
    """The curves in a `metrics.csv` with columns stage, step, name, value (and others, not needed here).

    Where a training was resumed from before its last logged step, the later row of the same step counts.
    """
    rows: dict[tuple[str, str], dict[int, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            # Bytes of zero, as a crash of the machine leaves them, are no text for the csv module.
            for row in csv.DictReader(line.replace("\0", "") for line in file):
                try:
                    key = (row["stage"] or "", row["name"] or "")
                    rows.setdefault(key, {})[int(float(row["step"]))] = float(row["value"])
                except (KeyError, TypeError, ValueError, OverflowError):
                    continue  # a line cut short by a kill
    except (OSError, csv.Error):
        return None
    curves = [
        Curve(stage=stage, name=name, points=[Point(step, value) for step, value in sorted(values.items())])
        for (stage, name), values in rows.items()
    ]
    if not curves:
        return None
    return LossCurves(
        curves=curves,
        note="Faint lines are single values, strong lines their running mean; dots are validations.",
    )


def durations(status: Mapping[str, Any]) -> Durations | None:
    """Wall time of each step that has ended, from the run's status."""
    records = status.get("steps")
    if not isinstance(records, Mapping):
        return None
    steps = []
    for name, record in records.items():
        if not isinstance(record, Mapping) or not isinstance(seconds := record.get("seconds"), int | float):
            continue
        if not math.isfinite(seconds) or seconds <= 0:
            continue
        state = str(record.get("state", ""))
        attempts = record.get("attempts", 1)
        again = f"in {attempts} attempts" if isinstance(attempts, int) and attempts > 1 else ""
        steps.append(Duration(name=str(name), seconds=float(seconds), state=again if state == "done" else state))
    note = "Wall time of each step, all its attempts together; the writing of this page is not counted."
    return Durations(steps=steps, note=note) if steps else None


def configuration(path: Path) -> Source | None:
    """The resolved configuration, folded."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}\n# … cut here; the whole is in {path.name}"
    return Source(
        title="Configuration",
        text=text,
        language="yaml",
        summary=f"{path.name}, {len(text.splitlines())} lines",
        note="Every setting of this run as it was resolved from the preset, the files and the command line.",
    )


def origin(provenance: Mapping[str, Any]) -> KeyValues | None:
    """Code, data, packages and machine that made the run, one group for each nested entry."""
    groups: dict[str, dict[str, Value]] = {"Run": {}}
    for name, value in provenance.items():
        if name == "command":
            continue
        if isinstance(value, Mapping):
            groups[_words(name).capitalize()] = _flat(value)
        else:
            groups["Run"][_words(name)] = _plain(value)
    groups = {name: facts for name, facts in groups.items() if facts}
    return KeyValues(title="Provenance", groups=groups) if groups else None


def command(provenance: Mapping[str, Any]) -> Command | None:
    """The command that made the run, as it was typed."""
    text = provenance.get("command")
    if not isinstance(text, str) or not text.strip():
        return None
    code = provenance.get("code")
    commit = code.get("commit") if isinstance(code, Mapping) else None
    where = f" at commit {str(commit)[:12]}" if commit else ""
    changed = " with local changes" if isinstance(code, Mapping) and code.get("dirty") else ""
    note = f"Typed{where}{changed}. The same seed on the same machine gives the same weights and samples, bit for bit."
    return Command(command=text, note=note)


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{_words(name)}, ")
        else:
            flat[f"{prefix}{_words(name)}"] = _plain(value)
    return flat


def _plain(value: Any) -> Value:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return str(value)  # a seed is a name, not an amount: no thousands separators
    if isinstance(value, float | str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(entry) for entry in value) or None
    return str(value)


def _words(name: Any) -> str:
    """A key as a reader would write it: `memory_gib` is "memory GiB"."""
    spelling = {"gib": "GiB", "gpus": "GPUs", "cpu": "CPU", "vae": "VAE"}
    return " ".join(spelling.get(word, word) for word in str(name).split("_"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _moment(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(seconds)).astimezone()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
