"""What this machine can do, and what to install for the rest."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.provenance import hardware, usable_cores

OPTIONAL = {
    "ray": ("several machines, sweeps", "pip install 'penstock[ray]'"),
    "transformers": ("image conditions (DINOv2)", "pip install 'penstock[vision]'"),
    "gemmi": ("structure files", "pip install 'penstock[protein]'"),
    "mdtraj": ("secondary structure", "pip install 'penstock[protein]'"),
    "tmtools": ("TM-scores", "pip install 'penstock[protein]'"),
    "pandas": ("tables of time series", "pip install 'penstock[forecast]'"),
    "pyarrow": ("Parquet tables", "pip install 'penstock[forecast]'"),
}
"""Package → what it is for, and how to get it."""
NEEDED = ("lightning", "metaflow", "wandb", "h5py", "trimesh", "igl", "manifold3d")


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    state: str
    """'ok', 'missing' or 'note'."""
    found: str


def examine(runs: Path) -> list[Finding]:
    """Every finding, the machine first."""
    return [*_machine(runs), *_torch(), *_packages(), _wandb()]


def table(findings: Sequence[Mapping[str, str]]) -> str:
    """The findings as text."""
    marks = {"ok": "ok ", "missing": "-- ", "note": "!  "}
    return "\n".join(f"{marks[f['state']]} {f['what']:<14} {f['found']}" for f in findings)


def _machine(runs: Path) -> list[Finding]:
    machine = hardware()
    python_fits = sys.version_info >= (3, 11)
    existing = next(folder for folder in (runs, *runs.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    disk = f"{free:.1f} GiB free for {runs}" + (
        "" if writable else ", which cannot be written: choose another --runs-dir"
    )
    return [
        Finding("python", "ok" if python_fits else "missing", f"{sys.version.split()[0]} (3.11 or later is needed)"),
        Finding("cores", "ok", f"{usable_cores()} of {machine['processor']}"),
        Finding("memory", "ok" if machine["memory_gib"] >= 4 else "note", f"{machine['memory_gib']} GiB"),
        Finding("disk", "ok" if free > 2 and writable else "note", disk),
    ]


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "missing", "pip install penstock")]
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    none = "none seen by torch; training runs on the CPU"
    if not gpus and hardware()["gpus"]:
        none = f"{', '.join(hardware()['gpus'])}, but this torch has no CUDA: install a CUDA build of torch"
    return [
        Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Finding("gpu", "ok" if gpus else "note", ", ".join(gpus) or none),
    ]


def _packages() -> list[Finding]:
    found = [
        Finding(name, "ok", _version(name)) if _present(name) else Finding(name, "missing", "pip install penstock")
        for name in NEEDED
    ]
    for name, (purpose, cure) in OPTIONAL.items():
        present = _present(name)
        text = f"{_version(name)} ({purpose})" if present else f"for {purpose}: {cure}"
        found.append(Finding(name, "ok" if present else "missing", text))
    return found


def _wandb() -> Finding:
    from flows.tracking import has_key, requested_mode

    mode = requested_mode(None) or "offline"
    key = "a key is present" if has_key() else "no key (`wandb login` for online)"
    return Finding("W&B", "ok", f"mode {mode}, {key}")


def _present(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _version(name: str) -> str:
    names = importlib.metadata.packages_distributions().get(name, [name])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "present"
