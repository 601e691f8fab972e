"""PredFormer held against a transcription of its equations, and the laws of its attention patterns."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import CheckpointError, ConfigError
from modules.forecast.predformer import ORDERS, GatedAttention, Order, PredFormer, PredFormerConfig, position_table
from modules.forecast.reference.predformer import convert, rename

SMALL = {"channels": 2, "height": 12, "width": 8, "seen": 3, "predicted": 3, "patch": 4, "features": 8, "heads": 2,
         "head_features": 3, "expansion": 2, "blocks": 2}  # fmt: skip


def built(order: Order, **changes: int) -> PredFormer:
    network = PredFormerConfig(**{**SMALL, **changes}, order=order).build()  # type: ignore[arg-type]
    for p in network.parameters():
        torch.nn.init.uniform_(p, -0.5, 0.5)
    return network.eval()


def attended(layer: GatedAttention, x: Tensor) -> Tensor:
    """One layer on tokens [token, feature], head by head."""
    normed = F.layer_norm(x, x.shape[-1:], layer.attention_norm.weight, layer.attention_norm.bias)
    q, k, v = layer.query_key_value(normed).chunk(3, dim=-1)
    width, gathered = q.shape[-1] // layer.heads, []
    for h in range(layer.heads):
        part = slice(h * width, (h + 1) * width)
        weights = (q[:, part] @ k[:, part].T / width**0.5).softmax(dim=-1)
        gathered.append(weights @ v[:, part])
    x = x + layer.output(torch.cat(gathered, dim=-1))
    normed = F.layer_norm(x, x.shape[-1:], layer.gate_norm.weight, layer.gate_norm.bias)
    gate, passed = layer.expand(normed).chunk(2, dim=-1)
    return x + layer.contract(gate * gate.sigmoid() * passed)


def transcription(network: PredFormer, film: Tensor) -> Tensor:
    c, p = network.config, network.config.patch
    rows, columns = c.height // p, c.width // p
    x = torch.zeros(c.seen, rows * columns, c.features)
    for t, r, k in itertools.product(range(c.seen), range(rows), range(columns)):
        pixels = film[t, :, r * p : (r + 1) * p, k * p : (k + 1) * p].reshape(-1)
        place = t * rows * columns + r * columns + k
        x[t, r * columns + k] = network.embedding(pixels) + position_table(place + 1, c.features)[place]
    for block in network.blocks:
        for stack in block:
            for layer in stack.layers:
                if stack.axis == "T":
                    x = torch.stack([attended(layer, x[:, s]) for s in range(x.shape[1])], dim=1)
                elif stack.axis == "S":
                    x = torch.stack([attended(layer, frame) for frame in x])
                else:
                    x = attended(layer, x.flatten(0, 1)).view_as(x)
            x = stack.norm(x)
    answer, frames = network.projection(network.norm(x)), torch.zeros_like(film)
    for t, r, k in itertools.product(range(c.seen), range(rows), range(columns)):
        frames[t, :, r * p : (r + 1) * p, k * p : (k + 1) * p] = answer[t, r * columns + k].view(c.channels, p, p)
    return frames


@torch.no_grad()
@pytest.mark.parametrize("order", list(ORDERS))
def test_equals_a_plain_transcription(order: Order):
    network, films = built(order, layers=2), torch.rand(2, 3, 2, 12, 8)
    answer = network(films)
    for film, frames in zip(films, answer, strict=True):
        torch.testing.assert_close(frames, transcription(network, film), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_factored_runs_all_of_one_kind_first():
    assert [stack.axis for stack in built("factored_ST").blocks[0]] == ["S", "T"]
    assert len(built("factored_TS").blocks[0][0].layers) == SMALL["blocks"]


@torch.no_grad()
@pytest.mark.parametrize("predicted", [1, 3, 5, 7])
def test_other_lengths_by_repeated_application(predicted: int):
    network = built("TS", predicted=predicted)
    film, films = torch.rand(1, 3, 2, 12, 8), []
    while len(films) < 3:
        films.append(network._next(films[-1] if films else film))
    torch.testing.assert_close(network(film), torch.cat(films, dim=1)[:, :predicted])


def test_dropped_layers_leave_the_mean():
    network = built("TS", blocks=1)
    layer = network.blocks[0][0].layers[0].train()
    layer.drop_path = 0.25
    branch = layer._kept(torch.ones(20_000, 1, 1))
    torch.testing.assert_close(branch.unique(), torch.tensor([0.0, 4 / 3]))
    assert branch.mean().item() == pytest.approx(1.0, abs=0.02)


def theirs(network: PredFormer, names: dict[str, str]) -> dict[str, Tensor]:
    """Weights under the published names, `names` giving each stack's."""
    state = {}
    parts = {"attention_norm": "0.norm", "query_key_value": "0.fn.to_qkv", "output": "0.fn.to_out.0",
             "gate_norm": "1.norm", "contract": "1.fn.fc2"}  # fmt: skip
    ends = {"embedding": "to_patch_embedding.1", "norm": "mlp_head.0", "projection": "mlp_head.1"}
    for key, value in network.state_dict().items():
        module, _, kind = key.rpartition(".")
        if module in ends:
            if key == "embedding.weight":
                value = value.unflatten(1, (network.config.channels, -1)).transpose(1, 2).flatten(1)
            state[f"{ends[module]}.{kind}"] = value
            continue
        _, number, stack, rest = key.split(".", 3)
        stem = names[stack].replace("N", number)
        if rest.startswith("norm"):
            state[f"{stem}.norm.{kind}"] = value
            continue
        _, layer, part = rest.removesuffix("." + kind).split(".")
        if part == "expand":
            for name, half in zip(("fc1_g", "fc1_x"), value.chunk(2), strict=True):
                state[f"{stem}.layers.{layer}.1.fn.{name}.{kind}"] = half
        else:
            state[f"{stem}.layers.{layer}.{parts[part]}.{kind}"] = value
    return state


