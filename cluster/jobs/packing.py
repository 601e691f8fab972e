"""What a job brings along: the files of the checkout that git knows or would take, and none of the data or runs."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.errors import PenstockError

CODE = ("cluster", "flows", "configs", "modules", "data")
"""The packages that every job needs."""
LARGEST = 5
IGNORED_BY_RAY = (".gitignore", ".rayignore")
"""Ray would read these and leave files out by itself; what is left out is decided here."""


def checkout() -> Path:
    """The folder that holds the packages of this program."""
    return Path(__file__).resolve().parents[2]


@contextmanager
def packed(folder: Path | None, runs: Path, most: float) -> Iterator[Path]:
    """A temporary folder with what is sent along; `folder` is the user's own, else the checkout. `most`: in MiB.

    Raises:
        PenstockError: there is no such folder, or it is larger than `most`.
    """
    files = gathered(folder, runs)
    _check_size(files, most)
    with tempfile.TemporaryDirectory(prefix="penstock-job-") as made:
        for inside, file in files.items():
            target = Path(made) / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            target.chmod(file.stat().st_mode & 0o777 | 0o600)
        yield Path(made)


def gathered(folder: Path | None, runs: Path) -> dict[Path, Path]:
    """Path in the package → file, for a folder of the user's (which need not hold our code) or the checkout."""
    ours = checkout()
    root = ours if folder is None else folder.resolve()
    if not root.is_dir():
        raise PenstockError(f"--working-dir: there is no folder {root}.")
    # An installed program lies among all other packages: of such a folder only ours are meant.
    found = _code(ours) if folder is None and not _in_git(ours) else _listed(root)
    if root != ours and not (root / "cluster" / "cli.py").is_file():
        clash = [name for name in CODE if (root / name).exists()]
        if clash:
            raise PenstockError(
                f"--working-dir: {root} has a '{clash[0]}' of its own, where the job needs the package of that name. "
                "Rename it, or send along a folder without it."
            )
        found |= {Path(name): ours / name for name in map(str, _code(ours))}
    kept = {}
    for inside, file in sorted(found.items()):
        if inside.name in IGNORED_BY_RAY or file.resolve().is_relative_to(runs.resolve()) or not file.is_file():
            continue
        kept[inside] = file
    return kept


def _code(root: Path) -> dict[Path, Path]:
    return {file.relative_to(root): file for name in CODE for file in _walked(root / name)}


def _listed(root: Path) -> dict[Path, Path]:
    if not _in_git(root):
        return {file.relative_to(root): file for file in _walked(root)}
    names = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if (root / ".rayignore").is_file():
        names -= _git(root, "ls-files", "-z", "--cached", "--others", "--ignored", "--exclude-from=.rayignore")
    return {Path(name): root / name for name in names}


def _in_git(root: Path) -> bool:
    """Whether git looks after this folder (and not only ignores it)."""
    if shutil.which("git") is None:
        return False
    asked = ["git", "-C", str(root), "check-ignore", "-q", "."]
    return subprocess.run(asked, capture_output=True).returncode == 1


def _git(root: Path, *words: str) -> set[str]:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=True)
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}


def _walked(root: Path) -> Iterator[Path]:
    """The files under a folder that git does not look after, without what is surely none of the code."""
    for place, folders, names in os.walk(root):
        here = Path(place)
        folders[:] = [name for name in folders if not _left_out(here / name)]
        yield from (here / name for name in names if not name.endswith(".pyc"))


def _left_out(folder: Path) -> bool:
    """Version control and caches, virtual environments, runs."""
    hidden = folder.name.startswith(".") or folder.name in ("__pycache__", "node_modules", "wandb")
    return hidden or (folder / "pyvenv.cfg").exists() or (folder / "status.json").exists() or folder.name == "runs"


def _check_size(files: dict[Path, Path], most: float) -> None:
    sizes = {inside: file.stat().st_size / 2**20 for inside, file in files.items()}
    total = sum(sizes.values())
    if total <= most:
        return
    largest: Sequence[Path] = sorted(sizes, key=lambda inside: -sizes[inside])[:LARGEST]
    listed = ", ".join(f"{inside} ({sizes[inside]:.1f} MiB)" for inside in largest)
    raise PenstockError(
        f"what would be sent along has {total:.0f} MiB, more than {most:g}. The largest: {listed}. Data belongs on "
        "storage that the cluster sees (`--data /shared/...`); name other files in .gitignore or .rayignore, or "
        "raise --max-size."
    )
