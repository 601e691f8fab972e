"""Preparation: what comes out, what is refused and why, and that a killed one goes on where it was."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh

from data.errors import ConfigError, PenstockError
from data.shape import PrepareConfig, ShapeSamples, preparation_key, prepare
from data.shape.kinds import SHAPE_SAMPLES
from data.store import Reader
from data.synthetic.shape import SyntheticShapesConfig, synthetic_ids

SMALL = PrepareConfig(surface_points=256, sharp_points=64, near_points=128, volume_points=128, processes=1)
SOLIDS = SyntheticShapesConfig(count=9, seed=1)
REPOSITORY = Path(__file__).parents[2]


def write_folder(folder: Path) -> Path:
    """Two classes with one good mesh each, and five files that cannot be used."""
    for name in ("boxes", "balls"):
        (folder / name).mkdir(parents=True)
    trimesh.creation.box(extents=[3, 2, 1]).apply_translation([7, 0, 0]).export(folder / "boxes" / "brick.stl")
    trimesh.creation.icosphere(subdivisions=2, radius=40).export(folder / "balls" / "big.ply")
    (folder / "text.obj").write_text("This is no mesh.\n")
    (folder / "noise.stl").write_bytes(b"\x00\x01garbage")
    (folder / "empty.ply").write_bytes(b"")
    (folder / "flat.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    (folder / "nan.obj").write_text("v 0 0 0\nv 1 0 nan\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n")
    (folder / "readme.txt").write_text("not looked at")
    return folder


def test_folder_of_meshes(tmp_path):
    states = []
    found = prepare(write_folder(tmp_path / "in"), SMALL, tmp_path / "out", states.append)
    assert found.ids == ("balls-big", "boxes-brick")
    assert set(found.refused) == {"text.obj", "noise.stl", "empty.ply", "flat.obj", "nan.obj"}
    assert "NaN" in found.refused["nan.obj"]
    with (tmp_path / "out" / "refused.csv").open() as file:
        assert {row["item"]: row["reason"] for row in csv.DictReader(file)} == found.refused
    assert all(reason.strip() and "\n" not in reason.strip() for reason in found.refused.values())
    assert [s.done for s in states] == list(range(8)) and states[-1].refused == 5
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["refused.csv", "samples.h5"]
    samples = ShapeSamples(found.path)
    assert samples.classes == ("balls", "boxes") and [samples.label(k) for k in range(2)] == [0, 1]
    centre, scale = samples.placement(1)
    assert np.allclose(centre, [7, 0, 0]) and scale == pytest.approx(1.9 / 3)


def test_labels_are_exact_for_a_box(tmp_path):
    (tmp_path / "in").mkdir()
    trimesh.creation.box(extents=[3, 2, 1]).export(tmp_path / "in" / "box.stl")
    stored = Reader(prepare(tmp_path / "in", SMALL, tmp_path / "out").path, SHAPE_SAMPLES).read(0)
    half = np.abs(stored["vertices"]).max(axis=0).astype(np.float64)
    for name in ("near", "volume"):
        q = np.abs(stored[name][:, :3].astype(np.float64)) - half
        exact = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)
        assert np.abs(stored[name][:, 3] - exact).max() < 1e-7  # the rounding of the stored float32
    assert np.abs(np.abs(stored["surface"][:, :3] / half).max(axis=1) - 1).max() < 1e-6
    assert str(stored["treatment"]) == "as is"


def test_same_inputs_give_the_same_file_whatever_the_number_of_processes(tmp_path):
    one = prepare(SOLIDS, SMALL, tmp_path / "one")
    two = prepare(SOLIDS, PrepareConfig(**{**vars(SMALL), "processes": 2}), tmp_path / "two")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.ids == synthetic_ids(SOLIDS) and one.key == two.key


def test_an_object_does_not_depend_on_the_others(tmp_path):
    few = Reader(prepare(SyntheticShapesConfig(count=2, seed=1), SMALL, tmp_path / "few").path, SHAPE_SAMPLES)
    many = Reader(prepare(SOLIDS, SMALL, tmp_path / "many").path, SHAPE_SAMPLES)
    for name, value in few.read(1).items():
        assert np.array_equal(value, many.read(1)[name]), name


def test_a_finished_preparation_is_reused_and_a_damaged_one_is_not(tmp_path):
    first = prepare(SOLIDS, SMALL, tmp_path)
    content = first.path.read_bytes()
    again = prepare(SOLIDS, SMALL, tmp_path)
    assert again.reused and not first.reused
    assert (again.ids, again.refused, again.treatments) == (first.ids, first.refused, first.treatments)
    first.path.write_bytes(content[:5000])
    assert not prepare(SOLIDS, SMALL, tmp_path).reused
    assert first.path.read_bytes() == content


def test_the_key_follows_content_and_configuration_but_not_place_or_processes(tmp_path):
    one, two = write_folder(tmp_path / "one"), write_folder(tmp_path / "two")
    key = preparation_key(one, SMALL)
    assert key == preparation_key(two, SMALL)
    assert key == preparation_key(one, PrepareConfig(**{**vars(SMALL), "processes": 7}))
    assert key != preparation_key(one, PrepareConfig(**{**vars(SMALL), "seed": 1}))
    trimesh.creation.box(extents=[3, 2, 1.5]).export(two / "boxes" / "brick.stl")
    assert key != preparation_key(two, SMALL)


def test_killed_in_the_middle_it_continues_and_ends_the_same(tmp_path):
    config = {**vars(SMALL), "processes": 2}
    code = (
        "import time\nfrom pathlib import Path\nfrom data.shape import *\n"
        "from data.synthetic.shape import SyntheticShapesConfig\n"
        "if __name__ == '__main__':\n"
        "    def slowly(state):\n        print(state.done, flush=True)\n        time.sleep(0.2)\n"
        f"    prepare(SyntheticShapesConfig(count=9, seed=1), PrepareConfig(**{config!r}), Path('out'), slowly)\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() not in ("3", ""):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the workers notice and end
    (parts,) = (tmp_path / "out").glob("parts-*")
    finished = {p: p.stat().st_mtime_ns for p in parts.glob("*.npz")}
    assert len(finished) >= 3 and not (tmp_path / "out" / "samples.h5").exists()
    states = []

    def watch(state):
        states.append(state)
        assert {p: p.stat().st_mtime_ns for p in finished} == finished

    continued = prepare(SOLIDS, SMALL, tmp_path / "out", watch)
    assert states[0].resumed == len(finished) and len(states) == 1 + 9 - len(finished)
    assert continued.path.read_bytes() == prepare(SOLIDS, SMALL, tmp_path / "whole").path.read_bytes()


def test_missing_empty_and_unusable_folders_are_named(tmp_path):
    with pytest.raises(PenstockError, match="missing"):
        prepare(tmp_path / "nowhere", SMALL, tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(PenstockError, match=r"expected mesh files \(.obj"):
        prepare(tmp_path / "in", SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "in" / "text.obj").write_text("hello")
    with pytest.raises(PenstockError, match=r"all 1 were refused; the first, text.obj"):
        prepare(tmp_path / "in", SMALL, tmp_path / "out")
    assert not (tmp_path / "out" / "samples.h5").exists()
    with pytest.raises(PenstockError, match="a file"):
        prepare(tmp_path / "in" / "text.obj", SMALL, tmp_path / "out")


def test_equal_names_in_other_folders_and_formats_keep_apart(tmp_path):
    box = trimesh.creation.box()
    for name in ("a.stl", "a.obj", "b/c.stl", "b-c.stl"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        box.export(tmp_path / "in" / name)
    ids = prepare(tmp_path / "in", SMALL, tmp_path / "out").ids
    assert len(set(ids)) == 4 and {"a.obj", "a.stl"} <= set(ids)


@pytest.mark.parametrize(
    "wrong", [{"near_points": 0}, {"near_sigmas": ()}, {"half_extent": 1.5}, {"watertight_resolution": 33}]
)
def test_mistaken_configurations_are_named(wrong):
    with pytest.raises(ConfigError):
        PrepareConfig(**wrong)


def test_the_configuration_is_in_the_file(tmp_path):
    attributes = Reader(prepare(SOLIDS, SMALL, tmp_path).path, SHAPE_SAMPLES).attributes
    assert json.loads(str(attributes["config"]))["near_points"] == 128
    assert json.loads(str(attributes["classes"])) == list(SOLIDS.families)
