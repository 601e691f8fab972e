"""The steps of the shape domain: meshes → samples → autoencoder → latents → rectified flow → new meshes.

Lightning is imported by the two trainings only: it would cost every other step seconds.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from configs.shape import ShapeConfig
from data.export.glb import from_glb
from data.export.mesh import write_mesh
from data.shape import LatentSamples, ShapeSamples, preparation_key, prepare
from flows.domain import Domain
from flows.progress import Progress, shown
from flows.reporting.snapshot import snapshot
from flows.run import Run
from flows.steps.shape_condition import image_tokens
from flows.steps.shape_encode import encode, latents_file
from flows.steps.shape_evaluation import evaluate
from flows.steps.shape_import import import_triposg
from flows.steps.shape_networks import decode_solid, load_flow, load_vae
from flows.steps.shape_report import report
from flows.tracking import tracked
from modules.shape.sampling import sample_latents
from modules.shape.transformer import ShapeTransformerConfig
from modules.shape.vae import ShapeVAEConfig

SHOWN = 8
"""Sample meshes sent to W&B."""


def prepare_meshes(run: Run) -> None:
    """Read, repair and sample the user's meshes, or the synthetic solids; reused where another run did it before."""
    config: ShapeConfig = run.config
    source = config.synthetic if config.data is None else Path(config.data)
    with run.prepared(preparation_key(source, config.prepare)[:16]) as folder:
        found = prepare(source, config.prepare, folder, shown("prepare", "objects"))
    print(found.summary(), flush=True)
    for name, reason in found.refused.items():
        print(f"  refused {name}: {reason}", flush=True)
    run.record_data(
        found.path,
        ShapeSamples(found.path).fingerprint,
        source="synthetic solids" if config.data is None else config.data,
        objects=len(found.ids),
        repaired=sum(text != "as is" for text in found.treatments.values()),
        refused=len(found.refused),
    )


def train_vae(run: Run) -> None:
    """Train the autoencoder on the samples."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train

    config: ShapeConfig = run.config
    vae = config.vae
    samples = ShapeSamples(run.data_file, vae.draw)
    data = ItemDataModule(samples, config.split, vae.trainer.batch_size, config.seed, vae.trainer.workers)
    train(run, "vae", lambda: vae.build(config.seed), data, vae.trainer, network=vae.network)


def train_flow(run: Run) -> None:
    """Train the velocity network on the latents."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train
    from modules.shape.flow_training import ShapeFlowTraining, latent_statistics

    config: ShapeConfig = run.config
    flow = config.flow
    latents, means = LatentSamples(latents_file(run)), LatentSamples(latents_file(run), draw=False)
    data = ItemDataModule(latents, config.split, flow.trainer.batch_size, config.seed, flow.trainer.workers)
    # Statistics of what is trained on only: nothing about held-out solids may reach the network.
    mean, std = latent_statistics(means.load(k, 0).latents for k in data.splits["train"])

    def build() -> ShapeFlowTraining:
        module = ShapeFlowTraining(flow)
        module.model.set_latent_statistics(mean, std)
        return module

    train(run, "flow", build, data, flow.trainer, network=flow.network)


def sample(run: Run) -> None:
    """Draw new solids; sample k depends on (seed, k) alone."""
    config: ShapeConfig = run.config
    flow, vae, wanted = load_flow(run), load_vae(run), config.sample
    progress = Progress("draw", wanted.count, "latents")
    latents = sample_latents(
        flow,
        wanted,
        seed=config.seed,
        indices=range(wanted.count),
        tokens=config.vae.network.tokens,
        condition=image_tokens(config, wanted.image, wanted.count),
        labels=None if wanted.label is None else [wanted.label] * wanted.count,
        progress=progress.update,
    )
    shutil.rmtree(run.samples)  # of an earlier attempt
    np.save(run.samples / "latents.npy", latents.numpy())
    progress, empty = Progress("extract", wanted.count, "meshes"), 0
    for k in range(wanted.count):
        mesh = decode_solid(vae, latents[k], wanted.extraction)
        if len(mesh.faces):
            write_mesh(mesh, run.samples / f"sample-{k:04d}.glb")
        empty += not len(mesh.faces)
        progress.update(k + 1, empty=empty)
    with tracked(run, "sample") as tracker:
        shown_files = {path.stem: path for path in sorted(run.samples.glob("*.glb"))[:SHOWN]}
        tracker.log_meshes(shown_files)
        tracker.log_pictures({name: partial(_picture, path) for name, path in shown_files.items()})


def _picture(path: Path) -> bytes:
    return snapshot(from_glb(path.read_bytes()))


def export(run: Run) -> None:
    """Write every sample in the formats asked for."""
    config: ShapeConfig = run.config
    paths = sorted(run.samples.glob("*.glb"))
    progress = Progress("export", len(paths), "meshes")
    for done, path in enumerate(paths, start=1):
        mesh = from_glb(path.read_bytes())
        for suffix in config.export.formats:
            write_mesh(mesh, run.exports / f"{path.stem}.{suffix}")
        progress.update(done)
    if not paths:
        print("no sample has a surface: nothing to export. Train longer, or look at the report.", flush=True)


DOMAIN = Domain(
    name="shape",
    config=ShapeConfig,
    steps={
        "prepare": prepare_meshes,
        "train_vae": train_vae,
        "encode": encode,
        "train_flow": train_flow,
        "sample": sample,
        "evaluate": evaluate,
        "export": export,
        "report": report,
    },
    models={"vae": ShapeVAEConfig, "flow": ShapeTransformerConfig},
    needs={
        "sample": ("train_vae", "train_flow"),
        "evaluate": ("prepare", "train_vae", "sample"),
        "export": ("sample",),
        "report": ("evaluate", "export"),
    },
    importers={"triposg": import_triposg},
)
