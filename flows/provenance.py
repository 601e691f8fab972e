"""Where a run comes from: code, packages, machine, command."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

COMMIT = "PENSTOCK_COMMIT"
"""Environment variable: the commit that a copy of the checkout was made from, with a `+` where files were changed."""


def collect(command: str, seed: int) -> dict[str, Any]:
    """Everything that is needed to make a run again, except its config and the data's fingerprint."""
    return {
        "command": command,
        "directory": str(Path.cwd()),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": seed,
        "code": code_version(),
        "packages": package_versions(),
        "hardware": hardware(),
    }


def code_version() -> dict[str, Any]:
    """Version of this package and, where it runs from a git checkout or a copy of one that a job brought along, the
    commit and whether files were changed."""
    found: dict[str, Any] = {"version": _version("penstock")}
    root = Path(__file__).resolve().parent.parent
    if (root / ".git").exists():
        commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
        changes = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
        found |= {"commit": commit, "dirty": bool(changes)} if commit else {}
    elif os.environ.get(COMMIT):
        copied = os.environ[COMMIT]
        found |= {"commit": copied.removesuffix("+"), "dirty": copied.endswith("+")}
    return found


def package_versions() -> dict[str, str]:
    """Versions of Python and of every package this one declares."""
    try:
        declared = importlib.metadata.requires("penstock") or []
    except importlib.metadata.PackageNotFoundError:  # a copy that runs without being installed
        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        declared = tomllib.loads(project.read_text())["project"]["dependencies"] if project.is_file() else []
    names = sorted({re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in declared if "extra ==" not in line})
    versions = {name: _version(name) for name in names}
    return {"python": platform.python_version()} | {name: v for name, v in versions.items() if v}


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, GPUs."""
    gpus = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) if shutil.which("nvidia-smi") else ""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [line.strip() for line in (gpus or "").splitlines() if line.strip()],
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
