"""What all benchmarks share: interleaved timing, tables, result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("qhybrid", "pennylane", "pennylane-lightning", "torch", "numpy", "numba")


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int = 7, seconds: float = 0.3, warm_up: int = 3
) -> dict[str, float]:
    """The median time of one call of each case, in seconds.

    The cases take turns, so that a machine which slows down for a while slows all of them down.

    Args:
        cases: what to time, by name
        rounds: how many turns each case has
        seconds: about how long a turn lasts; a call that takes longer is a turn
        warm_up: calls before the first turn, for compilation, tracing and caches

    Returns:
        the medians over all calls, by name
    """
    calls = {}
    for name, case in cases.items():
        for _ in range(warm_up):
            case()
        calls[name] = max(1, int(seconds / _elapsed(case)))
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name] += [_elapsed(case) for _ in range(calls[name])]
    return {name: statistics.median(t) for name, t in times.items()}


def _elapsed(case: Callable[[], object]) -> float:
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with the first column to the left and the others to the right.

    >>> print(markdown_table(["case", "ms"], [["a", 1.5]]))
    | case | ms |
    |---|---:|
    | a | 1.5 |
    """
    rule = "|".join(["---"] + ["---:"] * (len(header) - 1))
    head, *body = (f"| {' | '.join(map(str, row))} |" for row in (header, *rows))
    return "\n".join([head, f"|{rule}|", *body])


def verdict(met: bool, goal: str) -> str:
    """One line that says whether a goal was met."""
    return f"Goal {goal}: {'met' if met else 'NOT met'} in this run."


def environment() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, Python, package versions."""
    packages = {name: version(name) for name in PACKAGES}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores, "python": platform.python_version(), **packages}


def busy() -> str | None:
    """A line that says so if the machine is not idle, which makes the numbers worthless."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < cores / 2:
        return None
    return f"The load average is {load:.1f} on {cores} cores before anything is run: do not trust the numbers."


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_results(name: str, results: Any) -> None:
    """Write the numbers of one benchmark to ``results/<name>.json``, with the environment that they depend on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), "results": results}, indent=2) + "\n")
