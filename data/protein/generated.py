"""Generated backbones as a run keeps them: lossless, one small file each, with what made it."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data.atomic import written_file
from data.batch import Backbone
from data.errors import PenstockError

_BACKBONE = ("atoms", "present", "chain", "residue_index", "residue_type")


@dataclass(frozen=True)
class Generated:
    """One backbone that a network made. A frame is a unit quaternion (w, x, y, z) and a translation in ångström."""

    backbone: Backbone
    frames: Float[np.ndarray, "residue 7"]
    """At t = 1, from which the atoms were built; a hard motif's atoms are the given ones."""
    source: Float[np.ndarray, "residue 7"]
    """The noise it came from, t = 0."""
    trajectory: Float[np.ndarray, "state residue 7"] | None = None
    """Every state from noise to sample, where it was asked for."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: seed, index, model, steps; what is needed to draw it again."""


def write_generated(generated: Generated, path: Path) -> None:
    """Write one `.npz`, whole or not at all; equal content gives equal bytes.

    Raises:
        DiskFullError: no space left; an earlier file stays as it was.
    """
    backbone = generated.backbone
    arrays: dict[str, np.ndarray] = {name: np.asarray(getattr(backbone, name)) for name in _BACKBONE}
    arrays |= {"frames": generated.frames, "source": generated.source}
    if backbone.motif is not None:
        arrays["motif"] = backbone.motif
    if generated.trajectory is not None:
        arrays["trajectory"] = generated.trajectory
    arrays["facts"] = np.array(json.dumps(dict(generated.facts), sort_keys=True))
    with written_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_generated(path: Path) -> Generated:
    """The backbone in a file that `write_generated` wrote.

    Raises:
        PenstockError: missing, damaged, or another kind of file. No pickle in it is ever executed.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(str(arrays["facts"]))
        backbone = Backbone(**{name: arrays[name] for name in _BACKBONE}, motif=arrays.get("motif"))
        return Generated(backbone, arrays["frames"], arrays["source"], arrays.get("trajectory"), facts)
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise PenstockError(
            f"{path}: expected a generated backbone (.npz with atoms, frames and facts), got: {error}. Draw it again: "
            "penstock sample RUN --again"
        ) from None
