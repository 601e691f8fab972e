"""Batch normalisation over several processes against torch's over the whole batch in one."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from modules.layers.batch_norm import BatchNorm1d

WORLD = 3


def batch() -> torch.Tensor:
    """7 samples, so that processes have 3, 2 and 2; a mean far from 0, which sums of squares would not survive."""
    return 300 + torch.randn(7, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5)[:, None]


def trained(norm: nn.BatchNorm1d, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    (norm(x) * target).sum().backward()
    assert x.grad is not None
    return {"x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}  # type: ignore[dict-item]


def process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    norm, target = BatchNorm1d(4), torch.randn(7, 4, 5, generator=torch.Generator().manual_seed(1))
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(2))
    found = trained(norm, batch()[rank::WORLD], target[rank::WORLD])
    found |= dict(norm.named_buffers())
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_several_processes_normalise_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, args=(port, str(tmp_path)), nprocs=WORLD)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]

    norm, target = nn.BatchNorm1d(4).double(), torch.randn(7, 4, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        norm.weight.copy_(torch.empty(4).uniform_(generator=torch.Generator().manual_seed(2)))
    expected = trained(norm, batch().double(), target.double())
    for rank in range(WORLD):
        torch.testing.assert_close(found[rank]["x"].double(), expected["x"][rank::WORLD], rtol=1e-3, atol=1e-5)
        for name, value in norm.named_buffers():
            torch.testing.assert_close(found[rank][name].to(value), value, rtol=1e-5, atol=0)
    for name in ("weight", "bias"):
        total = torch.stack([part[name].double() for part in found]).sum(dim=0)
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-4)


def test_a_process_alone_has_the_bits_of_torch() -> None:
    ours, theirs = BatchNorm1d(4), nn.BatchNorm1d(4)
    assert torch.equal(ours(batch()), theirs(batch()))
    assert torch.equal(ours.eval()(batch()), theirs.eval()(batch()))
