"""A sweep from wherever it is to its end, by Ray Tune."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.on_ray.connection import connected, ray
from cluster.sweeps.results import (
    AT_ITS_END,
    DONE,
    FAILED,
    NAN,
    NO_METRIC,
    PENDING,
    RUNNING,
    STOPPED,
    Board,
    Sweep,
    Trial,
)
from cluster.sweeps.space import Optuna, first_trials
from cluster.sweeps.trial import BASE, follow_up, work
from data.errors import ConfigError, PenstockError
from flows.lock import held
from flows.placement import write_placement
from flows.run import Interrupted, create
from flows.stopping import SIGNALS, Asked, handled
from flows.workflow import waiting_message

TUNE = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the engine handles signals itself
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are never read
    "TUNE_MAX_PENDING_TRIALS_PG": "2",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may fail before its first value
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
PATIENCE = 60.0
"""Seconds that running trials have for their checkpoint when the sweep is asked to stop."""


def go_on(sweep: Sweep) -> Board:
    """Bring every trial to its end, those excepted that have reached it already.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; running trials have saved a checkpoint.
        ConfigError: the cluster cannot hold a trial, or the trainings do not have the metric.
    """
    os.environ.update(TUNE)
    address = "local" if sweep.placement.on == "local" else sweep.placement.address
    with held(sweep.folder / "lock", f"sweep {sweep.name}", waiting_message), connected(address):
        sweep.stop_file.unlink(missing_ok=True)
        board = Board(sweep)
        _begin(board)
        if board.unfinished() or _more(board):
            _prepare(sweep)
            with asked_to_stop(board):
                _tune(board)
        _settle(board)
        _check_metric(board)
        if board.stopping:
            left = len(board.unfinished())
            raise Interrupted(
                f"{sweep.name} was stopped by {board.stopping} with {left} trials unfinished. "
                f"`penstock resume {sweep.name}` goes on from their checkpoints."
            )
        best = board.best()
        run = sweep.run(best.name) if best is not None else None
        if run is not None and sweep.space.plan.then_for == "best":
            follow_up(sweep, run)
    return board


def _begin(board: Board) -> None:
    """What the trials of an earlier attempt left; the list of trials where there was none."""
    sweep = board.sweep
    if not board.trials:
        for drawn in first_trials(sweep.space, sweep.domain, sweep.base, sweep.samples):
            board.add(drawn)
    for trial in board.trials.values():
        if trial.state not in AT_ITS_END:
            board.refresh(trial)
    board.save()


def _more(board: Board) -> bool:
    """Whether the search has trials to think of yet."""
    search = board.sweep.space.plan.search
    return isinstance(search, Optuna) and len(board.trials) < (board.sweep.samples or 0)


def _prepare(sweep: Sweep) -> None:
    """Do once what all trials share: the steps before the training, unless a setting that varies concerns them."""
    if any(not key.name.startswith(f"{sweep.stage}.") for key in sweep.space.keys):
        return
    path = sweep.trials / BASE
    if not (path / "status.json").is_file():
        shutil.rmtree(path, ignore_errors=True)
        base = create(sweep.trials, sweep.domain, sweep.example, sweep.preset, BASE, sweep.command)
        if sweep.placement.on != "local":
            write_placement(base.path, sweep.placement)
    run = sweep.run(BASE)
    assert run is not None
    for step in run.missing(sweep.step):
        run.execute(step, waiting_message)


def trials_at_once(sweep: Sweep, cpus: float, gpus: float) -> int:
    """How many trials the resources hold.

    Raises:
        ConfigError: not even one.
    """
    place = sweep.placement
    needed = place.cpus_per_worker * place.workers, place.gpus_per_worker * place.workers
    fit = [int(has // needs) for has, needs in zip((cpus, gpus), needed, strict=True) if needs > 0]
    if min(fit) < 1:
        raise ConfigError(
            f"a trial needs {needed[0]:g} CPUs and {needed[1]:g} GPUs ({place.workers} workers); the cluster has "
            f"{cpus:g} CPUs and {gpus:g} GPUs. Use fewer --workers, --cpus-per-worker or --gpus-per-worker."
        )
    return min(fit)


def _tune(board: Board) -> None:
    import warnings

    from ray import tune

    from cluster.sweeps.schedulers import Dealer, scheduler_for

    sweep, place = board.sweep, board.sweep.placement
    there = ray().cluster_resources()
    fits = trials_at_once(sweep, there.get("CPU", 0.0), there.get("GPU", 0.0))
    alone = place.workers == 1
    # Who only waits for workers takes nothing of theirs; one byte, because Tune asks for something.
    resources = {"CPU": place.cpus_per_worker} if alone else {"CPU": 0.0, "memory": 1}
    if alone and place.gpus_per_worker:
        resources["GPU"] = place.gpus_per_worker
    if alone and sweep.memory_per_trial:
        resources["memory"] = int(sweep.memory_per_trial * 2**30)
    config: dict[str, Any] = {"sweep": str(sweep.folder)}
    options: dict[str, Any] = {}
    if isinstance(sweep.space.plan.search, Optuna):
        options["search_alg"] = Dealer(board, sweep.samples or 0)
        options["num_samples"] = len(board.unfinished()) + max(0, (sweep.samples or 0) - len(board.trials))
    else:
        listed = [{"trial": trial.name, "values": trial.drawn} for trial in board.unfinished()]
        config["drawn"] = tune.grid_search(listed)
    shutil.rmtree(sweep.folder / "ray", ignore_errors=True)
    watching = Watching(board)
    warnings.filterwarnings("ignore", module=r"ray\.tune\..*")  # hints on how to make it faster, at every start
    fits = min(fits, sweep.concurrent or fits)
    left = options.get("num_samples", len(board.unfinished()))
    print(f"{sweep.name}: {left} trials to do, {fits} at once", flush=True)
    tune.run(
        tune.with_resources(work, resources),
        config=config,
        name="tune",
        storage_path=str(sweep.folder / "ray"),
        scheduler=scheduler_for(board),
        callbacks=[watching.callback()],
        stop=watching.stopper(),
        max_concurrent_trials=fits,
        max_failures=place.max_failures,
        raise_on_failed_trial=False,
        trial_name_creator=_name,
        trial_dirname_creator=_name,
        verbose=0,
        **options,
    )
    shutil.rmtree(sweep.folder / "ray", ignore_errors=True)


def _name(trial: Any) -> str:
    return str(trial.config["drawn"]["trial"])


class Watching:
    """Notes down what happens to the trials, says it, and ends the sweep when that is asked for."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._running: set[str] = set()
        self._asked_at: float | None = None

    def __deepcopy__(self, memo: Any) -> "Watching":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Watching, (self.board,)

    def started(self, name: str) -> None:
        self._running.add(name)
        self.board.trials[name].state = RUNNING
        self.board.save()

    def reported(self, trial: Any, result: dict[str, Any]) -> None:
        known = self.board.trials[str(trial)]
        if "step" in result and "value" in result:
            self.board.result(known, int(result["step"]), float(result["value"]))
            known.seconds = round(float(result.get("time_total_s", 0.0)), 3)
            self.board.save()

    def ended(self, name: str, error: str | None) -> None:
        self._running.discard(name)
        trial = self.board.trials[name]
        self.board.refresh(trial)
        if trial.state not in AT_ITS_END:
            if error is not None:
                trial.state, trial.reason = FAILED, error
            elif not self.board.stopping:
                trial.state, trial.reason = STOPPED, f"by {_scheduler(self.board)} after step {trial.step}"
        self.board.save()
        self._say(trial)
        if trial.reason and trial.reason.startswith(NO_METRIC) and self.board.best() is None:
            self.ask_to_stop(trial.reason)

    def _say(self, trial: Trial) -> None:
        board = self.board
        ended = [other for other in board.trials.values() if other.state in AT_ITS_END]
        value = "" if trial.metric is None else f" {board.sweep.space.plan.metric} {trial.metric:.5g}"
        why = f": {trial.reason}" if trial.reason else ""
        best = board.best()
        shown = f"; best {best.name} {best.metric:.5g}" if best is not None else ""
        of = max(len(board.trials), board.sweep.samples or 0)
        print(f"{trial.name} {trial.state}{value}{why} ({len(ended)} of {of} at their end{shown})", flush=True)

    def ask_to_stop(self, who: str) -> None:
        self.board.stopping = self.board.stopping or who
        self.board.sweep.stop_file.touch()

    def all_ended(self) -> bool:
        """Whether Tune shall end: asked to, and all trials that run have had time to save."""
        if not self.board.stopping:
            return False
        self._asked_at = self._asked_at or time.monotonic()
        return not self._running or time.monotonic() - self._asked_at > PATIENCE

    def callback(self) -> Any:
        from ray.tune.progress_reporter import TrialProgressCallback

        watching = self

        # Tune adds one of these, which prints, unless it is given one.
        class Callback(TrialProgressCallback):
            def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                watching.started(str(trial))

            def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
                watching.reported(trial, result)

            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                watching.ended(str(trial), None)

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                watching.ended(str(trial), death_of(trial, watching.board.sweep))

        return Callback()

    def stopper(self) -> Any:
        from ray import tune

        watching = self

        class Ended(tune.Stopper):
            def __call__(self, trial_id: str, result: Any) -> bool:
                return False

            def stop_all(self) -> bool:
                return watching.all_ended()

        return Ended()


