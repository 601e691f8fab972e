"""External judges: real commands that answer, fail, hang and babble."""

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.errors import PenstockError
from flows.steps.protein_judge import ask_judge, check_judge
from modules.protein.controls import ideal_helix

HELIX = ideal_helix(12)


def script(folder: Path, body: str) -> str:
    """A command that runs `body` with the file's path in `path`."""
    file = folder / "a judge.py"  # a space, as paths have
    file.write_text(f"import json, sys, time, os\npath = sys.argv[1]\n{body}\n")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(file))} {{pdb}}"


def test_a_judge_reads_the_backbone_and_answers(tmp_path):
    """It counts CA itself, and prints the way back to the first one."""
    body = """
ca = [[float(line[a:a + 8]) for a in (30, 38, 46)] for line in open(path) if line[12:16] == ' CA ']
print('loading weights ...')
print(json.dumps({'accept': len(ca) == 12, 'score': 1.5, 'first': ca[0], 'path': path}))
"""
    opinion = ask_judge(script(tmp_path, body), HELIX)
    assert opinion.accept and opinion.score == 1.5
    np.testing.assert_allclose(opinion.details["first"], HELIX.atoms[0, 1], atol=1e-3)
    assert not Path(opinion.details["path"]).exists()


def test_a_judge_may_refuse_and_need_not_score(tmp_path):
    opinion = ask_judge(script(tmp_path, "print(json.dumps({'accept': False}))"), HELIX)
    assert not opinion.accept and opinion.score is None


def test_the_file_is_one_word_and_no_shell_runs(tmp_path):
    """Whatever a shell would do with the command's other words is not done."""
    command = script(tmp_path, "print(json.dumps({'accept': True, 'words': sys.argv[2:]}))")
    opinion = ask_judge(command + " '$(touch hacked)' ';' 'two words'", HELIX)
    assert opinion.details["words"] == ["$(touch hacked)", ";", "two words"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('no GPU found')", r"(?s)exit status 1.*no GPU found"),
        ("print('fine')", "expected .* JSON object.*'fine'"),
        ("", "printed nothing"),
        ("print(json.dumps({'accept': 'yes'}))", "JSON object"),
        ("print(json.dumps({'accept': True, 'score': float('nan')}))", "finite number"),
        ("print(json.dumps({'accept': True, 'score': 'low'}))", "finite number"),
        ("print(json.dumps([True]))", "JSON object"),
        ("sys.stdout.buffer.write(bytes([255, 254, 10]))", "JSON object"),
    ],
)
def test_other_answers_are_told_apart(tmp_path, body, message):
    with pytest.raises(PenstockError, match=message):
        ask_judge(script(tmp_path, body), HELIX)


def test_a_judge_that_hangs_is_ended_with_what_it_started(tmp_path):
    """The child that it left behind holds its output open, which must not keep us either."""
    pids = tmp_path / "pids"
    body = f"""
import subprocess
child = subprocess.Popen(['sleep', '600'])
open({str(pids)!r}, 'w').write(json.dumps([os.getpid(), child.pid]))
time.sleep(600)
"""
    before = time.monotonic()
    with pytest.raises(PenstockError, match=r"within 2 s.*judge_seconds"):
        ask_judge(script(tmp_path, body), HELIX, timeout=2)
    assert time.monotonic() - before < 60
    time.sleep(0.2)
    for pid in json.loads(pids.read_text()):
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().split()[2] in ("Z", "X")


def test_commands_that_cannot_work_are_refused_before_anything_runs():
    with pytest.raises(PenstockError, match=r"\{pdb\}"):
        check_judge("python judge.py")
    with pytest.raises(PenstockError, match="no program 'no-such-judge'"):
        check_judge("no-such-judge {pdb}")
    with pytest.raises(PenstockError, match="expected a command"):
        check_judge("python 'judge.py {pdb}")
    with pytest.raises(PenstockError, match="expected a command"):
        check_judge("")
