"""The filter by radius of gyration against the published one.

The published filter reads its curve one residue off (at L - 1), and its solver drops the smaller directions of the
fit; ours is asked for both here.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from data.protein.filters import radius_curve

pytestmark = pytest.mark.golden


def test_protein_radius_filter(golden: Path) -> None:
    found = sorted((golden / "protein").glob("data_*.json"))
    if not found:
        pytest.skip(f"no data_*.json in {golden / 'protein'}")
    for path in found:
        stored = json.loads(path.read_text())["rog_filter"]
        lengths, radii = np.array(stored["lengths"]), np.array(stored["rg_nm"])
        curve = radius_curve(lengths, radii, stored["quantile"], cutoff=1e-6)
        assert np.flatnonzero(radii < curve(lengths - 1) + 0.1).tolist() == stored["kept_indices"]  # nm
