"""On a spot node of AWS: waits for the notice that the node is taken back, and tells Ray.

Trainings on the node then write a checkpoint and go on elsewhere. The notice comes two minutes before the end. Runs
with Python's own library alone, beside the raylet, and ends with it: `python spot_watch.py HOST:PORT` (of the head).
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

METADATA = "http://169.254.169.254"
DEADLINE = 110
"""Seconds from the notice in which Ray may still use the node; AWS gives 120."""


def notice(metadata: str) -> str | None:
    """What AWS says it will do with this node and when (JSON text); None: nothing so far, or no answer."""
    try:
        ask = urllib.request.Request(
            f"{metadata}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        )
        with urllib.request.urlopen(ask, timeout=2) as answer:
            token = answer.read().decode()
        ask = urllib.request.Request(
            f"{metadata}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
        )
        with urllib.request.urlopen(ask, timeout=2) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None  # 404 until there is a notice


def raylet_lives() -> bool:
    """Whether some raylet runs on this machine."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == "raylet":
                return True
        except OSError:
            continue
    return False


def watch(address: str, metadata: str, seconds: float) -> int:
    """Look every `seconds`; the exit code of `ray drain-node` after a notice, 0 where the raylet ended first."""
    while raylet_lives():
        found = notice(metadata)
        if found is not None:
            print(f"spot notice: {found}", flush=True)
            command = ["ray", "drain-node", "--address", address, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
            command += ["--reason-message", f"spot notice: {found}", "--deadline-remaining-seconds", str(DEADLINE)]
            there = {**os.environ, "RAY_ADDRESS": address}  # by which the command finds out which node is this one
            return subprocess.run(command, check=False, env=there).returncode
        time.sleep(seconds)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: spot_watch.py HOST:PORT")
    endpoint, pause = os.environ.get("EC2_METADATA", METADATA), float(os.environ.get("SPOT_WATCH_SECONDS", "5"))
    sys.exit(watch(sys.argv[1], endpoint, pause))
