"""What varies in a sweep, and how it is searched: a file as data, checked before anything starts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from configs import load
from configs.training import TrainerConfig
from data.errors import ConfigError
from flows.domain import TRAIN, Domain

KINDS = ("uniform", "loguniform", "int", "logint", "choice")
"""What a key may say of its values: `{uniform: [low, high]}` … with both ends included, `{choice: [a, b, c]}`."""


@dataclass(frozen=True, kw_only=True)
class Random:
    """Independent draws; trial k depends on (seed, k) alone."""

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of choices."""


@dataclass(frozen=True, kw_only=True)
class Optuna:
    """Optuna's tree-structured Parzen estimator: later trials look where earlier ones did well."""

    seed: int = 0
    startup: int = 10
    """Independent draws before the estimator decides."""

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError(f"startup must be at least 1, got {self.startup}.")


@dataclass(frozen=True, kw_only=True)
class ASHA:
    """Asynchronous successive halving: at steps grace, grace · reduction, … only the best 1/reduction go on."""

    grace: int | None = None
    """Optimizer steps before any trial is stopped; null takes a twenty-seventh of the training."""
    reduction: float = 3.0

    def __post_init__(self) -> None:
        if self.grace is not None and self.grace < 1:
            raise ValueError(f"grace must be at least 1 step, got {self.grace}.")
        if self.reduction <= 1:
            raise ValueError(f"reduction must be above 1, got {self.reduction}.")


@dataclass(frozen=True, kw_only=True)
class PBT:
    """Population-based training: the worst trials take over weights and changed settings of the best."""

    every: int
    """Optimizer steps between changes; the stage validates and saves a checkpoint this often."""
    quantile: float = 0.25
    """Share of trials that take over from as many of the best."""
    resample: float = 0.25
    """Chance that a setting is drawn anew instead of multiplied by 0.8 or 1.2."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}.")
        if not 0 < self.quantile <= 0.5 or not 0 <= self.resample <= 1:
            raise ValueError(
                f"quantile lies in (0, 0.5] and resample in [0, 1], got {self.quantile} and {self.resample}."
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The space file without its keys."""

    metric: str
    """A name in the stage's metrics.csv."""
    mode: Literal["min", "max"] = "min"
    samples: int | None = None
    """Trials; null for a grid, which has as many as it has points."""
    search: Random | Grid | Optuna = field(default_factory=Random)
    scheduler: ASHA | PBT | None = None
    preset: str | None = None
    """The preset that the file was made for; --preset goes over it."""
    then: tuple[str, ...] = ()
    """Steps after the training."""
    then_for: Literal["best", "every"] = "every"
    """Which trials do them."""

    def __post_init__(self) -> None:
        if not self.metric:
            raise ValueError("metric must be a name in the stage's metrics.csv, like val/loss.")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}.")


@dataclass(frozen=True)
class Key:
    """One setting that varies."""

    name: str
    kind: str
    values: tuple[Any, ...]
    """Low and high, or the choices; a choice of a section is a mapping."""

    def draw(self, rng: np.random.Generator) -> Any:
        """One value, as plain data."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        return self.at(float(rng.random()))

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1] of the way from low to high (of the logarithm, for those kinds)."""
        low, high = self.values
        if self.kind == "int":
            return min(int(high), int(low) + int(share * (int(high) - int(low) + 1)))
        if self.kind in ("loguniform", "logint"):
            # An integer has the interval of half a unit around it.
            ends = (low - 0.5, high + 0.5) if self.kind == "logint" else (low, high)
            value = math.exp(math.log(ends[0]) + share * (math.log(ends[1]) - math.log(ends[0])))
            return self.clamped(round(value) if self.kind == "logint" else value)
        return self.clamped(low + share * (high - low))

    def clamped(self, value: Any) -> Any:
        """The nearest value that the key allows."""
        if self.kind == "choice":
            return value
        value = min(max(value, self.values[0]), self.values[1])
        return round(value) if self.kind in ("int", "logint") else float(value)

    def tried(self) -> list[Any]:
        """Values that show whether the configuration takes all: both ends, or every choice."""
        return list(self.values) if self.kind == "choice" else [self.at(0.0), self.at(1.0)]


