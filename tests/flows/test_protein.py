"""The protein workflow on the debug preset: every file is there and holds; same seed, same bits; killed, it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.couplings import Couplings
from data.export.backbone import write_backbone
from data.model_folder import read_model
from data.protein.generated import read_generated
from data.protein.reading import read_chains
from data.synthetic.protein import SyntheticProteinConfig, generate
from flows.models import load_model
from flows.run import DONE, Run
from flows.tracking import read_metrics
from modules.protein.network import ProteinNetwork

PAUSING = Path(__file__).resolve().parent / "pausing"
Penstock = Callable[..., tuple[int, str, str]]
DEBUG = ("--preset", "debug")


def test_from_chains_to_a_report_and_again(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    code, out, err = penstock("report", "protein", *DEBUG, "--name", "one", "--seed", "5")
    assert code == 0, err
    run = Run(runs / "one")
    assert run.state() == DONE
    samples = {path.stem: read_generated(path) for path in sorted(run.samples.glob("*.npz"))}
    assert len(samples) == 3
    for name, found in samples.items():
        assert found.facts["model"] == "reflow"
        # What other programs read is what was drawn, to the last decimal of the format.
        for suffix in ("pdb", "cif"):
            [chain] = read_chains(run.exports / f"{name}.{suffix}")
            np.testing.assert_allclose(chain.backbone.atoms, found.backbone.atoms, atol=1e-3)
            assert chain.numbers == tuple(str(k + 1) for k in range(len(found.frames)))
    assert [json.loads(line)["name"] for line in (run.exports / "backbones.jsonl").open()] == list(samples)

    comparison = json.loads((run.path / "comparison.json").read_text())
    cells = {(row["model"], row["steps"]): row["score"] for row in comparison["rows"]}
    assert set(cells) == {(model, steps) for model in ("base", "rectified") for steps in (3, 5)}
    assert all(0 < score < 1 for score in cells.values())
    assert (run.path / "evaluation.json").is_file()
    page = (run.path / "report.html").read_text()
    assert "<html" in page
    assert "Designability was not measured" in page

    pairs = Couplings(run.path / "pairs.h5")
    assert len(pairs) >= 6  # pairs.least
    made = pairs.provenance(0)
    weights = run.provenance()
    assert made.sampling["steps"] == run.config.pairs.sampling.steps
    assert weights["seed"] == 5
    base, rectified = (load_model(run.model(stage)).network for stage in ("flow", "reflow"))
    assert isinstance(base, ProteinNetwork) and isinstance(rectified, ProteinNetwork)

    # The same again: the preparation is found, and everything else comes out with the same bits.
    code, out, err = penstock("train", "protein", *DEBUG, "--name", "two", "--seed", "5", "--sample.count", "5")
    assert code == 0, err
    assert "found prepared" in out
    code, out, err = penstock("sample", "two")
    assert code == 0, err
    twin = Run(runs / "two")
    for stage in ("flow", "reflow"):
        ours, theirs = run.model(stage) / "model.safetensors", twin.model(stage) / "model.safetensors"
        assert ours.read_bytes() == theirs.read_bytes()
    # Sample k is the same whatever number is drawn with it.
    assert len(list(twin.samples.glob("*.npz"))) == 5
    for path in run.samples.glob("*.npz"):
        assert path.read_bytes() == (twin.samples / path.name).read_bytes()

    # An external judge can be asked afterwards; then the report no longer says that nothing was measured.
    script = tmp_path / "judge.py"
    script.write_text("""print('{"accept": true, "score": 1.5}')\n""")
    code, out, err = penstock("report", "one", "--evaluate.judge", f"{sys.executable} {script} {{pdb}}")
    assert code == 2 and "evaluate.judge" in err  # a setting of another verb
    code, out, err = penstock("evaluate", "one", "--evaluate.judge", f"{sys.executable} {script} {{pdb}}")
    assert code == 0, err
    assert json.loads((run.path / "evaluation.json").read_text())["designability"]["accepted"] == 3
    code, out, err = penstock("report", "one")
    assert code == 0, err
    page = (run.path / "report.html").read_text()
    assert "Designability was not measured" not in page and "accepted 3 of 3" in page


def test_motifs_symmetries_and_trajectories(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    quick = ("--flow.trainer.steps", "1", "--sample.count", "2", "--sample.model", "flow")
    given = generate(SyntheticProteinConfig(count=1, families=("helix",), min_length=30, max_length=30), 0)[1]
    write_backbone(given, tmp_path / "given.pdb")
    motif = ("--sample.motif.file", str(tmp_path / "given.pdb"), "--sample.motif.contig", "5-9/A11-22/4")
    code, out, err = penstock("sample", "protein", *DEBUG, "--name", "built", *quick, *motif)
    assert code == 0, err
    assert "motif RMSD: 0.00 Å on average, 0.00 Å at most" in out
    run = Run(runs / "built")
    code, _, err = penstock("export", "built")
    assert code == 0, err
    fixed = json.loads((run.exports / "fixed_positions.jsonl").read_text())
    for name, places in fixed.items():
        [chain] = read_chains(run.exports / f"{name}.pdb")
        at = np.array(places["A"]) - 1
        assert 5 <= at[0] <= 9
        # A hard motif comes back as it stands in its file.
        np.testing.assert_allclose(
            chain.backbone.atoms[at], read_chains(tmp_path / "given.pdb")[0].backbone.atoms[10:22]
        )
    code, _, err = penstock("sample", "built", "--sample.motif.length", "22")
    assert code == 0, err
    assert {len(read_generated(path).frames) for path in run.samples.glob("*.npz")} == {22}
    code, _, err = penstock("sample", "built", "--sample.motif.contig", "5/A11-99/4")
    assert code == 2
    assert "A11-99" in err and "1-30" in err

    tied = ("--sample.motif.file", "null", "--sample.motif.contig", "null")
    tied = (*tied, "--sample.motif.length", "null", "--sample.symmetry", "D2")
    code, _, err = penstock("sample", "built", *tied, "--sample.trajectory", "true")
    assert code == 0, err
    code, _, err = penstock("export", "built")
    assert code == 0, err
    for path in sorted(run.samples.glob("*.npz")):
        found = read_generated(path)
        assert found.facts["asymmetry"] < 1e-3
        assert len(read_chains(run.exports / f"{path.stem}.cif")) == 4
        moving = (run.exports / f"{path.stem}.trajectory.pdb").read_text()
        assert moving.count("\nMODEL") == len(found.trajectory) + 1 == run.config.sample.steps + 1


class Cut:
    """A command in a process group of its own, killed before the COUNT-th file of a pattern gets its name."""

    def __init__(self, folder: Path) -> None:
        self.marker, self.log = folder / "paused", folder / "output.txt"

    def __call__(self, *words: str, pause: str, count: int) -> None:
        environment = os.environ | {
            "PENSTOCK_TEST_PAUSE": f"{pause}:{count}:{self.marker}",
            "PYTHONPATH": os.pathsep.join([str(PAUSING), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "cluster.cli", *words]
        with self.log.open("a") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        while not self.marker.exists():
            assert process.poll() is None, f"ended before the pause:\n{self.log.read_text()}"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.marker.unlink()


def test_killed_among_the_pairs_it_goes_on_pair_by_pair(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    """While pairs are drawn, while they are judged, in the second training and in the comparison."""
    cut = Cut(tmp_path)
    settings = ("--pairs.count", "20", "--pairs.sampling.steps", "2")
    cut("train", "protein", *DEBUG, "--name", "cut", *settings, pause="*/pairs-*/*.npz", count=19)
    run = Run(runs / "cut")
    [parts] = run.path.glob("pairs-*")
    drawn = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert len(drawn) == 18
    cut("train", "protein", "--run", "cut", pause="*/pairs-*/*.json", count=7)
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert len(kept) == 20
    assert drawn.items() <= kept.items()  # not drawn again
    judged = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert len(judged) == 6
    cut("train", "protein", "--run", "cut", pause="*/reflow/step-00000010.ckpt", count=1)
    assert not parts.exists()
    code, _, err = penstock("train", "protein", "--run", "cut")
    assert code == 0, err

    code, _, err = penstock("train", "protein", *DEBUG, "--name", "whole", *settings)
    assert code == 0, err
    whole = Run(runs / "whole")
    ours, theirs = Couplings(run.path / "pairs.h5"), Couplings(whole.path / "pairs.h5")
    assert ours.fingerprint == theirs.fingerprint
    for stage in ("flow", "reflow"):
        ours_, theirs_ = read_model(run.model(stage)).weights, read_model(whole.model(stage)).weights
        assert all(ours_[name].equal(theirs_[name]) for name in theirs_)
    steps = [row.step for row in read_metrics(run.metrics_file) if (row.stage, row.name) == ("reflow", "train/loss")]
    assert steps == sorted(set(steps))


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert "Traceback" not in out + err
    assert err.startswith("penstock: ") and len(err.strip().splitlines()) == 1
    for part in parts:
        assert part in err


def test_structures_that_are_none(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "structures"
    folder.mkdir()
    prepare = ("prepare", "protein", *DEBUG, "--data", str(folder))
    refused(penstock(*prepare), "structures", ".cif", "there are none")
    (folder / "empty.pdb").write_text("")
    refused(penstock(*prepare), "all 1 were refused", "empty.pdb")
    assert not list(runs.glob("prepared/*/backbones.h5"))
    # Beside a good one it is refused with its reason, and the work goes on.
    chain = generate(SyntheticProteinConfig(count=1, families=("bundle",), min_length=48, max_length=48), 0)[1]
    write_backbone(chain, folder / "good.cif")
    code, out, err = penstock(*prepare, "--name", "good")
    assert code == 0, err
    assert "refused empty.pdb" in out
    assert Run(runs / "good").provenance()["data"]["refused"] == 1


def test_what_comes_later_is_checked_first(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    chain = generate(SyntheticProteinConfig(count=1, families=("helix",), min_length=24, max_length=24), 0)[1]
    write_backbone(chain, tmp_path / "given.pdb")
    motif = ("--sample.motif.file", str(tmp_path / "given.pdb"), "--sample.motif.contig", "5/B2-9/5")
    refused(penstock("prepare", "protein", *DEBUG, *motif), "5/B2-9/5", "no chain 'B'")
    refused(penstock("prepare", "protein", *DEBUG, "--pairs.judge", "no-such-program {pdb}"), "no-such-program")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("--sample.motif.contig", "10-20/A1-5", ("motif.file", "contig")),
        ("--sample.motif.length", "80-100", ("motif.file",)),
        ("--sample.symmetry", "T", ("symmetry",)),
        ("--export.formats", "glb", ("pdb, ", "got glb")),
        ("--pairs.lengths.shortest", "900", ("shortest=900",)),
        ("--sample.lenghts.shortest", "20", ("sample.lengths",)),
    ],
)
def test_settings_that_do_not_fit(
    penstock: Penstock, runs: Path, setting: str, value: str, words: tuple[str, ...]
) -> None:
    refused(penstock("run", "protein", *DEBUG, setting, value), *words)
    assert not runs.exists()
