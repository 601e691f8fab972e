"""The steps of the protein domain: structures → flow → pairs → rectified flow → comparison → new backbones.

Lightning is imported by the two trainings only: it would cost every other step seconds.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from configs.load import to_plain
from configs.protein import ProteinConfig
from data.batching import LengthBatches
from data.couplings import Couplings
from data.preparing import content_hash
from data.protein import Prepared, ProteinSamples, preparation_key, prepare
from data.protein.generated import Generated
from data.splits import split_items
from flows.domain import Domain, ImportedModel
from flows.items import parts_folder
from flows.progress import shown
from flows.run import DONE, PENDING, Run, write_json
from flows.steps.protein_compare import compare
from flows.steps.protein_evaluation import evaluate_sets
from flows.steps.protein_import import import_reqflow_file
from flows.steps.protein_judge import check_judge
from flows.steps.protein_networks import load_network, plain_numbers, reference_chains
from flows.steps.protein_pairs import pairs, pairs_file
from flows.steps.protein_report import report
from flows.steps.protein_samples import export, read_samples, sample, sample_files, tasks
from flows.tracking import tracked
from modules.protein.network import ProteinNetworkConfig

SHOWN_REFUSALS = 20
"""Most refused chains that are named on the screen; refused.csv has them all."""


def prepare_structures(run: Run) -> None:
    """Read, check and filter the user's structures, or the synthetic chains; reused where another run did it before."""
    config: ProteinConfig = run.config
    _check_what_comes_later(config)
    source = config.synthetic if config.data is None else Path(config.data)
    with run.prepared(preparation_key(source, config.prepare)[:16]) as folder:
        found = prepare(source, config.prepare, folder, shown("prepare", "files"))
    _say(found)
    run.record_data(
        found.path,
        ProteinSamples(found.path).fingerprint,
        source="synthetic chains" if config.data is None else config.data,
        chains=len(found.ids),
        refused=len(found.refused),
    )


def _check_what_comes_later(config: ProteinConfig) -> None:
    """A motif that does not fit, or a judge that is not there, is said now and not after hours of training."""
    tasks(config)
    for judge in (config.pairs.judge, config.evaluate.judge):
        if judge is not None:
            check_judge(judge)


def _say(found: Prepared) -> None:
    print(found.summary(), flush=True)
    for place, (name, reason) in enumerate(found.refused.items()):
        if place == SHOWN_REFUSALS:
            print(f"  and {len(found.refused) - place} more, all in {found.path.with_name('refused.csv')}", flush=True)
            break
        print(f"  refused {name}: {reason}", flush=True)


def train_flow(run: Run) -> None:
    """Train the base model on the prepared chains."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train

    config: ProteinConfig = run.config
    flow = config.flow
    samples = ProteinSamples(run.data_file, flow.draw)
    data = ItemDataModule(
        samples,
        config.split,
        flow.trainer.batch_size,
        config.seed,
        flow.trainer.workers,
        batching=LengthBatches(lengths=samples.lengths, max_pairs=flow.max_pairs, max_batch=flow.trainer.batch_size),
        groups=samples.groups,
        one_per_group=flow.one_per_cluster,
    )
    train(run, "flow", flow.build, data, flow.trainer, network=flow.network)


def train_reflow(run: Run) -> None:
    """Train the rectified model on the accepted pairs, from the base model's averaged weights."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train
    from modules.protein.flow_training import ProteinFlowTraining

    config: ProteinConfig = run.config
    reflow, couplings = config.reflow, Couplings(pairs_file(run))
    weights = load_network(run, "flow").state_dict()
    data = ItemDataModule(
        couplings,
        replace(config.split, test=0.0),
        reflow.trainer.batch_size,
        config.seed,
        reflow.trainer.workers,
        batching=LengthBatches(
            lengths=couplings.lengths, max_pairs=reflow.max_pairs, max_batch=reflow.trainer.batch_size
        ),
    )

    def build() -> ProteinFlowTraining:
        module = reflow.training(config.flow).build()
        module.model.load_state_dict(weights)
        return module

    train(run, "reflow", build, data, reflow.trainer, network=config.flow.network)
    _outdate_samples(run)


