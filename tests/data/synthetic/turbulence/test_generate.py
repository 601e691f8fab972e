"""Generated data sets against the simulations that they come from, whatever interrupts them and wherever they run."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.preparing import Progress
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.generate import (
    Part,
    SyntheticTurbulenceConfig,
    generate,
    parts,
    run_seed,
    stored_grid,
)
from data.synthetic.turbulence.isotropic import IsotropicConfig
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.simulation import BlownUp
from data.turbulence.reference import read_dns_statistics
from data.turbulence.well import WellFile, violations
from data.turbulence.well_folder import WellFolder

SMALL = SyntheticTurbulenceConfig(
    kolmogorov=KolmogorovConfig(points=16, nu=0.02, forcing_wavenumber=2, step=0.05),
    runs=3,
    frames=6,
    spacing=0.1,
    spin_up=0.5,
    stored_points=(8, 8),
    seed=4,
)
CHANNEL = SyntheticTurbulenceConfig(
    flow="channel",
    channel=ChannelConfig(points=(8, 17, 8), nu=1 / 90, bulk_velocity=14.0),
    runs=1,
    frames=16,
    spacing=0.02,
    spin_up=0.05,
    stored_points=(8, 9, 4),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(SMALL, tmp_path_factory.mktemp("made") / "small", processes=1)


def test_files_hold_the_filtered_frames_of_each_run(made: Path) -> None:
    folder = WellFolder(made)
    assert [[file.path.stem for file in folder.files(split)] for split in ("train", "valid", "test")] == [
        [f"kolmogorov_run00{k}"] for k in range(3)
    ]
    assert folder.spacing == pytest.approx(0.1)
    assert folder.grid.same(stored_grid(SMALL)) and folder.components == ("vorticity",)
    assert sorted(p.name for p in made.iterdir()) == ["data", "generation.json", "stats.yaml"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for k, split in enumerate(("train", "valid", "test")):
            (file,) = folder.files(split)
            assert violations(file.path) == []
            assert file.parameters == pytest.approx(
                {"nu": 0.02, "drag": 0.1, "forcing_wavenumber": 2, "forcing_amplitude": 1}
            )
            np.testing.assert_allclose(file.times, [[0, 0.1, 0.2, 0.3, 0.4, 0.5]], atol=1e-6)
            simulation = SMALL.kolmogorov.build(run_seed(SMALL.seed, k))
            for time in (0.1, 0.2, 0.3, 0.4, 0.5):  # the marks of the spin-up
                simulation.advance(time)
            for frame in range(6):
                simulation.advance(0.5 + 0.1 * frame)
                expected = simulation.fields(stored_grid(SMALL)).numpy()
                np.testing.assert_allclose(file.read(0, [frame])[0], expected, rtol=0, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_other_processes_make_the_same_data(made: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    again = generate(SMALL, tmp_path / "again", seen.append, processes=2)
    assert WellFolder(again).fingerprint == WellFolder(made).fingerprint
    assert (again / "stats.yaml").read_bytes() == (made / "stats.yaml").read_bytes()
    assert [p.done for p in seen] == [0, 11, 22, 33]
    other = generate(replace(SMALL, seed=5), tmp_path / "other", processes=1)
    assert WellFolder(other).fingerprint != WellFolder(made).fingerprint


def test_a_finished_folder_is_left_as_it_is(made: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    seen: list[Progress] = []
    generate(SMALL, made, seen.append, processes=1)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == stamps
    assert [(p.done, p.total, p.resumed) for p in seen] == [(33, 33, 33)]


CHILD = """
import os, signal, sys
from pathlib import Path
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.generate import SyntheticTurbulenceConfig, generate
from data.synthetic.turbulence.isotropic import IsotropicConfig
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.subgrid import SubgridConfig

def show(progress):
    if progress.done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

