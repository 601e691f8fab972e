"""A folder of meshes, or the synthetic solids, made into one `samples.h5`: in parallel, resumable object by object."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.atomic import written_file
from data.errors import MeshError, PenstockError, SchemaError
from data.preparing import (
    Show,
    content_hash,
    distinct_ids,
    followed,
    part_path,
    read_refused,
    remove_partial,
    visible_files,
    write_refused,
)
from data.shape.item import PrepareConfig, prepare_item
from data.shape.kinds import SHAPE_SAMPLES
from data.shape.mesh_reading import MESH_SUFFIXES, SourceMesh, read_mesh
from data.store import Reader, Writer
from data.synthetic.shape import SyntheticShapesConfig, synthetic_ids, synthetic_mesh
from data.worker_pool import worked

ARRAYS, REFUSAL = ".npz", ".json"
"""Endings of the part of an object: its arrays, or the reason of its refusal."""
VERSION = 1
"""Raised when the same inputs and configuration would give other samples."""


@dataclass(frozen=True)
class Preparation:
    """What a preparation gave."""

    path: Path
    """samples.h5"""
    key: str
    ids: tuple[str, ...]
    refused: dict[str, str]
    """Reason by object, as in refused.csv beside the file."""
    treatments: dict[str, str]
    """What was done to each source mesh."""
    reused: bool
    """True where the finished preparation was found and nothing was computed."""

    def summary(self) -> str:
        """One line: how many were prepared, repaired and refused."""
        kinds = Counter("as is" if text == "as is" else "repaired" for text in self.treatments.values())
        parts = [f"{len(self.ids)} objects ({kinds['as is']} as they are, {kinds['repaired']} repaired)"]
        parts += [f"{len(self.refused)} refused (see {self.path.with_name('refused.csv')})"] if self.refused else []
        return ", ".join(parts) + (", found prepared" if self.reused else "")


@dataclass(frozen=True)
class _Task:
    """One object: a mesh file, or the number of a synthetic solid. Small, so that it travels to a worker."""

    item_id: str
    name: str
    """How the user knows the object: its path in the folder, or its id."""
    label: int
    path: Path | None
    content: str
    """SHA-256 of the file, "" for a synthetic solid."""
    synthetic: SyntheticShapesConfig | None = None
    index: int = 0

    def read(self, max_faces: int) -> SourceMesh:
        if self.path is not None:
            return read_mesh(self.path, max_faces=max_faces)
        assert self.synthetic is not None
        mesh, _ = synthetic_mesh(self.synthetic, self.index)
        return SourceMesh(mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64))


def prepare(
    source: Path | SyntheticShapesConfig,
    config: PrepareConfig,
    folder: Path,
    progress: Show | None = None,
) -> Preparation:
    """Prepare all objects of `source` into `folder/samples.h5`, with `folder/refused.csv` beside it.

    Each object depends on its own content, its id and `config` alone. Finished objects are kept as files of their own
    until all are done, so that a preparation killed at any moment continues with what is missing and gives the same
    file, bit for bit. A finished preparation with the same key is returned as it is.

    Raises:
        PenstockError: the folder is missing or holds no mesh, or every object was refused.
    """
    tasks, classes = _tasks(source)
    key = _key(tasks, classes, config)
    path = folder / "samples.h5"
    found = _finished(path, key)
    if found is not None:
        return found
    parts = folder / f"parts-{key[:16]}"
    parts.mkdir(parents=True, exist_ok=True)
    _run(tasks, config, parts, progress)
    refused, treatments = _assemble(tasks, classes, key, config, parts, path)
    shutil.rmtree(parts)
    return Preparation(path, key, tuple(treatments), refused, treatments, reused=False)


def preparation_key(source: Path | SyntheticShapesConfig, config: PrepareConfig) -> str:
    """SHA-256 (hex) over the content of all inputs, the configuration, and the version of file and method.

    Raises:
        PenstockError: the folder is missing or holds no mesh.
    """
    return _key(*_tasks(source), config)


def _key(tasks: list[_Task], classes: tuple[str, ...], config: PrepareConfig) -> str:
    inputs = [
        [task.item_id, task.label, task.content, asdict(task.synthetic) if task.synthetic else None, task.index]
        for task in tasks
    ]
    words = [VERSION, SHAPE_SAMPLES.name, SHAPE_SAMPLES.version, _config_json(config), classes, inputs]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _config_json(config: PrepareConfig) -> str:
    # The number of processes changes no sample.
    return json.dumps({k: v for k, v in asdict(config).items() if k != "processes"}, sort_keys=True)


def _tasks(source: Path | SyntheticShapesConfig) -> tuple[list[_Task], tuple[str, ...]]:
    """All objects in a fixed order, and the names of their classes."""
    if isinstance(source, SyntheticShapesConfig):
        families = source.families
        tasks = [
            _Task(item_id, item_id, k % len(families), None, "", source, k)
            for k, item_id in enumerate(synthetic_ids(source))
        ]
        return tasks, families
    if not source.is_dir():
        what = "a file" if source.exists() else "missing"
        raise PenstockError(f"expected a folder of meshes, but {source} is {what}. Give the folder that holds them.")
    files = visible_files(source, lambda path: path.suffix.lower() in MESH_SUFFIXES)
    if not files:
        raise PenstockError(
            f"expected mesh files ({', '.join(MESH_SUFFIXES)}) in {source}, but there are none, "
            "also not in its subfolders. Give the folder that holds them."
        )
    names = list(files)
    parents = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = tuple(sorted({parent for parent in parents if parent}))
    return [
        _Task(item_id, name, classes.index(parent) if parent else -1, path, content_hash(path))
        for item_id, name, parent, path in zip(_ids(names), names, parents, files.values(), strict=True)
    ], classes


def _ids(names: list[str]) -> list[str]:
    """Ids fit for file names: the path without its ending, folders joined by '-'; where two agree, with the ending."""
    whole = [name.replace("/", "-") for name in names]
    return distinct_ids([name.rsplit(".", 1)[0] for name in whole], whole, names)


def _finished(path: Path, key: str) -> Preparation | None:
    """The preparation that `path` holds, if it has this key and its file is sound."""
    if not path.exists():
        return None
    try:
        reader = Reader(path, SHAPE_SAMPLES)
        if reader.attributes["key"] != key:
            return None
        treatments = {item: str(reader.read(k, ["treatment"])["treatment"]) for k, item in enumerate(reader.ids)}
    except SchemaError:
        return None  # damaged or of an older version: prepared anew, the rename replaces it
    refused = read_refused(path)
    return Preparation(path, key, reader.ids, refused, treatments, reused=True)


# One part file per object: the arrays as .npz, or the reason of the refusal as .json.


@dataclass(frozen=True)
class _Work:
    """What a worker does with an object; False where it was refused."""

    config: PrepareConfig
    parts: Path

    def __call__(self, task: _Task) -> bool:
        try:
            arrays = prepare_item(task.read(self.config.max_faces), self.config, task.item_id, task.label)
        except MeshError as error:
            return self.refuse(task, str(error))
        part = part_path(self.parts, task.item_id, ARRAYS)
        with written_file(part) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
        return True

    def refuse(self, task: _Task, reason: str) -> bool:
        with written_file(part_path(self.parts, task.item_id, REFUSAL)) as temporary:
            temporary.write_text(json.dumps({"reason": reason}))
        return False


def _run(tasks: list[_Task], config: PrepareConfig, parts: Path, progress: Show | None) -> None:
    """Work through all tasks that have no part yet."""
    remove_partial(parts)
    todo = [t for t in tasks if not any(part_path(parts, t.item_id, s).exists() for s in (ARRAYS, REFUSAL))]
    refused = sum(1 for _ in parts.glob(f"*{REFUSAL}"))
    work = _Work(config, parts)
    # A mesh can crash the C++ underneath; the pool answers for it and goes on with the others.
    done = worked(todo, work, config.processes, crashed=work.refuse, preload="data.shape.preparation")
    results = ((task.item_id, fine) for task, fine in done)
    followed(results, len(tasks), len(tasks) - len(todo), refused, progress)


def _assemble(
    tasks: list[_Task], classes: tuple[str, ...], key: str, config: PrepareConfig, parts: Path, path: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Write samples.h5 and refused.csv from the parts; the reasons and the treatments, by object."""
    refused: dict[str, str] = {}
    for task in tasks:
        reason = part_path(parts, task.item_id, REFUSAL)
        if reason.exists():
            refused[task.name] = json.loads(reason.read_text())["reason"]
    listed = write_refused(path, refused)
    if len(refused) == len(tasks):
        name, reason_text = next(iter(refused.items()))
        raise PenstockError(
            f"expected at least one mesh that can be used, but all {len(tasks)} were refused; the first, {name}: "
            f"{reason_text} All reasons: {listed}."
        )
    treatments: dict[str, str] = {}
    attributes = {"key": key, "config": _config_json(config), "classes": json.dumps(classes)}
    with Writer(path, SHAPE_SAMPLES, attributes) as writer:
        for task in tasks:
            if task.name in refused:
                continue
            with np.load(part_path(parts, task.item_id, ARRAYS), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            writer.add(task.item_id, arrays)
            treatments[task.item_id] = str(arrays["treatment"])
    return refused, treatments
