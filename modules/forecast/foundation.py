"""A slot for pretrained forecasters of other houses: Chronos-2, TimesFM 2.5, or any that an installed package offers.

None of them is a dependency: their packages are imported when asked for, and weights come from a local folder unless a
download is allowed. What they say is quantiles; a window goes in as its series stand, NaN where not measured.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from data.errors import CheckpointError, ConfigError, PenstockError

ENTRY_POINTS = "penstock.forecasters"
"""Group of entry points under which a package offers a loader: a function from FoundationConfig to a Foundation."""
DECILES = tuple(k / 10 for k in range(1, 10))
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class History:
    """What is known of one series at its origin; NaN where not measured."""

    target: Float[np.ndarray, " step"]
    observed: Float[np.ndarray, "step observed"] | None = None
    """Covariates known up to the origin."""
    known: Float[np.ndarray, "longer known"] | None = None
    """Covariates known over the horizon too: `step` + horizon rows."""


@runtime_checkable
class Foundation(Protocol):
    """A pretrained forecaster."""

    def __call__(
        self, histories: Sequence[History], horizon: int, levels: tuple[float, ...]
    ) -> Float[np.ndarray, "series horizon level"]:
        """Quantiles at `levels`, rising along the last axis; NaN for a series that was never measured.

        Raises:
            ConfigError: levels that the forecaster does not know, or a horizon that is too long for it.
        """


@dataclass(frozen=True, kw_only=True)
class FoundationConfig:
    """Which forecaster, and where its weights are."""

    kind: str = "chronos-2"
    """`chronos-2`, `timesfm-2.5`, the name of an entry point of penstock.forecasters, or `module:function`."""
    weights: str = ""
    """Folder with the weights, or their name on the Hugging Face hub, which needs `allow_download`."""
    allow_download: bool = False
    """Fetch the weights from the hub where they are no local folder."""
    context: int = 2048
    """Newest steps of a series that are looked at."""
    batch: int = 64
    """Series at a time."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.context < 1 or self.batch < 1:
            raise ConfigError(f"context and batch must be at least 1, got {self.context} and {self.batch}.")
        if not self.kind:
            raise ConfigError(f"kind: expected {', '.join(LOADERS)}, an entry point or module:function, got nothing.")


Loader = Callable[[FoundationConfig], Foundation]


def load_foundation(config: FoundationConfig) -> Foundation:
    """The forecaster that `config` names, its weights loaded.

    Raises:
        PenstockError: its package is not installed.
        CheckpointError: the weights are missing or cannot be loaded.
        ConfigError: nobody offers a forecaster of this kind.
    """
    loader = _loader(config.kind)

    def forecast(
        histories: Sequence[History], horizon: int, levels: tuple[float, ...]
    ) -> Float[np.ndarray, "series horizon level"]:
        return _checked(model, config, histories, horizon, levels)

    model = loader(config)
    return forecast


def foundation_kinds() -> tuple[str, ...]:
    """The kinds that can be asked for here: the built-in ones, then those of installed packages."""
    return (*LOADERS, *sorted(point.name for point in entry_points(group=ENTRY_POINTS)))


def _checked(
    model: Foundation, config: FoundationConfig, histories: Sequence[History], horizon: int, levels: tuple[float, ...]
) -> np.ndarray:
    """What `model` says of every series that was measured at all, its shape checked and its quantiles in order."""
    if horizon < 1 or not levels or any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
        raise ConfigError(f"expected a horizon and rising levels between 0 and 1, got {horizon} and {list(levels)}.")
    given = [_newest(history, config.context, horizon) for history in histories]
    answer = np.full((len(given), horizon, len(levels)), np.nan)
    measured = [k for k, history in enumerate(given) if np.isfinite(history.target).any()]
    for first in range(0, len(measured), config.batch):
        part = measured[first : first + config.batch]
        found = np.asarray(model([given[k] for k in part], horizon, levels), np.float64)
        if found.shape != (len(part), horizon, len(levels)):
            raise PenstockError(
                f"forecaster '{config.kind}': expected quantiles of shape {(len(part), horizon, len(levels))}, "
                f"got {found.shape}; its adapter does not follow modules.forecast.foundation.Foundation."
            )
        answer[part] = np.sort(found, axis=-1)
    return answer


def _newest(history: History, context: int, horizon: int) -> History:
    """The newest `context` steps."""
    steps = len(history.target)
    first = max(steps - context, 0)
    for name, values, expected in (("observed", history.observed, steps), ("known", history.known, steps + horizon)):
        if values is not None and len(values) != expected:
            raise ConfigError(f"{name} covariates: expected {expected} steps with this target, got {len(values)}.")
    observed = None if history.observed is None else history.observed[first:]
    return History(history.target[first:], observed, None if history.known is None else history.known[first:])


def _loader(kind: str) -> Loader:
    if kind in LOADERS:
        return LOADERS[kind]
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == kind:
            found: Loader = point.load()
            return found
    if _FUNCTION.fullmatch(kind):
        module, _, function = kind.partition(":")
        loader = getattr(_imported(module, module.split(".")[0]), function, None)
        if callable(loader):
            return loader
        raise ConfigError(f"kind: module {module} has no function {function}.")
    raise ConfigError(
        f"unknown forecaster '{kind}'; available: {', '.join(foundation_kinds())}, or module:function of a loader."
    )


