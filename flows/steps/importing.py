"""A run whose trained networks come from another program's weights."""

from pathlib import Path

from configs import load
from configs.load import to_plain
from data.errors import PenstockError
from data.model_folder import write_model
from flows.domain import TRAIN, Domain
from flows.run import DONE, Run, create


def import_run(
    runs_dir: Path, domain: Domain, format: str, source: Path, name: str | None = None, *, data: Path | None = None
) -> Run:
    """Read the weights at `source` and write them as the models of a new run, whose trainings count as finished.

    `data` are the user's files that the run's other steps work on; None leaves those of the domain's default.
    """
    models = domain.importers[format](source)
    preset = load.default_preset(domain.name)
    layers = [load.tagged(model.settings, str(source)) for model in models.values()]
    if data is not None:
        layers.append(load.tagged({"data": str(data.resolve())}, load.COMMAND_LINE))
    config = load.resolve(domain.config, [*load.preset_layers(domain.name, preset), *layers])
    for stage, model in models.items():
        # Before anything is written: the weights must fit the network that their config builds.
        try:
            model.config.build().load_state_dict(model.weights)
        except RuntimeError as error:
            raise PenstockError(
                f"{source}: the weights of {stage} do not fit the network they describe: {error}"
            ) from None
    run = create(runs_dir, domain, config, preset, name)
    origin = f"imported from {source.name} ({format})"
    for stage, model in models.items():
        described = {"domain": domain.name, "stage": stage, "network": to_plain(model.config), **model.extra}
        write_model(run.model(stage), model.weights, described, run.provenance() | {"origin": origin})
        run.record(TRAIN + stage, state=DONE, origin=origin)
    return run
