"""What this machine can do, and what to install for the rest."""

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.clusters.local import find
from flows.provenance import hardware, usable_cores

OPTIONAL = {
    "ray": ("several machines, sweeps", "pip install 'penstock[ray]'"),
    "transformers": ("image conditions (DINOv2)", "pip install 'penstock[vision]'"),
    "gemmi": ("structure files", "pip install 'penstock[protein]'"),
    "mdtraj": ("secondary structure", "pip install 'penstock[protein]'"),
    "tmtools": ("TM-scores", "pip install 'penstock[protein]'"),
    "neuralop": ("Fourier neural operators", "pip install 'penstock[turbulence]'"),
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
    return [*_machine(runs), *_torch(), *_packages(), *_ray(), _wandb()]


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


def _ray() -> list[Finding]:
    """What trainings, sweeps and jobs on a cluster would meet. Looks at settings and ports; Ray is not started."""
    if not _present("ray"):
        return []
    found = [_train_api(), _shared_memory()]
    cluster = find()
    # As `--on ray` looks for one (cluster.clusters.local.admitted): RAY_ADDRESS, then the cluster of this machine.
    address = os.environ.get("RAY_ADDRESS") or (cluster.address if cluster is not None else None)
    ours = cluster is not None and address == cluster.address
    found.append(_cluster(address, "of `penstock cluster up`" if ours else "of RAY_ADDRESS"))
    if cluster is not None and ours:
        token = f"in {cluster.token_file}" if cluster.token_file else None
        found.append(Finding("Ray token", "ok" if token else "note", token or "none: whoever reaches it runs code"))
    else:
        found.append(_token())
    return found


def _train_api() -> Finding:
    # Several processes, restarts and preemption notices are written for the second interface of Ray Train.
    chosen = os.environ.get("RAY_TRAIN_V2_ENABLED", "1")
    if chosen in ("0", "false", "False"):
        return Finding("Ray Train", "missing", f"RAY_TRAIN_V2_ENABLED={chosen} chooses its old interface: unset it")
    return Finding("Ray Train", "ok", "second interface (V2)")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("/dev/shm", "note", "there is none; Ray keeps objects in /tmp, which is slow")
    room, memory = shutil.disk_usage(folder).total / 2**30, hardware()["memory_gib"]
    share = 0.3  # of the memory is what Ray's object store takes unless it is told otherwise
    if room < share * memory:
        cure = f"Ray's objects want {share * memory:.1f} GiB: in a container, --shm-size; or `mount -o remount,size=…`"
        return Finding("/dev/shm", "note", f"{room:.1f} GiB; {cure}")
    return Finding("/dev/shm", "ok", f"{room:.1f} GiB for Ray's objects")


def _cluster(address: str | None, origin: str) -> Finding:
    if address is None:
        return Finding("Ray cluster", "ok", "none set: --on ray starts one here for as long as a command runs")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return Finding("Ray cluster", "note", f"{address} ({origin}) is not HOST:PORT, as in 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError as error:
        return Finding("Ray cluster", "missing", f"nobody answers at {address} ({origin}): {error}")
    return Finding("Ray cluster", "ok", f"{address} ({origin}) answers")


def _token() -> Finding:
    """The token that this machine would show to a cluster that asks for one, looked for where Ray looks."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding("Ray token", "ok", f"in RAY_AUTH_TOKEN, RAY_AUTH_MODE={mode or 'unset'}")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if not file.is_file():
        if mode == "token" or named:
            return Finding("Ray token", "missing", f"RAY_AUTH_MODE={mode or 'unset'}, and there is no file {file}")
        return Finding("Ray token", "ok", "none, and none asked for (RAY_AUTH_MODE)")
    if file.stat().st_mode & 0o077:
        return Finding("Ray token", "note", f"others can read {file}: chmod 600 {file}")
    return Finding("Ray token", "ok", f"in {file}, RAY_AUTH_MODE={mode or 'unset'}")


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
