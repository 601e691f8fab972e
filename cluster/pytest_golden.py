"""Lets `pytest --golden DIR` mean what it says, in a checkout of this repository.

pytest looks for its configuration before it has read the options of a conftest.py, and takes the DIR behind an option
that it does not know for a folder of tests: it would then neither find our configuration nor our tests. This plugin is
loaded before that does harm and starts pytest again with `--golden=DIR`, which cannot be misread. Elsewhere it does
nothing.
"""

import os
import sys
from pathlib import Path

OPTION = "--golden"


def pytest_addoption() -> None:
    """Called when pytest loads its plugins, before it captures any output."""
    words = sys.argv[1:]
    in_a_checkout = Path("tests/golden").is_dir() and Path("cluster/pytest_golden.py").is_file()
    if in_a_checkout and OPTION in words[:-1]:
        place = words.index(OPTION)
        joined = [*words[:place], f"{OPTION}={words[place + 1]}", *words[place + 2 :]]
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *joined])
