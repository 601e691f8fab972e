"""Several processes against one: the same samples in the same order, and the same results up to rounding.

Without Ray's start-up (`processes`), but for the last one. Rounding differs, because sums are taken in another order;
in float64 nothing but that is left, so there the tolerance is far below what any mistake would make.
"""

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from configs import load
from data.checkpoint import load_checkpoint, newest_valid
from flows.domain import load_domain
from flows.placement import Placement
from flows.run import Interrupted, Run, create
from flows.tracking import read_metrics

_place = Path(__file__).with_name("processes.py")
_spec = importlib.util.spec_from_file_location("processes", _place)
assert _spec is not None
assert _spec.loader is not None
processes = sys.modules.setdefault("processes", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(processes)

LONG = pytest.mark.long
OPTIMAL = {"flow.coupling": "optimal", "flow.draw.crop": "16"}
TOY = {"flow.trainer.steps": "50", "flow.trainer.log_every": "1", "flow.trainer.ema_decay": "0.9"}


def trained(
    runs: Path,
    domain: str,
    step: str,
    workers: int,
    settings: Mapping[str, str],
    *,
    strategy: Any = "ddp",
    stop_after: int | None = None,
    run: Run | None = None,
) -> Run:
    """A run whose `step` was done by that many processes; `run` goes on with one that exists."""
    if run is None:
        known = load_domain(domain)
        layers = [*load.preset_layers(domain, "debug"), load.override_layer({"wandb": "off", **settings})]
        run = create(runs, known, load.resolve(known.config, layers), "debug", command="test")
        for before in known.missing(step, run.finished()):
            run.execute(before)
    placement = Placement(on="ray", workers=workers, strategy=strategy)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flows.steps.training.executor_for", lambda r: processes.Processes(r, placement, stop_after))
        try:
            run.execute(step)
        except Interrupted:
            assert stop_after is not None
    return run


def metrics(run: Run) -> dict[tuple[int, str], float]:
    return {(row.step, row.name): row.value for row in read_metrics(run.metrics_file)}


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return dict(load_file(run.model(stage) / "model.safetensors"))


def assert_same(one: Run, many: Run, workers: int, stage: str, tolerance: float, after: int | None = None) -> None:
    """Order exactly, every row of metrics.csv (up to step `after`) and the weights to a relative tolerance."""
    steps = processes.order(one, 1)
    assert steps == processes.order(many, workers)
    found, expected = metrics(many), metrics(one)
    assert found.keys() == expected.keys()
    assert {step for step, name in expected if name.startswith("train/")} >= set(range(1, len(steps) + 1))
    last = len(steps) if after is None else after
    for (step, name), value in expected.items():
        if step <= last:
            assert found[step, name] == pytest.approx(value, rel=tolerance, abs=1e-12), (step, name)
    if after is None:
        ours, theirs = weights(many, stage), weights(one, stage)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e3 * tolerance, atol=tolerance)


def assert_rows(found: Run, expected: Run, stopped: set[int], tolerance: float) -> None:
    """The rows of metrics.csv, but for steps after which it was stopped: Lightning ends before it logs them."""
    rows, wanted = metrics(found), metrics(expected)
    assert {step for step, _ in wanted.keys() - rows.keys()} <= stopped
    for key, value in rows.items():
        assert value == pytest.approx(wanted[key], rel=tolerance, abs=min(tolerance, 1e-12)), key


def test_two_processes_train_as_one(runs: Path) -> None:
    one, two = (trained(runs, "toy", "train_flow", workers, TOY) for workers in (1, 2))
    assert_same(one, two, 2, "flow", 1e-5)


@pytest.mark.slow
def test_a_training_with_no_step_left_exports_what_it_would_have(runs: Path) -> None:
    """Killed between its last checkpoint and its export; the average and not the last weights are exported."""
    run = trained(runs, "toy", "train_flow", 1, TOY)
    before = weights(run, "flow")
    shutil.rmtree(run.model("flow"))
    run.record("train_flow", state="pending")
    trained(runs, "toy", "train_flow", 1, TOY, run=run)
    assert {name: value.tolist() for name, value in weights(run, "flow").items()} == {
        name: value.tolist() for name, value in before.items()
    }


