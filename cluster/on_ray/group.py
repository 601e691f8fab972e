"""What one of several training processes knows of the others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from flows.executor import Group

if TYPE_CHECKING:
    from cluster.on_ray.strategies import Together

Value = TypeVar("Value")


class Orders(Protocol):
    """What the driver wants of a training under way."""

    def stop(self) -> str | None:
        """Who asked for an orderly end; None: nobody. Asked by the first process after each step, so it is quick."""


class ProcessGroup(Group):
    """Processes that torch's process group connects, each with one device."""

    def __init__(self, strategy: str, orders: Orders | None, device: torch.device) -> None:
        from cluster.on_ray.strategies import made  # late: Lightning

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._orders, self._device = orders, device
        # A process alone trains as it would without a group.
        self._strategy: Together | None = made(strategy, device) if self.size > 1 else None
        # What processes tell each other besides gradients is small and lies on the CPU: no step waits for the GPU.
        self._talk = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    def trainer_options(self) -> Mapping[str, Any]:
        if self._device.type == "cuda":
            place: dict[str, Any] = {"accelerator": "gpu", "devices": [self._device.index or 0]}
        else:
            place = {"accelerator": "cpu", "devices": 1}
        return place if self._strategy is None else {**place, "strategy": self._strategy}

    def agreed(self, value: Value) -> Value:
        found = [value]
        dist.broadcast_object_list(found, src=0, group=self._talk)
        return found[0]

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        if self._strategy is None:
            return dict(values)
        names, weight = sorted(values), float(self._strategy.weight)
        # Nothing of a process whose samples do not count, or a NaN there would spread.
        parts = [values[name] * weight if weight else 0.0 for name in names]
        sums = torch.tensor([weight, *parts], dtype=torch.float64)
        dist.all_reduce(sums, group=self._talk)
        return dict(zip(names, (sums[1:] / sums[0]).tolist(), strict=True))

    def after_step(self, stop: str | None, save: bool) -> tuple[str | None, bool]:
        if self.rank == 0 and stop is None and self._orders is not None:
            stop = self._orders.stop()
        if self.size == 1:
            return stop, save
        # One small sum in every step; the words follow in the one step in which there are any.
        asked = torch.tensor([stop is not None, save and self.rank == 0], dtype=torch.int32)
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._talk)
        if not asked[0]:
            return None, bool(asked[1])
        words: list[str | None] = [None] * self.size
        dist.all_gather_object(words, stop, group=self._talk)
        return next(said for said in words if said is not None), bool(asked[1])

    def whole(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if not any(hasattr(tensor, "device_mesh") for tensor in weights.values()):
            return weights
        from cluster.on_ray.sharing import put_together  # late: a second to import

        whole: Mapping[str, torch.Tensor] = put_together(weights, self.rank == 0)
        return whole if self.rank == 0 else {}


class RayGroup(ProcessGroup):
    """The workers of one Ray Train group."""

    def __init__(self, strategy: str, orders: Orders | None = None) -> None:
        import ray.train.torch

        super().__init__(strategy, orders, ray.train.torch.get_device())

    def trainer_options(self) -> Mapping[str, Any]:
        from ray.train.lightning import RayLightningEnvironment

        options = super().trainer_options()
        return options if self.size == 1 else {**options, "plugins": [RayLightningEnvironment()]}
