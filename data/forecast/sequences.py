"""Labelled sequences: prepared from `.ts` files or made up, and served as items of the data module."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.batch import SequenceBatch
from data.errors import PenstockError
from data.forecast.kinds import LABELLED_SEQUENCES
from data.forecast.sequence_reading import TEST, TRAIN, Sequences, parts_of, read_ts
from data.preparing import content_hash
from data.splits import SplitConfig, split_items
from data.store import Reader, Writer
from data.synthetic.sequences import FORMS, SyntheticSequencesConfig, synthetic_sequence

FILE = "sequences.h5"
VERSION = 1
"""Raised when the same inputs would give other items."""
SMALLEST_SPREAD = 1e-6
"""A feature that spreads less is only centred."""


def sequences_key(source: Path | SyntheticSequencesConfig) -> str:
    """SHA-256 (hex) over the content of all inputs and the version of file and method.

    Raises:
        PenstockError: nothing there to read.
    """
    if isinstance(source, SyntheticSequencesConfig):
        inputs: Any = asdict(source)
    else:
        inputs = {part: content_hash(path) for part, path in parts_of(source).items()}
    words = [VERSION, LABELLED_SEQUENCES.name, LABELLED_SEQUENCES.version, inputs]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def prepare_sequences(source: Path | SyntheticSequencesConfig, folder: Path) -> Path:
    """Write all sequences of `source` into `folder/sequences.h5`; gives its path.

    Items are called train-0000, test-0000, … by their place in their file, so that an item's id does not change when
    the other part does.

    Raises:
        PenstockError: nothing there to read, a damaged file, or parts that do not belong together.
    """
    path = folder / FILE
    if isinstance(source, SyntheticSequencesConfig):
        parts = synthetic_sequences(source)
    else:
        parts = {name: read_ts(file) for name, file in parts_of(source).items()}
    train = parts[TRAIN]
    if not train.classes:
        raise PenstockError(f"{source}: expected a class for each sequence (@classLabel true), found none.")
    for part in parts.values():
        if (part.features, part.classes) != (train.features, train.classes):
            raise PenstockError(
                f"{source}: expected {train.features} channels and classes {', '.join(train.classes)} in both parts, "
                f"got {part.features} and {', '.join(part.classes) or 'none'} in the test part."
            )
    with Writer(path, LABELLED_SEQUENCES, {"classes": json.dumps(list(train.classes))}) as writer:
        for name, part in parts.items():
            for k, (values, label) in enumerate(zip(part.values, part.labels, strict=True)):
                writer.add(_item_id(name, k), {"values": values, "label": np.int64(label), "split": name})
    return path


def synthetic_sequences(config: SyntheticSequencesConfig) -> dict[str, Sequences]:
    """The synthetic set by part; the first ones are the test part."""
    made = [synthetic_sequence(config, k) for k in range(config.count)]
    tested = round(config.count * config.test)
    parts = {TRAIN: made[tested:], TEST: made[:tested]}
    return {
        name: Sequences(tuple(values for values, _ in part), tuple(label for _, label in part), tuple(FORMS))
        for name, part in parts.items()
        if part
    }


def _item_id(part: str, number: int) -> str:
    return f"{part}-{number:04d}"


@dataclass(frozen=True)
class SequenceScaling:
    """What makes features comparable: less `centre`, over `scale`."""

    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, sequences: list[Float[np.ndarray, "step feature"]]) -> "SequenceScaling":
        """Mean and standard deviation of each feature over what was measured; 0 and 1 where nothing was."""
        values = np.concatenate(sequences).astype(np.float64)
        measured = ~np.isnan(values)
        count = np.maximum(measured.sum(axis=0), 1)
        centre = np.where(measured, values, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(measured, (values - centre) ** 2, 0.0).sum(axis=0) / count)
        return cls(tuple(centre.tolist()), tuple(np.where(spread > SMALLEST_SPREAD, spread, 1.0).tolist()))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "SequenceScaling":
        """From what `asdict` gave, as it is kept beside a model."""
        return cls(tuple(map(float, plain["centre"])), tuple(map(float, plain["scale"])))

    def apply(self, values: Float[np.ndarray, "step feature"]) -> Float[np.ndarray, "step feature"]:
        """Standardised, float32; 0 where not measured."""
        scaled = (values - np.array(self.centre)) / np.array(self.scale)
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


@dataclass(frozen=True)
class SequenceSample:
    """One sequence, standardised."""

    item_id: str
    seed: int
    values: Float[Tensor, "step feature"]
    label: int


class SequenceDataset:
    """The sequences of a `sequences.h5`, all in memory, standardised by the training items alone.

    Give `test` to the data module beside the same `split`: what the source calls its test part is then never trained or
    validated on.

    Args:
        split: which items are held out; without a test part in the source also those for the test.
        scaling: of the training that a model comes from; None takes it from the training items of this file.
    """

    def __init__(self, path: Path, split: SplitConfig, *, scaling: SequenceScaling | None = None) -> None:
        reader = Reader(path, LABELLED_SEQUENCES)
        stored = [reader.read(k) for k in range(len(reader))]
        reader.close()
        self.ids = reader.ids
        self.fingerprint = reader.fingerprint
        self.classes: tuple[str, ...] = tuple(json.loads(str(reader.attributes["classes"])))
        self.labels: tuple[int, ...] = tuple(int(item["label"]) for item in stored)
        parts = [str(item["split"]) for item in stored]
        self.test: list[bool] | None = [part == TEST for part in parts] if TEST in parts else None
        """Which items the source sets apart; None where it sets none apart."""
        self.splits = split_items(self.ids, split, test=self.test)
        values = [item["values"] for item in stored]
        self.scaling = scaling or SequenceScaling.of([values[k] for k in self.splits["train"]])
        self._values = [torch.from_numpy(self.scaling.apply(value)) for value in values]
        unlabelled = [self.ids[k] for k in self.splits["train"] + self.splits["validation"] if self.labels[k] < 0]
        if unlabelled and scaling is None:
            raise PenstockError(f"expected a class for every sequence to train on; {unlabelled[0]} has none.")

    @property
    def features(self) -> int:
        """Numbers per step."""
        return self._values[0].shape[1]

    @property
    def longest(self) -> int:
        """Steps of the longest sequence of all parts."""
        return max(len(value) for value in self._values)

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> SequenceSample:
        """Sequence `index`; nothing in it is random."""
        return SequenceSample(self.ids[index], seed, self._values[index], self.labels[index])

    def collate(self, samples: list[SequenceSample]) -> SequenceBatch:
        """The samples as one batch, padded to the longest."""
        lengths = torch.tensor([len(sample.values) for sample in samples])
        values = torch.nn.utils.rnn.pad_sequence([sample.values for sample in samples], batch_first=True)
        present: Bool[Tensor, "batch step"] = torch.arange(values.shape[1]) < lengths[:, None]
        return SequenceBatch(
            ids=tuple(sample.item_id for sample in samples),
            seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
            values=values,
            present=present,
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        )