def _imported(module: str, package: str) -> ModuleType:
    """`module`, which the package named `package` in the index brings."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there, but something that it needs is not: its own message says more
        raise PenstockError(
            f"expected the package {package}, which is not installed. Install it: pip install '{package}'"
        ) from error


def _weights(config: FoundationConfig, name: str) -> str:
    """The folder or name of the weights; `name` is where they are published."""
    if not config.weights:
        raise CheckpointError(f"{config.kind}: expected weights, a local folder with those of {name} (or that name).")
    if not Path(config.weights).is_dir() and not config.allow_download:
        raise CheckpointError(
            f"{config.kind}: {config.weights} is no local folder. Give the folder with the weights of {name}, or set "
            "allow_download to fetch them from the Hugging Face hub."
        )
    return config.weights


def _loaded(config: FoundationConfig, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
        raise CheckpointError(f"{config.kind}: the weights in {config.weights} cannot be loaded: {error}") from error


def _check_levels(kind: str, levels: tuple[float, ...], own: Sequence[float]) -> None:
    if levels[0] < min(own) - 1e-9 or levels[-1] > max(own) + 1e-9:
        raise ConfigError(
            f"{kind} was trained for levels from {min(own):g} to {max(own):g}, got {list(levels)}: it would repeat its "
            "outermost. Take levels between them, or put intervals around it by conformal prediction."
        )


def _chronos(config: FoundationConfig) -> Foundation:
    """Chronos-2 (Ansari et al. 2025) through the package chronos-forecasting: takes gaps and all covariates."""
    weights = _weights(config, "amazon/chronos-2")
    package = _imported("chronos", "chronos-forecasting>=2.0")
    if not hasattr(package, "Chronos2Pipeline"):
        raise PenstockError("expected chronos-forecasting 2.0 or newer: pip install 'chronos-forecasting>=2.0'")
    pipeline = _loaded(
        config,
        lambda: package.Chronos2Pipeline.from_pretrained(
            weights, device_map=config.device, local_files_only=not config.allow_download, use_safetensors=True
        ),
    )

    def forecast(histories: Sequence[History], horizon: int, levels: tuple[float, ...]) -> np.ndarray:
        _check_levels(config.kind, levels, pipeline.quantiles)
        inputs = [_chronos_input(history) for history in histories]
        quantiles, _ = pipeline.predict_quantiles(
            inputs, prediction_length=horizon, quantile_levels=list(levels), context_length=config.context
        )
        return np.stack([np.asarray(one.float().cpu())[0] for one in quantiles])

    return forecast


def _chronos_input(history: History) -> dict[str, Any]:
    steps = len(history.target)
    past: dict[str, np.ndarray] = {}
    future: dict[str, np.ndarray] = {}
    if history.observed is not None:
        past |= {f"observed_{k}": column.astype(np.float32) for k, column in enumerate(history.observed.T)}
    if history.known is not None:
        past |= {f"known_{k}": column[:steps].astype(np.float32) for k, column in enumerate(history.known.T)}
        future = {f"known_{k}": column[steps:].astype(np.float32) for k, column in enumerate(history.known.T)}
    parts = {"past_covariates": past, "future_covariates": future}
    return {"target": history.target.astype(np.float32), **{name: part for name, part in parts.items() if part}}


def _timesfm(config: FoundationConfig) -> Foundation:
    """TimesFM 2.5 (Das et al. 2024) through the package timesfm: the target alone, gaps bridged by straight lines."""
    weights = _weights(config, "google/timesfm-2.5-200m-pytorch")
    package = _imported("timesfm", "timesfm[torch]>=2.0")
    if not hasattr(package, "TimesFM_2p5_200M_torch"):
        raise PenstockError("expected timesfm 2.0 or newer with torch: pip install 'timesfm[torch]>=2.0'")
    model = _loaded(
        config,
        lambda: package.TimesFM_2p5_200M_torch.from_pretrained(
            weights, local_files_only=not config.allow_download, torch_compile=False
        ),
    )
    ready = 0

    def forecast(histories: Sequence[History], horizon: int, levels: tuple[float, ...]) -> np.ndarray:
        nonlocal ready
        _check_levels(config.kind, levels, DECILES)
        if horizon != ready:  # it always reckons the whole horizon that it was made ready for
            options = {
                "max_context": config.context,
                "max_horizon": horizon,
                "per_core_batch_size": config.batch,
                "normalize_inputs": True,
                "use_continuous_quantile_head": True,
                "infer_is_positive": False,
                "fix_quantile_crossing": True,
            }
            try:
                model.compile(package.ForecastConfig(**options))
            except ValueError as error:
                raise ConfigError(f"{config.kind} cannot forecast {horizon} steps: {error}") from error
            ready = horizon
        _, quantiles = model.forecast(horizon=horizon, inputs=[h.target.astype(np.float32) for h in histories])
        # Column 0 is the mean, the deciles follow.
        return _between(np.asarray(quantiles)[:, :horizon, 1:], DECILES, levels)

    return forecast


def _between(
    quantiles: Float[np.ndarray, "series horizon own"], own: Sequence[float], levels: tuple[float, ...]
) -> Float[np.ndarray, "series horizon level"]:
    """Quantiles at `levels`, on straight lines between those at the forecaster's own levels."""
    place = np.interp(levels, own, np.arange(len(own)))
    below = np.minimum(place.astype(int), len(own) - 2)
    share = place - below
    return quantiles[..., below] * (1 - share) + quantiles[..., below + 1] * share


LOADERS: dict[str, Loader] = {"chronos-2": _chronos, "timesfm-2.5": _timesfm}
