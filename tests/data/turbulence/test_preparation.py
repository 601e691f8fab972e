"""Preparation of fields: one folder that says what it holds, made once, and nothing of it where a rule is broken."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.errors import PenstockError
from data.preparing import Progress
from data.synthetic.turbulence.generate import SyntheticTurbulenceConfig
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.turbulence.preparation import preparation_key, prepare
from data.turbulence.source import ImportConfig
from data.turbulence.well_folder import WellFolder, moments_of
from data.turbulence.windows import FieldWindows
from tests.data.turbulence.well_files import folder, frames, written

CONFIG = ImportConfig()
SIMULATED = SyntheticTurbulenceConfig(
    kolmogorov=KolmogorovConfig(points=16), runs=3, frames=4, spin_up=0.5, stored_points=(8, 8)
)
REPOSITORY = Path(__file__).parents[3]


def test_files_are_made_into_a_folder_that_needs_them_no_more(tmp_path: Path) -> None:
    source = written(tmp_path / "in" / "a.hdf5", np.stack([frames(5, seed=k) for k in range(4)]))
    steps: list[Progress] = []
    found = prepare(source, CONFIG, tmp_path / "out", steps.append)
    shutil.rmtree(tmp_path / "in")
    fields = WellFolder(found.path.parent)
    assert found.path.name == "fields.json"
    assert found.fingerprint == fields.fingerprint
    assert [len(fields.files(split)) for split in ("train", "valid", "test")] == [2, 1, 1]
    np.testing.assert_array_equal(fields.statistics.std, moments_of(fields.files("train")).std)
    assert [(s.done, s.total) for s in steps] == [(k, 20) for k in range(1, 21)]
    assert found.summary() == [
        "toy: velocity_x, velocity_y, velocity_z at 6 x 5 x 4 points, frames 0.5 apart.",
        "Training 10 frames of 2 trajectories; validation 5 frames of 1 trajectories; test 5 frames of 1 trajectories.",
    ]
    assert len(FieldWindows(fields, 1, 2)) == 4 * 3


def test_is_done_once(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    first = prepare(source, CONFIG, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    again = prepare(source, CONFIG, tmp_path / "out")
    assert again.reused
    assert again.account == first.account
    assert again.summary()[-1] == "Found prepared."
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize("damage", ["file", "cut", "account", "key"])
def test_what_was_damaged_is_made_anew(tmp_path: Path, damage: str) -> None:
    source = folder(tmp_path / "in")
    first = prepare(source, CONFIG, tmp_path / "out")
    file = tmp_path / "out/data/test/test_3.hdf5"
    if damage == "file":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, 3000)
    elif damage == "account":
        first.path.write_text(first.path.read_text()[:40])
    else:
        first.path.write_text(json.dumps({**first.account, "key": "other"}))
    again = prepare(source, CONFIG, tmp_path / "out")
    assert not again.reused
    assert again.account == first.account
    assert WellFolder(tmp_path / "out").files("test")[0].checked()


def test_the_key_follows_from_content_and_settings(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    key = preparation_key(source, CONFIG)
    assert preparation_key(shutil.copytree(source, tmp_path / "copy"), CONFIG) == key
    assert preparation_key(source, ImportConfig(test=0.2)) != key
    with h5py.File(source / "data/test/test_3.hdf5", "r+") as file:
        file["t1_fields/velocity"][0, 0, 0, 0, 0, 0] = 0
    assert preparation_key(source, CONFIG) != key
    with pytest.raises(PenstockError, match="there are none"):
        preparation_key(tmp_path / "nothing", CONFIG)
    made = preparation_key(SIMULATED, CONFIG)
    other = SyntheticTurbulenceConfig(**{**vars(SIMULATED), "seed": 1})
    assert preparation_key(other, CONFIG) != made
    unused = SyntheticTurbulenceConfig(**{**vars(SIMULATED), "channel": type(SIMULATED.channel)(nu=0.01)})
    assert preparation_key(unused, CONFIG) == made


def test_of_fields_that_break_a_rule_nothing_stays(tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    with h5py.File(source / "data/test/test_3.hdf5", "r+") as file:
        file["t1_fields/velocity"][0, 3, 0, 0, 0, 0] = np.inf
    with pytest.raises(PenstockError, match="expected finite numbers"):
        prepare(source, CONFIG, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.hdf5"))
    assert not (tmp_path / "out" / "fields.json").exists()


def test_a_simulation_is_prepared_alike(tmp_path: Path) -> None:
    found = prepare(SIMULATED, CONFIG, tmp_path / "out", processes=1)
    fields = WellFolder(tmp_path / "out")
    assert (fields.grid.shape, fields.components, fields.spacing) == ((8, 8), ("vorticity",), 0.25)
    assert found.account["parts"]["train"] == {"files": 1, "trajectories": 1, "frames": 4}
    assert found.account["source"] == "simulated"
    assert prepare(SIMULATED, CONFIG, tmp_path / "out").reused
    assert FieldWindows(fields, 1, 1).load(0, 1).frames.shape == (2, 8, 8, 1)


def test_a_killed_import_begins_again(tmp_path: Path) -> None:
    source = written(tmp_path / "in" / "a.hdf5", np.stack([frames(9, seed=k) for k in range(4)]))
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from data.turbulence.preparation import prepare\n"
        "from data.turbulence.source import ImportConfig\n"
        "kill = lambda state: os.kill(os.getpid(), signal.SIGKILL) if state.done == 22 else None\n"
        "prepare(Path(sys.argv[1]), ImportConfig(), Path(sys.argv[2]), kill)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    assert subprocess.run(command, cwd=REPOSITORY).returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "fields.json").exists()
    broken_off = prepare(source, CONFIG, tmp_path / "out")
    whole = prepare(source, CONFIG, tmp_path / "whole")
    assert broken_off.account == whole.account
    names = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*"))
    assert sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")) == names
