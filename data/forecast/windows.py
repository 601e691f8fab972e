"""Windows cut from series by number: slices of what is mapped, scaled on the way, and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from data.forecast.calendar import calendar_features, calendar_names, local_clock, parse_step, positions, stamps
from data.forecast.scaling import Scaler
from data.forecast.series_store import Role, Series

BLOCK = 1024
"""Steps of the calendar that are worked out at a time."""
KEPT_BLOCKS = 1024
"""Blocks of the calendar that are kept: two million steps, some 16 MB."""


class Windows:
    """Cuts batches of windows out of series. Cost and memory of a batch depend on its own size alone.

    The origin of a window is the row of its first future step: it sees rows [origin - look_back, origin) and is to say
    rows [origin, origin + horizon).

    Args:
        store: the series.
        look_back, horizon: steps before the origin, and from it on.
        scaler: units of the windows; must be that of the series in `store` (see `Scaler.for_series`).
        calendar: whether windows carry features of their time stamps; integer steps have none.

    Raises:
        ConfigError: no steps to see or to say, or a scaler of other series or columns.
    """

    def __init__(self, store: Series, look_back: int, horizon: int, scaler: Scaler, *, calendar: bool = True) -> None:
        if look_back < 1 or horizon < 1:
            raise ConfigError(f"look_back and horizon must be at least 1 step, got {look_back} and {horizon}.")
        if scaler.ids is not None and scaler.ids != tuple(store.ids):
            raise ConfigError("the scaler is that of other series; take scaler.for_series(store.ids).")
        widths = {role: len(names) for role, names in store.columns.items() if names}
        scaled = {role: scale.mean.shape[1] for role, scale in scaler.scales.items()}
        if widths != scaled:
            raise ConfigError(f"expected a scaler of the columns {widths}, got {scaled}: fit it on these data.")
        self.store = store
        self.look_back = look_back
        self.horizon = horizon
        self.scaler = scaler
        self._calendar = Calendar(store) if calendar and calendar_names(store.step) else None
        self._positions = grid_positions(store)[0]
        self._static: Float[np.ndarray, "item static"] | None = None
        if store.static is not None and store.columns["static"]:
            scale = scaler.scales["static"]
            self._static = np.nan_to_num((store.static - scale.mean) / scale.std).astype(np.float32)
        self._tiles: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Columns of the windows: targets, observed, known, calendar, static."""
        counts = {role: len(self.store.columns[role]) for role in ("targets", "observed", "known", "static")}
        return {**counts, "calendar": 0 if self._calendar is None else self._calendar.width}

    def cut(
        self,
        items: Sequence[int] | Int[np.ndarray, " window"],
        origins: Sequence[int] | Int[np.ndarray, " window"],
        seeds: Int[np.ndarray, " window"] | None = None,
        *,
        future: bool = True,
    ) -> WindowBatch:
        """The windows of series `items` at `origins`.

        What is missing, or lies outside a series, is 0 and False in its mask; the masks are None where the data has no
        gaps and no window of the batch reaches outside. Without `future` the targets from the origin on are not read.
        """
        items, origins = np.asarray(items, np.int64), np.asarray(origins, np.int64)
        firsts = origins - self.look_back
        past, past_mask, ahead, ahead_mask = self._values("targets", items, firsts, self.horizon if future else 0)
        observed, observed_mask, _, _ = self._values("observed", items, firsts, 0)
        known, known_mask = self._known(items, firsts)
        numbers = self._positions[items] + firsts
        return WindowBatch(
            ids=(),
            seeds=torch.zeros(len(items), dtype=torch.int64) if seeds is None else torch.from_numpy(seeds),
            past=_present(past),
            past_mask=past_mask,
            future=ahead,
            future_mask=ahead_mask,
            observed=observed,
            observed_mask=observed_mask,
            known=known,
            known_mask=known_mask,
            calendar=None if self._calendar is None else self._calendar.cut(items, numbers, self.steps),
            static=None if self._static is None else torch.from_numpy(self._static[items]),
            position=torch.from_numpy(numbers),
            series=torch.from_numpy(items),
        )

    @property
    def steps(self) -> int:
        """Steps of a window, past and future."""
        return self.look_back + self.horizon

    def _known(self, items: np.ndarray, firsts: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        values, mask, _, _ = self._values("known", items, firsts, 0, steps=self.steps)
        return values, mask

    def _values(
        self, role: Role, items: np.ndarray, firsts: np.ndarray, ahead: int, steps: int | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Scaled values and mask of `steps` (the look-back) steps from `firsts` on, and of `ahead` steps after them."""
        columns = len(self.store.columns[role])
        if not columns:
            return None, None, None, None
        behind = self.look_back if steps is None else steps
        raw = np.empty((len(items), behind + ahead, columns))
        whole = self.store.cut(role, items, firsts, raw)
        missing = np.isnan(raw) if self.store.gaps or not whole else None
        self._scale(role, items, raw)
        parts: list[Tensor | None] = []
        for part in (slice(0, behind), slice(behind, behind + ahead)):
            if part.start == part.stop:
                parts += [None, None]
                continue
            values = raw[:, part].astype(np.float32)
            if missing is not None:
                np.copyto(values, 0.0, where=missing[:, part])
                parts += [torch.from_numpy(values), torch.from_numpy(~missing[:, part])]
            else:
                parts += [torch.from_numpy(values), None]
        return parts[0], parts[1], parts[2], parts[3]

    def _scale(self, role: Role, items: np.ndarray, raw: Float[np.ndarray, "window step column"]) -> None:
        mean, std = self.scaler.scales[role].rows(items)
        if len(mean) == 1:
            # Written out over all steps: one long loop in place of one for every step.
            key = (role, raw.shape[1])
            if key not in self._tiles:
                self._tiles[key] = (np.tile(mean[0], raw.shape[1]), np.tile(std[0], raw.shape[1]))
            mean, std = self._tiles[key]
            raw = raw.reshape(len(raw), -1)
        else:
            mean, std = mean[:, None], std[:, None]
        np.subtract(raw, mean, out=raw)
        np.divide(raw, std, out=raw)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tiles": {}}


class Calendar:
    """Features of time stamps by their number on the grid, in blocks that all series of one phase share."""

    def __init__(self, store: Series) -> None:
        self._step = parse_step(store.step)
        self.width = len(calendar_names(self._step))
        # Grids of days and months follow the local clock, on which `grid_positions` counts them.
        self._zone = "" if self._step.local else store.zone
        self._phases = grid_positions(store)[1]
        self._blocks: dict[tuple[int, int], memoryview] = {}

    def cut(
        self, items: Int[np.ndarray, " window"], numbers: Int[np.ndarray, " window"], steps: int
    ) -> Float[Tensor, "window step feature"]:
        """Features of `steps` stamps of each series from number `numbers[k]` of the grid on."""
        out = np.empty((len(items), steps, self.width), np.float32)
        target = out.reshape(-1).view(np.uint8).data
        row_bytes = out.itemsize * self.width
        at = 0
        for phase, number in zip(self._phases[items].tolist(), numbers.tolist(), strict=True):
            stop = number + steps
            while number < stop:
                block, row = divmod(number, BLOCK)
                rows = min(stop - number, BLOCK - row)
                source = self._blocks.get((phase, block)) or self._block(phase, block)
                target[at : at + rows * row_bytes] = source[row * row_bytes : (row + rows) * row_bytes]
                number += rows
                at += rows * row_bytes
        return torch.from_numpy(out)

    def _block(self, phase: int, block: int) -> memoryview:
        if len(self._blocks) >= KEPT_BLOCKS:
            self._blocks.pop(next(iter(self._blocks)))
        found = stamps(phase, self._step, block * BLOCK, (block + 1) * BLOCK)
        features = np.ascontiguousarray(calendar_features(found, self._step, self._zone), np.float32)
        self._blocks[phase, block] = features.reshape(-1).view(np.uint8).data
        return self._blocks[phase, block]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": {}}


def grid_positions(store: Series) -> tuple[Int[np.ndarray, " item"], Int[np.ndarray, " item"]]:
    """Number of each series' row 0 on a grid that begins in 1970 and is the same for all, and its phase on it.

    The grid that begins at the phase (ns after 1970, or an integer) has row 0 of the series under that number.
    """
    step = parse_step(store.step)
    starts = store.starts
    if step.local:
        starts = local_clock(starts.view("datetime64[ns]"), store.zone).view(np.int64)
    return positions(starts, np.zeros_like(starts), step)


def _present(values: Tensor | None) -> Tensor:
    assert values is not None, "a store has targets"
    return values
