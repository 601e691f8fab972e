"""The driver: frames at their times, runs that go on after a kill to the bit, blow-ups that keep a state."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from data.errors import CheckpointError
from data.synthetic.turbulence.fourier import box
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.simulation import BlownUp, run, steps_between, times_done
from data.synthetic.turbulence.subgrid import SubgridConfig

CONFIG = KolmogorovConfig(points=16, nu=0.02, forcing_wavenumber=2, step=0.02, subgrid=SubgridConfig(model="dynamic"))
TIMES = [0.1 * k for k in range(1, 9)]


class Mean:
    """Statistics of a run: the sum of its frames."""

    def __init__(self) -> None:
        self.sum, self.times = torch.zeros(16, 16, 1), torch.zeros((), dtype=torch.float64)

    def add(self, frame: Tensor, time: float) -> None:
        self.sum = self.sum + frame
        self.times = self.times + time

    def state(self) -> dict[str, Tensor]:
        return {"sum": self.sum, "times": self.times}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.sum, self.times = state["sum"], state["times"]


def frames_of_a_whole_run() -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    run(CONFIG.build(7), TIMES, lambda k, _, frame: found.update({k: frame}))
    return found


def test_frames_come_at_their_times() -> None:
    simulation, other = CONFIG.build(7), CONFIG.build(7)
    seen: list[tuple[int, float]] = []
    heard: list[tuple[int, int]] = []
    means = Mean()

    def receive(k: int, time: float, frame: Tensor) -> None:
        seen.append((k, time))
        assert simulation.time == time
        assert frame.shape == (8, 8, 1)
        other.advance(time)
        assert torch.equal(frame, other.fields(box(8, "xy")))

    run(
        simulation,
        TIMES,
        receive,
        grid=box(8, "xy"),
        passed=3,
        progress=lambda *done: heard.append(done),
        statistics=means,
    )
    assert seen == [(k, TIMES[k + 3]) for k in range(5)]
    assert heard == [(k, 8) for k in range(9)]
    assert means.times.item() == pytest.approx(sum(TIMES[3:]))


def test_equal_steps_end_where_they_should() -> None:
    assert steps_between(0.0, 1.0, 0.3) == (4, 0.25)
    assert steps_between(1.0, 1.0, 0.3) == (0, 0.3)
    for k in range(1000):  # rounding of the times neither adds a step nor changes its length
        assert steps_between(0.1 * k, 0.1 * (k + 1), 0.02) == (5, 0.02)


def test_a_run_that_was_cut_off_goes_on_to_the_bit(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    whole, found = frames_of_a_whole_run(), {}
    means, again, expected = Mean(), Mean(), Mean()
    run(CONFIG.build(7), TIMES, lambda *_: None, statistics=expected)

    def stops(k: int, time: float, frame: Tensor) -> None:
        if k == 5:
            raise KeyboardInterrupt
        found[k] = frame

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG.build(7), TIMES, stops, checkpoint=checkpoint, every=2, statistics=means)
    assert times_done(checkpoint) == 4
    seen = []

    def goes_on(k: int, time: float, frame: Tensor) -> None:
        seen.append(k)
        assert k not in found or torch.equal(frame, found[k])
        found[k] = frame

    run(CONFIG.build(1), TIMES, goes_on, checkpoint=checkpoint, every=2, statistics=again)
    assert seen == [4, 5, 6, 7]
    assert all(torch.equal(found[k], whole[k]) for k in range(8))
    assert torch.equal(again.sum, expected.sum) and torch.equal(again.times, expected.times)
    run(CONFIG.build(1), TIMES, goes_on, checkpoint=checkpoint)
    assert seen == [4, 5, 6, 7]  # all is done


CHILD = f"""
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.simulation import run
from data.synthetic.turbulence.subgrid import SubgridConfig

def receive(k, time, frame):
    (Path(sys.argv[1]) / f"{{k}}.bin").write_bytes(frame.numpy().tobytes())
    if k == 4:
        print("here", flush=True)
        sys.stdin.read()

run({CONFIG!r}.build(7), {TIMES!r}, receive, checkpoint=Path(sys.argv[1]) / "state.safetensors", every=3)
"""


def test_a_killed_process_is_resumed_to_the_bit(tmp_path: Path) -> None:
    """SIGKILL between a frame and the next state; this process goes on."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline() == b"here\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert times_done(tmp_path / "state.safetensors") == 3
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, found = frames_of_a_whole_run(), {}
        run(
            CONFIG.build(1),
            TIMES,
            lambda k, _, frame: found.update({k: frame}),
            checkpoint=tmp_path / "state.safetensors",
            every=3,
        )
    finally:
        torch.set_num_threads(before)
    assert list(found) == [3, 4, 5, 6, 7]
    assert all(torch.equal(found[k], whole[k]) for k in found)
    for k in range(5):
        assert (tmp_path / f"{k}.bin").read_bytes() == whole[k].numpy().tobytes()


def test_a_blow_up_keeps_the_last_good_state(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    config = KolmogorovConfig(points=32, step=0.2)
    times = [1.0 * k for k in range(1, 60)]
    simulation, frames = config.build(1), {}
    with pytest.raises(BlownUp, match=r"last good state, at time .*kept in .*state\.safetensors") as caught:
        run(simulation, times, lambda k, _, frame: frames.update({k: frame}), checkpoint=checkpoint, every=1000)
    assert all(bool(frame.isfinite().all()) for frame in frames.values())
    last = max(frames)
    assert times_done(checkpoint) == last + 1
    again = config.build(2)
    stored = safetensors.torch.load_file(checkpoint)
    again.restore({name.removeprefix("state."): value for name, value in stored.items()})
    assert torch.equal(again.fields(), frames[last])
    assert times[last] == again.time < caught.value.time
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - as an error of another process comes
    assert str(copy) == str(caught.value)


def test_states_of_other_runs_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    run(CONFIG.build(7), TIMES[:3], lambda *_: None, checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="same frame times"):
        run(CONFIG.build(7), [0.2, 0.4, 0.6, 0.8], lambda *_: None, checkpoint=checkpoint)
    larger = KolmogorovConfig(points=32)
    with pytest.raises(CheckpointError, match="another kind or size"):
        run(larger.build(7), TIMES, lambda *_: None, checkpoint=checkpoint)
    checkpoint.write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(CONFIG.build(7), TIMES, lambda *_: None, checkpoint=checkpoint)


def test_more_frames_can_be_added(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    whole, found = frames_of_a_whole_run(), {}
    for part in (TIMES[:5], TIMES):
        run(CONFIG.build(7), part, lambda k, _, frame: found.update({k: frame}), checkpoint=checkpoint, every=3)
    assert list(found) == list(range(8))
    assert all(torch.equal(found[k], whole[k]) for k in whole)
    assert all(a < b for a, b in itertools.pairwise(TIMES))
