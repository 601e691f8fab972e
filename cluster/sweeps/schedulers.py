"""Who goes on and what comes next: Ray Tune's schedulers and Optuna, made to go on after a restart.

What they know comes from trials.json, not from Tune's own snapshots: those are pickles, and up to seconds old.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from cluster.sweeps.results import AT_ITS_END, DONE, STOPPED, Board, Trial
from cluster.sweeps.space import ASHA, PBT, Key, Optuna, Space, trainer_of
from data.errors import ConfigError


class Halving(AsyncHyperBandScheduler):
    """ASHA that knows the values of earlier attempts, its own and those of trials at their end."""

    def __init__(self, board: Board, **options: Any) -> None:
        super().__init__(time_attr="step", metric="value", mode=board.sweep.space.plan.mode, **options)
        self._earlier = {trial.name: [tuple(row) for row in trial.history] for trial in board.trials.values()}
        for trial in board.trials.values():
            if trial.state in AT_ITS_END:
                self._replay(SimpleNamespace(trial_id=trial.name), trial.name)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, trial.custom_trial_name)

    def _replay(self, trial: Any, name: str) -> None:
        for step, value in self._earlier.get(name, ()):
            sign = 1.0 if self._mode == "max" else -1.0
            self._brackets[0].on_result(trial, int(step), sign * value)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)


def scheduler_for(board: Board) -> TrialScheduler:
    """The scheduler that the space file asks for.

    Raises:
        ConfigError: ASHA's grace is not below the steps of the training.
    """
    sweep = board.sweep
    plan = sweep.space.plan
    if isinstance(plan.scheduler, ASHA):
        trainer = trainer_of(sweep.domain, sweep.stage, sweep.example)
        steps = trainer.steps if trainer is not None else 1000
        grace = plan.scheduler.grace or max(1, steps // 27)
        if grace >= steps:
            raise ConfigError(f"{sweep.space_file}: grace must be below the {steps} steps of a training, got {grace}.")
        # The last rung lies before the last step: a trial that is through is not stopped.
        return Halving(
            board, max_t=steps - 1, grace_period=grace, reduction_factor=plan.scheduler.reduction,
            stop_last_trials=False,
        )  # fmt: skip
    if isinstance(plan.scheduler, PBT):
        return _population(sweep.space, plan.scheduler)
    return FIFOScheduler()


def _population(space: Space, plan: PBT) -> PopulationBasedTraining:
    import numpy as np

    rng = np.random.default_rng([getattr(space.plan.search, "seed", 0), 2**31])
    keys = {key.name: key for key in space.keys}

    def within(config: dict[str, Any]) -> dict[str, Any]:
        values = config["drawn"]["values"]
        config["drawn"]["values"] = {name: keys[name].clamped(value) for name, value in values.items()}
        return config

    def drawing(key: Key) -> Any:
        return list(key.values) if key.kind == "choice" else lambda: key.draw(rng)

    return PopulationBasedTraining(
        time_attr="step",
        metric="value",
        mode=space.plan.mode,
        perturbation_interval=plan.every,
        quantile_fraction=plan.quantile,
        resample_probability=plan.resample,
        hyperparam_mutations={"drawn": {"values": {name: drawing(key) for name, key in keys.items()}}},
        custom_explore_fn=within,
        log_config=False,
    )


class Dealer(Searcher):
    """Hands out the trials: those that were begun before, then what Optuna thinks of."""

    def __init__(self, board: Board, samples: int) -> None:
        super().__init__(metric="value", mode=board.sweep.space.plan.mode)
        plan = board.sweep.space.plan
        assert isinstance(plan.search, Optuna)
        self._board, self._samples = board, samples
        self._left = list(board.unfinished())
        self._asked: dict[str, tuple[str, optuna.trial.Trial]] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # As if earlier draws had not been made, a resumed search would draw them again.
        sampler = optuna.samplers.TPESampler(
            seed=plan.search.seed + len(board.trials), n_startup_trials=plan.search.startup, constant_liar=True
        )
        direction: Literal["minimize", "maximize"] = "minimize" if plan.mode == "min" else "maximize"
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._distributions = {key.name: _distribution(key) for key in board.sweep.space.keys}
        for trial in board.trials.values():
            if trial.state in AT_ITS_END:
                self._study.add_trial(self._known(trial))

    def __deepcopy__(self, memo: Any) -> "Dealer":
        return self

    def _known(self, trial: Trial) -> optuna.trial.FrozenTrial:
        done = trial.state in (DONE, STOPPED) and trial.metric is not None
        return optuna.trial.create_trial(
            params={key.name: _index(key, trial.drawn[key.name]) for key in self._board.sweep.space.keys},
            distributions=self._distributions,
            value=trial.metric if done else None,
            state=TrialState.COMPLETE if done else TrialState.FAIL,
        )

    def suggest(self, trial_id: str) -> Any:
        if self._left:
            trial = self._left.pop(0)
            self._study.enqueue_trial({k.name: _index(k, trial.drawn[k.name]) for k in self._board.sweep.space.keys})
            asked = self._study.ask(self._distributions)
        elif len(self._board.trials) < self._samples:
            asked = self._study.ask(self._distributions)
            trial = self._board.add({key.name: _value(key, asked.params) for key in self._board.sweep.space.keys})
            self._board.save()
        else:
            return Searcher.FINISHED
        self._asked[trial_id] = trial.name, asked
        return {"drawn": {"trial": trial.name, "values": trial.drawn}}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._asked:
            return
        name, asked = self._asked.pop(trial_id)
        trial = self._board.trials[name]
        self._board.refresh(trial)
        if trial.metric is None or error or trial.state in ("failed", "nan"):
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, trial.metric)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: trials.json has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: trials.json has it all."""


def _distribution(key: Key) -> BaseDistribution:
    if key.kind == "choice":
        # Optuna's categories are plain values; ours may be sections, so their places stand for them.
        return CategoricalDistribution(list(range(len(key.values))))
    low, high = key.values
    if key.kind in ("int", "logint"):
        return IntDistribution(low, high, log=key.kind == "logint")
    return FloatDistribution(low, high, log=key.kind == "loguniform")


def _index(key: Key, value: Any) -> Any:
    return key.values.index(value) if key.kind == "choice" else value


def _value(key: Key, params: Mapping[str, Any]) -> Any:
    return key.values[params[key.name]] if key.kind == "choice" else params[key.name]
