"""Weights, gradients and optimizer state shared out over processes (FSDP2, torch's `fully_shard`).

Checkpoints hold whole tensors, as those of any other training do: a run may go from one placement to another.
"""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from cluster.on_ray.strategies import Together
from data.errors import ConfigError


class SharedOut(Together):
    """Every process holds a share of the network, of its average and of the optimizer's state.

    A block (an entry of a `ModuleList`) is put together where it is used, and given up again. A network is built whole
    in every process before it is shared out, in the memory of the CPU.
    """

    def setup(self, trainer: Trainer) -> None:
        assert self.lightning_module is not None
        _refuse(self.lightning_module)
        self._averages = [
            callback._average_model.module
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and callback._average_model is not None
        ]
        super().setup(trainer)

    def configure_ddp(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for module in (self.lightning_module, *self._averages):
            assert isinstance(module, nn.Module)
            share_out(module, mesh)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # Through the module's own call, where `fully_shard` listens.
        with self.precision_plugin.train_step_context():
            done = self._called("training_step", *args, **kwargs)
        self.weight = self._weight(args[0])
        return done

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision_plugin.val_step_context():
            return self._called("validation_step", *args, **kwargs)

    def _called(self, step: str, *args: Any, **kwargs: Any) -> Any:
        module: LightningModule = self.lightning_module  # type: ignore[assignment]
        return self._forward_redirection(module, module, step, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        super().save_checkpoint(put_together(checkpoint, self.is_global_zero), filepath, storage_options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_shared_state(optimizer, state))


def share_out(module: nn.Module, mesh: DeviceMesh) -> None:
    """Leave this process its share of every parameter: of the blocks one by one, and of the rest."""
    for blocks in reversed([part for part in module.modules() if isinstance(part, nn.ModuleList)]):  # the inner first
        for block in blocks:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def put_together(value: Any, keep: bool) -> Any:
    """`value` with every shared tensor whole and on the CPU, where `keep` says so; all processes call this together."""
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {name: put_together(item, keep) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(put_together(item, keep) for item in value)
    return value


def _shared_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint as this process keeps it: of every moment the share that it has of the parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def shared(parameter: Tensor, value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(parameter.device)
        cut = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        # A copy of the rows: the cut is a view, which would keep all of `value` in memory.
        rows = cut.to_local().clone()
        return DTensor.from_local(
            rows, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        )

    moments = {
        number: {name: shared(parameters[number], value) for name, value in kept.items()}
        for number, kept in state["state"].items()
    }
    return {**state, "state": moments}


def _refuse(module: LightningModule) -> None:
    """Raise ConfigError for what cannot be shared out."""
    if getattr(module, "differentiates_twice", False):
        raise ConfigError(
            "strategy fsdp: this training takes derivatives of the network within its loss, and a network that is "
            "shared out cannot give them. Take --strategy ddp, or switch those terms of the loss off."
        )
    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise ConfigError(
                f"strategy fsdp: {name} is a single number and cannot be shared out; take --strategy ddp."
            )
