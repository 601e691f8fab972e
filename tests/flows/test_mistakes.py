"""Bad input: one clear message, exit code 2, nothing half-written."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.run import all_runs

Penstock = Callable[..., tuple[int, str, str]]
TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"
NAN = TETRAHEDRON.replace("v 0 0 0", "v nan 0 0")
DEBUG = ("--preset", "debug", "--wandb", "off")


def prepared(penstock: Penstock, folder: Path) -> tuple[int, str, str]:
    return penstock("prepare", "shape", "--data", str(folder), *DEBUG)


def assert_one_message(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert "Traceback" not in out + err
    assert err.startswith("penstock: ")
    assert len(err.strip().splitlines()) == 1
    for part in parts:
        assert part in err


def test_a_missing_folder(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    assert_one_message(prepared(penstock, tmp_path / "nowhere"), "nowhere", "no file or folder")
    assert not runs.exists()


def test_an_empty_folder(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_message(prepared(penstock, tmp_path / "empty"), "empty", ".obj", "there are none")
    assert not all_runs(runs)  # the run that could not begin is withdrawn
    assert not list(runs.glob("prepared/*/samples.h5"))


@pytest.mark.parametrize(("text", "reason"), [("Dear diary,\nno mesh today.\n", "diary.obj"), (NAN, "not finite")])
def test_meshes_that_are_none(penstock: Penstock, runs: Path, tmp_path: Path, text: str, reason: str) -> None:
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "diary.obj").write_text(text)
    assert_one_message(prepared(penstock, folder), "all 1 were refused", "diary.obj", reason)
    assert not list(runs.glob("prepared/*/samples.h5"))

    # Beside a good one it is refused with its reason, and the work goes on.
    (folder / "good.obj").write_text(TETRAHEDRON)
    code, out, err = prepared(penstock, folder)
    assert code == 0, err
    assert "refused diary.obj" in out
    assert all_runs(runs)[-1].provenance()["data"]["refused"] == 1


def test_a_misspelt_key_in_a_file(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("vae:\n  network:\n    tokns: 8\n")
    result = penstock("run", "shape", "--config", str(file))
    assert_one_message(result, str(file), "'vae.network.tokns'", "'vae.network.tokens' (int)")
    assert not runs.exists()


def test_networks_that_do_not_fit_together(penstock: Penstock, runs: Path) -> None:
    result = penstock("run", "shape", *DEBUG, "--flow.network.latent_channels", "4")
    assert_one_message(result, "both networks share the latents")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"a small tmpfs cannot be mounted here ({error})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(penstock: Penstock, runs: Path, small_disk: Path) -> None:
    result = penstock("prepare", "shape", *DEBUG, "--runs-dir", str(small_disk), "--prepare.near_points", "20000")
    assert_one_message(result, "disk full")
    assert not list(small_disk.rglob("*.partial"))
    assert not list(small_disk.rglob("samples.h5"))


def test_a_disk_too_full_to_begin(penstock: Penstock, runs: Path, small_disk: Path) -> None:
    with (small_disk / "filler").open("wb") as file:
        try:
            file.write(b"x" * 10**6)
            file.flush()
        except OSError:
            pass
    assert_one_message(penstock("prepare", "shape", *DEBUG, "--runs-dir", str(small_disk)), "disk full")
