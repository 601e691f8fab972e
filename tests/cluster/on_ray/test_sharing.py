"""A network shared out over two processes against the same network in one, without Lightning."""

import os
import socket
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from modules.layers.optimization import OptimizerConfig

WORLD, STEPS = 2, 4


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 7)
        self.blocks = nn.ModuleList(nn.Linear(7, 7) for _ in range(2))
        self.last = nn.Linear(7, 1)  # one row: a process has none of it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.last(x)


def network() -> Network:
    torch.manual_seed(0)
    return Network().double()


def steps(model: nn.Module, optimizer: Any, count: int, part: slice) -> None:
    for step in range(count):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)[part]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def process(rank: int, port: int, folder: str, kind: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    from cluster.on_ray.sharing import _shared_state, put_together, share_out

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    config, mesh, part = (
        OptimizerConfig(kind=kind, weight_decay=0.1),
        init_device_mesh("cpu", (WORLD,)),
        slice(rank, None, 2),
    )
    model = network()
    share_out(model, mesh)
    optimizer, _ = config.build(model, 100)
    steps(model, optimizer, STEPS, part)
    # A file would make copies too: the optimizer's count of steps is a tensor that is not shared out.
    saved = deepcopy(put_together({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, keep=True))

    # From the checkpoint: the same as going on.
    again = network()
    again.load_state_dict(saved["model"])
    share_out(again, mesh)
    second, _ = config.build(again, 100)
    second.load_state_dict(_shared_state(second, deepcopy(saved["optimizer"])))
    for trained, its in ((model, optimizer), (again, second)):
        steps(trained, its, STEPS, part)
    end, resumed = (put_together(m.state_dict(), keep=True) for m in (model, again))
    for name in end:
        assert torch.equal(end[name], resumed[name]), (name, (end[name] - resumed[name]).abs().max())
    if rank == 0:
        torch.save({"saved": saved, "end": end}, Path(folder) / "found.pt")
    assert put_together(model.state_dict(), keep=False)["last.weight"] is None
    dist.barrier()  # who leaves first breaks the connections of the others, and gloo's threads abort
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["adamw", "muon", "adam"])
def test_trains_as_a_whole_one_and_goes_on_from_its_checkpoint(tmp_path: Path, kind: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, args=(port, str(tmp_path), kind), nprocs=WORLD)
    found = torch.load(tmp_path / "found.pt", weights_only=True)

    model = network()
    optimizer, _ = OptimizerConfig(kind=kind, weight_decay=0.1).build(model, 100)
    steps(model, optimizer, STEPS, slice(None))
    torch.testing.assert_close(found["saved"]["model"], dict(model.state_dict()))
    for number, kept in optimizer.state_dict()["state"].items():
        for name, value in kept.items():
            torch.testing.assert_close(found["saved"]["optimizer"]["state"][number][name], value)
    steps(model, optimizer, STEPS, slice(None))
    torch.testing.assert_close(found["end"], dict(model.state_dict()))
