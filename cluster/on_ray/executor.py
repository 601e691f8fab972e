"""Trainings and item-wise work of a run, done by a Ray cluster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.on_ray.connection import connected
from data.worker_pool import plugged
from flows.placement import Placement
from flows.run import Run

if TYPE_CHECKING:
    from flows.steps.training import Training


@dataclass(frozen=True)
class OnRay:
    """The executor of runs placed on Ray."""

    run: Run
    placement: Placement

    def train(self, training: "Training") -> None:
        from cluster.on_ray.training import train_on_ray  # late: Ray Train takes seconds to import

        with connected(self.placement.address):
            train_on_ray(training, self.placement)

    @contextmanager
    def spreading(self) -> Iterator[None]:
        from cluster.on_ray.spread import RayPool

        with ExitStack() as stack:
            pool = RayPool(self.run, self.placement, lambda: stack.enter_context(connected(self.placement.address)))
            with plugged(pool):
                yield
