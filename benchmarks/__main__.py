"""Runs every benchmark of this folder, or those named on the command line: `python -m benchmarks extraction`.

One benchmark alone takes options of its own: `python -m benchmarks forecast --rounds 10`. Those that train models for
hours run only where they are named.
"""

import runpy
import sys
from pathlib import Path

PARTS = ("_baseline", "_peer", "_preparation", "_reference")
LONG = ("forecast_results", "channel180")
AVAILABLE = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if not p.stem.endswith(PARTS))


def main(arguments: list[str]) -> None:
    first_option = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    names, options = arguments[:first_option], arguments[first_option:]
    unknown = [name for name in names if name not in AVAILABLE]
    if unknown:
        sys.exit(f"no benchmark named {', '.join(unknown)}. Available: {', '.join(AVAILABLE)}.")
    if options and len(names) != 1:
        sys.exit(f"options go to one benchmark: name one of {', '.join(AVAILABLE)} before {options[0]}.")
    for name in names or [name for name in AVAILABLE if name not in LONG]:
        print(f"\n== {name} ==", flush=True)
        sys.argv = [name, *options]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
