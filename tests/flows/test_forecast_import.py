"""Published forecasters' checkpoints as files and folders: read as data, with their arguments, or refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import forecast_baseline
from data.errors import CheckpointError
from flows.steps.forecast_import import folder_settings, read_reference, reference_settings
from modules.forecast.heads import Head
from modules.forecast.itransformer import ITransformerConfig

LIBRARY = (
    "long_term_forecast_ETTh1_40_12_iTransformer_ETTh1_ftM_sl40_ll20_pl12_dm16_nh4_el2_dl1_df24_expand2_dc4_fc3"
    "_ebtimeF_dtTrue_Exp_0"
)
AUTHORS = "ECL_40_12_iTransformer_custom_M_ft40_sl20_ll12_pl16_dm4_nh2_el1_dl24_df1_fctimeF_ebTrue_dttest_projection_0"
ARGUMENTS = {"n_heads": 4, "enc_in": 7}


@pytest.fixture(name="state")
def state_():
    network = forecast_baseline.ITransformer(40, 12, layers=2, width=16, heads=4, hidden=24, dropout=0.0)
    return network.state_dict()


def test_a_folder_of_the_library_tells_its_arguments(state, tmp_path):
    file = tmp_path / LIBRARY / "checkpoint.pth"
    file.parent.mkdir()
    torch.save(state, file)
    for source in (file, file.parent, tmp_path):
        found = read_reference(source)
        assert isinstance(found.model_config, ITransformerConfig)
        assert (found.model_config.heads, found.shape.targets, found.shape.calendar) == (4, 7, 4)
        found.model_config.build(found.shape, Head()).load_state_dict(found.weights)


def test_folder_names_of_both_programs():
    sizes = {"seq_len": 40, "pred_len": 12, "d_model": 16, "n_heads": 4, "e_layers": 2, "d_ff": 24}
    found = {"model": "iTransformer", "features": "M", "embed": "timeF"} | sizes
    assert folder_settings(LIBRARY) == found | {"data": "ETTh1", "enc_in": 7}
    assert folder_settings(AUTHORS) == found | {"data": "custom"}
    assert folder_settings("my_model") == {}
    assert folder_settings(LIBRARY.replace("ftM", "ftS"))["enc_in"] == 1


def test_json_beside_the_file_comes_after_the_folders_name(tmp_path):
    folder = tmp_path / LIBRARY
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps({"enc_in": 9, "dropout": 0.3}))
    (folder / "best.json").write_text(json.dumps({"config": {"dropout": 0.2}, "file": "models/iFlowformer.py"}))
    settings = reference_settings(folder / "best.pth")
    assert (settings["enc_in"], settings["dropout"], settings["model"], settings["n_heads"]) == (
        9,
        0.2,
        "iFlowformer",
        4,
    )


def test_safetensors_and_files_of_a_parallel_run_give_the_same(state, tmp_path):
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "a.pt")
    save_file(state, tmp_path / "b.safetensors")
    save_file(
        {f"state/{key}": tensor for key, tensor in state.items()} | {"in/x": torch.ones(1)}, tmp_path / "c.safetensors"
    )
    for name in "abc":
        (tmp_path / f"{name}.json").write_text(json.dumps(ARGUMENTS))
    first, *others = [read_reference(tmp_path / name) for name in ("a.pt", "b.safetensors", "c.safetensors")]
    for other in others:
        assert other.model_config == first.model_config
        assert other.shape == first.shape
        for key, tensor in first.weights.items():
            assert torch.equal(tensor, other.weights[key])


def test_mistakes_name_the_file(state, tmp_path):
    with pytest.raises(CheckpointError, match="expected one checkpoint"):
        read_reference(tmp_path)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: iTransformer: .*n_heads"):
        read_reference(tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth, b\.pth.*Name the file"):
        read_reference(tmp_path)
    for content, message in (("[1]", "keys and values"), ("{", "cannot be read")):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(CheckpointError, match=rf"a\.json: .*{message}"):
            read_reference(tmp_path / "a.pth")
    (tmp_path / "d.safetensors").write_bytes(b"nothing")
    for missing in ("d.safetensors", "e.safetensors", "f.pth"):
        with pytest.raises(CheckpointError, match=missing):
            read_reference(tmp_path / missing)


def test_a_hostile_checkpoint_is_refused(tmp_path):
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"enc_embedding.value_embedding.weight": Hostile()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="Nothing of it was run"):
        read_reference(tmp_path / "a.pth")
    assert not mark.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # which does run it
    assert mark.exists()