SETTINGS = {"num_channels": 2, "height": 12, "width": 8, "pre_seq": 3, "after_seq": 3, "heads": 2}


@torch.no_grad()
@pytest.mark.parametrize(
    ("order", "names", "variant"),
    [
        ("TSST", {"T1": "ts_temporal", "S1": "ts_space", "S2": "st_space", "T2": "st_temporal"}, "Quadruplet_TSST"),
        ("STTS", {"S1": "st_space", "T1": "st_temporal", "T2": "ts_temporal", "S2": "ts_space"}, "Quadruplet_STTS"),
        ("STS", {"S1": "st_space", "T1": "st_temporal", "S2": "ts_space"}, "Triplet_STS"),
        ("TS", {"T1": "temporal", "S1": "space"}, "Binary_TS"),
    ],
)
def test_weights_come_in_from_any_order_of_the_keys(order: Order, names: dict[str, str], variant: str):
    network, film = built(order), torch.rand(1, 3, 2, 12, 8)
    state = theirs(network, {ours: f"blocks.N.{name}_transformer" for ours, name in names.items()})
    for given in (state, dict(sorted(state.items())), dict(sorted(state.items(), reverse=True))):
        config, weights = convert(given, {**SETTINGS, "variant": f"PredFormer_{variant}"})
        again = config.build().eval()
        again.load_state_dict(weights, strict=True)
        torch.testing.assert_close(again(film), network(film), rtol=0, atol=0)
        assert rename(given, axes=ORDERS[order]).keys() == weights.keys()  # channels found from the patches' size


@torch.no_grad()
@pytest.mark.parametrize(("order", "variant"), [("factored_TS", "FacTS"), ("factored_ST", "FacST")])
def test_factored_weights_come_in(order: Order, variant: str):
    network, film = built(order), torch.rand(1, 3, 2, 12, 8)
    state = theirs(network, {"T1": "temporal_transformer", "S1": "space_transformer"})
    config, weights = convert(state, {**SETTINGS, "variant": f"PredFormer_{variant}"})
    again = config.build().eval()
    again.load_state_dict(weights, strict=True)
    torch.testing.assert_close(again(film), network(film), rtol=0, atol=0)


def test_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="multiple of patch"):
        PredFormerConfig(height=30)
    with pytest.raises(ConfigError, match="got "):
        built("TS")(torch.rand(1, 4, 2, 12, 8))
    state = theirs(built("TS"), {"T1": "blocks.N.temporal_transformer", "S1": "blocks.N.space_transformer"})
    with pytest.raises(CheckpointError, match="variant"):
        convert(state, SETTINGS)
