"""Published weights under our names: what is told from them, and what is refused."""

import pytest
import torch
from torch import Tensor

from benchmarks.turbulence_reference import PlainIFactFormer
from data.errors import CheckpointError
from modules.turbulence.import_weights import convert, published_names, recognises


def published(variant: str = "head") -> dict[str, Tensor]:
    return PlainIFactFormer(dim=12, heads=2, dim_head=4, depth=2, history=2, iterations=1, variant=variant).state_dict()


@pytest.mark.parametrize("variant", ["head", "legacy", "chained"])
def test_every_tensor_arrives(variant: str) -> None:
    state = published(variant)
    config, ours = convert({f"module.{name}": tensor for name, tensor in state.items()}, iterations=4)
    assert (config.variant, config.iterations, config.depth, config.history) == (variant, 4, 2, 2)
    assert recognises(state) and not recognises(ours)
    names = published_names(config)
    for theirs, tensor in state.items():
        assert sorted(ours[names[theirs]].flatten().tolist()) == sorted(tensor.flatten().tolist()), theirs
    # A copy: training ours leaves theirs as they are.
    assert not {t.data_ptr() for t in ours.values()} & {t.data_ptr() for t in state.values()}


def test_ten_iterations_are_taken_where_nobody_says() -> None:
    assert convert(published())[0].iterations == 10


def test_other_weights_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not the weights of an IFactFormer"):
        convert({"encoder.weight": torch.zeros(2)})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("encoder.layers.1.1.to_y.1.to_in.weight"), r"missing encoder.layers.1.1.to_y.1.to_in.weight"),
        (lambda s: s.pop("encoder.layers.0.1.low_rank_kernel_x.pos_emb.inv_freq"), "incomplete"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda s: s.update({"encoder.layers.0.1.in_norm.bias": torch.zeros(5)}), "in_norm.bias has the shape"),
        (lambda s: s["encoder.layers.0.1.low_rank_kernel_z.pos_emb.inv_freq"].mul_(2), "rotary frequencies"),
    ],
)
def test_what_does_not_fit_is_named(change, word: str) -> None:  # type: ignore[no-untyped-def]
    state = published()
    change(state)
    with pytest.raises(CheckpointError, match=word):
        convert(state)
