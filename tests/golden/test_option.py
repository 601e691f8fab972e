"""The option that names the folder of golden numbers, as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("form", [["--golden", "{}"], ["--golden={}"], ["tests", "--golden", "{}"]])
def test_a_folder_anywhere_is_taken(form: list[str], tmp_path: Path) -> None:
    """A folder outside the repository, with a space or an equals sign: our tests are found and skip with a reason."""
    words = [word.format(tmp_path) for word in form]
    pytest_script = Path(sys.executable).with_name("pytest")
    result = subprocess.run(
        [pytest_script, "-m", "golden", "-k", "shape", "-rs", "-p", "no:cacheprovider", *words],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" not in result.stdout
    assert str(tmp_path) in "".join(line for line in result.stdout.splitlines() if line.startswith("SKIPPED"))
