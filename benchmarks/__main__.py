"""``python -m benchmarks [w1] [w3] [overhead]``: run the named benchmarks, by default all."""

from __future__ import annotations

import argparse

from benchmarks import overhead, w1_hybrid_step, w3_qubit_rotation
from benchmarks._timing import busy, environment

BENCHMARKS = {"w1": w1_hybrid_step.main, "w3": w3_qubit_rotation.main, "overhead": overhead.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run side-by-side benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; default: all")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [n for n in names if n not in BENCHMARKS]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    if warning := busy():
        print(warning)
    for name in names:
        print()
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
