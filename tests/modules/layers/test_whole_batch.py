"""A batch put together from the parts of several processes."""

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from modules.layers.whole_batch import whole_batch

WORLD = 3


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.arange(float(count * 4 * 2)).view(count, 4, 2)
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 4, 1, 4, 2])[:count, None]
    return values * mask[..., None], mask


def process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    found = []
    for count in (7, 2):
        values, mask = batch(count)
        counted = rank < count
        values, mask = (x[rank::WORLD] if counted else x[:1] for x in (values, mask))
        longest = int(mask.sum(dim=1).max())  # padded to the longest of the part, as loaders do
        part = [values[:, :longest], mask[:, :longest]]
        whole, own = whole_batch(part, counted)
        assert torch.equal(whole[0][own][:, :longest], part[0])
        found.append(whole if counted else [])
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_every_process_sees_the_batch_in_its_order(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, args=(port, str(tmp_path)), nprocs=WORLD)
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for count, whole in zip((7, 2), found, strict=True):
            if not whole:
                assert rank >= count
                continue
            for ours, theirs in zip(whole, batch(count), strict=True):
                assert torch.equal(ours, theirs[:, : ours.shape[1]])
                assert not theirs[:, ours.shape[1] :].any()


def test_a_process_alone_has_all_of_it() -> None:
    values, mask = batch(7)
    whole, own = whole_batch([values, mask], True)
    assert whole[0] is values
    assert torch.equal(whole[1][own], mask)
