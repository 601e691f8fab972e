"""The published frame flows' checkpoints, made as Lightning makes them, become models of ours."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import CheckpointError
from data.model_folder import read_model
from flows.run import Run
from flows.steps.protein_import import import_reqflow_file
from tests.data.foreign_files import save_lightning

FIXTURE = "protein"
SECTIONS = ("node_features", "edge_features", "ipa")


@pytest.fixture
def original(golden: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The original's weights under its own names, and its configuration; `${…}` as its YAML has them."""
    folder = golden / FIXTURE
    if not (folder / "network_a.json").is_file():
        pytest.skip(f"no golden numbers of proteins in {golden}")
    model = json.loads((folder / "network_a.json").read_text())["model_config"]
    model["node_features"]["c_s"] = model["edge_features"]["c_s"] = "${model.node_embed_size}"
    model["edge_features"]["c_p"] = model["ipa"]["c_z"] = "${model.edge_embed_size}"
    return load_file(folder / "network_a_state_dict.safetensors"), {"model": model, "experiment": {"lr": 1e-4}}


def test_a_lightning_checkpoint_gives_the_network_of_its_configuration(original, tmp_path):
    state, config = original
    found = import_reqflow_file(save_lightning(tmp_path / "last.ckpt", state, config))
    assert list(found) == ["flow"]
    network = found["flow"].config.build()
    network.load_state_dict(found["flow"].weights)
    assert sum(p.numel() for p in network.parameters()) == sum(tensor.numel() for tensor in state.values())
    settings = found["flow"].settings["flow.network"]
    ipa = config["model"]["ipa"]
    assert (settings["heads"], settings["query_points"]) == (ipa["no_heads"], ipa["no_qk_points"])
    assert settings["transformer_heads"] == ipa["seq_tfmr_num_heads"]
    assert settings["node_width"] == config["model"]["node_embed_size"]


def test_a_folder_a_bare_state_dict_and_safetensors_give_the_same(original, tmp_path):
    state, config = original
    save_lightning(tmp_path / "whole" / "ckpt" / "last.ckpt", state, config)
    save_file(state, tmp_path / "weights.safetensors")
    (tmp_path / "weights.json").write_text(json.dumps(config))
    first = import_reqflow_file(tmp_path / "whole")["flow"]
    second = import_reqflow_file(tmp_path / "weights.safetensors")["flow"]
    assert first.config == second.config
    torch.save(state, tmp_path / "bare.pt")
    third = import_reqflow_file(tmp_path / "bare.pt")["flow"]  # without a configuration: sizes from shapes alone
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, second.weights[name])
        assert torch.equal(tensor, third.weights[name])


def test_mistakes_name_the_file(original, tmp_path):
    state, config = original
    with pytest.raises(CheckpointError, match="expected one checkpoint"):
        import_reqflow_file(tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        save_lightning(tmp_path / name, state, config)
    with pytest.raises(CheckpointError, match=r"a\.ckpt, b\.ckpt.*Name the file"):
        import_reqflow_file(tmp_path)
    lost = {name: tensor for name, tensor in state.items() if "bb_update_1" not in name}
    with pytest.raises(CheckpointError, match=r"c\.ckpt.*bb_update_1"):
        import_reqflow_file(save_lightning(tmp_path / "c.ckpt", lost, config))
    (tmp_path / "d.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"d\.safetensors"):
        import_reqflow_file(tmp_path / "d.safetensors")


def test_a_hostile_checkpoint_is_refused(tmp_path):
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"state_dict": {"model.w": torch.ones(1)}, "hyper_parameters": {"cfg": Hostile()}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="Nothing of it was run"):
        import_reqflow_file(tmp_path / "a.ckpt")
    assert not mark.exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)  # which does run it
    assert mark.exists()


def test_published_weights_become_a_run_and_its_samples_molecules(original, penstock, runs, tmp_path, monkeypatch):
    """From a download to backbones that W&B can show, by the commands a user types."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    state, config = original
    path = save_lightning(tmp_path / "last.ckpt", state, config)
    code, _, err = penstock("import", "--from", "reqflow", str(path), "--name", "published")
    assert code == 0, err
    run = Run(runs / "published")
    lengths = ("--sample.lengths.shortest", "20", "--sample.lengths.longest", "24")
    code, out, err = penstock("sample", "published", "--count", "2", "--sample.steps", "3", *lengths)
    assert code == 0, err
    assert "going on without it" not in out
    assert len(list(run.samples.glob("*.pdb"))) == 2
    assert len(list((run.path / "wandb").glob("offline-run-*/files/media/molecule/*.pdb"))) == 2

    code, out, err = penstock("export", "model", "published")
    assert code == 0, err
    assert "reflow: not trained" in out
    assert read_model(run.exports / "models" / "flow")[1]["domain"] == "protein"


def test_a_step_is_not_tracked_where_the_environment_says_off(original, penstock, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    state, config = original
    code, _, err = penstock(
        "import", "--from", "reqflow", str(save_lightning(tmp_path / "last.ckpt", state, config)), "--name", "published"
    )
    assert code == 0, err
    monkeypatch.setenv("WANDB_MODE", "off")
    code, out, err = penstock("sample", "published", "--count", "1", "--sample.steps", "2")
    assert (code, "going on without it" in out) == (0, False), err
    assert not list((runs / "published").glob("wandb/offline-run-*"))
