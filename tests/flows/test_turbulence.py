"""The turbulence workflow on the debug preset: every file is there and holds; a killed rollout goes on bit for bit."""

import json
import math
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks.turbulence_reference import PlainIFactFormer
from data.errors import CheckpointError
from data.grid import Grid, fourier
from data.turbulence.well import WellFile, WellWriter
from data.turbulence.well_rules import violations
from flows.models import load_model
from flows.run import DONE, Run
from flows.steps.turbulence_evaluation import PERSISTENCE, SIMULATION, read_results, read_statistics
from flows.steps.turbulence_import import import_ifactformer
from flows.steps.turbulence_rollout import load_stepper, rollout_file
from modules.turbulence.stepper import Stepper
from tests.flows.conftest import started

Penstock = Callable[..., tuple[int, str, str]]
DEBUG = ("--preset", "debug")


def test_from_equations_to_a_report_and_again(penstock: Penstock, runs: Path) -> None:
    code, _, err = penstock("report", "turbulence", *DEBUG, "--name", "one", "--seed", "5")
    assert code == 0, err
    run = Run(runs / "one")
    assert run.state() == DONE
    results = read_results(run)
    models = results["models"]
    assert set(models) == {
        SIMULATION,
        "simulation-test",
        PERSISTENCE,
        "operator",
        "chained",
        "fno",
        "coarse",
        "dynamic",
    }
    for name in ("operator", "chained", "fno", "coarse", "dynamic"):
        file = WellFile(rollout_file(run, name))
        assert violations(file.path) == []
        assert file.trajectories == (4 if models[name]["kind"] == "network" else 2)
        errors = models[name]["error_by_step"]["relative_l2"]
        assert len(errors) >= 3 and np.isfinite(errors).all()
        assert models[name]["seconds_per_frame"] > 0
    # The equations themselves, though on a coarse grid: in a few steps they are far ahead of saying nothing.
    assert models["coarse"]["error_by_step"]["vrmse"][5] < 0.8 * models[PERSISTENCE]["error_by_step"]["vrmse"][5]
    assert read_statistics(run, "coarse").frames == 2 * 10
    spread = models["operator"]["spread_by_step"]
    assert len(spread) == 12 and 0 < spread[0] < 0.1
    assert models["fno"]["measured"]["divergence"][0] < 1e-5  # of a velocity that comes from a streamfunction
    exported = {path.name for path in run.exports.iterdir()}
    assert {"operator.hdf5", "operator.xdmf", "operator.pvd", "fno.hdf5", "coarse.xdmf"} <= exported
    assert (run.exports / "statistics" / "operator" / "shells.csv").is_file()
    assert "<html" in (run.path / "report.html").read_text()

    # The same again: the simulation is found, everything else comes out with the same bits.
    code, _, err = penstock("sample", "turbulence", *DEBUG, "--name", "two", "--seed", "5", "--sample.steps", "14")
    assert code == 0, err
    twin = Run(runs / "two")
    for name in ("operator", "chained", "fno"):
        ours, theirs = (r.model(name) / "model.safetensors" for r in (run, twin))
        assert ours.read_bytes() == theirs.read_bytes()
        short, long = WellFile(rollout_file(run, name)), WellFile(rollout_file(twin, name))
        for trajectory in range(short.trajectories):
            np.testing.assert_array_equal(short.read(trajectory, slice(13)), long.read(trajectory, slice(13)))

    # Asked for longer ones, it makes them; those there are no longer what is asked for.
    assert penstock("sample", "two", "--sample.steps", "15")[0] == 0
    assert WellFile(rollout_file(twin, "operator")).lengths == (16,) * 4


