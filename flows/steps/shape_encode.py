"""The latents of every solid: encoded solid by solid, in as many processes as there are, and put into one file."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import to_plain
from configs.shape import ShapeConfig
from data.atomic import written_file
from data.model_folder import WEIGHTS
from data.shape import ShapeSamples, write_latents
from flows.items import done_items, parts_folder
from flows.run import Run
from flows.steps.shape_condition import item_condition
from flows.steps.shape_networks import SolidByIndex, encode_solid


def latents_file(run: Run) -> Path:
    return run.path / "latents.h5"


@dataclass(frozen=True)
class Encoding(SolidByIndex):
    """Writes the posterior of one solid, and what belongs to it, to a file of its own."""

    parts: Path

    @cached_property
    def condition(self) -> Callable[[str], dict[str, np.ndarray]]:
        return item_condition(self.config, self.samples.ids)

    def part(self, index: int) -> Path:
        return self.parts / f"{index:07d}.npz"

    def __call__(self, index: int) -> None:
        mean, logvar = encode_solid(self.vae, self.samples, index, self.config.seed)
        arrays: dict[str, Any] = {"mean": mean, "logvar": logvar, "label": np.int32(self.samples.label(index))}
        arrays |= self.condition(self.samples.ids[index])
        with written_file(self.part(index)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def encode(run: Run) -> None:
    """Store the posterior of every solid, training and held-out alike; the split follows the ids."""
    config: ShapeConfig = run.config
    samples = ShapeSamples(run.data_file, config.vae.draw)
    weights = hashlib.sha256((run.model("vae") / WEIGHTS).read_bytes()).hexdigest()
    words = [weights, samples.fingerprint, config.seed, to_plain(config.vae.draw), to_plain(config.images)]
    work = Encoding(run, parts_folder(run, "encoding", words))
    _ = work.condition  # missing pictures are said before anything is encoded
    done_items(
        "encode",
        "objects",
        range(len(samples)),
        work.part,
        work,
        preload="flows.steps.shape_encode",
        network=True,
    )

    def items() -> Iterator[tuple[str, dict[str, Any]]]:
        for index, item_id in enumerate(samples.ids):
            with np.load(work.part(index), allow_pickle=False) as stored:
                yield item_id, {name: stored[name] for name in stored.files}

    write_latents(latents_file(run), items(), vae=weights, samples=samples.fingerprint, classes=samples.classes)
    shutil.rmtree(work.parts)
