"""Films, a user's own or synthesised ones, made into one `films.h5`, and drawn from it as samples."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.batch import FrameBatch
from data.errors import ConfigError, PenstockError, SchemaError
from data.forecast.idx import read_images
from data.forecast.kinds import FILMS
from data.item_cache import ItemCache
from data.preparing import (
    Show,
    content_hash,
    distinct_ids,
    followed,
    read_refused,
    visible_files,
    write_refused,
)
from data.store import Reader, Writer
from data.synthetic.films import DIGIT_SIDE, SyntheticFilmsConfig, drawn_digits, film, scaled, synthetic_ids

VERSION = 1
"""Raised when the same inputs and configuration would give other films."""
FILM_SUFFIXES = (".npy", ".npz")
_UNFIT = re.compile(r"[:#]")  # they set off the parts of a clip's id
MOST_CHANNELS = 16
"""A second axis longer than this counts films: the layout [time, film, row, column] of mnist_test_seq.npy."""


@dataclass(frozen=True, kw_only=True)
class FilmPreparationConfig:
    """How films of a user's own are cut; synthetic ones bring their own lengths."""

    seen: int = 10
    """Frames that are seen."""
    predicted: int = 10
    """Frames after them, that are to be predicted. Longer films are cut into clips without overlap."""

    def __post_init__(self) -> None:
        if min(self.seen, self.predicted) < 1:
            raise ConfigError(f"seen and predicted must be at least 1, got {self.seen} and {self.predicted}.")


@dataclass(frozen=True)
class PreparedFilms:
    """What a preparation gave."""

    path: Path
    """films.h5"""
    key: str
    ids: tuple[str, ...]
    refused: dict[str, str]
    """Reason by film, as in refused.csv beside the file."""
    reused: bool
    """True where the finished preparation was found and nothing was computed."""

    def summary(self) -> str:
        """One line: how many clips, of how many films, and refusals."""
        parts = [f"{len(self.ids)} clips of {len({group_of(i) for i in self.ids})} films"]
        parts += [f"{len(self.refused)} refused (see {self.path.with_name('refused.csv')})"] if self.refused else []
        return ", ".join(parts) + (", found prepared" if self.reused else "")


def prepare_films(
    source: Path | SyntheticFilmsConfig,
    folder: Path,
    config: FilmPreparationConfig | None = None,
    progress: Show | None = None,
) -> PreparedFilms:
    """Prepare `source` into `folder/films.h5`, with `folder/refused.csv` beside it: synthetic films, or a folder or
    file of arrays [time, (channel,) row, column] in .npy or .npz, bytes or numbers in [0, 1].

    A clip's id is its film's name with ":" and its number where the film gives several. A finished preparation with
    the same key is returned as it is.

    Raises:
        PenstockError: nothing there to read, or every film was refused.
    """
    config = config or FilmPreparationConfig()
    key = preparation_key(source, config)
    path = folder / "films.h5"
    found = _finished(path, key)
    if found is not None:
        return found
    if isinstance(source, SyntheticFilmsConfig):
        return _synthetic(source, path, key, progress)
    return _own(_files(source), config, path, key, progress)


def preparation_key(source: Path | SyntheticFilmsConfig, config: FilmPreparationConfig) -> str:
    """SHA-256 (hex) over the content of all inputs, the configuration, and the version of file and method.

    Raises:
        PenstockError: nothing there to read.
    """
    inputs: list[object]
    if isinstance(source, SyntheticFilmsConfig):
        images = "" if source.images is None or not source.images.is_file() else content_hash(source.images)
        inputs = [{**asdict(source), "images": images}]
    else:
        inputs = [asdict(config), *([name, content_hash(path)] for name, path in _files(source).items())]
    words = [VERSION, FILMS.name, FILMS.version, inputs]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def group_of(item_id: str) -> str:
    """The film that a clip was cut from: clips of one film belong in one split."""
    return item_id.rpartition(":")[0] or item_id


