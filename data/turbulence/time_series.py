"""Questions to a series in time: when has it settled, when does it leave a band."""

import numpy as np
from jaxtyping import Float

from data.errors import ConfigError

BATCH = 5


def settled(times: Float[np.ndarray, " frame"], values: Float[np.ndarray, " frame"]) -> float:
    """Time from which a series is steady: what precedes it is the start-up that a mean should leave out.

    The truncation after which the standard error of the mean of what is left is smallest, on batches of five values and
    within the first half (White 1997, the marginal standard error rule MSER-5).

    Raises:
        ConfigError: fewer than 20 values.
    """
    if len(values) < 4 * BATCH:
        raise ConfigError(f"expected at least {4 * BATCH} values to tell when a series settles, got {len(values)}.")
    batches = len(values) // BATCH
    # The end is what matters: what does not fill a batch is left out at the start.
    offset = len(values) - batches * BATCH
    means = values[offset:].reshape(batches, BATCH).mean(axis=1)
    errors = [means[d:].var() / (batches - d) for d in range(batches // 2 + 1)]
    first = int(np.argmin(errors))
    return float(times[offset + first * BATCH if first else 0])


def leaves(
    times: Float[np.ndarray, " frame"], values: Float[np.ndarray, " frame"], low: float, high: float, patience: int = 5
) -> float | None:
    """Time of the first value outside [low, high] after which `patience` values in a row, or all that follow, are.

    None where the series stays. What is not finite is outside.
    """
    outside = ~((values >= low) & (values <= high))
    for k in np.flatnonzero(outside):
        if outside[k : k + patience].all():
            return float(times[k])
    return None
