"""Space files: what is understood, what is refused and how, and what is drawn."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cluster.sweeps.command import _target
from cluster.sweeps.results import Board, Sweep, Trial, read_sweep
from cluster.sweeps.space import Key, check_space, first_trials, parse_space, read_space, trial_config
from configs import load
from data.errors import ConfigError
from flows.domain import load_domain
from flows.placement import Placement

SPACES = Path(load.__file__).parent / "sweeps"
Penstock = Callable[..., tuple[int, str, str]]


def space_of(**said: Any) -> dict[str, Any]:
    return {"metric": "val/loss", "samples": 4, "space": {"flow.optimizer.lr": {"loguniform": [1e-4, 1e-2]}}} | said


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        (
            {"space": {"flow.optimizer.rl": {"uniform": [0.1, 1]}}},
            ["unknown key 'flow.optimizer.rl'", "flow.optimizer."],
        ),
        ({"space": {"lr": {"uniform": [0.1, 1]}}}, ["unknown key 'lr'", "Did you mean 'flow.optimizer.lr'"]),
        ({"fixed": {"flow.trainer.stepps": 3}}, ["unknown key 'flow.trainer.stepps'", "'flow.trainer.steps'"]),
        ({"space": {"flow.network.width": {"uniform": [1, 9]}}}, ["'flow.network.width' expects int", "1.0"]),
        ({"space": {"flow.network.width": {"choice": [8, "wide"]}}}, ["'flow.network.width' expects int", "wide"]),
        ({"space": {"flow.optimizer.lr": {"uniform": [0, 1]}}}, ["lr must be positive, got 0.0"]),
        ({"space": {"flow.optimizer.lr": {"loguniform": [0, 1]}}}, ["loguniform expects numbers above 0"]),
        ({"space": {"flow.optimizer.lr": {"uniform": [1, 0.1]}}}, ["low below high"]),
        ({"space": {"flow.optimizer.lr": {"uniform": [0.1, math.inf]}}}, ["low below high"]),
        ({"space": {"flow.optimizer.lr": {"lognormal": [1, 2]}}}, ["unknown kind 'lognormal'", "loguniform"]),
        ({"space": {"flow.optimizer.lr": [0.1, 1]}}, ["expects one of uniform, loguniform, int, logint, choice"]),
        ({"space": {"flow.network.width": {"int": [1.5, 9]}}}, ["int expects whole numbers"]),
        ({"space": {"flow.network.width": {"choice": [8, 8]}}}, ["stands twice"]),
        ({"space": {}}, ["expected `space:`"]),
        ({"fixed": {"flow.optimizer": {"lr": 0.1}}}, ["under both `space` and `fixed`"]),
        ({"space": {"sample.count": {"int": [1, 3]}}}, ["'sample.count' has no influence on train_flow"]),
        ({"metric": None}, ["metric"]),
        ({"mode": "least"}, ["'mode' expects one of: min, max"]),
        ({"sampels": 3}, ["unknown key 'sampels'", "'samples'"]),
        ({"samples": None}, ["'samples' has no value"]),
        ({"search": {"class": "Grid"}}, ["a grid needs choices", "flow.optimizer.lr"]),
        ({"search": {"class": "Otpuna"}}, ["'search.class' expects one of", "Did you mean 'Optuna'"]),
        ({"scheduler": {"class": "ASHA", "reduction": 1}}, ["reduction must be above 1"]),
        ({"scheduler": {"class": "PBT"}}, ["every"]),
        ({"then": ["samlpe"]}, ["'samlpe' is not a step after train_flow", "Did you mean 'sample'"]),
        ({"then": ["prepare"]}, ["'prepare' is not a step after train_flow"]),
        (
            {"scheduler": {"class": "PBT", "every": 10}, "space": {"flow.network.width": {"choice": [4, 8]}}},
            ["population-based training cannot change 'flow.network.width'", "changes the network"],
        ),
        (
            {"scheduler": {"class": "PBT", "every": 10}, "space": {"flow.trainer.batch_size": {"int": [4, 8]}}},
            ["cannot change 'flow.trainer.batch_size'"],
        ),
        (
            {"scheduler": {"class": "PBT", "every": 10}, "search": {"class": "Optuna"}},
            ["population-based training searches by itself"],
        ),
    ],
)
def test_a_space_file_that_is_wrong_is_one_message_before_anything_starts(
    penstock: Penstock, probe_runs: Path, tmp_path: Path, said: dict[str, Any], parts: list[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(space_of(**said)))
    code, out, err = penstock("sweep", "probe.flow", "--space", str(file))
    assert (code, out) == (2, "")
    assert all(part in err for part in (*parts, str(file))), err
    assert "Traceback" not in err
    assert not probe_runs.exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["probe"], ["names no stage", "stages: flow"]),
        (["probe.flwo"], ["no stage 'flwo'", "Did you mean 'flow'"]),
        (["probe.flow", "--samples", "0"], ["--samples must be at least 1"]),
        (["probe.flow", "--workers", "2"], ["add --on ray"]),
        (["probe.flow", "--memory-per-trial", "-1"], ["--memory-per-trial expects GiB above 0"]),
        (["probe.flow", "--flow.network.widht", "3"], ["flow.network.widht"]),
    ],
)
def test_a_command_that_is_wrong_starts_nothing(
    penstock: Penstock, probe_runs: Path, tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(space_of()))
    code, _, err = penstock("sweep", *words, "--space", str(file))
    assert code == 2
    assert all(part in err for part in parts), err
    assert not probe_runs.exists()


def test_settings_that_do_not_go_together_are_found_before_the_start() -> None:
    """Heads must divide the width: some combinations of the two are refused, as one key they go together."""
    domain = load_domain("forecast")
    base = load.load(domain.config, "forecast", "demo")
    apart = space_of(
        space={"patchtst.model.width": {"choice": [30, 64]}, "patchtst.model.heads": {"choice": [3, 4]}}, samples=16
    )
    space = parse_space(apart, "file.yaml")
    with pytest.raises(ConfigError, match=r"heads.*That is trial \d+ .*width=\d+.*go as one key"):
        first_trials(space, domain, base, 16)
    together = {"patchtst.model": {"choice": [{"width": 30, "heads": 3}, {"width": 64, "heads": 4}]}}
    space = parse_space(space_of(space=together), "file.yaml")
    check_space(space, domain, "patchtst", base)
    drawn = first_trials(space, domain, base, 16)
    assert {trial["patchtst.model"]["width"] for trial in drawn} == {30, 64}
    assert set(space.described()) == {"patchtst.model.width", "patchtst.model.heads"}


# ------------------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("uniform", -1.0, 3.0, lambda u: -1 + 4 * u),
        ("loguniform", 1e-4, 1e-1, lambda u: 10 ** (-4 + 3 * u)),
    ],
)
def test_draws_follow_their_distribution(kind: str, low: float, high: float, expected: Any) -> None:
    """Quantiles against the inverse distribution function; 4000 draws: ± 0.03 is beyond four standard deviations."""
    key = Key("k", kind, (low, high))
    rng = np.random.default_rng(0)
    drawn = np.sort([key.draw(rng) for _ in range(4000)])
    assert low <= drawn[0] and drawn[-1] <= high
    for quantile in (0.1, 0.5, 0.9):
        assert abs((drawn < expected(quantile)).mean() - quantile) < 0.03


def test_whole_numbers_reach_both_ends_evenly() -> None:
    key = Key("k", "int", (2, 5))
    rng = np.random.default_rng(0)
    counts = Counter(key.draw(rng) for _ in range(4000))
    assert set(counts) == {2, 3, 4, 5}
    assert all(abs(count / 4000 - 0.25) < 0.03 for count in counts.values())
    logs = Counter(Key("k", "logint", (1, 4)).draw(rng) for _ in range(4000))
    shares = {n: math.log((n + 0.5) / (n - 0.5)) / math.log(9) for n in (1, 2, 3, 4)}
    assert all(abs(logs[n] / 4000 - shares[n]) < 0.03 for n in shares)


def test_a_trial_depends_on_seed_and_number_alone() -> None:
    few = parse_space(space_of(samples=3), "f")
    many = parse_space(space_of(samples=9), "f")
    assert [few.draw(k) for k in range(3)] == [many.draw(k) for k in range(3)]
    assert few.draw(0) != few.draw(1)
    assert parse_space(space_of(search={"class": "Random", "seed": 1}), "f").draw(0) != few.draw(0)


def test_a_grid_has_every_combination_once() -> None:
    keys = {"flow.network.width": {"choice": [4, 8]}, "flow.optimizer.lr": {"choice": [0.1, 0.2, 0.3]}}
    domain = load_domain("probe")
    space = parse_space({"metric": "val/loss", "search": {"class": "Grid"}, "space": keys}, "f")
    base = load.load(domain.config, "probe", "debug")
    points = first_trials(space, domain, base, None)
    assert Counter((p["flow.network.width"], p["flow.optimizer.lr"]) for p in points) == Counter(
        (w, lr) for w in (4, 8) for lr in (0.1, 0.2, 0.3)
    )
    config = trial_config(domain, base, space, points[0])
    assert (config.flow.network.width, config.flow.optimizer.lr, config.flow.trainer.steps) == (4, 0.1, 60)


# ------------------------------------------------------------------------------------------------- ready space files


@pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_spaces_are_valid(file: Path) -> None:
    """Checked against the preset that each names and the target that its first line says."""
    words = file.read_text().splitlines()[0].split()
    assert words[:3] == ["#", "penstock", "sweep"]
    domain, stage = _target(words[3])
    assert words[words.index("--space") + 1] == f"configs/sweeps/{file.name}"
    space = read_space(file)
    base = load.load(domain.config, domain.name, space.plan.preset or "demo")
    check_space(space, domain, stage, base)
    first_trials(space, domain, base, space.plan.samples)


def test_the_folder_of_spaces_is_no_domain() -> None:
    from cluster.cli import _domains

    assert "sweeps" not in load.domain_names()
    assert "sweeps" not in _domains()


# ------------------------------------------------------------------------------------------------------- bookkeeping


def sweep_in(folder: Path, **plan: Any) -> Sweep:
    domain = load_domain("probe")
    base = load.load(domain.config, "probe", "debug")
    made = Sweep(
        folder, "probe.flow", "debug", "penstock sweep", 4, None, None, Placement(workers=2, on="ray"), "f.yaml",
        space_of(**plan),
    )  # fmt: skip
    made.write(base)
    return made


def test_what_was_asked_for_is_read_back(tmp_path: Path) -> None:
    made = sweep_in(tmp_path / "s", search={"class": "Optuna", "startup": 3}, fixed={"flow.network.width": 5})
    read = read_sweep(tmp_path / "s")
    assert read == made
    assert read.space == made.space
    assert read.config({"flow.optimizer.lr": 0.5}).flow.network.width == 5


def test_results_are_read_back_and_the_best_is_of_the_done(tmp_path: Path) -> None:
    board = Board(sweep_in(tmp_path / "s"))
    for value, state in ((3.0, "done"), (1.0, "stopped"), (2.0, "done"), (0.5, "failed")):
        trial = board.add({"flow.optimizer.lr": value})
        trial.state, trial.metric = state, value
    board.save()
    again = Board(read_sweep(tmp_path / "s"))
    assert again.trials == board.trials
    best = again.best()
    assert best is not None
    assert best.name == "t002"


def test_a_trial_is_worth_what_its_exported_weights_are_worth(tmp_path: Path) -> None:
    for select, worth in (("last", 3.0), ("best", 1.0)):
        sweep = sweep_in(tmp_path / select)
        config = load.resolve(sweep.domain.config, [load.tagged({"flow.trainer.select": select}, "t")], sweep.base)
        sweep.write(config)
        board = Board(read_sweep(sweep.folder))
        trial = board.add({"flow.optimizer.lr": 0.1})
        for step, value in ((10, 2.0), (20, 1.0), (30, 3.0)):
            board.result(trial, step, value)
        assert trial.metric == 1.0  # so far
        trial.state = "done"
        assert board._judged(trial) == worth


def test_section_choices_become_dotted_keys() -> None:
    trial = Trial("t000", {"a.model": {"width": 4, "head": {"kind": "x"}}, "a.lr": 0.1})
    assert trial.config == {"a.model.width": 4, "a.model.head.kind": "x", "a.lr": 0.1}


def test_the_death_of_a_process_is_told_from_its_other_ends() -> None:
    """Texts as Ray 2.60 writes them."""
    from cluster.sweeps.engine import reason_of_death

    died = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
        "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
    )
    assert reason_of_death(died, 2) == "its process died 2 times (killed, out of memory, or crashed)"
    memory = "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."
    assert reason_of_death(memory, 1).startswith("out of memory: Ray ended its process once")
    assert "KeyError: 'x'" in reason_of_death("Traceback\n  File\nKeyError: 'x'\n", 1)


# ------------------------------------------------------------------------- changed settings of a training under way


@pytest.mark.parametrize("kind", ["adamw", "muon", "radam"])
def test_renewed_optimizers_step_as_if_the_setting_had_been_changed_by_hand(kind: Any) -> None:
    """Train, restore into an optimizer of another learning rate, renew; against changing the rate in place."""
    from types import SimpleNamespace

    from cluster.sweeps.watching import renew_optimizers
    from modules.layers.optimization import OptimizerConfig

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))

    def steps(net: torch.nn.Module, made: Any, count: int) -> None:
        for k in range(count):
            made[0].zero_grad()
            torch.manual_seed(k)
            net(torch.randn(4, 3)).square().mean().backward()
            made[0].step()
            made[1].step()

    before = OptimizerConfig(kind=kind, learning_rate=1e-3, weight_decay=0.1)
    after = OptimizerConfig(kind=kind, learning_rate=4e-3, weight_decay=0.3)
    first = network()
    old = before.build(first, 40)
    steps(first, old, 10)
    saved = [first.state_dict(), old[0].state_dict(), old[1].state_dict()]
    saved = [torch.load(_buffer(part), weights_only=True) for part in saved]

    second = network()
    new = after.build(second, 40)
    for part, state in zip((second, *new), saved, strict=True):
        part.load_state_dict(state)
    module = SimpleNamespace(
        configure_optimizers=lambda: dict(zip(("optimizer", "lr_scheduler"), after.build(second, 40), strict=True))
    )
    trainer = SimpleNamespace(optimizers=[new[0]], lr_scheduler_configs=[SimpleNamespace(scheduler=new[1])])
    assert new[0].param_groups[0]["lr"] == old[0].param_groups[0]["lr"]  # what the checkpoint brought
    renew_optimizers(trainer, module)  # type: ignore[arg-type]
    assert new[0].param_groups[0]["lr"] == pytest.approx(4e-3 * after.factor(10, 40))

    for group in old[0].param_groups:  # the same by hand
        group["lr"], group["initial_lr"] = group["lr"] * 4, 4e-3
        group["weight_decay"] = 0.3 if group["weight_decay"] else 0.0
    old[1].base_lrs = [4e-3] * len(old[1].base_lrs)
    steps(first, old, 10)
    steps(second, new, 10)
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], rtol=1e-6, atol=1e-7)


def _buffer(state: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