def digit_images(config: SyntheticFilmsConfig) -> UInt8[np.ndarray, "digit side side"]:
    """The digits that go into the films, scaled to their frames.

    Raises:
        PenstockError: of an images file that is missing, broken, or holds images of another size than 28 × 28.
    """
    if config.images is None:
        return scaled(drawn_digits(config.seed), config.size)
    images = read_images(config.images)
    if images.shape[1:] != (DIGIT_SIDE, DIGIT_SIDE):
        raise PenstockError(f"{config.images}: expected images of 28 x 28 pixels, got {images.shape[1:]}.")
    return scaled(images, config.size)


def _synthetic(config: SyntheticFilmsConfig, path: Path, key: str, progress: Show | None) -> PreparedFilms:
    digits, ids = digit_images(config), synthetic_ids(config)
    with Writer(path, FILMS, {"seen": config.seen, "key": key}) as writer:

        def made() -> Iterator[tuple[str, bool]]:
            for index, item_id in enumerate(ids):
                writer.add(item_id, {"frames": film(config, digits, index)})
                yield item_id, True

        followed(made(), len(ids), 0, 0, progress)
    write_refused(path, {})
    return PreparedFilms(path, key, ids, {}, reused=False)


def _files(source: Path) -> dict[str, Path]:
    if source.is_file() and source.suffix.lower() in FILM_SUFFIXES:
        return {source.name: source}
    if not source.is_dir():
        raise PenstockError(
            f"expected a folder of films (.npy or .npz arrays) or one such file, but got {source}. Check its path; "
            "digit images in an idx file go into the synthetic films' setting images."
        )
    files = visible_files(source, lambda path: path.suffix.lower() in FILM_SUFFIXES)
    if not files:
        raise PenstockError(
            f"expected .npy or .npz films in {source}, but there are none, also not in its subfolders. "
            "Save each film as an array [time, row, column] or [time, channel, row, column]."
        )
    return files


def _own(
    files: Mapping[str, Path], config: FilmPreparationConfig, path: Path, key: str, progress: Show | None
) -> PreparedFilms:
    refused: dict[str, str] = {}
    clips: list[str] = []
    length = config.seen + config.predicted
    names = list(files)
    short, whole = [Path(name).stem for name in names], [name.replace("/", "-") for name in names]
    short, whole = ([_UNFIT.sub("-", form) for form in forms] for forms in (short, whole))
    ids = distinct_ids(short, whole, names)
    stems = dict(zip(names, ids, strict=True))
    shape = _commonest_shape(files, length)
    try:
        with Writer(path, FILMS, {"seen": config.seen, "key": key}) as writer:

            def made() -> Iterator[tuple[str, bool]]:
                for name, file in files.items():
                    before = len(clips)
                    for suffix, frames in _films(name, file, refused):
                        reason = _misfit(frames, shape, length)
                        if reason is not None:
                            refused[name + suffix] = reason
                            continue
                        count = len(frames) // length
                        for k in range(count):
                            number = f":{k:04d}" if count > 1 else ""
                            clips.append(stems[name] + suffix + number)
                            writer.add(clips[-1], {"frames": frames[k * length : (k + 1) * length]})
                    yield name, len(clips) > before

            followed(made(), len(files), 0, 0, progress)
            if not clips:
                name, reason = next(iter(refused.items()))
                raise PenstockError(
                    f"expected at least one film that can be used, but all {len(refused)} were refused; the first, "
                    f"{name}: {reason}"
                )
    finally:
        write_refused(path, refused)
    return PreparedFilms(path, key, tuple(clips), refused, reused=False)


def _commonest_shape(files: Mapping[str, Path], length: int) -> tuple[int, ...]:
    """Channels, rows and columns of most clips; films are read twice, so that an odd first one does not decide."""
    counts: Counter[tuple[int, ...]] = Counter()
    for name, file in files.items():
        for _, frames in _films(name, file, {}):
            counts[frames.shape[1:]] += len(frames) // length
    return counts.most_common(1)[0][0] if counts else ()


