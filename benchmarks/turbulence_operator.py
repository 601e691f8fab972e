"""The factorized operator beside its plain transcription, and beside FNO: python -m benchmarks turbulence_operator

Both sides have the published sizes and the same weights, float32, one thread, and are compared first. Times are CPU
seconds in one process, the sides taking turns in the order ABBA, the smallest of each; memory is the growth of the
resident size during one call, each side in a fresh process. Both have the same allocator: glibc's as it is, or one that
keeps freed blocks (--allocators keeps), which spares the transcription the zeroing of its large tensors; memory is
measured with one that returns them at once, so that it is what is needed and not what was left over.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LENGTHS = (4 * math.pi, 2.0, 4 * math.pi / 3)
SMALL, LARGE = (32, 33, 16), (64, 49, 32)
TOLERANCE = 2e-5
PLAIN, OURS, RECOMPUTED, FNO = "transcription", "penstock", "penstock, recomputed", "FNO"
FNO_SIZES = {"n_modes": (8, 8, 8), "hidden_channels": 80, "n_layers": 4}
ALLOCATORS = {
    "glibc": {},
    "returns": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    "keeps": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)},
}


@dataclass(frozen=True)
class Row:
    """What is measured on both sides."""

    kind: str
    """forward or training: forward, backward and a step of AdamW."""
    grid: tuple[int, int, int] = SMALL
    variant: str = "head"
    side: str = OURS
    rounds: int = 2
    """Of ABBA."""

    @property
    def name(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.grid))} {self.variant} {self.side}"


ROWS = (
    Row("forward"),
    Row("forward", variant="legacy"),
    Row("forward", variant="chained"),
    Row("forward", grid=LARGE, rounds=1),
    Row("forward", side=FNO),
    Row("training"),
    Row("training", side=RECOMPUTED),
    Row("training", side=FNO),
)


def networks(variant: str, iterations: int = 10) -> dict[str, Any]:
    """Both sides with the same weights; kernels strong enough to matter."""
    import torch

    from benchmarks.turbulence_reference import PlainIFactFormer
    from modules.turbulence.import_weights import convert

    torch.manual_seed(0)
    plain = PlainIFactFormer(variant=variant, iterations=iterations)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "to_q" in name or "to_k" in name:
                parameter.mul_(20)
    config, state = convert(plain.state_dict(), iterations=iterations)
    ours = config.build()
    ours.load_state_dict(state)
    return {PLAIN: plain, OURS: ours}


def inputs(grid: tuple[int, ...]) -> tuple[Any, list[Any]]:
    """A frame [1, 1, *grid, 3] and the coordinates of each axis."""
    import torch

    source = torch.Generator().manual_seed(1)
    coordinates = [torch.linspace(0, length, n) for n, length in zip(grid, LENGTHS, strict=True)]
    return torch.randn(1, 1, *grid, 3, generator=source), coordinates


def caller(side: str, variant: str, grid: tuple[int, ...]) -> Callable[[], Any]:
    """The next frame by one side."""
    frame, coordinates = inputs(grid)
    if side == FNO:
        from neuralop.models import FNO as Peer

        peer = Peer(in_channels=3, out_channels=3, **FNO_SIZES)
        call = partial(peer, frame[:, 0].movedim(-1, 1))
    elif side == PLAIN:
        call = partial(networks(variant)[PLAIN], frame, [c[:, None] for c in coordinates])
    else:
        ours = networks(variant)[OURS]
        object.__setattr__(ours.config, "recompute", side == RECOMPUTED)
        call = partial(ours.evolve, frame, coordinates)
    return call


def action(row: Row, side: str) -> Callable[[], Any]:
    """One forward pass, or one training step, of one side."""
    import torch

    call = caller(side, row.variant, row.grid)
    if row.kind == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return call()

        return forward
    network = call.func if isinstance(call.func, torch.nn.Module) else call.func.__self__  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        call().square().mean().backward()
        optimizer.step()

    return step


def assert_equal(variant: str, grid: tuple[int, int, int] = SMALL) -> None:
    """Raises AssertionError unless outputs are equal and every gradient is, relative to the largest."""
    import torch

    from modules.turbulence.import_weights import published_names

    frame, coordinates = inputs(grid)
    both = networks(variant)
    expected = both[PLAIN](frame, [c[:, None] for c in coordinates])
    found = both[OURS].evolve(frame, coordinates)
    worst = float((found - expected).detach().abs().max())
    for output in (found, expected):
        output.square().mean().backward()
    mine = dict(both[OURS].named_parameters())
    names = published_names(both[OURS].config)
    pairs = [(p.grad, mine[names[name]].grad) for name, p in both[PLAIN].named_parameters() if p.requires_grad]
    largest = max(float(theirs.abs().max()) for theirs, _ in pairs)
    gradient = max(float((theirs.reshape(ours.shape) - ours).abs().max()) for theirs, ours in pairs) / largest
    print(
        f"{variant}: outputs of {float(expected.detach().std()):.2f} differ by {worst:.1e}, gradients by {gradient:.1e}"
    )
    assert worst <= TOLERANCE and gradient <= TOLERANCE
    torch.manual_seed(0)


def seconds(row: Row) -> dict[str, float]:
    """Least CPU seconds of both sides."""
    sides = {side: action(row, side) for side in (PLAIN, row.side)}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for order in [tuple(sides), tuple(sides)[::-1]] * row.rounds:
        for side in order:
            begin = time.process_time()
            sides[side]()
            found[side].append(time.process_time() - begin)
    return {side: min(values) for side, values in found.items()}


def memory(row: Row, side: str) -> float:
    """MB above what the process held before, at the peak of one call."""
    from benchmarks.protein import peak_above

    # Libraries load what they need, and an optimizer its state.
    action(Row(row.kind, (4, 4, 4), row.variant), side)()
    return peak_above(action(row, side))


def in_child(row: Row, allocator: str, side: str | None) -> Any:
    """`seconds`, or `memory` of one side, in a process of its own."""
    task = json.dumps({"row": ROWS.index(row), "side": side})
    environment = os.environ | ALLOCATORS[allocator] | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.turbulence_operator", "--task", task]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(row: Row, allocators: list[str]) -> None:
    """Print one row: seconds and memory of both sides, and their ratios."""
    for allocator in allocators:
        times = in_child(row, allocator, None)
        peaks = {side: in_child(row, "returns", side) for side in (PLAIN, row.side)}
        print(
            f"{row.name:52} {allocator:8} {times[PLAIN]:9.2f} {times[row.side]:9.2f} "
            f"{times[PLAIN] / times[row.side]:8.2f}x {peaks[PLAIN]:9.0f} {peaks[row.side]:9.0f} "
            f"{peaks[PLAIN] / peaks[row.side]:8.1f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=list(range(len(ROWS))), help="numbers of rows, from 0")
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=["glibc"])
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.task:
        task = json.loads(options.task)
        row = ROWS[task["row"]]
        print(json.dumps(seconds(row) if task["side"] is None else memory(row, task["side"])))
        return
    for variant in sorted({ROWS[number].variant for number in options.rows}):
        assert_equal(variant)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; seconds of CPU, MB above the start")
    print(f"{'':52} {'blocks':8} {'plain s':>9} {'this s':>9} {'ratio':>9} {'plain MB':>9} {'this MB':>9} {'ratio':>9}")
    for number in options.rows:
        show(ROWS[number], options.allocators)


if __name__ == "__main__":
    main()
