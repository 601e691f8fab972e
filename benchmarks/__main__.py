"""Runs every benchmark of this folder, or those named on the command line: `python -m benchmarks extraction`."""

import runpy
import sys
from pathlib import Path

AVAILABLE = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if not p.stem.endswith("_baseline"))


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in AVAILABLE]
    if unknown:
        sys.exit(f"no benchmark named {', '.join(unknown)}. Available: {', '.join(AVAILABLE)}.")
    for name in names or AVAILABLE:
        print(f"\n== {name} ==", flush=True)
        sys.argv = [name]  # each reads options of its own; here it gets none
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
