"""``python -m benchmarks [name ...] [--quick]``: run the named benchmarks, by default all."""

from __future__ import annotations

import argparse
from importlib import import_module

from benchmarks._timing import busy, environment, write

#: Module of each benchmark; it is imported when it is run, so that some run without torch in the process.
BENCHMARKS = {
    "start": "start",
    "w2": "w2_large_states",
    "w3": "w3_qubit_rotation",
    "shots": "sampling",
    "w1": "w1_hybrid_step",
    "ps": "parameter_shift",
    "plugins": "plugins",
    "natural": "natural_gradient",
    "derivatives": "derivatives",
    "overhead": "overhead",
    "ratio": "ratio",
    "floor": "floor",
    "growth": "growth",
    "memory": "memory",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run side-by-side benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, few calls; the times mean nothing")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    if unknown := [n for n in names if n not in BENCHMARKS]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    warning = busy()
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    if warning:
        print(warning)
    for name in names:
        report = import_module(f"benchmarks.{BENCHMARKS[name]}").run(arguments.quick)
        print(f"\n{report.markdown()}\n\nWritten to {write(report, arguments.quick)}.", flush=True)


if __name__ == "__main__":
    main()
