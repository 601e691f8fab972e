"""Coarse channels at Re_tau 180 beside the tables of Moser, Kim and Mansour: profiles, errors, cost.

    python -m benchmarks.channel180 --folder runs/channel180             # a quarter of an hour on one core
    python -m benchmarks.channel180 --folder runs/channel180 --cases coarse --time 5
    python -m benchmarks.channel180 --cost                               # CPU seconds of a step against the grid

Every case starts from the same flow on 32 × 33 × 32 points, which has left its random start, goes on for a while on
its own grid, and is then averaged. A killed run goes on where it stopped. Each figure is the relative L2 error over the
half channel in the run's own wall units, with the 95 % half-width from blocks of time; a case holds if every error is
within its band: an allowance for the resolution, stated here, and that half-width.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.atomic import written_file
from data.grid import Grid
from data.synthetic.turbulence.channel import Channel, ChannelConfig
from data.synthetic.turbulence.simulation import run
from data.synthetic.turbulence.subgrid import SubgridConfig
from data.turbulence.blocks import Blocks
from data.turbulence.comparison import Row, compare_profiles
from data.turbulence.frame_statistics import layout_of
from data.turbulence.profiles import Profiles, wall_profiles
from data.turbulence.reference import read_moser
from data.turbulence.statistics import Series, Statistics
from flows.reporting.drawing import COLOURS, Plot

TABLES = Path("../shared/datasets/turbulence/reference")
START = ChannelConfig(points=(32, 33, 32))
START_TIME = 6.0
"""How long the common start is advanced, in h/u_tau."""
SETTLING = 3.0
"""How long each case goes on before it is averaged."""
SPACING = 0.1
"""Time between the frames that are averaged."""
HEIGHTS = np.geomspace(0.006, 1.0, 120)
"""At which the lines of the plots are drawn."""
QUANTITIES = ("mean velocity", "rms streamwise", "rms wall-normal", "rms spanwise", "shear stress", "centre velocity")
GRIDS = ((32, 33, 16), (32, 33, 32), (48, 65, 48), (64, 65, 64), (80, 97, 72))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: its grid, how long it is averaged, and what its resolution is allowed to be wrong by."""

    config: ChannelConfig
    time: float
    """In h/u_tau."""
    allowed: tuple[float, ...]
    """Relative, in the order of `QUANTITIES`."""


CASES = {
    "coarse": Case(config=ChannelConfig(points=(32, 33, 16)), time=30.0, allowed=(0.04, 0.08, 0.10, 0.35, 0.10, 0.04)),
    "middle": Case(config=ChannelConfig(points=(48, 65, 48)), time=20.0, allowed=(0.03, 0.06, 0.06, 0.06, 0.06, 0.03)),
    "fine": Case(config=ChannelConfig(points=(64, 65, 64)), time=15.0, allowed=(0.03, 0.04, 0.04, 0.04, 0.04, 0.03)),
}


