"""A copy elsewhere has what was here, whole, and nobody waits for it."""

import threading
import time
from pathlib import Path

import pytest

from data.errors import PenstockError
from data.remote import Mirror, Storage, listing, pull, push


@pytest.fixture(params=["file", "folder", "memory"])
def storage(request, tmp_path) -> Storage:
    uri = {"file": f"file://{tmp_path}/there", "folder": f"{tmp_path}/there", "memory": f"memory://{tmp_path.name}"}
    return Storage(uri[request.param])


def made(folder: Path, **contents: str) -> dict[str, Path]:
    """Files of these contents; `a_b` stands for `a/b`."""
    found = {}
    for name, text in contents.items():
        key = name.replace("_", "/")
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        found[f"run/{key}"] = file
    return found


def test_what_was_copied_comes_back_bit_for_bit_and_only_once(storage, tmp_path):
    files = made(tmp_path / "here", status="s", models_flow="w" * 100_000)
    assert push(storage, "run", files) == ["run/models/flow", "run/status"]
    assert push(storage, "run", files) == []
    back = tmp_path / "back"
    assert pull(storage, "run", lambda key: back / key) == ["run/models/flow", "run/status"]
    for key, file in files.items():
        assert (back / key).read_bytes() == file.read_bytes()
    assert pull(storage, "run", lambda key: back / key) == []
    assert push(storage, "run", {key: back / key for key in files}) == []


def test_only_what_changed_is_copied_and_what_is_gone_is_removed(storage, tmp_path):
    files = made(tmp_path / "here", one="1", two="2")
    push(storage, "run", files)
    files["run/one"].write_text("other")
    assert push(storage, "run", files, gone=["run/two"]) == ["run/one"]
    assert storage.read("run/one") == b"other"
    assert storage.read("run/two") is None
    assert storage.keys("run") == ["run/one"]


def test_of_two_writers_the_last_one_counts(storage, tmp_path):
    """The driver's copy of a file, then a worker's elsewhere; the driver, asked again, leaves the worker's alone once
    it has taken it."""
    here = made(tmp_path / "here", metrics="old")
    push(storage, "run", here, writer="run")
    there = made(tmp_path / "there", metrics="old and new")
    assert push(storage, "run", there, writer="worker") == ["run/metrics"]
    assert pull(storage, "run", lambda key: here[key]) == ["run/metrics"]
    assert here["run/metrics"].read_text() == "old and new"
    assert push(storage, "run", here, writer="run") == []


def test_a_copy_that_was_cut_off_is_not_listed_and_the_old_one_stays(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "there"))
    files = made(tmp_path / "here", one="first")
    push(storage, "run", files)
    files["run/one"].write_text("second, longer")

    def cut(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:3])
        raise OSError("connection lost")

    monkeypatch.setattr(storage._files, "put_file", cut)
    before = listing(storage, "run")
    with pytest.raises(OSError, match="connection lost"):
        push(storage, "run", files)
    assert storage.read("run/one") == b"first"
    assert listing(storage, "run") == before
    assert [path.name for path in (tmp_path / "there/run").iterdir() if path.suffix == ".partial"] == []


def test_a_checksum_is_copied_after_its_file_and_removed_before_it(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "there"))
    done: list[str] = []
    for name in ("put", "remove"):
        real = getattr(storage, name)
        monkeypatch.setattr(
            storage, name, lambda *words, real=real, name=name: (done.append(f"{name} {words[-1]}"), real(*words))
        )
    for suffix in ("", ".sha256"):
        (tmp_path / f"step-1.ckpt{suffix}").write_text("x")
    files = {f"run/step-1.ckpt{suffix}": tmp_path / f"step-1.ckpt{suffix}" for suffix in (".sha256", "")}
    push(storage, "run", files)
    push(storage, "run", {}, gone=list(files))
    assert done == [f"put run/step-1.ckpt{s}" for s in ("", ".sha256")] + [
        f"remove run/step-1.ckpt{s}" for s in (".sha256", "")
    ]


def test_a_mirror_follows_what_is_written_and_removed(storage, tmp_path):
    files = made(tmp_path / "here", one="1")
    mirror = Mirror(storage, "run", lambda: dict(files), seconds=0.02)
    _until(lambda: storage.read("run/one") == b"1")
    files["run/one"].write_text("22")
    files |= made(tmp_path / "here", two="2")
    _until(lambda: storage.read("run/one") == b"22" and storage.read("run/two") == b"2")
    del files["run/two"]
    files |= made(tmp_path / "here", three="3")
    assert mirror.close() is None
    assert storage.keys("run") == ["run/one", "run/three"]


def test_a_storage_that_fails_is_said_once_and_tried_again(tmp_path, monkeypatch, capsys):
    """Away for a while: whoever writes goes on, hears of it once, and the copy is complete in the end."""
    storage = Storage(str(tmp_path / "there"))
    files = made(tmp_path / "here", one="1")
    put, away = storage.put, [True]

    def flaky(file: Path, key: str) -> None:
        if away[0]:
            raise ConnectionError("no route to the store")
        put(file, key)

    monkeypatch.setattr(storage, "put", flaky)
    mirror = Mirror(storage, "run", lambda: dict(files), seconds=0.01)
    _until(lambda: mirror._failures >= 4)
    away[0] = False
    _until(lambda: storage.read("run/one") == b"1")
    assert mirror.close() is None
    said = capsys.readouterr().out
    assert said.count("cannot be written (ConnectionError: no route to the store)") == 1


def test_closing_says_what_is_wrong_and_does_not_hang(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "there"))
    stuck = threading.Event()
    monkeypatch.setattr(storage, "put", lambda file, key: stuck.wait(20))
    mirror = Mirror(storage, "run", lambda: made(tmp_path / "here", one="1"), seconds=0.01)
    time.sleep(0.1)
    began = time.monotonic()
    assert "did not answer" in str(mirror.close(seconds=0.3))
    assert time.monotonic() - began < 5
    stuck.set()


def test_files_that_vanish_while_they_are_copied_are_passed_over(storage, tmp_path):
    files = made(tmp_path / "here", one="1", two="2")
    files["run/one"].unlink()
    assert push(storage, "run", files) == ["run/two"]


def test_an_address_that_nothing_reads_is_a_mistake_of_the_user():
    with pytest.raises(PenstockError, match=r"--storage nosuch://bucket/x: nothing here reads such addresses"):
        Storage("nosuch://bucket/x")


def _until(what, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
