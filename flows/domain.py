"""What the spine knows of a domain: its configuration, its steps in order, its models, its importers."""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import check_domain
from configs.training import RunConfig
from data.errors import PenstockError

if TYPE_CHECKING:
    from flows.run import Run

TRAIN = "train_"
"""A step of this prefix trains the stage whose name follows."""


@dataclass(frozen=True)
class ImportedModel:
    """One network built from another program's weights."""

    config: Any
    """Instance of the stage's model config class."""
    weights: Mapping[str, Any]
    """State dict of the network that the config builds."""
    settings: Mapping[str, Any]
    """What the run's configuration says of it: dotted key → plain value or section."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs into the exported model's config (scales of the latents, for example)."""


@dataclass(frozen=True)
class Domain:
    """A domain as `flows/steps/<name>.py` declares it, under the name DOMAIN."""

    name: str
    config: type[RunConfig]
    """Root of its configuration."""
    steps: Mapping[str, Callable[["Run"], None]]
    """The workflow's steps in order. `prepare`, `train_<stage>`, `sample`, `evaluate` and `export` are verbs of the
    command line; other steps run between them where they stand."""
    models: Mapping[str, type] = field(default_factory=dict)
    """Stage → the config class whose `build()` gives the network."""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Step → the steps it needs, where that is not just the step before it."""
    importers: Mapping[str, Callable[[Path], Mapping[str, ImportedModel]]] = field(default_factory=dict)
    """Format → reader of another program's weights, giving one model per stage."""
    left_out: Callable[[Any], Collection[str]] = lambda config: ()
    """The steps that a configuration does not ask for: a run of it knows nothing of them."""
    shorthands: Mapping[str, str] = field(default_factory=dict)
    """Word of the command line → the dotted key that it stands for: `target` → `columns.target`."""

    def expanded(self, overrides: Mapping[str, str]) -> dict[str, str]:
        """The settings of a command line, shorthands replaced by what they stand for."""
        return {self.shorthands.get(key, key): value for key, value in overrides.items()}

    def prerequisites(self, step: str) -> tuple[str, ...]:
        """The steps that must be finished before `step`, itself not included."""
        if step in self.needs:
            return self.needs[step]
        names = list(self.steps)
        place = names.index(step)
        return (names[place - 1],) if place else ()

    def missing(self, step: str, finished: Sequence[str]) -> list[str]:
        """The unfinished steps that `step` needs, in the order of the workflow, itself not included."""
        wanted: set[str] = set()
        open_ends = [step]
        while open_ends:
            for need in self.prerequisites(open_ends.pop()):
                if need not in finished and need not in wanted:
                    wanted.add(need)
                    open_ends.append(need)
        return [name for name in self.steps if name in wanted]

    def after(self, step: str) -> list[str]:
        """The steps whose results rest on `step`, directly or not."""
        found = [step]
        for name in self.steps:
            if name not in found and any(need in found for need in self.prerequisites(name)):
                found.append(name)
        return found[1:]

    def stages(self) -> list[str]:
        """The names of what is trained, in order."""
        return [name.removeprefix(TRAIN) for name in self.steps if name.startswith(TRAIN)]


def load_domain(name: str) -> Domain:
    """The domain of that name. Raises ConfigError with the nearest name where there is none."""
    check_domain(name)
    module = importlib.import_module(f"flows.steps.{name}")
    domain: Domain = module.DOMAIN
    if domain.name != name:
        raise PenstockError(f"flows/steps/{name}.py declares the domain '{domain.name}'; the two names must be equal.")
    return domain