@dataclass(frozen=True)
class Space:
    """A space file, read and checked by itself."""

    source: str
    plan: Plan
    keys: tuple[Key, ...]
    fixed: Mapping[str, Any]
    """Dotted settings of every trial."""

    def draw(self, index: int) -> dict[str, Any]:
        """The settings of trial `index` of a random search; they do not depend on the other trials."""
        assert isinstance(self.plan.search, Random | Optuna)
        rng = np.random.default_rng([self.plan.search.seed, index])
        return {key.name: key.draw(rng) for key in self.keys}

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the choices; the last key changes fastest."""
        points: list[dict[str, Any]] = [{}]
        for key in self.keys:
            points = [point | {key.name: value} for point in points for value in key.values]
        return points

    def described(self) -> dict[str, dict[str, Any]]:
        """Dotted key → kind and values, a choice of sections taken apart into its keys."""
        found: dict[str, dict[str, Any]] = {}
        for key in self.keys:
            if any(isinstance(value, Mapping) for value in key.values):
                for leaf in dict.fromkeys(leaf for value in key.values for leaf in flattened({key.name: value})):
                    values = [flattened({key.name: value}).get(leaf) for value in key.values]
                    found[leaf] = {"kind": "choice", "values": [v for v in dict.fromkeys(values) if v is not None]}
            else:
                found[key.name] = {"kind": key.kind, "values": list(key.values)}
        return found


def read_space(path: Path) -> Space:
    """The space file. Raises ConfigError, naming file and key, for what is not understood."""
    return parse_space(load.read_yaml(path), str(path))


def parse_space(values: Mapping[str, Any], source: str) -> Space:
    """The content of a space file."""
    rest = dict(values)
    keys, fixed = rest.pop("space", None), rest.pop("fixed", None) or {}
    if not isinstance(keys, dict) or not keys:
        raise ConfigError(
            f"{source}: expected `space:` with dotted keys of the configuration and their values, like "
            "`flow.optimizer.learning_rate: {loguniform: [1e-4, 1e-2]}`."
        )
    if not isinstance(fixed, dict):
        raise ConfigError(f"{source}: `fixed:` takes dotted keys with values, got {fixed!r}.")
    both = [name for name in keys if name in flattened(fixed)]
    if both:
        raise ConfigError(f"{source}: '{both[0]}' stands under both `space` and `fixed`.")
    try:
        plan = load.resolve(Plan, [load.tagged(rest, source)])
    except ConfigError as error:
        raise ConfigError(str(error) if source in str(error) else f"{source}: {error}") from None
    space = Space(source, plan, tuple(_key(name, said, source) for name, said in keys.items()), flattened(fixed))
    _check_search(space)
    return space


def _key(name: str, said: Any, source: str) -> Key:
    where = f"{source}: space: '{name}'"
    if not isinstance(said, dict) or len(said) != 1:
        raise ConfigError(
            f"{where} expects one of {', '.join(KINDS)} with its values, like {{uniform: [0, 1]}}; got {said!r}."
        )
    kind, values = next(iter(said.items()))
    if kind not in KINDS:
        raise ConfigError(f"{where}: unknown kind '{kind}'.{load.nearest(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: {kind} expects a list, got {values!r}.")
    if kind == "choice":
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"{where}: a choice stands twice in {values!r}.")
        return Key(name, kind, tuple(values))
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise ConfigError(f"{where}: {kind} expects two numbers [low, high], got {values!r}.")
    low, high = values
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{where}: {kind} expects low below high, got {values!r}.")
    if kind in ("int", "logint") and not all(isinstance(v, int) for v in values):
        raise ConfigError(f"{where}: {kind} expects whole numbers, got {values!r}.")
    if kind in ("loguniform", "logint") and low <= 0:
        raise ConfigError(f"{where}: {kind} expects numbers above 0, got {values!r}.")
    return Key(name, kind, (low, high))


def _check_search(space: Space) -> None:
    plan = space.plan
    if isinstance(plan.search, Grid):
        ranges = [key.name for key in space.keys if key.kind != "choice"]
        if ranges:
            raise ConfigError(
                f"{space.source}: a grid needs choices; '{ranges[0]}' is a range. Give it {{choice: […]}}, or search "
                "by Random or Optuna."
            )
    elif plan.samples is None:
        raise ConfigError(f"{space.source}: 'samples' has no value; expected the number of trials (or --samples).")
    if isinstance(plan.scheduler, PBT):
        if isinstance(plan.search, Optuna):
            raise ConfigError(f"{space.source}: population-based training searches by itself: use search Random.")
        if (plan.samples or 2) < 2:
            raise ConfigError(f"{space.source}: population-based training needs at least 2 trials.")
        sections = [key.name for key in space.keys if any(isinstance(v, Mapping) for v in key.values)]
        if sections:
            raise ConfigError(f"{space.source}: population-based training cannot change the section '{sections[0]}'.")


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


# ------------------------------------------------------------------------------------- against the domain's settings


def trial_config(domain: Domain, base: Any, space: Space, drawn: Mapping[str, Any]) -> Any:
    """The configuration of one trial. Raises ConfigError where the settings do not go together."""
    layers = [load.tagged(space.fixed, space.source), load.tagged(dict(drawn), space.source)]
    return load.resolve(domain.config, layers, default=base)


def check_space(space: Space, domain: Domain, stage: str, base: Any) -> None:
    """That every key is a setting that the stage's training can feel, and takes the values it may get.

    Raises:
        ConfigError: naming the file, the key, and the nearest name or what is allowed.
    """
    step = TRAIN + stage
    known = load.known_keys(domain.config)
    for name in (*(key.name for key in space.keys), *space.fixed):
        _check_name(name, known, space.source)
    for name in (key.name for key in space.keys):
        _check_reach(name, domain, step, space)
    for then in space.plan.then:
        if then not in domain.steps or step not in (then, *_before(domain, then)) or then == step:
            after = [name for name in domain.after(step) if name in domain.steps]
            raise ConfigError(
                f"{space.source}: then: '{then}' is not a step after {step}.{load.nearest(then, after)} "
                f"Steps: {', '.join(after)}."
            )
    trial_config(domain, base, space, {})
    first = {key.name: key.tried()[0] for key in space.keys}
    for key in space.keys:
        for value in key.tried():
            # Alone, so that the message is on this key; else with the others, which may make room for it.
            try:
                trial_config(domain, base, space, {key.name: value})
            except ConfigError:
                trial_config(domain, base, space, first | {key.name: value})
    if step in domain.left_out(trial_config(domain, base, space, first)):
        raise ConfigError(
            f"{space.source}: the configuration leaves out {step}: give '{stage}' settings under `fixed`, or choose "
            "another preset."
        )
    if isinstance(space.plan.scheduler, PBT):
        _check_population(space, domain, stage, base)


def _check_name(name: str, known: Mapping[str, Any], source: str) -> None:
    if name in known or (name.endswith(f".{load.KIND}") and name.rpartition(".")[0] in known):
        return
    inside = [key for key in known if name.startswith(f"{key}.") and load.type_name(known[key]) == "keys with values"]
    if not inside:
        last = name.rpartition(".")[2]
        same = [key for key in known if key.rpartition(".")[2] == last]
        hint = f" Did you mean '{same[0]}'?" if same else load.nearest(name, known)
        raise ConfigError(f"{source}: unknown key '{name}'.{hint} `--print-config` shows them all.")


def _check_reach(name: str, domain: Domain, step: str, space: Space) -> None:
    """Refuse what only steps after the training, or trainings of other stages, read."""
    section = name.partition(".")[0]
    before = _before(domain, step)
    others = [s for s in domain.stages() if TRAIN + s not in (step, *before)]
    later = [s for s in domain.steps if s not in (step, "prepare", *before, *space.plan.then)]
    if section in others or section in later:
        raise ConfigError(f"{space.source}: '{name}' has no influence on {step}: {section} is not part of it.")


def _before(domain: Domain, step: str) -> list[str]:
    return domain.missing(step, [])


def trainer_key(domain: Domain, stage: str) -> str | None:
    """The dotted key of the settings of a stage's training."""
    known = load.known_keys(domain.config)
    found = [key for key, hint in known.items() if hint is TrainerConfig and key.startswith(f"{stage}.")]
    return found[0] if found else None


