"""One optimizer for a network: orthogonalised momentum for its matrices, AdamW for the rest, one schedule for both."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Coefficients of the quintic iteration of Jordan et al. 2024: singular values end near 1, not at it, after five rounds.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The matrices [..., rows, columns] with their singular values pushed towards 1 (Newton-Schulz iteration).

    Batched, because a network has many small matrices of few shapes, and in the type given: bfloat16, which
    `torch.optim.Muon` always uses, is emulated and slow on most CPUs.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.transpose(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(-2, -1) if tall else x


class MuonAdamW(Optimizer):
    """Muon for the parameter groups with `muon=True` (Jordan et al. 2024), AdamW for the others, in one optimizer.

    One optimizer keeps Lightning's automatic optimization, one learning-rate schedule and one state in checkpoints.
    Muon's step is scaled by 0.2·√max(rows, columns) (Liu et al. 2025), which gives it the size of an AdamW step, so
    both kinds share a learning rate.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "muon": False,
            "step": 0,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if not moving:
                continue
            params, gradients = [p for p, _ in moving], [_own(g) for _, g in moving]
            group["step"] += 1
            if group["weight_decay"]:
                torch._foreach_mul_([_own(p) for p in params], 1 - group["lr"] * group["weight_decay"])
            if group["muon"]:
                self._muon(group, params, gradients)
            else:
                self._adamw(group, params, gradients)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        moments = [_own(self._moment(p, "momentum")) for p in params]
        torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, moments, group["momentum"])
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for index, p in enumerate(params):
            alike[p.shape].append(index)
        for shape, indices in alike.items():
            updates = orthogonalise(torch.stack([_whole(nesterov[i], params[i]) for i in indices]))
            step_size = group["lr"] * 0.2 * math.sqrt(max(shape))
            shares = [_share(update, params[i]) for update, i in zip(updates.unbind(), indices, strict=True)]
            torch._foreach_add_([_own(params[i]) for i in indices], shares, alpha=-step_size)

    def _adamw(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        first = [_own(self._moment(p, "exp_avg")) for p in params]
        second = [_own(self._moment(p, "exp_avg_sq")) for p in params]
        count = group["step"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, math.sqrt(1 - beta2**count))
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_([_own(p) for p in params], first, scale, value=-group["lr"] / (1 - beta1**count))

    def _moment(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        moment: Tensor = state[name]
        return moment


# Where processes share a network out, a parameter is a tensor of which each holds some rows (torch's DTensor, which is
# imported late: most trainings have none).


def _is_shared(tensor: Any) -> bool:
    return hasattr(tensor, "device_mesh")


def _own(tensor: Tensor) -> Tensor:
    """This process's rows; the tensor itself where it is not shared out."""
    shared: Any = tensor
    own: Tensor = shared.to_local() if _is_shared(tensor) else tensor
    return own


def _whole(rows: Tensor, like: Any) -> Tensor:
    """All rows, of which every process gives its own; all call this together."""
    if not _is_shared(like):
        return rows
    from torch.distributed.tensor import DTensor

    shared = DTensor.from_local(rows, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return shared.full_tensor()


def _share(whole: Tensor, like: Any) -> Tensor:
    """This process's rows of `whole`, cut as those of `like` are."""
    if not _is_shared(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local()


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Learning rate, its schedule, and which optimizer."""

    kind: Literal["adamw", "muon", "adam", "radam"] = "adamw"
    """`muon`: orthogonalised momentum for the matrices, AdamW for vectors and for the first and last layers. `adam` and
    `radam` are torch's own, as most published forecasters were trained."""
    learning_rate: float = 1e-3
    """Largest learning rate, reached at the end of the warm-up."""
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises linearly from zero."""
    schedule: Literal["cosine", "geometric"] = "cosine"
    """After the warm-up: half a cosine down to `final`, or times `decay` again and again."""
    final: float = 0.0
    """Of `cosine`: learning rate at the last step, as a share of the largest."""
    decay: float = 0.5
    """Of `geometric`: what the learning rate is multiplied by."""
    decay_every: float = 0.1
    """Of `geometric`: share of all steps between two decays. 0.1 with ten epochs: after every epoch."""
    hold: float = 0.0
    """Of `geometric`: share of all steps before the decays are counted."""
    weight_decay: float = 0.0
    """Decoupled, on matrices only."""
    beta1: float = 0.9
    beta2: float = 0.99
    momentum: float = 0.95
    """Of the matrices under `muon`."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of all steps in [0, 1), got {self.warmup}.")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is a share of learning_rate in [0, 1], got {self.final}.")
        if not (0 < self.decay <= 1 and 0 < self.decay_every <= 1 and 0 <= self.hold <= 1):
            raise ValueError(
                "decay and decay_every must lie in (0, 1] and hold in [0, 1], "
                f"got {self.decay}, {self.decay_every} and {self.hold}."
            )

    def factor(self, step: int, total_steps: int) -> float:
        """Share of `learning_rate` at `step`: linear warm-up, then down as `schedule` says."""
        warmup_steps = max(1, round(self.warmup * total_steps))
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if self.schedule == "geometric":
            held = step - self.hold * total_steps
            return self.decay ** max(0, math.floor(held / (self.decay_every * total_steps) + 1e-9))
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))

    def build(self, module: nn.Module, total_steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimizer of all trainable parameters and its schedule, to be advanced once per step."""
        groups = [group for group in self._groups(module) if group["params"]]
        betas = (self.beta1, self.beta2)
        optimizer: Optimizer
        if self.kind in ("adamw", "muon"):
            optimizer = MuonAdamW(groups, self.learning_rate, betas=betas, momentum=self.momentum)
        else:
            plain = [{name: value for name, value in group.items() if name != "muon"} for group in groups]
            if not self.weight_decay:  # nothing tells the groups apart, and each costs a call
                plain = [{"params": [p for group in groups for p in group["params"]], "weight_decay": 0.0}]
            if self.kind == "adam":
                # One kernel for all parameters: the others cost as much as a linear model's forward pass.
                optimizer = torch.optim.AdamW(plain, self.learning_rate, betas=betas, fused=True)
            else:
                optimizer = torch.optim.RAdam(plain, self.learning_rate, betas=betas, decoupled_weight_decay=True)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, total_steps))

    def _groups(self, module: nn.Module) -> list[dict[str, Any]]:
        muon: list[nn.Parameter] = []
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            if p.ndim < 2:
                vectors.append(p)
            elif self.kind == "muon" and p.ndim == 2 and "blocks." in name:
                muon.append(p)
            else:
                matrices.append(p)
        return [
            {"params": muon, "muon": True, "weight_decay": self.weight_decay},
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