def death_of(trial: Any, sweep: Sweep) -> str:
    """Why a trial's process ended without an outcome."""
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text(errors="replace") if file is not None and file.is_file() else ""
    return reason_of_death(text, sweep.placement.max_failures + 1)


def reason_of_death(text: str, attempts: int) -> str:
    """Ray's words on a trial's process in ours."""
    times = f"{attempts} times" if attempts > 1 else "once"
    if re.search(r"OutOfMemoryError|OUT_OF_MEMORY|running low on memory|memory pressure", text):
        return f"out of memory: Ray ended its process {times}, because the machine had no memory left"
    if not text or re.search(r"process has died|Worker exit type|actor died|ActorDied|node .*died", text):
        return f"its process died {times} (killed, out of memory, or crashed)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1][:300]} ({times}; outside its training)"


def _scheduler(board: Board) -> str:
    scheduler = board.sweep.space.plan.scheduler
    return type(scheduler).__name__ if scheduler else "the scheduler"


@contextmanager
def asked_to_stop(board: Board) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the running trials to save and end; asked twice, at once."""

    def save(name: str) -> None:
        board.stopping = board.stopping or name
        board.sweep.stop_file.touch()
        print(f"{name}: running trials save a checkpoint and end (again: at once)", flush=True)

    with handled(Asked(save), *SIGNALS):
        yield


def _settle(board: Board) -> None:
    """The last look at every trial, and the mark on runs that the scheduler ended."""
    sweep = board.sweep
    for trial in board.trials.values():
        if trial.state == RUNNING:
            trial.state = PENDING
        run = sweep.run(trial.name)
        if run is None:
            continue
        board.refresh(trial)
        if trial.state == STOPPED and run.steps()[sweep.step].state != DONE:
            with held(run.path / "lock", "sweep", waiting_message):
                run.record(sweep.step, state=PENDING, error=f"stopped {trial.reason}")
    sweep.stop_file.unlink(missing_ok=True)
    board.save()


def _check_metric(board: Board) -> None:
    """A metric that no training has is a mistake in the space file."""
    plan = board.sweep.space.plan
    missing = [trial for trial in board.trials.values() if trial.reason and trial.reason.startswith(NO_METRIC)]
    if not missing or board.best() is not None:
        return
    raise ConfigError(f"{board.sweep.space_file}: metric '{plan.metric}': {missing[0].name}: {missing[0].reason}.")


def all_failed(board: Board) -> PenstockError | None:
    """The error where no trial came to its end."""
    bad = [trial for trial in board.trials.values() if trial.state in (FAILED, NAN)]
    if board.best() is not None or not bad:
        return None
    return PenstockError(f"no trial of {board.sweep.name} came to its end; {bad[0].name}: {bad[0].reason}")
