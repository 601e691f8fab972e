"""Published weights against a plain transcription of the networks that they are for, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks import forecast_baseline
from data.batch import WindowBatch
from data.errors import CheckpointError
from modules.forecast.heads import Head
from modules.forecast.import_weights import import_forecaster
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from modules.forecast.reference.layout import Settings

LOOK_BACK, HORIZON, COLUMNS = 40, 12, 3
SIZES = {"layers": 2, "width": 16, "heads": 4, "hidden": 24, "dropout": 0.0}
SETTINGS = {"seq_len": LOOK_BACK, "pred_len": HORIZON, "enc_in": COLUMNS, "n_heads": 4, "dropout": 0.0}
PLAIN = {
    "itransformer": lambda: forecast_baseline.ITransformer(LOOK_BACK, HORIZON, **SIZES),
    "patchtst": lambda: forecast_baseline.PatchTST(LOOK_BACK, HORIZON, **SIZES, patch=8, stride=4),
    "dlinear": lambda: forecast_baseline.DLinear(LOOK_BACK, HORIZON),
}


def plain_network(kind: str) -> nn.Module:
    network = PLAIN[kind]()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not name.endswith((".pe", "running_var")):
            nn.init.normal_(tensor, std=0.2)
    return network.eval()


def window(x: Tensor, marks: Tensor | None = None) -> WindowBatch:
    return WindowBatch(ids=(), seeds=torch.zeros(len(x), dtype=torch.int64), past=x, calendar=marks)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", PLAIN)
def test_the_network_answers_as_the_plain_one(kind, prefix):
    theirs = plain_network(kind)
    state = {prefix + key: tensor for key, tensor in theirs.state_dict().items()}
    found = import_forecaster(state, SETTINGS)
    assert (found.kind, found.shape.look_back, found.shape.horizon) == (kind, LOOK_BACK, HORIZON)
    ours = found.model_config.build(found.shape, Head()).eval()
    ours.load_state_dict(found.weights)
    x, marks = torch.randn(5, LOOK_BACK, COLUMNS) * 3 + 2, torch.rand(5, LOOK_BACK, 4) - 0.5
    torch.testing.assert_close(ours(window(x, marks))[..., 0], theirs(x, marks), rtol=1e-4, atol=1e-4)


def test_stored_tensors_are_left_alone():
    state = plain_network("itransformer").state_dict()
    found = import_forecaster(state, SETTINGS)
    for tensor in found.weights.values():
        tensor.zero_()
    assert all(tensor.any() for tensor in state.values())


def test_half_precision_comes_in_as_single():
    state = {key: tensor.half() for key, tensor in plain_network("itransformer").state_dict().items()}
    assert all(tensor.dtype == torch.float32 for tensor in import_forecaster(state, SETTINGS).weights.values())


@pytest.mark.parametrize("name", ["n_heads", "enc_in"])
def test_a_setting_that_only_the_settings_tell_is_asked_for(name):
    state = plain_network("itransformer").state_dict()
    settings = {key: value for key, value in SETTINGS.items() if key != name}
    with pytest.raises(CheckpointError, match=f"iTransformer: .*{name}"):
        import_forecaster(state, settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"d_model": 32}, "d_model = 16"),
        ({"seq_len": 96}, "seq_len = 40"),
        ({"n_heads": 3}, "multiple of heads"),
        ({"n_heads": "many"}, "n_heads must be a whole number"),
        ({"activation": "tanh"}, "activation must be one of"),
    ],
)
def test_what_contradicts_the_weights_is_refused(wrong, message):
    state = plain_network("itransformer").state_dict()
    with pytest.raises(CheckpointError, match=message):
        import_forecaster(state, SETTINGS | wrong)


def test_a_file_that_is_not_whole_is_refused():
    state = dict(plain_network("itransformer").state_dict())
    lost = {key: tensor for key, tensor in state.items() if "1.norm2" not in key}
    with pytest.raises(CheckpointError, match="missing"):
        import_forecaster(lost, SETTINGS)
    with pytest.raises(CheckpointError, match="shape"):
        import_forecaster(state | {"encoder.norm.weight": torch.ones(5)}, SETTINGS)


def test_an_unknown_network_is_told_what_can_be_read():
    with pytest.raises(CheckpointError, match=r"iTransformer, PatchTST.*begin with conv\.weight"):
        import_forecaster({"conv.weight": torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="begin with nothing"):
        import_forecaster({}, {})


def test_the_name_tells_two_networks_with_the_same_keys_apart():
    state = {"Linear.weight": torch.randn(HORIZON, LOOK_BACK), "Linear.bias": torch.randn(HORIZON)}
    settings = {"enc_in": COLUMNS, "channel": COLUMNS}
    assert import_forecaster(state, settings).kind == "nlinear"
    assert import_forecaster(state, settings | {"model": "RLinear"}).kind == "rlinear"


def test_flow_attention_shows_in_the_name():
    state = plain_network("itransformer").state_dict()
    assert import_forecaster(state, SETTINGS | {"model": "iFlowformer"}).model_config.attention == "flow"
    assert import_forecaster(state, SETTINGS).model_config.attention == "softmax"


@pytest.mark.parametrize(
    "config",
    [
        PatchTSTConfig(patch=8, stride=3, drop_newest=True, width=8, heads=2, layers=1, feed_forward=12),
        PatchTSTConfig(
            patch=8, stride=4, drop_newest=True, width=8, heads=2, layers=2, feed_forward=12, individual=True
        ),
        PatchTSTConfig(
            patch=8, stride=4, drop_newest=True, width=8, heads=2, layers=2, feed_forward=12, affine=False,
            repeat_newest=False, moving_average=5, centre="last",
        ),
    ],
)  # fmt: skip
def test_the_authors_options_show_in_weights_and_settings(config):
    """Their state dict is written out from ours, key by key as they name it."""
    found = import_forecaster(authors_state(config), SETTINGS | authors_settings(config))
    assert found.model_config == config
    ours = config.build(found.shape, Head())
    for name, tensor in ours.state_dict().items():
        assert found.weights[name].shape == tensor.shape


def authors_settings(config: PatchTSTConfig) -> dict[str, object]:
    return {
        "n_heads": config.heads,
        "dropout": config.dropout,
        "padding_patch": "end" if config.repeat_newest else "None",
        "subtract_last": int(config.centre == "last"),
        "kernel_size": config.moving_average or 25,
        "stride": config.stride,
    }


def authors_state(config: PatchTSTConfig) -> dict[str, Tensor]:
    width, hidden = config.width, config.feed_forward
    tokens = (LOOK_BACK - config.patch) // config.stride + 1 + config.repeat_newest
    shapes: dict[str, tuple[int, ...]] = {"backbone.W_pos": (tokens, width)}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    linear("backbone.W_P", width, config.patch)
    for n in range(config.layers):
        layer = f"backbone.encoder.layers.{n}"
        for part in ("W_Q", "W_K", "W_V", "to_out.0"):
            linear(f"{layer}.self_attn.{part}", width, width)
        shapes[f"{layer}.self_attn.sdp_attn.scale"] = ()
        linear(f"{layer}.ff.0", hidden, width)
        linear(f"{layer}.ff.3", width, hidden)
        for norm in ("norm_attn.1", "norm_ffn.1"):
            shapes.update({f"{layer}.{norm}.{kind}": (width,) for kind in ("weight", "bias", "running_mean")})
            shapes.update({f"{layer}.{norm}.running_var": (width,), f"{layer}.{norm}.num_batches_tracked": ()})
    for head in [f"head.linears.{n}" for n in range(COLUMNS)] if config.individual else ["head.linear"]:
        linear(head, HORIZON, width * tokens)
    if config.affine:
        shapes.update({f"revin_layer.affine_{kind}": (COLUMNS,) for kind in ("weight", "bias")})
    parts = ("model_trend", "model_res") if config.moving_average else ("model",)
    return {f"{part}.{name}": torch.rand(shape) for part in parts for name, shape in shapes.items()}


def test_sizes_of_patches_come_from_the_weights():
    """The library's arguments do not say what its network really takes."""
    found = import_forecaster(plain_network("patchtst").state_dict(), SETTINGS | {"patch_len": 16})
    assert isinstance(found.model_config, TSLibPatchTSTConfig)
    assert (found.model_config.patch, found.model_config.stride) == (8, 4)
    with pytest.raises(CheckpointError, match="no stride"):
        import_forecaster(plain_network("patchtst").state_dict(), SETTINGS | {"seq_len": 9})


@pytest.mark.parametrize(
    ("settings", "features"),
    [({}, 4), ({"freq": "15t"}, 5), ({"freq": "d"}, 3), ({"embed": "fixed", "freq": "t"}, 5), ({"embed": "fixed"}, 4)],
)
def test_time_features_follow_from_the_frequency(settings, features):
    assert Settings(settings).calendar() == features


def test_numbers_may_be_written_in_several_ways():
    assert Settings({"a": 3.0}).integer("a") == 3
    assert Settings({"a": True}).integer("a") == 1
    assert Settings({}).integer("a", 5) == 5
    for wrong in ("3", 2.5, [1]):
        with pytest.raises(CheckpointError, match="whole number"):
            Settings({"a": wrong}).integer("a")
    with pytest.raises(CheckpointError, match="must be a number"):
        Settings({"a": "x"}).number("a", 0.1)
