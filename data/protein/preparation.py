"""Structure files, or the synthetic chains, made into one `backbones.h5`: in parallel, resumable file by file."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import written_file
from data.batch import Backbone
from data.errors import ConfigError, PenstockError, SchemaError, StructureError
from data.extras import require
from data.preparing import (
    Show,
    content_hash,
    digest,
    distinct_ids,
    followed,
    part_path,
    read_refused,
    remove_partial,
    visible_files,
    write_refused,
)
from data.protein.clusters import ClusterConfig, cluster_sequences
from data.protein.filters import ProteinFilterConfig, radius_curve, radius_of_gyration, refusal
from data.protein.kinds import PROTEIN_BACKBONES
from data.protein.reading import STRUCTURE_SUFFIXES, Chain, is_structure, read_chains
from data.protein.secondary_structure import assign, encode
from data.store import Reader, Writer
from data.synthetic.protein import SyntheticProteinConfig, generate, synthetic_ids
from data.worker_pool import worked

VERSION = 1
"""Raised when the same inputs and configuration would give other chains."""
FEW = 64
"""Files that one process reads sooner than others are started."""
_UNFIT = re.compile(r"[^A-Za-z0-9_.+-]")  # for a file name


@dataclass(frozen=True, kw_only=True)
class ProteinPreparationConfig:
    """Which chains are kept, and how they are gathered into clusters."""

    filter: ProteinFilterConfig = field(default_factory=ProteinFilterConfig)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    processes: int = 0
    """Worker processes; 0 takes one per core."""

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise ConfigError("processes must not be negative; 0 means one per core.")


@dataclass(frozen=True)
class Prepared:
    """What a preparation gave."""

    path: Path
    """backbones.h5"""
    key: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """Cluster of each chain: the id of one of its members."""
    refused: dict[str, str]
    """Reason by file or chain, as in refused.csv beside the file."""
    reused: bool
    """True where the finished preparation was found and nothing was computed."""

    def summary(self) -> str:
        """One line: how many chains, clusters and refusals."""
        parts = [f"{len(self.ids)} chains in {len(set(self.groups))} clusters"]
        parts += [f"{len(self.refused)} refused (see {self.path.with_name('refused.csv')})"] if self.refused else []
        return ", ".join(parts) + (", found prepared" if self.reused else "")


@dataclass(frozen=True)
class _Task:
    """One file, or the number of a synthetic chain. Small, so that it travels to a worker."""

    item_id: str
    name: str
    """How the user knows it: its path in the folder, or its id."""
    path: Path | None
    content: str
    """SHA-256 of the file, "" for a synthetic chain."""
    synthetic: SyntheticProteinConfig | None = None
    index: int = 0

    def read(self) -> list[Chain]:
        if self.path is not None:
            return read_chains(self.path)
        assert self.synthetic is not None
        _, backbone = generate(self.synthetic, self.index)
        return [Chain("A", backbone, tuple(map(str, backbone.residue_index)), None, "synthetic")]


def prepare(
    source: Path | SyntheticProteinConfig,
    config: ProteinPreparationConfig,
    folder: Path,
    progress: Show | None = None,
) -> Prepared:
    """Prepare all chains of `source` (a folder, a file, or the synthetic set) into `folder/backbones.h5`, with
    `folder/refused.csv` beside it.

    A chain's id is its file's name without ending, with "_" and the chain's name where the file holds several. Finished
    files are kept as files of their own until all are done, so that a preparation killed at any moment continues with
    what is missing and gives the same file, bit for bit. A finished preparation with the same key is returned as it is.

    Raises:
        PenstockError: nothing there to read, every chain was refused, or a package of penstock[protein] is missing.
    """
    tasks = _tasks(source)
    for package in ("gemmi", "mdtraj"):  # once and clearly, instead of as the reason of every file
        require(package, "protein")
    key = _key(tasks, config)
    path = folder / "backbones.h5"
    found = _finished(path, key)
    if found is not None:
        return found
    parts = folder / f"parts-{key[:16]}"
    parts.mkdir(parents=True, exist_ok=True)
    _run(tasks, config, parts, progress)
    prepared = _assemble(tasks, key, config, parts, path)
    shutil.rmtree(parts)
    return prepared


def preparation_key(source: Path | SyntheticProteinConfig, config: ProteinPreparationConfig) -> str:
    """SHA-256 (hex) over the content of all inputs, the configuration, and the version of file and method.

    Raises:
        PenstockError: nothing there to read.
    """
    return _key(_tasks(source), config)


def _key(tasks: list[_Task], config: ProteinPreparationConfig) -> str:
    inputs = [[t.item_id, t.content, asdict(t.synthetic) if t.synthetic else None, t.index] for t in tasks]
    words = [VERSION, PROTEIN_BACKBONES.name, PROTEIN_BACKBONES.version, _config_json(config), inputs]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _config_json(config: ProteinPreparationConfig) -> str:
    # The number of processes changes no chain.
    return json.dumps({k: v for k, v in asdict(config).items() if k != "processes"}, sort_keys=True)


def _tasks(source: Path | SyntheticProteinConfig) -> list[_Task]:
    """All inputs in a fixed order."""
    if isinstance(source, SyntheticProteinConfig):
        return [_Task(item_id, item_id, None, "", source, k) for k, item_id in enumerate(synthetic_ids(source))]
    endings = ", ".join(STRUCTURE_SUFFIXES)
    if source.is_file():
        if not is_structure(source):
            raise PenstockError(f"expected a structure file ({endings}) or a folder of them, got {source}.")
        files, names = [source], [source.name]
    elif source.is_dir():
        found = visible_files(source, is_structure)
        names, files = list(found), list(found.values())
    else:
        raise PenstockError(f"expected a folder of PDB or mmCIF files, but {source} is missing. Check its path.")
    if not files:
        raise PenstockError(
            f"expected structure files ({endings}) in {source}, but there are none, also not in its subfolders. "
            "Give the folder that holds them."
        )
    return [
        _Task(item_id, name, path, content_hash(path))
        for item_id, name, path in zip(_ids(names), names, files, strict=True)
    ]


def _ids(names: list[str]) -> list[str]:
    """Ids fit for file names: the path without its ending, folders joined by '-'; where two agree, with the ending."""

    def short(name: str) -> str:
        return next(name[: -len(s)] for s in sorted(STRUCTURE_SUFFIXES, key=len)[::-1] if name.lower().endswith(s))

    shorts, whole = ([_UNFIT.sub("-", form) for form in forms] for forms in (map(short, names), names))
    return distinct_ids(shorts, whole, names)


def _finished(path: Path, key: str) -> Prepared | None:
    """The preparation that `path` holds, if it has this key and its file is sound."""
    if not path.exists():
        return None
    try:
        reader = Reader(path, PROTEIN_BACKBONES)
        if reader.attributes["key"] != key:
            return None
        groups = tuple(str(reader.read(k, ["group"])["group"]) for k in range(len(reader)))
    except SchemaError:
        return None  # damaged or of an older version: prepared anew, the rename replaces it
    return Prepared(path, key, reader.ids, groups, read_refused(path), reused=True)


# One part per file: `report` (JSON: id and name of each chain kept, reason by name of what was refused) and the arrays.


def _part(parts: Path, task: _Task) -> Path:
    return part_path(parts, task.item_id, ".npz")


@dataclass(frozen=True)
class _Work:
    """What a worker does with a file; True where it gave a chain."""

    config: ProteinFilterConfig
    parts: Path

    def __call__(self, task: _Task) -> bool:
        kept: list[tuple[str, str]] = []
        arrays: dict[str, Any] = {}
        refused: dict[str, str] = {}
        try:
            chains = task.read()
        except StructureError as error:
            return self.refuse(task, str(error))
        if self.config.single_chain and len(chains) > 1:
            return self.refuse(task, f"{len(chains)} protein chains, expected one (single_chain).")
        for chain in chains:
            several = len(chains) > 1
            name = f"{task.name} chain {chain.name}" if several else task.name
            reason, values = _chain_arrays(chain, self.config if task.path is not None else None)
            if reason is not None:
                refused[name] = reason
                continue
            arrays |= {f"{len(kept)}/{key}": value for key, value in values.items()}
            kept.append((f"{task.item_id}_{_UNFIT.sub('-', chain.name)}" if several else task.item_id, name))
        self._write(task, kept, refused, arrays)
        return bool(kept)

    def refuse(self, task: _Task, reason: str) -> bool:
        self._write(task, [], {task.name: reason}, {})
        return False

    def _write(self, task: _Task, kept: list[tuple[str, str]], refused: dict[str, str], arrays: dict[str, Any]) -> None:
        report = json.dumps({"kept": kept, "refused": refused})
        with written_file(_part(self.parts, task)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, report=np.array(report), **{k: np.asarray(v) for k, v in arrays.items()})


def _chain_arrays(chain: Chain, config: ProteinFilterConfig | None) -> tuple[str | None, dict[str, Any]]:
    """(reason of refusal or None, arrays of PROTEIN_BACKBONES less `group`), ends without a frame cut off.

    Synthetic chains pass without a filter (None): they are as their own configuration wants them.
    """
    resolved = np.flatnonzero(chain.backbone.resolved)
    if not len(resolved):
        return "no residue has all of N, CA and C.", {}
    span = slice(int(resolved[0]), int(resolved[-1]) + 1)
    backbone = _cut(chain.backbone, span)
    states = assign(backbone)
    reason = None if config is None else refusal(backbone, states, chain.resolution, config)
    return reason, {
        "atoms": backbone.atoms,
        "present": backbone.present,
        "residue_index": backbone.residue_index.astype(np.int32),
        "residue_type": backbone.residue_type.astype(np.uint8),
        "secondary": encode(states),
        "numbers": " ".join(chain.numbers[span]),
        "source": f"{chain.source} chain {chain.name}",
        "resolution": np.nan if chain.resolution is None else chain.resolution,
    }


def _cut(backbone: Backbone, span: slice) -> Backbone:
    """A stretch of one chain, counted from 1 again."""
    index = backbone.residue_index[span]
    return replace(
        backbone,
        atoms=backbone.atoms[span],
        present=backbone.present[span],
        chain=backbone.chain[span],
        residue_index=index - index[0] + 1,
        residue_type=backbone.residue_type[span],
    )


def _run(
    tasks: list[_Task],
    config: ProteinPreparationConfig,
    parts: Path,
    progress: Show | None,
) -> None:
    """Work through all tasks that have no part yet."""
    remove_partial(parts)
    todo = [task for task in tasks if not _part(parts, task).exists()]
    refused = sum(not _report(_part(parts, task))["kept"] for task in tasks if _part(parts, task).exists())
    work = _Work(config.filter, parts)
    processes = config.processes or (1 if len(todo) < FEW else 0)
    done = worked(todo, work, processes, crashed=work.refuse, preload="data.protein.preparation")
    results = ((task.name, fine) for task, fine in done)
    followed(results, len(tasks), len(tasks) - len(todo), refused, progress)


def _report(part: Path) -> dict[str, Any]:
    with np.load(part, allow_pickle=False) as stored:
        report: dict[str, Any] = json.loads(str(stored["report"]))
    return report


def _chains(
    tasks: list[_Task], parts: Path, only: str | None = None
) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """(id, name, arrays, all of them or the one named) of every chain that was kept, in order; ids made unique."""
    seen: set[str] = set()
    for task in tasks:
        with np.load(_part(parts, task), allow_pickle=False) as stored:
            for k, (item_id, name) in enumerate(json.loads(str(stored["report"]))["kept"]):
                unique = item_id if item_id not in seen else f"{item_id}-{digest(name)}"
                seen.add(unique)
                keys = [key for key in stored.files if key.startswith(f"{k}/{only or ''}")]
                yield unique, name, {key.split("/")[1]: stored[key] for key in keys}


def _assemble(tasks: list[_Task], key: str, config: ProteinPreparationConfig, parts: Path, path: Path) -> Prepared:
    """Filter by what needs all chains, cluster, and write backbones.h5 and refused.csv from the parts."""
    refused: dict[str, str] = {}
    for task in tasks:
        refused |= _report(_part(parts, task))["refused"]
    if tasks[0].path is not None:
        refused |= _beyond_curve(tasks, parts, config.filter)
    listed = write_refused(path, refused)
    kept = [
        (item_id, a["residue_type"])
        for item_id, name, a in _chains(tasks, parts, "residue_type")
        if name not in refused
    ]
    if not kept:
        name, reason = next(iter(refused.items()))
        raise PenstockError(
            f"expected at least one chain that can be used, but all {len(refused)} were refused; the first, {name}: "
            f"{reason} All reasons: {listed}."
        )
    ids = tuple(item_id for item_id, _ in kept)
    groups = tuple(ids[k] for k in cluster_sequences([sequence for _, sequence in kept], config.clusters))
    with Writer(path, PROTEIN_BACKBONES, {"key": key, "config": _config_json(config)}) as writer:
        remaining = ((item_id, a) for item_id, name, a in _chains(tasks, parts) if name not in refused)
        for (item_id, arrays), group in zip(remaining, groups, strict=True):
            writer.add(item_id, {**arrays, "group": group})
    return Prepared(path, key, ids, groups, refused, reused=False)


def _beyond_curve(tasks: list[_Task], parts: Path, config: ProteinFilterConfig) -> dict[str, str]:
    """Reasons of the chains whose radius of gyration lies above the quantile curve."""
    if config.radius != "quantile":
        return {}
    found = [(name, _backbone(arrays)) for _, name, arrays in _chains(tasks, parts)]
    if not found:
        return {}
    lengths = np.array([int(backbone.resolved.sum()) for _, backbone in found])
    radii = np.array([radius_of_gyration(backbone) for _, backbone in found])
    limits = radius_curve(lengths, radii, config.radius_quantile)(lengths) + config.radius_slack
    return {
        name: f"radius of gyration {radius:.1f} Å, more than {limit:.1f} Å for {length} residues: it is not compact."
        for (name, _), length, radius, limit in zip(found, lengths, radii, limits, strict=True)
        if radius > limit
    }


def _backbone(arrays: dict[str, np.ndarray]) -> Backbone:
    return Backbone(
        arrays["atoms"],
        arrays["present"],
        np.zeros(len(arrays["atoms"]), np.int64),
        arrays["residue_index"].astype(np.int64),
        arrays["residue_type"].astype(np.int64),
    )