def trainer_of(domain: Domain, stage: str, config: Any) -> TrainerConfig | None:
    """The settings of a stage's training."""
    return _at(config, key) if (key := trainer_key(domain, stage)) else None


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part, None)
    return config


def _check_population(space: Space, domain: Domain, stage: str, base: Any) -> None:
    """Population-based training changes settings of a training under way: only what a checkpoint does not fix."""
    trainer = trainer_key(domain, stage)
    if trainer is None:
        raise ConfigError(f"{space.source}: population-based training needs a stage with a `trainer` section.")
    classes = _network_classes(domain.models[stage])
    for key in space.keys:
        values = key.tried()
        configs = [trial_config(domain, base, space, {key.name: value}) for value in (values[0], values[-1])]
        nets = [_networks(getattr(config, stage, None), classes) for config in configs]
        if nets[0] != nets[1]:
            why = "it changes the network, whose weights the trials exchange"
        elif key.name.startswith(f"{trainer}."):
            why = "the checkpoint fixes length, batches and averaging of the training"
        elif not key.name.startswith(f"{stage}."):
            why = f"only settings of '{stage}' itself can change in the middle of its training"
        else:
            continue
        raise ConfigError(f"{space.source}: population-based training cannot change '{key.name}': {why}.")


def _network_classes(model: type) -> tuple[type, ...]:
    """The class of a stage's network and those of its sections."""
    found = {model}
    for hint in load.known_keys(model).values():
        found |= {part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)}
    return tuple(found)


