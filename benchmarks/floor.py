"""Where the time of W2 goes, against what this machine could do at best.

The arithmetic and the memory traffic of a compiled circuit are counted from its plan. The machine's own limits are
measured in the same run: a matrix product for arithmetic, a copy that does not fit in a cache for memory. The floor of
a pass is the larger of the two times; nothing can be in both at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import qhybrid
from benchmarks._timing import QUICK, Report, elapsed, interleaved
from benchmarks.overhead import clock_in, named
from benchmarks.w2_large_states import check, own_cases
from qhybrid_devices.statevector import executable, small
from qhybrid_devices.statevector.operations import Operation
from qhybrid_devices.statevector.plan import Plan
from qhybrid_devices.statevector.table import DIAGONAL, FLIP, PAULI, U2
from qhybrid_devices.statevector.threads import Part, num_threads, parallel

#: (qubits, layers)
SIZES, QUICK_SIZES = ((10, 4), (16, 4), (20, 4)), ((4, 2),)
CALLS, QUICK_CALLS = {10: 400, 16: 40, 20: 9}, {4: 2}
#: Floating-point operations an amplitude: forward; and in reverse, two states and the matrix cotangent.
FORWARD = {U2: 12, FLIP: 0, PAULI: 6, DIAGONAL: 6}
REVERSE = {U2: 36, FLIP: 0, PAULI: 16, DIAGONAL: 20}
COMPLEX = 16
#: Numbers of a matrix, and bytes of an array, whose operations are timed.
MATRIX, COPIED = 2000, 1 << 28


@dataclass(frozen=True)
class Machine:
    """What the cores can do together."""

    gflops: float
    gigabytes: float

    def floor(self, work: Work) -> float:
        """The shortest time for some work, in seconds."""
        return max(work.flops / self.gflops, work.traffic / self.gigabytes) / 1e9


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and bytes read and written."""

    flops: float
    traffic: float


def measure_machine(matrix: int, copied: int, rounds: int = 5) -> Machine:
    """Limits of this machine in double precision, the best of some rounds."""
    a = np.random.default_rng(0).normal(size=(matrix, matrix))
    source = np.ones(copied // 8)
    target = np.zeros_like(source)

    def copy(part: Part) -> None:
        np.copyto(target[part.start : part.stop], source[part.start : part.stop])

    product = min(elapsed(lambda: a @ a) for _ in range(rounds))
    moved = min(elapsed(lambda: parallel(copy, len(source), num_threads())) for _ in range(rounds))
    return Machine(2e-9 * matrix**3 / product, 2e-9 * copied / moved)


def count(plan: Plan, qubits: int) -> dict[str, Work]:
    """The work of a forward and of a reverse pass."""

    def flops(table: dict[int, int], op: Operation) -> float:
        return table[op.kind] * 2.0 ** (qubits - op.cmask.bit_count())

    state, sweeps = COMPLEX << qubits, len(plan.sweeps)
    return {
        "forward": Work(sum(flops(FORWARD, op) for op in plan.operations), 2 * state * sweeps),
        "reverse": Work(sum(flops(REVERSE, op) for op in plan.operations), 4 * state * sweeps),
    }


def passes() -> dict[str, list[tuple[Any, str, Callable]]]:
    """The functions that run a plan on states: owner, name, function."""
    return {
        "forward": named(executable, "apply_plan") + named(small, "forward", "sweep_forward"),
        "reverse": named(executable, "reverse_plan") + named(small, "backward", "sweep_backward"),
    }


def timed(gradient: Callable[[], object], calls: int) -> dict[str, float]:
    """Medians in seconds: of a call, and of the passes in it."""
    interleaved({"": gradient}, QUICK)
    found = {"call": median(elapsed(gradient) for _ in range(calls))}
    for name, functions in passes().items():
        inside = []
        with clock_in(functions) as clock:
            for _ in range(calls):
                clock.seconds = 0.0
                gradient()
                inside.append(clock.seconds)
        found[name] = median(inside)
    return found


def plan_of(weights: np.ndarray) -> Plan:
    """The plan that a gradient runs."""
    qubits = weights.shape[1]
    device = qhybrid.device("qhybrid.statevector", wires=qubits)

    @qhybrid.qnode(device)
    def circuit(weights):
        qhybrid.StronglyEntanglingLayers(weights, wires=range(qubits))
        return qhybrid.expval(qhybrid.PauliZ(0) @ qhybrid.PauliZ(1))

    circuit(weights)
    (program,) = device._compiled.values()
    (compiled,) = program._compiled.values()
    return compiled.plan


def compare(qubits: int, layers: int, machine: Machine, calls: int) -> dict[str, Any]:
    """What a gradient does and how long it takes, beside the floor; checked before it is timed."""
    weights = np.random.default_rng(qubits).uniform(0, 2 * np.pi, (layers, qubits, 3))
    cases = own_cases(qubits, weights)
    checked = check(qubits, cases) if any(not name.startswith("qhybrid") for name in cases) else None
    seconds = timed(cases["qhybrid"], calls)
    found: dict[str, Any] = {"qubits": qubits, "layers": layers, "seconds": seconds, "check": checked}
    for name, work in count(plan_of(weights), qubits).items():
        found[name] = {"flops": work.flops, "traffic": work.traffic, "floor": machine.floor(work)}
    return found


def rows_of(found: dict[str, Any]) -> list[list[object]]:
    """The table's rows of one size."""
    rows: list[list[object]] = []
    seconds = found["seconds"]
    for name in passes():
        spent, (flops, traffic, floor) = seconds[name], found[name].values()
        cells = (1e3 * spent, flops / 1e9, flops / spent / 1e9, traffic / 1e9, traffic / spent / 1e9, 1e3 * floor)
        rows.append([found["qubits"], name, *(f"{c:.3g}" for c in cells), f"{spent / floor:.1f}x"])
    rest = seconds["call"] - sum(seconds[name] for name in passes())
    return [*rows, [found["qubits"], "all else", f"{1e3 * rest:.3g}", *[""] * 6]]


def run(quick: bool) -> Report:
    """Check, count, then time.

    Args:
        quick: a small circuit, a few calls
    """
    machine = measure_machine(*((100, 1 << 16) if quick else (MATRIX, COPIED)))
    calls = QUICK_CALLS if quick else CALLS
    results = [compare(*size, machine, calls[size[0]]) for size in (QUICK_SIZES if quick else SIZES)]
    limits = f"{machine.gflops:.0f} GFLOP/s (matrix product), {machine.gigabytes:.1f} GB/s (copy)"
    header = ["qubits", "pass", "ms", "GFLOP", "GFLOP/s", "GB", "GB/s", "floor, ms", "/ floor"]
    title = "Where the time of W2 goes, double precision, medians"
    content = {"machine": {"gflops": machine.gflops, "gigabytes": machine.gigabytes}, "sizes": results}
    remarks = [f"This machine, all cores together, double precision: {limits}."]
    checks = [found.pop("check") for found in results]
    return Report("floor", title, header, [row for f in results for row in rows_of(f)], checks, content, remarks)