def test_a_killed_rollout_goes_on_bit_for_bit(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    long = (*DEBUG, "--networks", "[operator]", "--sample.steps", "300", "--sample.members", "2")
    for name in ("whole", "killed"):
        code, _, err = penstock("train", "turbulence", "--name", name, *long)
        assert code == 0, err
    assert penstock("sample", "whole")[0] == 0
    process = started(["sample", "killed"], tmp_path / "log")
    growing = runs / "killed" / "samples" / "operator.hdf5.unfinished"
    while not any(path.stat().st_size > 60_000 for path in growing.glob("*.frames")):
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert growing.exists()
    assert penstock("sample", "killed")[0] == 0
    assert not growing.exists()
    whole, killed = (WellFile(rollout_file(Run(runs / name), "operator")) for name in ("whole", "killed"))
    assert whole.lengths == killed.lengths
    for trajectory in range(whole.trajectories):
        np.testing.assert_array_equal(whole.read(trajectory, slice(None)), killed.read(trajectory, slice(None)))


def test_published_weights_become_a_run(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    """A checkpoint as the published program writes it, rolled out on the user's fields; statistics from these."""
    torch.manual_seed(1)
    theirs = PlainIFactFormer(components=1, axes=2, dim=12, heads=2, dim_head=4, iterations=3).eval()
    file = tmp_path / "checkpoint_best.pth"
    torch.save(theirs.state_dict(), file)
    file.with_suffix(".json").write_text(json.dumps({"n_layer": 3}))
    vortices(tmp_path / "mine.hdf5")
    words = ("--from", "ifactformer", str(file), "--data", str(tmp_path / "mine.hdf5"), "--name", "published")
    code, _, err = penstock("import", *words)
    assert code == 0, err
    run = Run(runs / "published")
    assert run.config.networks == ("operator",)
    code, _, err = penstock("sample", "published", "--sample.steps", "21", "--sample.guard", "1e12")
    assert code == 0, err
    stepper, rollout = load_stepper(run, "operator"), WellFile(rollout_file(run, "operator"))
    given, first = (torch.from_numpy(rollout.read(0, [k])) for k in (0, 1))
    points = [torch.linspace(0, 2 * math.pi, 16)[:, None]] * 2
    with torch.no_grad():
        found = theirs(((given - stepper.mean) / stepper.std)[None], points)
    torch.testing.assert_close(first[0], found[0] * stepper.std + stepper.mean, rtol=0, atol=2e-5)


def test_published_statistics_come_with_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(2)
    theirs = PlainIFactFormer(components=3, axes=2, dim=12, heads=2, dim_head=4, iterations=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "checkpoint_best.pth")
    told = {"x_mean": [1.0, 2.0, 3.0], "x_std": [0.5, 2.0, 1.0], "y_mean": [1.1, 2.1, 2.9], "y_std": [0.6, 2.2, 1.1]}
    statistics = {name: torch.tensor(values) for name, values in told.items()}
    (tmp_path / "norm.pkl").write_bytes(pickle.dumps(statistics))
    imported = import_ifactformer(tmp_path)["operator"]
    stepper = imported.config.build()
    stepper.load_state_dict(imported.weights)
    grid = Grid((fourier("x", 8, 2 * math.pi), fourier("y", 6, 2 * math.pi)))
    frames = torch.randn(2, 1, 8, 6, 3, generator=torch.Generator().manual_seed(0))
    points = [torch.linspace(0, 2 * math.pi, n)[:, None] for n in grid.shape]
    with torch.no_grad():
        found = theirs((frames - statistics["x_mean"]) / statistics["x_std"], points)
        expected = found * statistics["y_std"] + statistics["y_mean"]
        torch.testing.assert_close(stepper(frames, grid), expected, rtol=0, atol=2e-5)
    (tmp_path / "norm.pkl").write_bytes(pickle.dumps({name: torch.ones(2) for name in told}))
    with pytest.raises(CheckpointError, match="statistics of 3 components, got 2"):
        import_ifactformer(tmp_path)


def vortices(
    path: Path, *, frames: int = 12, name: str = "given", spoil: Callable[[h5py.File], None] | None = None
) -> None:
    """A file of the user's: decaying vortices without parameters, so that nobody knows the equations."""
    grid = Grid((fourier("x", 16, 2 * math.pi), fourier("y", 16, 2 * math.pi)))
    x, y = np.meshgrid(*(axis.points for axis in grid.axes), indexing="ij")
    with WellWriter(path, name=name, grid=grid, components=("vorticity",), parameters={}, trajectories=4) as writer:
        for k in range(4):
            for t in range(frames):
                field = np.sin(x + 0.3 * t + k) * np.cos(2 * y) * math.exp(-0.01 * t) + 0.2 * np.sin(3 * x - y + k)
                writer.append(k, 0.1 * t, field[..., None].astype(np.float32))
    if spoil is not None:
        with h5py.File(path, "r+") as file:
            spoil(file)


def test_a_users_own_file(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    vortices(tmp_path / "mine.hdf5")
    code, out, err = penstock(
        "report", "turbulence", *DEBUG, "--data", str(tmp_path / "mine.hdf5"), "--name", "mine", "--networks", "[fno]"
    )
    assert code == 0, err
    assert "no solver 'coarse' for these fields: the file does not tell nu, drag, forcing_wavenumber" in out
    stepper = load_model(runs / "mine" / "models" / "fno").network
    assert isinstance(stepper, Stepper) and stepper.config.components == 1
    assert set(read_results(Run(runs / "mine"))["models"]) == {SIMULATION, "simulation-test", PERSISTENCE, "fno"}


def _nan(file: h5py.File) -> None:
    file["t0_fields/vorticity"][1, 3, 2, 2] = np.nan


def _no_attribute(file: h5py.File) -> None:
    del file.attrs["grid_type"]


@pytest.mark.parametrize(
    ("spoil", "frames", "told"),
    [(_nan, 12, "finite"), (_no_attribute, 12, "grid_type"), (None, 1, "frame")],
    ids=["nan", "attribute", "one-frame"],
)
def test_bad_files_are_refused_with_the_rule(
    penstock: Penstock, tmp_path: Path, spoil: Callable[[h5py.File], None] | None, frames: int, told: str
) -> None:
    vortices(tmp_path / "bad.hdf5", frames=frames, spoil=spoil)
    code, out, err = penstock("prepare", "turbulence", *DEBUG, "--data", str(tmp_path / "bad.hdf5"))
    assert code == 2
    assert told in err and "Traceback" not in out + err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--networks", "[operator,unet]"), "unet"),
        (("--solvers.models", "[les]"), "les"),
        (("--evaluate.settle", "12"), "leaves nothing"),
        (("--synthetic.kolmogorov.nu", "-1"), "nu"),
        (("--operator.stepper.network.dim", "7"), "dim"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_in_settings_are_told_before_anything_starts(
    penstock: Penstock, runs: Path, words: tuple[str, ...], told: str
) -> None:
    code, _, err = penstock("run", "turbulence", *DEBUG, *words)
    assert code == 2 and told in err
    assert not runs.exists() or not list(runs.glob("turbulence-*"))
