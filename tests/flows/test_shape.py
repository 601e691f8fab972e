"""The shape workflow on the debug preset: every file is there and holds; same seed, same bits."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.export.glb import from_glb
from data.export.mesh import is_closed
from data.model_folder import read_model
from flows.models import load_model
from flows.run import DONE, Run
from modules.shape.import_weights import export_transformer, export_vae
from modules.shape.metrics import METRICS
from modules.shape.transformer import ShapeTransformer, ShapeTransformerConfig
from modules.shape.vae import ShapeVAEConfig

Penstock = Callable[..., tuple[int, str, str]]
DEBUG = ("--preset", "debug")


def test_from_solids_to_a_report_and_again(penstock: Penstock, runs: Path) -> None:
    code, out, err = penstock("report", "shape", *DEBUG, "--name", "one", "--seed", "5")
    assert code == 0, err
    run = Run(runs / "one")
    assert run.state() == DONE
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    reconstruction = evaluation["reconstruction"]
    assert set(reconstruction["mean"]) == set(reconstruction["floor"]) == set(METRICS)
    meshes = [from_glb(path.read_bytes()) for path in sorted(run.samples.glob("*.glb"))]
    assert evaluation["samples"]["closed"] == sum(map(is_closed, meshes)) == len(meshes)
    assert len(list(run.exports.glob("*.stl"))) == len(meshes)
    assert "<html" in (run.path / "report.html").read_text()
    flow = load_model(run.model("flow")).network
    assert isinstance(flow, ShapeTransformer)
    assert read_model(run.model("vae")).config["network"]["tokens"] == 16

    # The same again: the preparation is found, and everything else comes out with the same bits.
    code, out, err = penstock("sample", "shape", *DEBUG, "--name", "two", "--seed", "5", "--sample.count", "5")
    assert code == 0, err
    assert "found prepared" in out
    twin = Run(runs / "two")
    for stage in ("vae", "flow"):
        ours, theirs = run.model(stage) / "model.safetensors", twin.model(stage) / "model.safetensors"
        assert ours.read_bytes() == theirs.read_bytes()
    # Sample k is the same whatever number is drawn with it.
    first, second = np.load(run.samples / "latents.npy"), np.load(twin.samples / "latents.npy")
    assert (len(first), len(second)) == (3, 5)
    np.testing.assert_array_equal(first, second[:3])
    for path in run.samples.glob("*.glb"):
        assert path.read_bytes() == (twin.samples / path.name).read_bytes()


def test_wandb_records_offline(penstock: Penstock, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    code, out, err = penstock("sample", "shape", *DEBUG, "--name", "tracked")
    assert code == 0, err
    assert "going on without it" not in out
    run = Run(runs / "tracked")
    assert run.config.wandb == "offline"
    folders = [path.name for path in (run.path / "wandb").glob("offline-run-*")]
    for step in ("train_vae", "train_flow", "sample"):
        assert any(name.endswith(f"tracked-{step}") for name in folders), folders
    assert list((run.path / "wandb").glob("offline-run-*/files/media/object3D/*.glb"))


def test_weights_from_elsewhere_become_a_run(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    """Two networks written in the published layout, read as a user's download would be, and drawn from."""
    torch.manual_seed(0)
    vae = ShapeVAEConfig(
        tokens=16, latent_channels=4, encoder_width=32, encoder_layers=1, decoder_width=32, decoder_layers=1, heads=2
    )
    flow = ShapeTransformerConfig(latent_channels=4, width=32, layers=3, heads=2, condition_width=8)
    published = {"vae": export_vae(vae, vae.build().state_dict())}
    published["transformer"] = export_transformer(flow, flow.build().state_dict())
    for name, (arguments, state) in published.items():
        folder = tmp_path / "download" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"_class_name": "X", **arguments}))
        save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    code, _, err = penstock("import", "--from", "tripsog", str(tmp_path / "download"), "--domain", "shape")
    assert (code, "Did you mean 'triposg'" in err) == (2, True)

    code, _, err = penstock("import", "--from", "triposg", str(tmp_path / "download"), "--name", "published")
    assert code == 0, err
    run = Run(runs / "published")
    assert run.finished() == ["train_vae", "train_flow"]
    assert run.config.flow.network == flow
    settings = ("--sample.steps", "2", "--sample.extraction.resolution", "16", "--sample.extraction.coarse", "8")
    code, _, err = penstock("sample", "published", "--count", "2", *settings)
    assert code == 0, err
    assert np.load(run.samples / "latents.npy").shape == (2, 512, 4)
