"""What every domain's preparation of raw files does alike: find, name and work through them, and list the refused."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.atomic import written_file

REFUSED = "refused.csv"
COLUMNS = ("item", "reason")


@dataclass(frozen=True)
class Progress:
    """How far a preparation is."""

    done: int
    """Items finished, those of an earlier, broken-off run included."""
    total: int
    refused: int
    """Items of which nothing could be used."""
    resumed: int
    """Of `done`, those found finished at the start."""
    item: str
    """The item just finished, or "" at the start."""


Show = Callable[[Progress], None]


def visible_files(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    """The files of `folder` and its subfolders that are `wanted`, by their path in it, in order; no hidden ones."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if wanted(path) and path.is_file()}
    return {name: found[name] for name in sorted(found) if not any(part.startswith(".") for part in name.split("/"))}


def distinct_ids(short: Sequence[str], whole: Sequence[str], names: Sequence[str]) -> list[str]:
    """The short id of each file where no other has it, else the whole one, else that with a digest of its name."""
    counts = Counter(short)
    ids = [a if counts[a] == 1 else b for a, b in zip(short, whole, strict=True)]
    counts = Counter(ids)
    return [i if counts[i] == 1 else f"{i}-{digest(name)}" for i, name in zip(ids, names, strict=True)]


def digest(text: str) -> str:
    """Eight hexadecimal digits of a hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def content_hash(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_path(parts: Path, item_id: str, suffix: str) -> Path:
    """Where the finished part of an item lies until all are put together; any id makes a fit file name."""
    return parts / f"{hashlib.sha256(item_id.encode()).hexdigest()[:32]}{suffix}"


def remove_partial(parts: Path) -> None:
    """Remove what a killed run was writing; nobody else writes to `parts`."""
    for left in parts.glob(".*.partial"):
        left.unlink()


def followed(results: Iterator[tuple[str, bool]], total: int, resumed: int, refused: int, show: Show | None) -> None:
    """Exhaust `results`, (item, whether it can be used) as they finish, and show how far it is after each."""
    tell = show or (lambda _: None)
    done = resumed
    tell(Progress(done, total, refused, resumed, ""))
    for item, fine in results:
        done, refused = done + 1, refused + (not fine)
        tell(Progress(done, total, refused, resumed, item))


def write_refused(prepared: Path, reasons: Mapping[str, str]) -> Path:
    """List reason by item in refused.csv beside a prepared file; gives its path."""
    listed = prepared.with_name(REFUSED)
    with written_file(listed) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *reasons.items()])
    return listed


def read_refused(prepared: Path) -> dict[str, str]:
    """Reason by item, from the refused.csv beside a prepared file; nothing where there is none."""
    listed = prepared.with_name(REFUSED)
    if not listed.exists():
        return {}
    with listed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return {row[0]: row[1] for row in rows}
