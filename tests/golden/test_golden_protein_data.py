"""Length batches against the published implementation: its caps, and its example of lengths and clusters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.batching import LengthBatches, pair_cap

pytestmark = pytest.mark.golden


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per fixture file."""
    folder = Path(metafunc.config.getoption("--golden")) / "protein"
    found = [pytest.param(path, id=f"protein-{path.stem}") for path in sorted(folder.glob("data_*.json"))]
    absent = pytest.param(
        None, id="protein-no-data", marks=pytest.mark.skip(f"no data_* fixtures in {folder}; see --golden DIR")
    )
    metafunc.parametrize("path", found or [absent])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_caps_are_the_published_ones(path: Path) -> None:
    fixture = read(path)
    assert {n: pair_cap(int(n), 1_000_000, 128) for n in fixture["batch_cap"]} == fixture["batch_cap"]
    scope = fixture["batch_cap_scope_500k"]
    assert {n: pair_cap(int(n), 500_000, 128) for n in scope} == scope


def test_batches_of_one_length_use_no_more_items_than_the_published_ones_at_a_time(path: Path) -> None:
    """As there: batches of one length, one member of each cluster, the cap. Not as there: nothing fills a batch."""
    example = read(path)["length_batcher"]
    lengths, clusters = example["modeled_seq_len"], [str(c) for c in example["cluster"]]
    batching = LengthBatches(
        lengths=lengths, max_pairs=example["max_num_res_squared"], max_batch=example["max_batch_size"], width=1
    )
    plan = batching.plan(range(len(lengths)), clusters)
    rng = np.random.default_rng(example["seed"])
    for _ in range(20):
        order = list({clusters[k]: int(k) for k in rng.permutation(len(lengths))}.values())
        batches = plan.cut(order, rng)
        assert sorted(clusters[k] for batch in batches for k in batch) == sorted(set(clusters))
        for batch in batches:
            (length,) = {lengths[k] for k in batch}
            published = [
                b["size"]
                for rank in example["batches"].values()
                for b in rank
                if {lengths[k] for k in b["unique"]} == {length}
            ]
            assert len(batch) <= max(published, default=example["max_batch_size"])