def _outdate_samples(run: Run) -> None:
    """Samples that were drawn before, from the base model, and what rests on them, are to be made again."""
    if run.steps()["sample"].state == DONE and run.config.sample.model == "auto":
        for name in ("sample", *run.domain.after("sample")):
            run.record(name, state=PENDING)


def evaluate(run: Run) -> None:
    """Write evaluation.json: the samples against the prepared chains, controls, diversity, memorisation."""
    config: ProteinConfig = run.config
    wanted, generated = config.evaluate, read_samples(run)
    chains = ProteinSamples(run.data_file)
    lengths = [len(found.frames) for found in generated.values()]
    chosen = reference_chains(chains, lengths, wanted.reference, config.seed)
    training = split_items(chains.ids, config.split, chains.groups)["train"]
    words = [[content_hash(path) for path in sample_files(run)], chains.fingerprint, config.seed]
    parts = parts_folder(run, "evaluating", [*words, to_plain(wanted), to_plain(config.split), config.pairs.judge])
    result = evaluate_sets(
        {name: found.backbone for name, found in generated.items()},
        [chains.backbone(k) for k in chosen],
        {chains.ids[k]: chains.backbone(k) for k in training},
        bootstrap=wanted.bootstrap,
        tm_pairs=wanted.tm_pairs,
        tm_training=wanted.tm_training,
        seed=config.seed,
        judge=wanted.judge or config.pairs.judge,
        judge_seconds=wanted.judge_seconds,
        parts=parts,
    )
    result["motif"] = _worst(generated, {"motif_rmsd": "motif RMSD, Å", "motif_moved": "motif moved, Å"})
    result["symmetry"] = _worst(generated, {"asymmetry": "asymmetry, Å"})
    write_json(run.path / "evaluation.json", plain_numbers(result))
    shutil.rmtree(parts)
    with tracked(run, "evaluate") as tracker:
        numbers = result.get("distances", {}) | {"score": result.get("score", {}).get("value")}
        tracker.log({f"samples/{name}": value for name, value in numbers.items() if value is not None})


def _worst(generated: Mapping[str, Generated], names: Mapping[str, str]) -> dict[str, float]:
    """Mean and highest of what was noted down beside the samples."""
    found: dict[str, float] = {}
    for name, words in names.items():
        values = [float(one.facts[name]) for one in generated.values() if name in one.facts]
        if values:
            found |= {f"mean {words}": sum(values) / len(values), f"highest {words}": max(values)}
    return found


def import_reqflow(source: Path) -> Mapping[str, ImportedModel]:
    """The published weights, with the sampler's settings as they were trained."""
    settings = {
        "flow.self_condition": 0.5,
        "sample.self_condition": True,
        "sample.steps": 50,
        "sample.lengths": {"shortest": 60, "longest": 128, "together": 1},
        "pairs.sampling.self_condition": True,
        "pairs.lengths": {"shortest": 60, "longest": 128, "together": 8},
    }
    found = import_reqflow_file(source)
    return {stage: replace(model, settings={**model.settings, **settings}) for stage, model in found.items()}


DOMAIN = Domain(
    name="protein",
    config=ProteinConfig,
    steps={
        "prepare": prepare_structures,
        "train_flow": train_flow,
        "pairs": pairs,
        "train_reflow": train_reflow,
        "compare": compare,
        "sample": sample,
        "evaluate": evaluate,
        "export": export,
        "report": report,
    },
    models={"flow": ProteinNetworkConfig, "reflow": ProteinNetworkConfig},
    needs={
        "pairs": ("prepare", "train_flow"),
        # Samples can be drawn from a base model alone, imported weights above all.
        "sample": ("train_flow",),
        "evaluate": ("prepare", "sample"),
        "export": ("sample",),
        "report": ("compare", "evaluate", "export"),
    },
    importers={"reqflow": import_reqflow},
)
