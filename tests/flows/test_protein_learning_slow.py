"""The demo's recipe on real chains: does it learn, and is the rectified model the better one at few steps?

About ten CPU minutes. The networks are compared as they are, without repulsion; what the recipe reached when it was
found is in docs/protein-recipe.md, and the margins leave room around it, since one seed of a
short training moves the figures.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.protein import ProteinSamples
from data.protein.secondary_structure import assign
from flows.run import Run
from flows.steps.protein_networks import chains_at, load_network, reference_chains, to_backbone
from modules.protein.metrics import StructureTable, structure_score, structure_table
from modules.protein.network import ProteinNetwork
from modules.protein.sampling import sample_backbones

CHAINS = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "protein" / "pdb"
COUNT, LENGTH, STEPS = 32, 64, 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not CHAINS.is_dir(), reason=f"no real chains in {CHAINS}"),
]


def test_short_training_on_real_chains_makes_chains_and_rectification_helps(tmp_path: Path):
    from cluster.cli import main

    name = "learning"
    arguments = [
        "--preset",
        "demo",
        "--data",
        str(CHAINS),
        "--runs-dir",
        str(tmp_path),
        "--name",
        name,
        "--wandb",
        "off",
    ]
    assert main(["run", "protein", *arguments]) in (0, None)
    run = Run(tmp_path / name)
    samples = ProteinSamples(run.data_file)
    reference = structure_table(*chains_at(samples, reference_chains(samples, [LENGTH], 300, 0)))

    def table(network: ProteinNetwork) -> StructureTable:
        drawn = sample_backbones(
            network,
            replace(run.config.sample, steps=STEPS, repulsion=0.0),
            seed=4711,
            indices=range(COUNT),
            lengths=[LENGTH] * COUNT,
        )
        made = [to_backbone(one.frames) for one in drawn]
        return structure_table(made, [assign(backbone) for backbone in made])

    torch.manual_seed(0)
    tables = {
        "untrained": table(run.config.flow.network.build().eval()),
        "base": table(load_network(run, "flow")),
        "rectified": table(load_network(run, "reflow")),
    }
    scores = {key: structure_score(found, reference) for key, found in tables.items()}
    comparison = json.loads((run.path / "comparison.json").read_text())
    print(scores, {key: found.values["ca_breaks"] for key, found in tables.items()}, comparison["noise"]["score"])
    for model in ("base", "rectified"):
        assert tables[model].values["ca_breaks"] < 0.10
        assert scores[model] < 0.65 * scores["untrained"]
        assert scores[model] < 0.65 * comparison["noise"]["score"]
    assert scores["rectified"] < scores["base"]
