"""Makes a process stand still at a chosen moment, so that a test can kill it there and nowhere else.

Python imports this at its start when the folder is on PYTHONPATH. PENSTOCK_TEST_PAUSE is "PATTERN:COUNT:MARKER": before
the COUNT-th file whose path matches PATTERN gets its final name, MARKER is made, and nothing moves while it exists.
"""

import fnmatch
import os
import time
from pathlib import Path

_before = os.environ.get("PENSTOCK_TEST_PAUSE", "")
_replace = os.replace
_seen = 0


def _pausing_replace(source, target, **kwargs):
    global _seen
    pattern, count, marker = _before.split(":")
    if fnmatch.fnmatch(os.fspath(target), pattern):
        _seen += 1
        if _seen == int(count) and not Path(marker).exists():
            Path(marker).write_text(str(os.getpid()))
            while Path(marker).exists():
                time.sleep(0.02)
    return _replace(source, target, **kwargs)


if _before:
    os.replace = _pausing_replace
