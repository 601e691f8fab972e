"""The batch of all training processes, where a step needs to see more than its own part."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def whole_batch(parts: Sequence[Tensor], counted: bool) -> tuple[list[Tensor], slice]:
    """Tensors [sample, event, ...] over the samples of all processes, in their order, and which are this process's.

    Shorter ones are padded with zeros. All processes call this at the same time; samples of those that are not
    `counted` are left out, and such a process gets its own part back. Without other processes: as given.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(parts), slice(None)
    found: list[list[Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, [part.cpu() for part in parts] if counted else None)
    if not counted:
        return list(parts), slice(None)
    shares = [share for share in found if share is not None]
    longest = max(share[0].shape[1] for share in shares)
    whole = []
    for number, part in enumerate(parts):
        wide = [
            F.pad(share[number], (0, 0) * (part.ndim - 2) + (0, longest - share[number].shape[1])) for share in shares
        ]
        # Process r has every w-th sample of the batch, from the r-th on.
        rows = [share[k] for k in range(len(wide[0])) for share in wide if k < len(share)]
        whole.append(torch.stack(rows).to(part.device))
    return whole, slice(dist.get_rank(), None, len(shares))
