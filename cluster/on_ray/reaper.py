"""Ends what is left of a command's own Ray cluster, whatever ended the command: `python reaper.py FOLDER`.

Ray's servers die with the process that started them, but its agents look for a minute for servers that are gone. This
process waits for the end of its standard input, which the command holds; then no process of the cluster is left, nor
its folder. It imports nothing of ours: it must start at once and wherever the code lies.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 10.0
"""Seconds in which killed processes are gone."""


def members(folder: str) -> set[int]:
    """The processes of the cluster whose files are in `folder`: named on their command line, or open there."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            named = folder.encode() in words
            if named or (words.startswith(b"ray::") and any(_is_in(link, folder) for link in (entry / "fd").iterdir())):
                found.add(pid)
    return found


def _is_in(link: Path, folder: str) -> bool:
    with suppress(OSError):
        return str(link.readlink()).startswith(f"{folder}/")
    return False


def main(folder: str) -> None:
    """Wait, then clear away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the command
    sys.stdin.buffer.read()
    end = time.monotonic() + PATIENCE
    while (left := members(folder)) and time.monotonic() < end:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