class Moments:
    """Plane means of the velocity and of its products in every frame: what a run keeps beside its state."""

    def __init__(self) -> None:
        self.velocity: list[Tensor] = []
        self.product: list[Tensor] = []
        self.seconds = torch.zeros((), dtype=torch.float64)
        """CPU time so far."""
        self._begin = time.process_time()

    def add(self, frame: Tensor, time: float) -> None:
        values = frame.double()
        self.velocity.append(values.mean((0, 2)))
        self.product.append(torch.einsum("xyzi,xyzj->yij", values, values) / (frame.shape[0] * frame.shape[2]))

    def state(self) -> dict[str, Tensor]:
        now = time.process_time()
        self.seconds = self.seconds + (now - self._begin)
        self._begin = now
        if not self.velocity:
            return {"seconds": self.seconds}
        return {
            "velocity": torch.stack(self.velocity),
            "product": torch.stack(self.product),
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.seconds = state["seconds"].clone()
        self.velocity = list(state.get("velocity", torch.zeros(0)))
        self.product = list(state.get("product", torch.zeros(0)))

    def statistics(self, grid: Grid, nu: float) -> Statistics:
        """Of all frames so far, each a block of its own."""
        count = len(self.velocity)
        means = {name: torch.stack(getattr(self, name)).numpy() for name in ("velocity", "product")}
        one = np.ones(count, np.int64)
        none = np.zeros(count)
        return Statistics(
            layout=layout_of(grid, Channel.components, profile=None, nu=nu, u_tau=1.0, heights=()),
            nu=nu,
            blocks=Blocks(means, one, 0 * one, 1),
            series=Series(none, 0 * one, none, none, none, none[:, None], none[:, None], none),
            scales=np.ones((1, 6)),
        )


def started(folder: Path) -> tuple[Tensor, Grid]:
    """The common start: a frame of a flow that has forgotten its random modes."""
    channel = START.build(0)
    run(channel, [START_TIME], lambda *_: None, checkpoint=folder / "start.safetensors")
    return channel.fields(), channel.grid


def averaged(name: str, case: Case, folder: Path) -> tuple[Moments, Channel]:
    """The moments of a case, from its folder where it is there already."""
    channel = case.config.build(0)
    channel.start_from(*started(folder))
    settled = folder / f"{name}-settled.safetensors"
    run(channel, [SETTLING], lambda *_: None, checkpoint=settled)
    moments = Moments()
    times = [SETTLING + SPACING * (k + 1) for k in range(round(case.time / SPACING))]
    run(
        channel,
        times,
        lambda *_: None,
        checkpoint=folder / f"{name}.safetensors",
        every=10,
        statistics=moments,
        progress=lambda done, total: print(f"{name}: {done} of {total}", flush=True) if done % 20 == 0 else None,
    )
    return moments, channel


def report(found: Mapping[str, tuple[Case, Profiles, Moments]], reference: Profiles, folder: Path) -> None:
    """The table of errors and the plots."""
    print("\n| case | points | averaged over | CPU s per h/u_tau | Re_tau | " + " | ".join(QUANTITIES) + " |")
    print("|---" * (5 + len(QUANTITIES)) + "|")
    for name, (case, profiles, moments) in found.items():
        rows = {row.quantity: row for row in compare_profiles(profiles, reference)}
        points = " x ".join(map(str, case.config.points))
        cells = [_cell(rows[q], allowed) for q, allowed in zip(QUANTITIES, case.allowed, strict=True)]
        cost = float(moments.seconds) / case.time
        print(f"| {name} | {points} | {case.time:g} | {cost:.1f} | {profiles.re_tau:.1f} | {' | '.join(cells)} |")
    for kind, svg in (("mean", mean_plot(found, reference)), ("rms", rms_plot(found, reference))):
        with written_file(folder / f"channel180-{kind}.svg") as temporary:
            temporary.write_text(svg)


def _cell(row: Row, allowed: float) -> str:
    verdict = "" if row.error <= allowed + row.plus_minus else ", OUTSIDE"
    return f"{row.error:.1%} ± {row.plus_minus:.1%} (of {allowed:.0%}{verdict})"


def mean_plot(found: Mapping[str, tuple[Case, Profiles, Moments]], reference: Profiles) -> str:
    """Mean velocity over the logarithm of the distance from the wall."""
    plot = Plot((0.0, np.log10(180)), (0.0, 20.0), right=150)
    plot.grid("y⁺", [(np.log10(v), str(v)) for v in (1, 3, 10, 30, 100)])
    for (name, (_, profiles, _)), colour in zip(found.items(), COLOURS, strict=False):
        smooth = profiles.at(HEIGHTS)
        across = np.log10(HEIGHTS * profiles.re_tau)
        value, width = smooth.velocity.value, smooth.velocity.plus_minus
        plot.band(across, value - width, value + width, colour)
        plot.line(across, value, colour, name)
    keep = reference.y_plus >= 1
    plot.line(np.log10(reference.y_plus[keep]), reference.velocity.value[keep], "#222", reference.name, quiet=True)
    return plot.svg()


def rms_plot(found: Mapping[str, tuple[Case, Profiles, Moments]], reference: Profiles) -> str:
    """Root mean squares of the three components over the distance from the wall."""
    plot = Plot((0.0, 180.0), (0.0, 3.0), right=150)
    plot.grid("y⁺", [(v, str(v)) for v in (0, 50, 100, 150)])
    for (name, (_, profiles, _)), colour in zip(found.items(), COLOURS, strict=False):
        smooth = profiles.at(HEIGHTS)
        for k, component in enumerate("uvw"):
            value, width = smooth.rms.value[:, k], smooth.rms.plus_minus[:, k]
            plot.band(HEIGHTS * profiles.re_tau, value - width, value + width, colour)
            plot.line(HEIGHTS * profiles.re_tau, value, colour, f"{component} {name}")
    for k in range(3):
        plot.line(reference.y_plus, reference.rms.value[:, k], "#222", quiet=True)
    return plot.svg()


def cost(grids: Sequence[tuple[int, int, int]], rounds: int = 5) -> None:
    """CPU seconds of one step on one thread, the least of some, by grid, precision and subgrid model."""
    print(
        "| points | "
        + " | ".join(("float32", "float64", "dynamic, float32", "wale, float32"))
        + " |\n|---|---|---|---|---|"
    )
    kinds = (("float32", "none"), ("float64", "none"), ("float32", "dynamic"), ("float32", "wale"))
    for points in grids:
        cells = []
        for dtype, model in kinds:
            step = 1e-3
            channel = ChannelConfig(
                points=points, dtype=dtype, time_step=step, subgrid=SubgridConfig(model=model)
            ).build(0)
            channel.advance(step)
            seconds = []
            for k in range(rounds):
                begin = time.process_time()
                channel.advance((k + 2) * step)
                seconds.append(time.process_time() - begin)
            cells.append(f"{min(seconds):.3f}")
        print(f"| {' x '.join(map(str, points))} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/channel180"))
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--time", type=float, help="h/u_tau to average over, instead of each case's own")
    parser.add_argument("--cost", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        cost(GRIDS)
        return
    reference = read_moser(options.tables / "mkm180_means.txt", options.tables / "mkm180_reystress.txt")
    found = {}
    for name in options.cases:
        case = CASES[name]
        if options.time:
            case = Case(config=case.config, time=options.time, allowed=case.allowed)
        moments, channel = averaged(name, case, options.folder)
        statistics = moments.statistics(channel.grid, case.config.nu)
        found[name] = (case, wall_profiles(statistics, name, filtered=False), moments)
        report(found, reference, options.folder)


if __name__ == "__main__":
    main()
