"""How Lightning's processes train one network together: every process has all of it, or a share.

The gradient is that of the mean over all samples of the batch, also where processes have parts of different size. Sums
over processes are taken in the same order in every step and after every restart, so a training that was interrupted
ends with the same bits as one that was not, if it goes on with as many processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from data.batch import Batch


def made(name: str, device: torch.device) -> "Together":
    """The strategy that a placement calls `ddp` or `fsdp`, of a process that trains on `device`."""
    if name == "fsdp":
        from cluster.on_ray.sharing import SharedOut

        return SharedOut(device)
    return Together(device)


class Together(DDPStrategy):
    """Every process holds the whole network (`DistributedDataParallel`).

    Its options: buffers are not sent round, because they are equal without (`modules.layers.batch_norm` sees to its
    own). Parameters that a step does not use are looked for, because some networks have them; this also keeps torch
    from laying out gradients anew after the first step, which would change the order of sums over three and more
    processes after a restart.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True)
        self._device = device
        self.weight: float | Tensor = 1.0
        """Of this process's loss in the mean over processes, 1 on average."""

    @property
    def root_device(self) -> torch.device:
        return self._device

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        done = super().training_step(*args, **kwargs)
        self.weight = self._weight(args[0])
        return done

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        # Gradients are averaged over processes as if all had as many samples. What is logged stays as it is.
        return super().backward(closure_loss * self.weight, optimizer, *args, **kwargs)

    def reduce(self, tensor: Any, group: Any | None = None, reduce_op: Any = "mean") -> Any:
        # Lightning averages its counts of samples too, and with gloo rounds that mean down to a whole number.
        if isinstance(tensor, Tensor) and not tensor.is_floating_point():
            tensor = tensor.double()
        return super().reduce(tensor, group, reduce_op)

    def _weight(self, batch: Batch) -> float | Tensor:
        counts = getattr(self.lightning_module, "loss_counts", None)
        if counts is None:  # the loss is a mean over samples, of whose number every process knows
            return batch.counted * self.world_size / batch.whole.samples
        own = torch.as_tensor(counts() if batch.counted else 0, dtype=torch.float64, device=self.root_device)
        total = own.clone()
        dist.all_reduce(total)
        # Where nothing was measured anywhere, all losses are 0, and any weights do.
        return torch.where(total > 0, own * self.world_size / total.clamp(min=1), 1.0)
