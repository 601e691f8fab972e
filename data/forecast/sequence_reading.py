"""Labelled sequences from `.ts` files, as the UEA and UCR archives and sktime write them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.errors import PenstockError

SUFFIX = ".ts"
TRAIN, TEST = "train", "test"
MISSING = ("?", "nan", "")
UNKNOWN_LABEL = -1


@dataclass(frozen=True)
class Sequences:
    """The sequences of one file."""

    values: tuple[Float[np.ndarray, "step feature"], ...]
    """float32; NaN where not measured."""
    labels: tuple[int, ...]
    """Positions in `classes`; -1 where not known."""
    classes: tuple[str, ...]

    @property
    def features(self) -> int:
        return self.values[0].shape[1]


def parts_of(source: Path) -> dict[str, Path]:
    """The files that belong together: NAME_TRAIN.ts and NAME_TEST.ts, given as either of them or as their folder.

    A file whose name says neither is the training part, and there is no test part.

    Raises:
        PenstockError: nothing there, or files of several sets.
    """
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.suffix.lower() == SUFFIX and path.is_file())
        if not found:
            raise PenstockError(f"expected labelled sequences ({SUFFIX} files) in {source}, but there are none.")
        sets = {_split_name(path)[0] for path in found}
        if len(sets) > 1:
            raise PenstockError(
                f"expected the files of one set in {source}, found {', '.join(sorted(sets))}; name one of the files."
            )
        source = found[0]
    if not source.is_file() or source.suffix.lower() != SUFFIX:
        raise PenstockError(f"expected a {SUFFIX} file or a folder with one, got {source}. Check its path.")
    name, part = _split_name(source)
    parts = {part: source}
    for path in sorted(source.parent.iterdir()):
        if path.suffix.lower() == SUFFIX and _split_name(path) in ((name, TRAIN), (name, TEST)):
            parts.setdefault(_split_name(path)[1], path)
    if TRAIN not in parts:
        raise PenstockError(
            f"{source} holds test sequences, but {name}_TRAIN{SUFFIX} is not beside it; put it there to train."
        )
    return dict(sorted(parts.items(), reverse=True))  # train first


def _split_name(path: Path) -> tuple[str, str]:
    """(name of the set, part)."""
    for part in (TRAIN, TEST):
        if path.stem.lower().endswith(f"_{part}"):
            return path.stem[: -len(part) - 1], part
    return path.stem, TRAIN


def read_ts(path: Path) -> Sequences:
    """The sequences of a `.ts` file: any number of channels, of equal or different length, `?` where missing.

    Raises:
        PenstockError: not such a file, or damaged: says in which line.
    """
    header: dict[str, list[str]] = {}
    rows: list[tuple[int, str]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise PenstockError(f"cannot read {path}: {error.strerror}.") from None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            name, *words = line[1:].split()
            header[name.lower()] = words
        elif "data" in header:
            rows.append((number, line))
        else:
            raise PenstockError(
                f"{path}, line {number}: expected a header (@...) before the values, got '{line[:40]}'."
            )
    if not rows:
        raise PenstockError(f"{path}: expected sequences below a line '@data', found none.")
    labelled, classes = _classes(path, header)
    names = [line.rpartition(":")[2].strip() if labelled else MISSING[0] for _, line in rows]
    known = classes or tuple(sorted({name for name in names if name not in MISSING}))
    labels = [_label(path, number, name, known) for (number, _), name in zip(rows, names, strict=True)]
    values = [_values(path, number, line.rpartition(":")[0] if labelled else line) for number, line in rows]
    for (number, _), value in zip(rows, values, strict=True):
        if value.shape[1] != values[0].shape[1]:
            raise PenstockError(
                f"{path}, line {number}: expected {values[0].shape[1]} channels as in the first sequence, "
                f"got {value.shape[1]}."
            )
    return Sequences(tuple(values), tuple(labels), known)


def _classes(path: Path, header: dict[str, list[str]]) -> tuple[bool, tuple[str, ...]]:
    """(whether each line ends with a class, the names of the classes where the header lists them)."""
    if header.get("timestamps", ["false"])[:1] == ["true"]:
        raise PenstockError(f"{path}: sequences with time stamps (@timeStamps true) are not read; write values alone.")
    if header.get("targetlabel", ["false"])[:1] == ["true"]:
        raise PenstockError(f"{path}: expected classes (@classLabel), got numbers to be estimated (@targetLabel).")
    words = header.get("classlabel", ["false"])
    return words[:1] == ["true"], tuple(words[1:])


def _label(path: Path, number: int, name: str, classes: tuple[str, ...]) -> int:
    if name.lower() in MISSING:
        return UNKNOWN_LABEL
    if name not in classes:
        raise PenstockError(f"{path}, line {number}: class '{name}' is not among {', '.join(classes)}.")
    return classes.index(name)


def _values(path: Path, number: int, line: str) -> Float[np.ndarray, "step feature"]:
    channels = []
    for channel in line.split(":"):
        try:
            channels.append([np.nan if word.strip().lower() in MISSING else float(word) for word in channel.split(",")])
        except ValueError as error:
            raise PenstockError(
                f"{path}, line {number}: expected numbers between commas, or ? where missing; {error}."
            ) from None
    if len({len(channel) for channel in channels}) > 1:
        lengths = ", ".join(str(len(channel)) for channel in channels[:8])
        raise PenstockError(
            f"{path}, line {number}: expected channels of one length in a sequence, got {lengths}; put ? at their ends."
        )
    values = np.array(channels, dtype=np.float32).T
    if np.isinf(values).any():
        raise PenstockError(f"{path}, line {number}: expected finite numbers, got an infinite one.")
    return values
