"""A folder of meshes, or the synthetic solids, made into one `samples.h5`: in parallel, resumable object by object."""

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.atomic import written_file
from data.errors import MeshError, PenstockError, SchemaError
from data.shape.item import PrepareConfig, prepare_item
from data.shape.kinds import SHAPE_SAMPLES
from data.shape.mesh_reading import MESH_SUFFIXES, SourceMesh, read_mesh
from data.store import Reader, Writer
from data.synthetic.shape import SyntheticShapesConfig, synthetic_ids, synthetic_mesh

VERSION = 1
"""Raised when the same inputs and configuration would give other samples."""


@dataclass(frozen=True)
class Progress:
    """How far a preparation is."""

    done: int
    """Objects finished, those of an earlier, broken-off run included."""
    total: int
    refused: int
    resumed: int
    """Of `done`, those found finished at the start."""
    item_id: str
    """The object just finished, or "" at the start."""


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
    progress: Callable[[Progress], None] | None = None,
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
    files = sorted(
        (p for p in source.rglob("*") if p.suffix.lower() in MESH_SUFFIXES and p.is_file()),
        key=lambda p: p.relative_to(source).as_posix(),
    )
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(source).parts)]
    if not files:
        raise PenstockError(
            f"expected mesh files ({', '.join(MESH_SUFFIXES)}) in {source}, but there are none, "
            "also not in its subfolders. Give the folder that holds them."
        )
    names = [path.relative_to(source).as_posix() for path in files]
    parents = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = tuple(sorted({parent for parent in parents if parent}))
    return [
        _Task(item_id, name, classes.index(parent) if parent else -1, path, _content(path))
        for item_id, name, parent, path in zip(_ids(names), names, parents, files, strict=True)
    ], classes


def _ids(names: list[str]) -> list[str]:
    """Ids fit for file names: the path without its ending, folders joined by '-'; where two agree, with the ending."""
    short = [name.rsplit(".", 1)[0].replace("/", "-") for name in names]
    counts = Counter(short)
    ids = [s if counts[s] == 1 else n.replace("/", "-") for s, n in zip(short, names, strict=True)]
    counts = Counter(ids)
    digests = [hashlib.sha256(name.encode()).hexdigest()[:8] for name in names]
    return [i if counts[i] == 1 else f"{i}-{digest}" for i, digest in zip(ids, digests, strict=True)]


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def read_refused(samples: Path) -> dict[str, str]:
    """Reason by object, from the refused.csv beside a samples.h5."""
    listed = samples.with_name("refused.csv")
    if not listed.exists():
        return {}
    with listed.open(newline="") as file:
        return {row["object"]: row["reason"] for row in csv.DictReader(file)}


# One part file per object: the arrays as .npz, or the reason of the refusal as .json.


def _part(parts: Path, task: _Task) -> Path:
    return parts / hashlib.sha256(task.item_id.encode()).hexdigest()[:32]


def _work(task: _Task, config: PrepareConfig, parts: Path) -> bool:
    """Prepare one object and write its part; False where it was refused."""
    part = _part(parts, task)
    try:
        arrays = prepare_item(task.read(config.max_faces), config, task.item_id, task.label)
    except MeshError as error:
        _write_refusal(part, str(error))
        return False
    with written_file(part.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    return True


def _write_refusal(part: Path, reason: str) -> None:
    with written_file(part.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"reason": reason}))


def _run(tasks: list[_Task], config: PrepareConfig, parts: Path, progress: Callable[[Progress], None] | None) -> None:
    """Work through all tasks that have no part yet."""
    for left in parts.glob(".*.partial"):  # of a killed run; nobody else writes here
        left.unlink()
    todo = [t for t in tasks if not any(_part(parts, t).with_suffix(s).exists() for s in (".npz", ".json"))]
    resumed = done = len(tasks) - len(todo)
    refused = sum(1 for _ in parts.glob("*.json"))
    tell = progress or (lambda _: None)
    tell(Progress(done, len(tasks), refused, resumed, ""))
    for task, fine in _worked(todo, config, parts):
        done, refused = done + 1, refused + (not fine)
        tell(Progress(done, len(tasks), refused, resumed, task.item_id))


def _worked(tasks: list[_Task], config: PrepareConfig, parts: Path) -> Iterator[tuple[_Task, bool]]:
    """(task, whether it was prepared) as they finish."""
    processes = min(config.processes or _cores(), len(tasks))
    if processes <= 1:
        yield from ((task, _work(task, config, parts)) for task in tasks)
        return
    finished: set[str] = set()
    try:
        for task, fine in _pooled(tasks, config, parts, processes):
            finished.add(task.item_id)
            yield task, fine
    except BrokenProcessPool:
        # A mesh can crash the C++ underneath. Alone in a process, each of the others survives it.
        for task in tasks:
            if task.item_id in finished:
                continue
            try:
                yield from _pooled([task], config, parts, 1)
            except BrokenProcessPool:
                _write_refusal(_part(parts, task), "the process that prepared it crashed or ran out of memory.")
                yield task, False


def _pooled(tasks: Iterable[_Task], config: PrepareConfig, parts: Path, processes: int) -> Iterator[tuple[_Task, bool]]:
    # Forked workers would inherit the threads' locks of torch and HDF5 in unknown states; a fork server has none.
    # It imports once what every worker needs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data.shape.preparation"])
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)
    try:
        futures: dict[Future[bool], _Task] = {pool.submit(_work, task, config, parts): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread per worker, and no worker outlives the process that started it."""
    os.environ["IGL_NUM_THREADS"] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _assemble(
    tasks: list[_Task], classes: tuple[str, ...], key: str, config: PrepareConfig, parts: Path, path: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Write samples.h5 and refused.csv from the parts; the reasons and the treatments, by object."""
    refused: dict[str, str] = {}
    for task in tasks:
        reason = _part(parts, task).with_suffix(".json")
        if reason.exists():
            refused[task.name] = json.loads(reason.read_text())["reason"]
    with written_file(path.with_name("refused.csv")) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([("object", "reason"), *refused.items()])
    if len(refused) == len(tasks):
        name, reason_text = next(iter(refused.items()))
        raise PenstockError(
            f"expected at least one mesh that can be used, but all {len(tasks)} were refused; the first, {name}: "
            f"{reason_text} All reasons: {path.with_name('refused.csv')}."
        )
    treatments: dict[str, str] = {}
    attributes = {"key": key, "config": _config_json(config), "classes": json.dumps(classes)}
    with Writer(path, SHAPE_SAMPLES, attributes) as writer:
        for task in tasks:
            if task.name in refused:
                continue
            with np.load(_part(parts, task).with_suffix(".npz"), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            writer.add(task.item_id, arrays)
            treatments[task.item_id] = str(arrays["treatment"])
    return refused, treatments