def _misfit(frames: np.ndarray, shape: tuple[int, ...], length: int) -> str | None:
    if len(frames) < length:
        return f"{len(frames)} frames, expected at least {length} (seen + predicted)."
    if frames.shape[1:] != shape:
        return f"channels, rows and columns {frames.shape[1:]}, most films {shape}: all need one size."
    return None


def _films(name: str, path: Path, refused: dict[str, str]) -> Iterator[tuple[str, UInt8[np.ndarray, "time c h w"]]]:
    """(what to add to the file's name, frames) of each film in a file; what cannot be read goes into `refused`."""
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {f"#{k}": loaded[k] for k in loaded.files}
    except Exception as error:  # numpy raises whatever the broken bytes lead it to
        refused[name] = f"cannot be read as numpy array without pickles: {error}"
        return
    if len(arrays) == 1:
        arrays = {"": next(iter(arrays.values()))}
    for suffix, array in arrays.items():
        several = array.ndim == 4 and array.shape[1] > MOST_CHANNELS
        parts = {f"#{k:05d}": array[:, k] for k in range(array.shape[1])} if several else {"": array}
        for number, part in parts.items():
            try:
                yield suffix + number, _bytes(part)
            except PenstockError as error:
                refused[name + suffix + number] = str(error)


def _bytes(frames: np.ndarray) -> UInt8[np.ndarray, "time c h w"]:
    if frames.ndim not in (3, 4) or 0 in frames.shape:
        raise PenstockError(f"expected [time, row, column] or [time, channel, row, column], got shape {frames.shape}.")
    frames = frames[:, None] if frames.ndim == 3 else frames
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind not in "fb":
        raise PenstockError(f"expected bytes (uint8) or numbers in [0, 1], got {frames.dtype}; convert them.")
    numbers = frames.astype(np.float64)
    if not np.isfinite(numbers).all() or numbers.min() < 0 or numbers.max() > 1:
        raise PenstockError(
            f"expected finite numbers in [0, 1], got values from {np.nanmin(numbers):.4g} to {np.nanmax(numbers):.4g}; "
            "scale them, or save bytes."
        )
    return np.rint(255 * numbers).astype(np.uint8)


def _finished(path: Path, key: str) -> PreparedFilms | None:
    """The preparation that `path` holds, if it has this key and its file is sound."""
    if not path.exists():
        return None
    try:
        reader = Reader(path, FILMS)
    except SchemaError:
        return None  # damaged or of an older version: prepared anew, the rename replaces it
    if reader.attributes["key"] != key:
        return None
    return PreparedFilms(path, key, reader.ids, read_refused(path), reused=True)


@dataclass(frozen=True)
class FilmSample:
    """One clip, values in [0, 1]."""

    item_id: str
    seed: int
    frames: Float[Tensor, "time channel height width"]


class FilmDataset:
    """The clips of a `films.h5`. Up to `cache_bytes` of what was read are kept in memory, per process."""

    def __init__(self, path: Path, *, cache_bytes: int = 2**30) -> None:
        self._reader = Reader(path, FILMS)
        self._stored = ItemCache(self._reader.read, cache_bytes)
        self.path = Path(path)
        self.ids = self._reader.ids
        self.fingerprint = self._reader.fingerprint
        self.groups: tuple[str, ...] = tuple(group_of(item_id) for item_id in self.ids)
        """Film of each clip: clips of one film belong in one split."""
        self.seen = int(self._reader.attributes["seen"])
        """Frames that are seen; the others are to be predicted."""
        self.shape: tuple[int, ...] = self._reader.read(0)["frames"].shape
        """Frames, channels, rows and columns of every clip."""

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> FilmSample:
        """One clip; nothing in it is random."""
        frames = torch.from_numpy(self._stored[index]["frames"].astype(np.float32) / 255)
        return FilmSample(self.ids[index], seed, frames)

    def collate(self, samples: list[FilmSample]) -> FrameBatch:
        """The clips as one batch, cut into what is seen and what is to be predicted."""
        frames = torch.stack([sample.frames for sample in samples])
        return FrameBatch(
            ids=tuple(sample.item_id for sample in samples),
            seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
            past=frames[:, : self.seen],
            future=frames[:, self.seen :],
        )
