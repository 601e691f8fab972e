"""A run's copy in a storage: made as the run grows, and brought back where the run is not."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from data.errors import PenstockError
from data.remote import Mirror, Storage, pull, push
from flows.placement import Placement, read_placement, write_placement
from flows.run import SWEEP, Run

LEFT_OUT = ("ray", "wandb", "lock", "workflow.lock", "metaflow.log")
"""Of a run's folder: what others keep, and what means something to processes of this machine only."""

SECONDS = 5.0
"""Between two looks for what is new."""


@contextmanager
def kept(run: Run, placement: Placement) -> Iterator[None]:
    """While the block runs, and at its end, what is new in the run's folder is copied to its storage, if it has one."""
    if placement.storage is None:
        yield
        return
    storage = reachable(placement.storage)
    folder = folder_of(run)
    mirror = Mirror(storage, folder, lambda: files_of(run.path, run.runs_dir), SECONDS)
    try:
        yield
    finally:
        problem = mirror.close()
        if problem is not None:
            print(f"the copy in {storage.uri}/{folder} is not complete: {problem}", flush=True)


def reachable(uri: str) -> Storage:
    """The storage at a URI. Raises PenstockError where it cannot be written to."""
    storage = Storage(uri)
    try:
        storage.write(".penstock", b"runs are copied here\n")
    except Exception as error:  # whatever the store's own package raises
        raise PenstockError(
            f"--storage {uri} cannot be written to: {type(error).__name__}: {error}. Check the address and who may "
            "write there, or leave --storage out."
        ) from None
    return storage


def folder_of(run: Run) -> str:
    """Where a run's copy lies in its storage: as the run lies among the runs."""
    return str(PurePosixPath(run.path.relative_to(run.runs_dir)))


def files_of(path: Path, runs_dir: Path) -> dict[str, Path]:
    """What is copied of the run at `path`: its folder, and the prepared data that it works on. Key → file."""
    found = [file for file in path.rglob("*") if _counts(file.relative_to(path)) and file.is_file()]
    if (path.parent.parent / SWEEP).is_file():
        found.append(path.parent.parent / SWEEP)
    data = Run(path).provenance().get("data", {}).get("file")
    if data is not None:
        folder = (runs_dir / data).parent
        found += [file for file in folder.rglob("*") if _counts(file.relative_to(folder)) and file.is_file()]
    return {str(PurePosixPath(file.relative_to(runs_dir))): file for file in found}


def _counts(relative: Path) -> bool:
    return relative.parts[0] not in LEFT_OUT and not any(part.startswith(".") for part in relative.parts)


def send(run: Run, storage: Storage) -> None:
    """Copy what is new now, and wait for it."""
    push(storage, folder_of(run), files_of(run.path, run.runs_dir), writer="step")


def fetch(storage: Storage, folder: str, runs_dir: Path, wanted: Callable[[str], bool] = lambda key: True) -> list[str]:
    """Bring here what is not here, or is another there: of the run at `folder` in the storage, the keys `wanted`."""
    return pull(storage, folder, lambda key: runs_dir / key if wanted(key) else None)


def brought_back(uri: str, runs_dir: Path) -> Run:
    """The run whose copy is at `uri`, made again among the runs here.

    Raises:
        PenstockError: there is no copy of a run, or a run of that name is here already.
    """
    base, _, name = uri.rstrip("/").rpartition("/")
    path = runs_dir / name
    if path.exists():
        raise PenstockError(f"{path} is here already: `penstock resume {name}` goes on with it.")
    storage = Storage(base)
    if storage.read(f"{name}/status.json") is None:
        raise PenstockError(f"{uri} is not the copy of a run: it has no status.json.")
    # The status comes last: without it the folder is no run, and this can be repeated.
    status = f"{name}/status.json"
    fetch(storage, name, runs_dir, lambda key: key != status)
    fetch(storage, name, runs_dir)
    run = Run(path)
    placement: Mapping[str, object] = vars(read_placement(path))
    if placement["storage"] is None:
        write_placement(path, Placement(**{**placement, "storage": base}))  # type: ignore[arg-type]
    print(f"brought back {name} from {uri}", flush=True)
    return run
