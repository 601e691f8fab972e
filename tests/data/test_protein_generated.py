"""Generated backbones on disk: every bit comes back, and nothing else is taken for one."""

from pathlib import Path

import numpy as np
import pytest

from data.batch import UNKNOWN, Backbone
from data.errors import PenstockError
from data.protein.generated import Generated, read_generated, write_generated


def generated(motif: bool) -> Generated:
    rng = np.random.default_rng(0)
    backbone = Backbone(
        atoms=rng.standard_normal((7, 4, 3)).astype(np.float32) * 1e3,
        present=rng.random((7, 4)) > 0.1,
        chain=np.array([0, 0, 0, 1, 1, 1, 1]),
        residue_index=np.array([1, 2, 5, 1, 2, 3, 4]),
        residue_type=np.full(7, UNKNOWN),
        motif=np.arange(7) > 4 if motif else None,
    )
    frames = rng.standard_normal((3, 7, 7)).astype(np.float32)
    facts = {"seed": 2**62 + 1, "model": "reflow", "steps": 10}
    return Generated(backbone, frames[0], frames[1], frames if motif else None, facts)


@pytest.mark.parametrize("motif", [True, False])
def test_every_bit_comes_back_and_equal_content_gives_equal_bytes(tmp_path: Path, motif: bool) -> None:
    written = generated(motif)
    write_generated(written, tmp_path / "a.npz")
    write_generated(generated(motif), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = read_generated(tmp_path / "a.npz")
    assert read.facts == written.facts
    for name in ("atoms", "present", "chain", "residue_index", "residue_type", "motif"):
        np.testing.assert_array_equal(getattr(read.backbone, name), getattr(written.backbone, name))
    for name in ("frames", "source", "trajectory"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name) is None or getattr(read, name).dtype == np.float32


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    write_generated(generated(True), tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:700])
    (tmp_path / "text.npz").write_text("no zip\n")
    np.savez(tmp_path / "other.npz", atoms=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", facts=np.array([{"a": 1}], dtype=object))
    for name in ("cut", "text", "other", "pickled", "missing"):
        with pytest.raises(PenstockError, match=rf"{name}\.npz.*Draw it again"):
            read_generated(tmp_path / f"{name}.npz")
