"""Guided velocity with the zero condition spelt out, against the exact shortcut: python benchmarks/guidance.py

Both sides run in this process on the same weights and inputs, alternately; the outputs are compared first. Printed are
ratios of process CPU time, since absolute times on a shared machine say little.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from modules.shape.sampling import guided_velocity
from modules.shape.transformer import ShapeTransformerConfig
from modules.transport.velocity import BatchedGuidance

TOKENS, IMAGE_TOKENS, GUIDANCE, PAIRS = 512, 257, 7.0, 7


@torch.no_grad()
def cpu_seconds(call: Callable[[], Tensor]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    config = ShapeTransformerConfig(latent_channels=64, width=256, layers=7, heads=4, condition_width=1024)
    network = config.build().eval()
    torch.nn.init.normal_(network.output.weight)
    x, condition = torch.randn(1, TOKENS, 64), torch.randn(1, IMAGE_TOKENS, 1024)

    def plain(x: Tensor, t: float, tokens: Tensor) -> Tensor:
        return network(x, torch.full((len(x),), t, dtype=torch.float64), tokens)

    spelt_out = BatchedGuidance(plain, condition, torch.zeros_like(condition), GUIDANCE)
    shortcut = guided_velocity(network, network.project_condition(condition), GUIDANCE)
    deviation = (spelt_out(x, 0.5) - shortcut(x, 0.5)).abs().max() / spelt_out(x, 0.5).std()
    print(f"largest deviation / std of the guided velocity: {deviation:.1e}")
    ratios = [cpu_seconds(lambda: spelt_out(x, 0.5)) / cpu_seconds(lambda: shortcut(x, 0.5)) for _ in range(PAIRS)]
    print(
        f"CPU time, both branches in full / uncond branch skipped and condition projected once: median "
        f"{statistics.median(ratios):.2f} (of {PAIRS} pairs, {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
