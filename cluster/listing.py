"""Runs as tables of text."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.on_ray.faults import FILE as EVENTS
from cluster.sweeps.results import counts, sweeps_in
from configs.load import to_plain
from flows.lock import holder
from flows.progress import duration
from flows.run import DONE, SWEEP, Run, StepRecord, all_runs
from flows.tracking import read_metrics


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns; the first one is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def runs_table(folder: Path) -> str:
    """One line per run, the oldest first; below them the sweeps."""
    runs, sweeps = all_runs(folder), _sweeps(folder)
    if not runs:
        return sweeps or f"no runs in {folder}"
    rows = [("RUN", "DOMAIN", "PRESET", "STATE", "STEPS", "CREATED", "WORK")]
    for run in runs:
        records = run.steps()
        done = sum(record.state == DONE for record in records.values())
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created))
        work = duration(sum(record.seconds for record in records.values()))
        rows.append((run.name, run.domain_name, run.preset, _state(run), f"{done}/{len(records)}", created, work))
    return columns(rows) + (f"\n\n{sweeps}" if sweeps else "")


def _sweeps(folder: Path) -> str:
    rows = [("SWEEP", "TARGET", "STATE", "TRIALS", "BEST", "CREATED")]
    for path in sweeps_in(folder):
        said, ended, count = counts(path)
        other = holder(path / "lock")
        state = f"running (process {other.pid})" if other else DONE if count and ended == count else "unfinished"
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime((path / SWEEP).stat().st_mtime))
        values = [t["metric"] for t in said["trials"] if t["state"] == DONE and t["metric"] is not None]
        best = f"{said['metric']} {(min if said['mode'] == 'min' else max)(values):.5g}" if values else ""
        rows.append((path.name, said.get("target", ""), state, f"{ended}/{count}", best, created))
    return columns(rows) if len(rows) > 1 else ""


def _state(run: Run) -> str:
    other = run.holder()
    return f"{run.state()} ({other.what}, process {other.pid})" if other else run.state()


def show_run(run: Run) -> str:
    """All that is worth knowing of one run at a glance."""
    provenance = run.provenance()
    config = to_plain(run.config)
    facts = [
        ("run", run.name),
        ("directory", str(run.path)),
        ("state", _state(run)),
        ("domain", f"{run.domain_name}, preset {run.preset}, seed {config['seed']}"),
        ("data", config["data"] or "synthetic"),
        ("command", provenance["command"]),
    ]
    made = ("report.html", "exports", "samples", "evaluation.json", "models")
    facts += [(name.split(".")[0], str(run.path / name)) for name in made if (run.path / name).exists()]
    steps = [("STEP", "STATE", "ATTEMPTS", "WORK", "")]
    steps += [
        (
            name,
            _step_state(run, record),
            str(record.attempts),
            duration(record.seconds),
            record.error or record.origin or "",
        )
        for name, record in run.steps().items()
    ]
    parts = ["\n".join(f"{name:<11} {value}" for name, value in facts), columns(steps)]
    return "\n\n".join(part for part in (*parts, _events(run), _last_metrics(run)) if part)


def _events(run: Run) -> str:
    """What happened to the run's trainings on a cluster: who died, and where they went on."""
    file = run.path / EVENTS
    if not file.is_file():
        return ""
    rows = [("WHEN", "STAGE", "WHAT", "")]
    for event in json.loads(file.read_text()):
        when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        lost = f"{event['steps_lost']} steps, {event['seconds_lost']:g} s lost" if "steps_lost" in event else ""
        step = f"step {event['step']}" if "step" in event else ""
        told = ", ".join(filter(None, (step, lost, *event.get("causes", ()))))
        rows.append((when, event["place"], event["what"], told))
    return columns(rows)


def _step_state(run: Run, record: StepRecord) -> str:
    return "killed" if record.state == "running" and run.holder() is None else record.state


def _last_metrics(run: Run) -> str:
    last = {(row.stage, row.name): row for row in read_metrics(run.metrics_file)}
    if not last:
        return ""
    rows = [("STAGE", "METRIC", "LAST", "AT STEP")]
    return columns(rows + [(row.stage, row.name, f"{row.value:.5g}", str(row.step)) for row in last.values()])
