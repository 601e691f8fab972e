"""The steps of the turbulence domain: simulation → networks → rollouts, beside the solver's → statistics → files.

Lightning is imported by the trainings only: it would cost every other step seconds.
"""

from functools import partial

from configs.turbulence import NETWORKS, TurbulenceConfig
from flows.domain import TRAIN, Domain
from flows.run import Run
from flows.steps.turbulence_data import fields_of
from flows.steps.turbulence_evaluation import evaluate
from flows.steps.turbulence_export import export
from flows.steps.turbulence_import import import_ifactformer
from flows.steps.turbulence_prepare import prepare_fields
from flows.steps.turbulence_report import report
from flows.steps.turbulence_rollout import roll_out
from flows.steps.turbulence_snapshots import pictures
from flows.steps.turbulence_solvers import solve
from flows.steps.turbulence_train import train_network
from flows.steps.turbulence_verdict import short
from flows.tracking import tracked
from modules.turbulence.stepper import StepperConfig

TRAININGS = tuple(TRAIN + name for name in NETWORKS)


def left_out(config: TurbulenceConfig) -> list[str]:
    """The networks that are not asked for, and the solvers where none is."""
    unasked = [TRAIN + name for name in NETWORKS if name not in config.networks]
    return unasked if config.solvers.models else [*unasked, "solve"]


def sample(run: Run) -> None:
    """Roll every network out, and show what came out where the run is followed."""
    roll_out(run)
    with tracked(run, "sample") as tracker:
        tracker.log_pictures({"rollouts": lambda: pictures(run, fields_of(run).spacing, short)})


DOMAIN = Domain(
    name="turbulence",
    config=TurbulenceConfig,
    steps={
        "prepare": prepare_fields,
        **{TRAIN + name: partial(train_network, name=name) for name in NETWORKS},
        "sample": sample,
        "solve": solve,
        "evaluate": evaluate,
        "export": export,
        "report": report,
    },
    models=dict.fromkeys(NETWORKS, StepperConfig),
    needs={
        **dict.fromkeys(TRAININGS, ("prepare",)),
        "sample": ("prepare", *TRAININGS),
        "solve": ("sample",),  # its starts, and its place
        "evaluate": ("sample", "solve"),
        "export": ("evaluate",),
        "report": ("evaluate", "export"),
    },
    importers={"ifactformer": import_ifactformer},
    left_out=left_out,
)
