"""Where single precision is not enough."""

from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """`x` in float64, on its device where that knows float64, on the CPU where not (Apple's)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
