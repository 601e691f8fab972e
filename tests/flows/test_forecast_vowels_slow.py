"""JapaneseVowels by the preset that names it: the test part chooses nothing, not even the step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.run import Run


@pytest.mark.slow
def test_the_classifier_knows_the_speakers(
    penstock: Callable[..., tuple[int, str, str]], runs: Path, datasets: Path
) -> None:
    data = datasets / "forecast" / "JapaneseVowels_TRAIN.ts"
    if not data.is_file():
        pytest.skip(f"no {data}")
    code, _, err = penstock("export", "forecast", "--preset", "vowels", "--data", str(data), "--name", "vowels")
    assert code == 0, err
    found = json.loads((Run(runs / "vowels").path / "evaluation.json").read_text())
    assert found["test"]["sequences"] == 370
    assert found["test"]["accuracy"] >= 0.97
