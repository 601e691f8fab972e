"""A copy of folders somewhere else: another folder, or an object store, by its URI."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec

from data.atomic import partial_name, written_file
from data.errors import PenstockError

WRITERS = ("run", "step", "worker")
"""Who copies into a folder, each with a list of its own: a run's driver, one of its steps, a worker elsewhere."""

WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "az", "oci", "memory")
"""Stores in which an object appears whole or not at all; in others it is written beside its name and moved."""

EXTRA = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

Stamp = tuple[int, int]
"""Bytes, and time of the last change in nanoseconds since 1970."""

Listed = dict[str, tuple[Stamp, float]]
"""Key → stamp of the original, and when it was copied (seconds since 1970). What is not listed was not copied to its
end."""


class Storage:
    """Files below a URI; `key`s are their paths there. Its own errors are OSErrors of many kinds.

    Raises:
        PenstockError: nothing here reads such URIs.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        scheme = urlsplit(uri).scheme
        self.scheme = scheme if "://" in uri else "file"
        self._files, self._root = _opened(self.uri, self.scheme)

    def put(self, file: Path, key: str) -> None:
        """Copy a file there; it appears under its key whole."""
        path = self._path(key)
        if self.scheme in WHOLE:
            self._files.put_file(str(file), path)
            return
        self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        beside = str(partial_name(Path(path)))
        try:
            self._files.put_file(str(file), beside)
            self._files.mv(beside, path)
        except BaseException:
            if self._files.exists(beside):
                self._files.rm_file(beside)
            raise

    def get(self, key: str, file: Path) -> None:
        """Copy a file from there; it appears under its name whole."""
        with written_file(file) as temporary:
            self._files.get_file(self._path(key), str(temporary))

    def read(self, key: str) -> bytes | None:
        """What is there; None where nothing is."""
        try:
            return bytes(self._files.cat_file(self._path(key)))
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        path = self._path(key)
        if self.scheme not in WHOLE:
            self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        self._files.pipe_file(path, content)

    def remove(self, key: str) -> None:
        try:
            self._files.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def keys(self, folder: str) -> list[str]:
        """Of all files in a folder and its subfolders, in order; those that are only half there are not listed."""
        self._files.invalidate_cache()
        try:
            found = self._files.find(self._path(folder))
        except FileNotFoundError:
            return []
        keys = [str(PurePosixPath("/" + path.lstrip("/")).relative_to("/" + self._root.strip("/"))) for path in found]
        return sorted(key for key in keys if not PurePosixPath(key).name.startswith("."))

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"


def _opened(uri: str, scheme: str) -> tuple[Any, str]:
    try:
        if scheme == "file":
            return fsspec.filesystem("file"), str(Path(uri.removeprefix("file://")).resolve())
        files, root = fsspec.core.url_to_fs(uri)
        return files, root
    except (ImportError, ValueError) as error:
        try:
            return _by_pyarrow(uri)
        except Exception:
            package = EXTRA.get(scheme)
            cure = f"pip install {package}" if package else "use s3://, gs://, or a folder"
            raise PenstockError(f"--storage {uri}: nothing here reads such addresses ({error}); {cure}.") from None


def _by_pyarrow(uri: str) -> tuple[Any, str]:
    """S3 and Google's store by pyarrow, which Ray Train brings along."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    files, root = fs.FileSystem.from_uri(uri)
    return ArrowFSWrapper(files), root


def stamp(file: Path) -> Stamp:
    """Size and time of change."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def push(
    storage: Storage, folder: str, files: Mapping[str, Path], gone: Iterable[str] = (), *, writer: str = "run"
) -> list[str]:
    """Copy what is new or changed of `files` (key → file); remove the keys `gone`. Gives the keys that were copied.

    A checksum file (`.sha256`) is copied after all others, and removed before them.
    """
    there, listed = listing(storage, folder), _listed(storage, folder, writer)
    copied, before = [], dict(listed)
    try:
        for key in sorted(files, key=lambda key: (key.endswith(".sha256"), key)):
            with suppress(FileNotFoundError):  # removed meanwhile
                now = stamp(files[key])
                if there.get(key) != now:
                    storage.put(files[key], key)
                    listed[key] = (now, time.time())
                    copied.append(key)
        for key in sorted(gone, key=lambda key: not key.endswith(".sha256")):
            storage.remove(key)
            listed.pop(key, None)
    finally:
        if listed != before:
            storage.write(_list(folder, writer), json.dumps(listed).encode())
    return copied


def listing(storage: Storage, folder: str) -> dict[str, Stamp]:
    """What was copied into a folder of the storage, by whoever did it last."""
    found: Listed = {}
    for writer in WRITERS:
        for key, entry in _listed(storage, folder, writer).items():
            if key not in found or found[key][1] < entry[1]:
                found[key] = entry
    return {key: then for key, (then, _) in found.items()}


def _list(folder: str, writer: str) -> str:
    return f"{folder}/.copied-{writer}.json"


def _listed(storage: Storage, folder: str, writer: str) -> Listed:
    text = storage.read(_list(folder, writer))
    plain = {} if text is None else json.loads(text)
    return {key: ((size, changed), when) for key, ((size, changed), when) in plain.items()}


def pull(storage: Storage, folder: str, local: Callable[[str], Path | None]) -> list[str]:
    """Copy from the storage what differs from the files here; `local` gives the place of a key, None to leave it.

    Gives the keys that were copied. Files here that the storage does not have stay.
    """
    copied = []
    for key, then in listing(storage, folder).items():
        file = local(key)
        if file is None or (file.exists() and stamp(file) == then):
            continue
        try:
            storage.get(key, file)
        except FileNotFoundError:
            continue  # removed meanwhile
        os.utime(file, ns=(then[1], then[1]))
        copied.append(key)
    return copied


class Mirror:
    """Copies what `files` gives, every few seconds and in the background, until it is closed.

    Whoever writes the files does not wait for it. What fails is tried again; a storage that stays away is said once.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        files: Callable[[], Mapping[str, Path]],
        seconds: float = 5.0,
        *,
        writer: str = "run",
    ) -> None:
        self._storage, self._folder, self._files, self._seconds = storage, folder, files, seconds
        self._writer = writer
        self._known: dict[str, Stamp] = {}
        self._failures = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 120.0) -> str | None:
        """Copy the rest; what is wrong where that does not succeed in time, else None."""
        self._end.set()
        limit = time.monotonic() + seconds
        self._thread.join(seconds)
        if self._thread.is_alive():
            return f"{self._storage.uri} did not answer for {seconds:.0f} s"
        problem = self._round()
        for _ in range(3):
            if problem is None or time.monotonic() > limit:
                break
            time.sleep(1.0)
            problem = self._round()
        return problem

    def _follow(self) -> None:
        while not self._end.wait(min(60.0, self._seconds * 2**self._failures)):
            problem = self._round()
            if problem is None and self._failures > 2:
                print(f"{self._storage.uri} can be written again", flush=True)
            self._failures = 0 if problem is None else self._failures + 1
            if self._failures == 3:
                print(
                    f"{self._storage.uri} cannot be written ({problem}); going on without it, trying again", flush=True
                )

    def _round(self) -> str | None:
        try:
            files = self._files()
            now = {key: stamp(file) for key, file in files.items() if file.exists()}
            if now != self._known or self._end.is_set():
                push(self._storage, self._folder, files, set(self._known) - set(now), writer=self._writer)
                self._known = now
        except Exception as error:  # whatever a store raises, the work that is mirrored goes on
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no word'}"
        return None
