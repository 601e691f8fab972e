"""Progress in lines: what is done, what is left, how fast, how long yet."""

import os
import sys
import time
from typing import Any

from data.preparing import Progress as Preparing
from data.preparing import Show

MARK = "» "
"""A line that begins so replaces the one before it on a terminal."""


def duration(seconds: float) -> str:
    """'42 s', '3:05 min' or '2:07:30 h'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, s = divmod(whole, 60)
    return f"{minutes}:{s:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{s:02d} h"


class Progress:
    """Says every few seconds how far a piece of work is.

    `start` is where it begins when part was done before (a resumed training): the rate counts only what is new.
    """

    def __init__(self, what: str, total: int, unit: str, start: int = 0) -> None:
        self.what, self.total, self.unit, self.start = what, total, unit, start
        self.begun = time.monotonic()
        self.every = 0.5 if sys.stdout.isatty() else float(os.environ.get("PENSTOCK_PROGRESS_SECONDS", "3"))
        self._said_at = float("-inf")
        self._said = -1

    def update(self, done: int, **values: Any) -> None:
        """`done` of the total are finished; `values` are worth seeing beside it (a loss, a count of refusals)."""
        now = time.monotonic()
        if (now - self._said_at < self.every and done < self.total) or done == self._said:
            return
        self._said_at, self._said = now, done
        print(self.line(done, now - self.begun, **values), flush=True)

    def line(self, done: int, seconds: float, **values: Any) -> str:
        """One line; `seconds` since the start of this piece of work."""
        rate = (done - self.start) / seconds if seconds > 0 else 0.0
        parts = [f"{MARK}{self.what}  {done}/{self.total} {self.unit}  {100 * done // max(1, self.total):3d}%"]
        if done > self.start:
            parts.append(f"{rate:.3g} {self.unit}/s")
        if done > self.start and done < self.total:
            parts.append(f"{duration((self.total - done) / rate)} left")
        if done >= self.total:
            parts.append(f"in {duration(seconds)}")
        parts += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        ]
        return "  ".join(parts)


def shown(what: str, unit: str) -> Show:
    """Says how far a preparation is; its first call tells how much was done before."""
    progress: list[Progress] = []

    def show(state: Preparing) -> None:
        if not progress:
            progress.append(Progress(what, state.total, unit, start=state.resumed))
        progress[0].update(state.done, refused=state.refused)

    return show
