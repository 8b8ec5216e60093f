"""What all benchmarks share: agreement before timing, interleaved timing, machine facts, tables, result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import RemoteCall

#: Where results are written, unless the environment variable says otherwise.
RESULTS = Path(__file__).parent / "results"
OUTPUT_VARIABLE = "QHYBRID_BENCHMARK_OUTPUT"
PACKAGES = ("qhybrid", "pennylane", "pennylane-lightning", "torch", "autograd", "numpy", "numba")
#: Variables that change how many threads the contenders use.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Largest difference allowed between contenders, absolute, by the precision in which one computes.
TOLERANCES = {"single": 1e-5, "double": 1e-9}


class ResultsDifferError(RuntimeError):
    """Contenders do not compute the same; their times mean nothing."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        rounds: how many turns each case has
        seconds: about how long a turn lasts; a call that takes longer is a turn
        warm_up: calls before the first turn, for tracing and caches. The QNode audits its trace in calls 1, 8, 64,
            ...; after four of them the call that sizes the turns is not one
    """

    rounds: int = 7
    seconds: float = 0.3
    warm_up: int = 4


FULL = Effort()
QUICK = Effort(rounds=1, seconds=0.0, warm_up=1)


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Args:
        name: of the result file
        title: what is measured, in which unit
        header: of the table
        rows: of the table
        check: what was compared before the timing: tolerances and the largest differences found
        results: the numbers behind the table, for the result file
        remarks: lines below the table
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    check: Any
    results: Any
    remarks: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """Title, table and remarks."""
        table = markdown_table(self.header, self.rows)
        return "\n\n".join([self.title, table, *(["\n".join(self.remarks)] if self.remarks else [])])


def interleaved(cases: Mapping[str, Callable[[], object]], effort: Effort = FULL) -> dict[str, float]:
    """The median time of one call of each case, in seconds.

    The cases take turns, so that a machine which slows down for a while slows all of them down. Those of peers
    are timed in their processes, which sleep between their turns.

    Args:
        cases: what to time, by name
        effort: how often

    Returns:
        the medians over all calls, by name
    """
    calls = {}
    for name, case in cases.items():
        *_, last = turn(case, effort.warm_up + 1)
        calls[name] = max(1, int(effort.seconds / last))
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(effort.rounds):
        for name, case in cases.items():
            times[name] += turn(case, calls[name])
    return {name: statistics.median(t) for name, t in times.items()}


def turn(case: Callable[[], object], calls: int) -> list[float]:
    """The time of each of some calls, in seconds."""
    if isinstance(case, RemoteCall):
        return case.seconds(calls)
    return [elapsed(case) for _ in range(calls)]


def elapsed(case: Callable[[], object]) -> float:
    """The time of one call, in seconds."""
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def checked_difference(name: str, found: Sequence[Any], expected: Sequence[Any], tolerance: float) -> float:
    """The largest difference between two lists of arrays.

    Args:
        name: whose arrays ``found`` are, for the message
        found: arrays or tensors without a graph
        expected: arrays of the same shapes
        tolerance: largest difference allowed, absolute

    Raises:
        ResultsDifferError: there are more or other arrays, or they differ by more, or are not numbers
    """
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True)]
    for a, b in pairs:
        if a.shape != b.shape:
            raise ResultsDifferError(f"{name} gives the shape {a.shape} where {b.shape} is expected; nothing was timed")
    worst = float(np.max([np.abs(a - b).max() for a, b in pairs]))
    if not worst <= tolerance:
        raise ResultsDifferError(f"{name} differs by {worst:.1e}, allowed are {tolerance:g}; nothing was timed")
    return worst


def has_lightning() -> bool:
    """Whether PennyLane's lightning.qubit can be a contender."""
    return find_spec("pennylane_lightning") is not None


def simulators() -> dict[str, tuple[Any, str]]:
    """Library and device of each simulator that is installed, by name; the reference first."""
    import pennylane

    import qhybrid

    found: dict[str, tuple[Any, str]] = {"default.qubit": (pennylane, "default.qubit")}
    if has_lightning():
        found["lightning.qubit"] = (pennylane, "lightning.qubit")
    return {**found, "qhybrid": (qhybrid, "qhybrid.statevector")}


def absences() -> list[str]:
    """Remarks that name the contenders that are not installed."""
    return [] if has_lightning() else ["Missing: lightning.qubit (pennylane-lightning is not installed)."]


def pennylanes_best(times: Mapping[str, float]) -> float:
    """The shortest time of a contender that is not qhybrid."""
    return min(t for name, t in times.items() if not name.startswith("qhybrid"))


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


def cell(found: Mapping[str, Mapping[str, float]], name: str) -> str:
    """Milliseconds of a contender and, in brackets, how many times qhybrid's they are; empty if it was left out.

    >>> cell({"milliseconds": {"a": 12.345}, "ratio": {"a": 4.56}}, "a")
    '12.3 (4.6x)'
    """
    if name not in found["milliseconds"]:
        return ""
    milliseconds, ratio = found["milliseconds"][name], found["ratio"][name]
    time_cell = f"{milliseconds:.3g}" if milliseconds < 1e3 else f"{milliseconds:.0f}"
    return f"{time_cell} ({ratio:.1f}x)" if ratio >= 1 else f"{time_cell} ({ratio:.2f}x)"


def verdict(met: bool, goal: str, quick: bool) -> str:
    """One line that says whether a goal was met; a quick run cannot tell."""
    return (
        f"Goal {goal}: {'not judged by a quick run' if quick else 'met in this run' if met else 'NOT met in this run'}."
    )


def environment() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, threads, load, Python, package versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {"processor": _processor(), "cores": cores, "load average": round(os.getloadavg()[0], 2)}
    facts |= {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    if "torch" in sys.modules:
        facts["torch threads"] = sys.modules["torch"].get_num_threads()
    return {**facts, "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def busy() -> str | None:
    """A line that says so if the machine is not idle, which makes the numbers worthless."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < cores / 2:
        return None
    return f"The load average is {load:.1f} on {cores} cores before anything is run: do not trust the numbers."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write(report: Report, quick: bool) -> Path:
    """Write a report to ``<name>.json``, with the environment that its numbers depend on.

    The file appears whole or not at all. Quick runs have a folder of their own and never replace real numbers.

    Returns:
        the path of the file
    """
    folder = Path(os.environ.get(OUTPUT_VARIABLE) or (RESULTS / "quick" if quick else RESULTS))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.name}.json"
    content = {
        "name": report.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "environment": environment(),
        "check": report.check,
        "results": report.results,
        "remarks": list(report.remarks),
    }
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