@pytest.mark.long
@pytest.mark.slow
def test_goes_on_with_any_number_of_processes(runs: Path) -> None:
    """Three, then one; 8 samples over 3 processes are unequal parts."""
    one, three = (trained(runs, "toy", "train_flow", workers, TOY) for workers in (1, 3))
    assert_same(one, three, 3, "flow", 1e-5)
    moved = trained(runs, "toy", "train_flow", 3, TOY, stop_after=12)
    assert newest_valid(moved.checkpoints("flow")).name == "step-00000012.ckpt"  # type: ignore[union-attr]
    trained(runs, "toy", "train_flow", 1, TOY, run=moved, stop_after=None)
    assert_rows(moved, one, {12}, 1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_a_restart_of_three_processes_changes_no_bit(runs: Path) -> None:
    """Over three processes the order of sums matters, and torch changes it after its first step, unless told."""
    settings = {**TOY, "flow.network.width": "64"}
    undisturbed = trained(runs, "toy", "train_flow", 3, settings)
    restarted = trained(runs, "toy", "train_flow", 3, settings, stop_after=7)
    trained(runs, "toy", "train_flow", 3, settings, run=restarted)
    assert_rows(restarted, undisturbed, {7}, 0.0)
    for name, value in weights(undisturbed, "flow").items():
        assert torch.equal(weights(restarted, "flow")[name], value), name


VAE = {"vae.trainer.steps": "50", "vae.trainer.log_every": "1", "vae.trainer.validate_every": "10"}
PROTEIN = {"flow.trainer.steps": "50", "flow.trainer.log_every": "1", "flow.trainer.validate_every": "10"}
DOUBLE = {"vae": {"vae.trainer.precision": "64-true"}, "flow": {"flow.trainer.precision": "64-true"}}
FORECAST = {"epochs": "null", "trainer.steps": "50", "trainer.log_every": "1", "trainer.validate_every": "10"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "stage", "workers", "settings"),
    [
        ("shape", "vae", 3, {**VAE, **DOUBLE["vae"]}),
        pytest.param("protein", "flow", 2, {**PROTEIN, **DOUBLE["flow"]}, marks=LONG),
        pytest.param("shape", "vae", 2, {**VAE, **DOUBLE["vae"]}, marks=LONG),
        pytest.param("protein", "flow", 3, {**PROTEIN, **DOUBLE["flow"]}, marks=LONG),
        pytest.param("protein", "flow", 2, {**PROTEIN, **DOUBLE["flow"], **OPTIMAL}, marks=LONG),
    ],
)
def test_the_domains_train_alike_in_float64(
    runs: Path, domain: str, stage: str, workers: int, settings: Mapping[str, str]
) -> None:
    """Proteins: batches of similar length, of unequal size, some of one chain only."""
    one = trained(runs, domain, f"train_{stage}", 1, settings)
    many = trained(runs, domain, f"train_{stage}", workers, settings)
    assert_same(one, many, workers, stage, 1e-7)


@pytest.mark.long
@pytest.mark.slow
def test_float32_begins_alike(runs: Path) -> None:
    """Rounding grows from step to step, as between two machines; the first steps show that nothing else does."""
    one, two = (trained(runs, "shape", "train_vae", workers, VAE) for workers in (1, 2))
    assert_same(one, two, 2, "vae", 1e-5, after=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "workers"),
    [
        ("patchtst", 2),
        *(
            pytest.param(*case, marks=LONG)
            for case in (("dlinear", 2), ("dlinear", 3), ("patchtst", 3), ("xpatch", 2), ("xpatch", 3))
        ),
    ],
)
def test_forecasters_train_alike_where_values_are_missing(runs: Path, network: str, workers: int) -> None:
    """The loss is a mean over what was measured, of which every process has another share; two have batch norm."""
    settings = {f"{network}.{key}": value for key, value in FORECAST.items()}
    settings |= {"synthetic.missing": "0.2", f"{network}.trainer.precision": "64-true", "cyclenet": "null"}
    if network == "patchtst":  # dropout is drawn by each process for its own windows
        settings |= {f"{network}.model.dropout": "0.0", f"{network}.model.head_dropout": "0.0"}
    one, many = (trained(runs, "forecast", f"train_{network}", n, settings) for n in (1, workers))
    assert_same(one, many, workers, network, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", *(pytest.param(kind, marks=LONG) for kind in ("muon", "adam"))])
def test_shared_out_trains_as_one_and_its_checkpoint_goes_anywhere(runs: Path, optimizer: str) -> None:
    """FSDP, weight average and clipping included: 50 steps, of them some by two processes, the rest by one."""
    settings = {
        "vae.optimizer.kind": optimizer,
        "vae.loss.normal": "0.0",
        "vae.loss.eikonal": "0.0",
        **VAE,
        **DOUBLE["vae"],
        "vae.trainer.select": "best",
    }
    one = trained(runs, "shape", "train_vae", 1, settings)
    shared = trained(runs, "shape", "train_vae", 2, settings, strategy="fsdp")
    assert_same(one, shared, 2, "vae", 1e-7)
    ours, theirs = (load_checkpoint(newest_valid(run.checkpoints("vae"))) for run in (shared, one))  # type: ignore[arg-type]
    assert ours.keys() == theirs.keys()
    assert _shapes(ours) == _shapes(theirs)

    moved = trained(runs, "shape", "train_vae", 2, settings, strategy="fsdp", stop_after=13)
    trained(runs, "shape", "train_vae", 3, settings, run=moved, stop_after=27)
    trained(runs, "shape", "train_vae", 2, settings, run=moved, strategy="fsdp", stop_after=38)
    trained(runs, "shape", "train_vae", 1, settings, run=moved)
    assert_rows(moved, one, {13, 27, 38}, 1e-7)


@pytest.mark.slow
def test_what_cannot_be_shared_out_is_refused(runs: Path) -> None:
    settings = {**VAE, "vae.loss.eikonal": "0.1"}
    with pytest.raises(AssertionError, match="takes derivatives of the network within its loss"):
        trained(runs, "shape", "train_vae", 2, settings, strategy="fsdp")


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, Mapping):
        return {key: _shapes(item) for key, item in value.items() if key not in ("loops",)}
    return type(value)


@pytest.mark.slow
def test_two_workers_of_ray_train_as_this_process(penstock: Any, runs: Path) -> None:
    words = ["train", "toy.flow", "--preset", "debug", "--flow.trainer.ema_decay", "0.9"]
    for name, where in (("here", []), ("there", ["--on", "ray", "--workers", "2"])):
        code, out, err = penstock(*words, "--name", name, *where)
        assert code == 0, out + err
    found, expected = metrics(Run(runs / "there")), metrics(Run(runs / "here"))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5)