generate({config!r}, Path(sys.argv[1]), show, processes=1)
"""


def test_a_killed_generation_goes_on(made: Path, tmp_path: Path) -> None:
    """SIGKILL in the second run's frames, after its state at time 8 of 11: the frame after it is made again."""
    folder = tmp_path / "killed"
    killed = subprocess.run(
        [sys.executable, "-c", CHILD.format(config=SMALL), str(folder), "20"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    assert killed.returncode == -signal.SIGKILL
    assert [p.parent.name for p in folder.rglob("*.hdf5")] == ["train"]
    seen: list[Progress] = []
    generate(SMALL, folder, seen.append, processes=1)
    assert seen[0].resumed == seen[0].done == 11 + 8
    assert WellFolder(folder).fingerprint == WellFolder(made).fingerprint


def test_one_run_is_cut_along_time(tmp_path: Path) -> None:
    folder = generate(CHANNEL, tmp_path / "channel")
    found = WellFolder(folder)
    assert [found.files(split)[0].lengths[0] for split in ("train", "valid", "test")] == [12, 2, 2]
    times = np.concatenate([found.files(split)[0].times[0] for split in ("train", "valid", "test")])
    np.testing.assert_allclose(times, 0.02 * np.arange(16), atol=1e-6)
    assert found.grid.axes[1].chebyshev and found.components == ("velocity_x", "velocity_y", "velocity_z")


def test_a_channel_carries_the_means_of_its_full_resolution(tmp_path: Path) -> None:
    folder = generate(CHANNEL, tmp_path / "channel")
    simulation = CHANNEL.channel.build(run_seed(CHANNEL.seed, 0))
    for time in (0.05 / 3, 0.1 / 3):  # the marks of the spin-up
        simulation.advance(time)
    frames = []
    for k in range(CHANNEL.frames):
        simulation.advance(0.05 + 0.02 * k)
        frames.append(simulation.fields().double().numpy())
    u = np.stack(frames)
    mean = u.mean((0, 1, 3))
    rms = np.sqrt((u**2).mean((0, 1, 3)) - mean**2)
    rms = np.sqrt((rms**2 + rms[::-1] ** 2) / 2)[:9]
    slope = simulation.grid.axes[1].derivative @ mean[:, 0]
    u_tau = np.sqrt((slope[0] - slope[-1]) / 2 / 90)
    path = folder / "data" / "train" / "channel_run000.hdf5"
    assert violations(path) == []
    found = read_dns_statistics(path)
    np.testing.assert_allclose(found.re_tau, 90 * u_tau, rtol=1e-6)
    np.testing.assert_allclose(found.velocity.value * u_tau, ((mean + mean[::-1]) / 2)[:9, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.rms.value * u_tau, rms, rtol=1e-3, atol=1e-4)


def test_a_kill_between_the_files_of_a_run(tmp_path: Path) -> None:
    """The test part is whole, the others were about to be written."""
    whole = WellFolder(generate(CHANNEL, tmp_path / "whole")).fingerprint
    folder = tmp_path / "killed"
    killed = CHILD.format(config=CHANNEL).replace(
        "def show",
        "import data.turbulence.well as well\n"
        "finish = well.WellWriter.finish\n"
        "def stop(writer):\n"
        "    if writer.path.parent.name == 'valid':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    finish(writer)\n"
        "well.WellWriter.finish = stop\n\ndef show",
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    assert subprocess.run([sys.executable, "-c", killed, str(folder), "-1"], env=environment).returncode == -9
    assert [p.parent.name for p in folder.rglob("*.hdf5")] == ["test"]
    seen: list[Progress] = []
    generate(CHANNEL, folder, seen.append)
    assert seen[0].done == seen[0].total  # nothing is computed again
    assert WellFolder(folder).fingerprint == whole


def test_isotropic_turbulence(tmp_path: Path) -> None:
    config = SyntheticTurbulenceConfig(
        flow="isotropic",
        isotropic=IsotropicConfig(points=12),
        runs=2,
        frames=4,
        spacing=0.02,
        spin_up=0.0,
        stored_points=(6, 6, 6),
    )
    folder = WellFolder(generate(config, tmp_path / "isotropic", processes=1))
    assert [[file.lengths for file in folder.files(split)] for split in ("train", "valid", "test")] == [
        [(4,)],
        [(2,)],
        [(2,)],
    ]
    assert folder.parameters == pytest.approx({"nu": 0.015, "power": 0.1, "forced_below": 2.5})
    frame = WellFile(folder.files("train")[0].path).read(0, [0])[0]
    start = config.isotropic.build(run_seed(0, 0)).fields(stored_grid(config))
    np.testing.assert_allclose(frame, start.numpy(), atol=1e-5)


def test_large_eddies_develop_on_a_coarser_grid(tmp_path: Path) -> None:
    """As by hand, and to the same bits when it breaks off on either grid."""
    config = replace(SMALL, coarse_spin_up=0.7, coarse_points=(12, 12), spin_up=0.2)
    folder = WellFolder(generate(config, tmp_path / "whole", processes=1))
    seed = run_seed(config.seed, 1)
    coarse = replace(config.kolmogorov, points=12).build(seed)
    coarse.advance(0.7)
    fine = config.kolmogorov.build(0)
    fine.start_from(coarse.fields(), coarse.grid)
    fine.advance(0.2)
    found = folder.files("valid")[0].read(0, [0])[0]
    np.testing.assert_allclose(found, fine.fields(stored_grid(config)).numpy(), rtol=0, atol=2e-4)
    per_run = 7 + 2 + 6
    for stop in (per_run + 3, per_run + 11):

        def show(progress: Progress, stop: int = stop) -> None:
            if progress.done == stop:
                raise KeyboardInterrupt

        again = tmp_path / f"stopped at {stop}"
        with pytest.raises(KeyboardInterrupt):
            generate(config, again, show, processes=1)
        generate(config, again, processes=1)
        assert WellFolder(again).fingerprint == folder.fingerprint


def test_parts() -> None:
    def splits(runs: int) -> list[str]:
        return [part.split for run in parts(replace(SMALL, runs=runs)) for part in run]

    assert splits(16) == ["train"] * 12 + ["valid"] * 2 + ["test"] * 2
    assert splits(3) == ["train", "valid", "test"]
    assert parts(replace(SMALL, runs=2)) == [[Part("train", 0, 6)], [Part("valid", 0, 3), Part("test", 3, 6)]]
    assert parts(CHANNEL) == [[Part("train", 0, 12), Part("valid", 12, 14), Part("test", 14, 16)]]


def test_seeds_of_runs_differ() -> None:
    assert len({run_seed(seed, index) for seed in range(50) for index in range(50)}) == 2500


def test_refusals(made: Path) -> None:
    with pytest.raises(ConfigError, match="begun with the same configuration"):
        generate(replace(SMALL, frames=7), made)
    with pytest.raises(ConfigError, match=r"at least 16 frames of 1 run, which are cut .*got 6"):
        replace(SMALL, runs=1)
    with pytest.raises(ConfigError, match=r"stored_points: expected from 4 to \(16, 16\) points.*got \(8, 8, 8\)"):
        replace(SMALL, stored_points=(8, 8, 8))
    with pytest.raises(ConfigError, match=r"coarse_points of the flow kolmogorov up to \(16, 16\) \(in a box"):
        replace(SMALL, coarse_spin_up=1.0, coarse_points=(12, 8))
    with pytest.raises(ConfigError, match="stored_points"):
        replace(SMALL, stored_points=(8, 32))


def test_a_blow_up_is_told_and_its_state_kept(tmp_path: Path) -> None:
    config = replace(SMALL, kolmogorov=KolmogorovConfig(points=32, step=0.5), spin_up=0.0, spacing=20.0)
    with pytest.raises(BlownUp, match=r"Kolmogorov flow: .*last good state.*run000\.safetensors"):
        generate(config, tmp_path / "blown", processes=1)
    assert (tmp_path / "blown" / ".states" / "run000.safetensors").exists()
