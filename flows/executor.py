"""The socket for whatever runs a training somewhere else: `cluster/` plugs in, by name, across processes."""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from data.errors import PenstockError
from flows.placement import Placement, read_placement

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from torch import Tensor

    from flows.run import Run
    from flows.steps.training import Training

Value = TypeVar("Value")


class Executor(Protocol):
    """Does the heavy parts of steps."""

    def train(self, training: "Training") -> None:
        """Train, and leave the model in its folder. Raises Interrupted where it was asked to stop."""

    def spreading(self) -> AbstractContextManager[None]:
        """While the block runs, independent pieces of work (`data.worker_pool`) are done by the executor."""


OBSERVERS: list[Callable[[], "Callback"]] = []
"""Makers of callbacks for every training that this process does alone: whoever runs one can look on (a sweep does)."""


class Group:
    """The processes that train together, as one of them sees it; this one: a process alone."""

    rank = 0
    size = 1

    def trainer_options(self) -> Mapping[str, Any]:
        """What Lightning's trainer is given besides the run's own settings."""
        return {}

    def callbacks(self) -> Sequence["Callback"]:
        """What else watches the training; they come last, after the optimizer step is done and saved."""
        return [make() for make in OBSERVERS]

    def agreed(self, value: Value) -> Value:
        """The value of rank 0, in every process."""
        return value

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over the processes, each counting by its part of the last training batch; all call this together."""
        return dict(values)

    def after_step(self, stop: str | None, save: bool) -> tuple[str | None, bool]:
        """Who asked any process for an orderly end (None: nobody), and whether rank 0 finds a checkpoint due.

        All call this after each step, with what each knows by itself, and get the same answer.
        """
        return stop, save

    def whole(self, weights: Mapping[str, "Tensor"]) -> Mapping[str, "Tensor"]:
        """Weights of which each process may have a share, put together in rank 0; all call this together."""
        return weights

    def close(self) -> None:
        """The training ended."""


@dataclass(frozen=True)
class Local:
    """This process."""

    def train(self, training: "Training") -> None:
        from flows.steps.announcement import announce_local  # late: torch
        from flows.steps.training import fit

        announce_local(training)
        fit(training, Group())

    def spreading(self) -> AbstractContextManager[None]:
        from contextlib import nullcontext

        return nullcontext()


def plug(on: str, factory: str) -> None:
    """Let `factory`, "package.module:name", make the executors for placements `on` that; child processes inherit it."""
    os.environ[_variable(on)] = factory


def executor_for(run: "Run") -> Executor:
    """The executor that the run's placement asks for.

    Raises:
        PenstockError: nothing is plugged in for it.
    """
    placement: Placement = read_placement(run.path)
    if placement.on == "local":
        return Local()
    factory = os.environ.get(_variable(placement.on))
    if factory is None:
        raise PenstockError(f"{run.name} is to run on {placement.on}, and nothing here can do that: use `penstock`.")
    module, _, name = factory.partition(":")
    executor: Executor = getattr(importlib.import_module(module), name)(run, placement)
    return executor


def _variable(on: str) -> str:
    return f"PENSTOCK_EXECUTOR_{on.upper()}"
