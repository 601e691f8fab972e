"""Sweeps that nobody has run: trials.json with a known answer."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

KEYS: dict[str, dict[str, Any]] = {
    "patchtst.optimizer.lr": {"kind": "loguniform", "values": [1e-4, 1e-2]},
    "patchtst.network.width": {"kind": "choice", "values": [64, 128, 256]},
    "patchtst.network.dropout": {"kind": "uniform", "values": [0.0, 0.5]},
    "patchtst.network.pool": {"kind": "choice", "values": ["mean", "last"]},
    "patchtst.network.layers": {"kind": "int", "values": [1, 6]},
}


def sweep_file(folder: Path, count: int, bad: int = 0, mode: str = "min", keys: Any = KEYS) -> dict[str, Any]:
    """Write a trials.json, whose metric depends on the learning rate and the width alone; the last `bad` failed."""
    random = np.random.default_rng(count)
    trials = []
    for k in range(count):
        config = {key: _drawn(told, random) for key, told in keys.items()}
        rate = math.log10(config.get("patchtst.optimizer.lr", 1e-3))
        loss = 0.3 + 0.25 * (rate + 2.7) ** 2 + 0.1 * (config.get("patchtst.network.width") == 64)
        loss += 0.01 * random.normal()
        steps = range(50, 1001 if k % 3 else 301, 50)
        curve = [[s, loss + 1.2 * math.exp(-s / 150) + 0.005 * random.normal()] for s in steps]
        best = min(v for _, v in curve)
        trials.append({
            "name": f"t{k:03d}", "config": config, "state": "done" if k % 3 else "stopped", "reason": None,
            "metric": best, "last": curve[-1][1], "step": steps[-1], "seconds": 40.0 + k, "attempts": 1 + (k == 1),
            "history": curve,
        })  # fmt: skip
    ways = [
        {"state": "failed", "reason": "killed by SIGKILL (out of memory?) after 2 attempts <b>", "history": []},
        {"state": "nan", "reason": "val/loss is not a number at step 100", "history": [[50, 2.1], [100, math.nan]]},
    ]
    for k, trial in enumerate(trials[len(trials) - bad :] if bad else []):
        trial |= {"metric": None, "last": None, "step": 100, **ways[k % 2]}
    said = {"sweep": folder.name, "target": "forecast.patchtst", "metric": "val/loss", "mode": mode,
            "keys": keys, "trials": trials}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trials.json").write_text(json.dumps(said))
    (folder / "sweep.yaml").write_text("metric: val/loss\nmode: min\n")
    return said


def _drawn(told: dict[str, Any], random: np.random.Generator) -> Any:
    kind, values = told["kind"], told["values"]
    if kind == "choice":
        return values[int(random.integers(len(values)))]
    if kind == "loguniform":
        return float(10 ** random.uniform(*np.log10(values)))
    if kind == "int":
        return int(random.integers(values[0], values[1] + 1))
    return float(random.uniform(*values))
