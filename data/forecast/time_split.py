"""Which windows train, validate and test, by time: nothing that is trained on lies after what is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from data.errors import ConfigError

SPLITS = ("train", "validation", "test")
LEAST_SHARE = 8
"""Short series: windows may begin with missing steps as long as this part of the look-back is there."""


@dataclass(frozen=True, kw_only=True)
class TimeSplitConfig:
    """Each series is cut into training, validation and test rows, in this order.

    Validation and test windows may reach back for their input; what they predict lies in their own rows.
    """

    validation: float = 0.1
    """Share of rows."""
    test: float = 0.2
    """Share of rows, at the end."""
    rows: tuple[int, int, int] | None = None
    """Rows of training, validation and test in place of shares; rows beyond them are not used. 8640, 2880, 2880 is the
    published cut of the hourly ETT sets."""
    least: int | None = None
    """Steps that a window of a short series must have before its origin; null: an eighth of the look-back."""

    def __post_init__(self) -> None:
        if self.validation < 0 or self.test < 0 or self.validation + self.test >= 1:
            raise ConfigError(
                f"validation and test are shares of the rows that leave some for training, got {self.validation} and "
                f"{self.test}."
            )
        if self.rows is not None and (len(self.rows) != 3 or self.rows[0] < 1 or min(self.rows) < 0):
            raise ConfigError(f"rows: expected three numbers, of training, validation and test, got {list(self.rows)}.")
        if self.least is not None and self.least < 1:
            raise ConfigError(f"least must be at least 1 step, got {self.least}.")


@dataclass(frozen=True)
class Spans:
    """Origins of the windows of each series: from `first` up to, not including, `stop`.

    An origin is the row of the first step that is predicted.
    """

    first: Int[np.ndarray, " item"]
    stop: Int[np.ndarray, " item"]

    def __len__(self) -> int:
        """Windows of all series."""
        return int(np.maximum(self.stop - self.first, 0).sum())


@dataclass(frozen=True)
class TimeSplit:
    """Windows of the three splits, and where their rows end."""

    train: Spans
    validation: Spans
    test: Spans
    train_ends: Int[np.ndarray, " item"]
    """Rows before these are trained on: scalers see no others."""
    validation_ends: Int[np.ndarray, " item"]
    test_ends: Int[np.ndarray, " item"]
    refused: Mapping[int, str]
    """Series without any window, and why."""

    def __getitem__(self, split: str) -> Spans:
        spans: Spans = getattr(self, split)
        return spans


def spans(lengths: Int[np.ndarray, " item"], look_back: int, horizon: int, config: TimeSplitConfig) -> TimeSplit:
    """Windows of every series: training windows lie wholly, future too, before the end of the training rows.

    A validation or test block that is not as long as the horizon is lengthened to it, so that short series have a
    window in each. Series without a training window of full look-back get windows whose first steps are missing
    (`least` are there); those without even that are refused, as are series shorter than the given `rows`.

    Raises:
        ConfigError: no series has a window to train on.
    """
    lengths = np.asarray(lengths, np.int64)
    least = min(config.least or max(1, look_back // LEAST_SHARE), look_back)
    refused: dict[int, str] = {}
    if config.rows is not None:
        train, validation, test = (np.full(len(lengths), rows) for rows in config.rows)
        needed = sum(config.rows)
        refused = {int(i): f"{lengths[i]} rows, the split needs {needed}" for i in np.flatnonzero(lengths < needed)}
    else:
        train, validation, test = _by_share(lengths, horizon, config)
    for i in np.flatnonzero(train < least + horizon):
        refused.setdefault(
            int(i),
            f"{lengths[i]} rows leave {max(int(train[i]), 0)} for training, a window needs {least + horizon} "
            f"({least} to see, {horizon} to predict)",
        )
    if len(refused) == len(lengths):
        raise ConfigError(
            f"no series is long enough to be trained on: {next(iter(refused.values()), 'there is none')}. Take a "
            "shorter horizon or look-back, smaller shares of validation and test, or more data."
        )
    kept = np.ones(len(lengths), bool)
    kept[list(refused)] = False
    ends = [np.where(kept, end, 0) for end in np.cumsum([train, validation, test], axis=0)]
    first = np.where(ends[0] - horizon < look_back, least, look_back)
    return TimeSplit(
        train=_spans(first, ends[0], horizon, kept),
        validation=_spans(ends[0], ends[1], horizon, kept),
        test=_spans(ends[1], ends[2], horizon, kept),
        train_ends=ends[0],
        validation_ends=ends[1],
        test_ends=ends[2],
        refused=dict(sorted(refused.items())),
    )


def _by_share(lengths: np.ndarray, horizon: int, config: TimeSplitConfig) -> tuple[np.ndarray, ...]:
    """Rows of training, validation and test of each series."""
    # As the published protocol counts: training and test are rounded down, validation is the rest.
    train = np.floor(round(1 - config.validation - config.test, 12) * lengths).astype(np.int64)
    test = np.floor(config.test * lengths).astype(np.int64)
    validation = lengths - train - test
    if config.test:
        test = np.maximum(test, horizon)
    validation = np.maximum(validation, horizon) if config.validation else np.zeros_like(validation)
    return lengths - validation - test, validation, test


def _spans(first: np.ndarray, end: np.ndarray, horizon: int, kept: np.ndarray) -> Spans:
    stop = np.where(kept, np.maximum(end - horizon + 1, first), first)
    return Spans(first, stop)


class WindowIndex:
    """The windows of some spans by number, series after series in order of time; none of them is written down."""

    def __init__(self, windows: Spans, stride: int = 1) -> None:
        if stride < 1:
            raise ConfigError(f"stride must be at least 1, got {stride}.")
        self.first = np.asarray(windows.first, np.int64)
        self.stride = stride
        counts = -(-np.maximum(np.asarray(windows.stop, np.int64) - self.first, 0) // stride)
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(
        self, numbers: Int[np.ndarray, " window"]
    ) -> tuple[Int[np.ndarray, " window"], Int[np.ndarray, " window"]]:
        """Series and origin of each window."""
        items = np.searchsorted(self.ends, numbers, side="right")
        before = np.where(items > 0, self.ends[items - 1], 0)
        return items, self.first[items] + (numbers - before) * self.stride
