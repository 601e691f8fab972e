"""What one worker of a Ray Train group knows of the others."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from flows.executor import Group

Value = TypeVar("Value")


class Orders(Protocol):
    """What the driver wants of a training under way."""

    def stop(self) -> str | None:
        """Who asked for an orderly end; None: nobody. Asked by the first process after each step, so it is quick."""


class RayGroup(Group):
    """The workers of one Ray Train group; torch's process group connects them."""

    def __init__(self, strategy: str, orders: Orders | None = None) -> None:
        import ray.train

        self._orders = orders

        context = ray.train.get_context()
        self.rank, self.size, self.strategy = context.get_world_rank(), context.get_world_size(), strategy

    def trainer_options(self) -> Mapping[str, Any]:
        from ray.train.lightning import RayDDPStrategy, RayFSDPStrategy, RayLightningEnvironment

        strategy = RayFSDPStrategy() if self.strategy == "fsdp" else RayDDPStrategy(find_unused_parameters=True)
        return {
            "strategy": strategy,
            "plugins": [RayLightningEnvironment()],
            "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
            "devices": "auto",
        }

    def agreed(self, value: Value) -> Value:
        found = [value]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def mean(self, values: Mapping[str, float], weight: float) -> dict[str, float]:
        names = sorted(values)
        sums = torch.tensor([weight, *(values[name] * weight for name in names)], dtype=torch.float64)
        dist.all_reduce(sums)
        return dict(zip(names, (sums[1:] / sums[0]).tolist(), strict=True))