def _networks(config: Any, classes: tuple[type, ...]) -> list[Any]:
    """The parts of a configuration that describe a network."""
    if not is_dataclass(config):
        return []
    if isinstance(config, classes):
        return [config]
    return [part for entry in fields(config) for part in _networks(getattr(config, entry.name), classes)]


def first_trials(space: Space, domain: Domain, base: Any, samples: int | None) -> Sequence[dict[str, Any]]:
    """The settings of all trials that are known before the first result, each tried against the configuration.

    Optuna draws as it goes: its first draws stand for all of them here, and none is returned.

    Raises:
        ConfigError: settings that do not go together, with the trial that has them.
    """
    plan = space.plan
    if isinstance(plan.search, Grid):
        points = space.grid()
        if samples is not None and samples < len(points):
            raise ConfigError(
                f"{space.source}: the grid has {len(points)} points, --samples {samples} are fewer: leave it out."
            )
    else:
        assert samples is not None
        points = [space.draw(index) for index in range(samples)]
    for index, drawn in enumerate(points):
        try:
            trial_config(domain, base, space, drawn)
        except ConfigError as error:
            shown = ", ".join(f"{name}={value}" for name, value in flattened(drawn).items())
            raise ConfigError(
                f"{error} That is trial {index} ({shown}). Settings that depend on one another go as one key: "
                "{choice: [{width: 64, heads: 4}, {width: 128, heads: 8}]}."
            ) from None
    return [] if isinstance(plan.search, Optuna) else points
