"""Files and folders that appear whole or not at all: temporary name, fsync, rename."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import PenstockError

SUFFIX = ".partial"


class DiskFullError(PenstockError):
    """No space (or quota) left where a file was being written."""


def is_disk_full(error: BaseException) -> bool:
    """True where `error`, or what caused it, says that no space is left (HDF5 says so in its message only)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, OSError | RuntimeError) and "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return False


def disk_full(path: Path, error: BaseException) -> DiskFullError:
    """The error for the user: nothing half-written stays, so making room and repeating is all there is to do."""
    return DiskFullError(
        f"disk full while writing {path}. Nothing half-written was kept and any earlier file is untouched. "
        f"Free some space (or choose another folder) and run the same command again. ({error})"
    )


def fsync(path: Path) -> None:
    """Force a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_name(path: Path) -> Path:
    """A fresh temporary name beside `path`, hidden, so that the rename stays on one file system."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{SUFFIX}")


def remove_stale(path: Path) -> None:
    """Delete what a killed writer of the file `path` left behind; a temporary that a live writer holds locked stays."""
    for left in path.parent.glob(f".{path.name}.*{SUFFIX}"):
        try:
            descriptor = os.open(left, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """A temporary path to write; it becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        DiskFullError: no space left; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_name(path)
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path, error) from error
        raise


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `path` when the block ends well, and vanishes when it does not.

    A folder cannot be renamed over a full one, so an earlier `path` is moved aside first: killed between the two
    renames, the new folder is complete under its temporary name and `path` is missing, never mixed.

    Raises:
        DiskFullError: no space left; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_name(path)
    old = partial_name(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in sorted(temporary.rglob("*"), reverse=True):
            fsync(file)
        fsync(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        fsync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(path, error) from error
        raise
