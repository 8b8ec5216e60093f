"""Peak memory of a gradient in units of a state: whatever depth and outputs, and for batches that are split.

Each case runs in a process of its own. There, the gradient of a small circuit of the same structure is taken first, so
that everything is imported, compiled and loaded; then the peak of the process's memory is set back, and the gradient is
taken. What is reported is how far the peak rises. It is read from ``/proc``, so this needs Linux.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pennylane as qml

import qhybrid
from benchmarks._timing import Report, absences, checked_difference, has_lightning, verdict
from qhybrid_devices.statevector.plan import PlanOptions

#: States that a gradient may need at most.
GOAL = 2.2
AMPLITUDE_BYTES, MIB = 16, 1 << 20
#: Wires of the circuit that warms a process up; large enough for lanes that are qubits, as in all cases.
WARM_UP_QUBITS = 13
#: Rows that differ in a batch; they are repeated.
DISTINCT = 4
TOLERANCE = 1e-9
ROOT = Path(__file__).parents[1]
STATUS, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Case:
    """One gradient.

    Args:
        qubits: of the circuit
        layers: of StronglyEntanglingLayers
        outputs: expectation values, whose sum is differentiated
        batch: samples with inputs, which are differentiated too; 0 for no inputs
    """

    qubits: int
    layers: int
    outputs: int = 1
    batch: int = 0

    @property
    def label(self) -> str:
        """The case in words."""
        numbers = [(self.qubits, "qubit"), (self.layers, "layer"), (self.outputs, "output")]
        words = ", ".join(f"{k} {what}{'' if k == 1 else 's'}" for k, what in numbers)
        return f"{words}, batch of {self.batch}" if self.batch else words

    @property
    def state(self) -> float:
        """Size of one state of every sample, in MiB."""
        return max(1, self.batch) * AMPLITUDE_BYTES * 2**self.qubits / MIB

    @property
    def together(self) -> float:
        """Size of one state of the samples that are in memory together, in MiB: a batch is split."""
        return self.state if not self.batch else min(self.state, PlanOptions().group_bytes / MIB)


CASES = (
    Case(22, 2),
    Case(22, 8),
    Case(22, 2, outputs=8),
    Case(24, 2),
    Case(25, 1),
    Case(16, 1, batch=256),
    Case(16, 1, batch=1024),
)
QUICK_CASES = (Case(18, 1, outputs=2), Case(14, 1, batch=16))


def contenders() -> dict[str, tuple[Any, str]]:
    """Library and device, by name; the reference first."""
    reference = "lightning.qubit" if has_lightning() else "default.qubit"
    return {reference: (qml, reference), "qhybrid": (qhybrid, "qhybrid.statevector")}


def build(name: str, case: Case) -> Callable[[], Sequence[np.ndarray]]:
    """A function that gives the gradients of one contender: of weights, and before them of inputs if there are any."""
    library, device = contenders()[name]

    @library.qnode(library.device(device, wires=case.qubits), diff_method="adjoint")
    def circuit(inputs, weights):
        if case.batch:
            library.AngleEmbedding(inputs, wires=range(case.qubits))
        library.StronglyEntanglingLayers(weights, wires=range(case.qubits))
        return [library.expval(library.PauliZ(i)) for i in range(case.outputs)]

    def cost(inputs, weights):
        return qml.math.sum(qml.math.stack(circuit(inputs, weights)))

    rng = np.random.default_rng(0)
    weights = qml.numpy.array(rng.uniform(0, 2 * np.pi, (case.layers, case.qubits, 3)), requires_grad=True)
    rows = np.tile(rng.uniform(0, 2 * np.pi, (DISTINCT, case.qubits)), (case.batch // DISTINCT, 1))
    inputs = qml.numpy.array(rows, requires_grad=case.batch > 0)
    gradient = library.grad(cost)

    def gradients() -> Sequence[np.ndarray]:
        found = gradient(inputs, weights)
        return found if case.batch else (found,)

    return gradients


# ------------------------------------------------------------------ in a process of its own


def measure(name: str, case: Case) -> dict[str, Any]:
    """How far the peak of this process's memory rises during one gradient, in MiB; and the gradients.

    Of a batch these are the gradients of the first and the last inputs, and those of the weights as if no row were
    repeated.
    """
    small = replace(case, qubits=min(WARM_UP_QUBITS, case.qubits), batch=min(DISTINCT, case.batch))
    build(name, small)()
    gradients = build(name, case)
    CLEAR_PEAK.write_text("5")  # sets the peak back to what is resident now
    before = _resident("VmRSS")
    found = list(gradients())
    peak = _resident("VmHWM") - before
    if case.batch:
        inputs, weights = found
        found = [inputs[:DISTINCT], inputs[-DISTINCT:], weights * (DISTINCT / case.batch)]
    return {"peak": peak, "gradients": [g.tolist() for g in found]}


def _resident(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def in_process(name: str, case: Case) -> tuple[float, list[np.ndarray]]:
    """The peak and the gradients that :func:`measure` finds in a new process.

    Raises:
        RuntimeError: the process failed
    """
    command = [sys.executable, "-m", "benchmarks.memory", name, json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process for {name}, {case.label} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout)
    return found["peak"], [np.array(g) for g in found["gradients"]]


# ------------------------------------------------------------------ the benchmark


def compare(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """The peaks of all contenders, in states of the samples in memory together, and how well their gradients agree.

    Of a batch the reference computes only the rows that differ, so it has no peak there.

    Returns:
        a result and a check

    Raises:
        ResultsDifferError: gradients differ by more than the tolerance
    """
    reference = next(iter(contenders()))
    expected_peak, expected = in_process(reference, replace(case, batch=min(DISTINCT, case.batch)))
    peak, found = in_process("qhybrid", case)
    worst = checked_difference(f"the gradient of qhybrid, {case.label},", found, expected, TOLERANCE)
    peaks = {"qhybrid": peak} if case.batch else {reference: expected_peak, "qhybrid": peak}
    result = {
        **asdict(case),
        "state MiB": case.state,
        "state in memory MiB": case.together,
        "peak MiB": peaks,
        "states": {name: p / case.together for name, p in peaks.items()},
    }
    return result, {"case": case.label, "reference": reference, "gradient difference": {"qhybrid": worst}}


def run(quick: bool) -> Report:
    """Measure all cases and compare the gradients.

    Args:
        quick: few qubits

    Raises:
        RuntimeError: the system is not Linux
    """
    if not CLEAR_PEAK.exists():
        raise RuntimeError(f"The benchmark memory needs {CLEAR_PEAK}, which only Linux has; run the others by name.")
    cases = QUICK_CASES if quick else CASES
    results, checks = zip(*(compare(case) for case in cases), strict=True)
    names = list(contenders())
    rows = [
        [
            case.label,
            f"{r['state MiB']:.4g}",
            f"{r['state in memory MiB']:.4g}",
            *(f"{r['states'][name]:.2f}" if name in r["states"] else "" for name in names),
        ]
        for case, r in zip(cases, results, strict=True)
    ]
    worst = max(c["gradient difference"]["qhybrid"] for c in checks)
    met = all(r["states"]["qhybrid"] <= GOAL for r in results)
    remarks = [
        f"Largest difference of a gradient of qhybrid to the reference: {worst:.0e}.",
        "A batch is split into parts that are in memory one after the other; a peak is in units of a part's states.",
        *absences(),
        verdict(met, f"at most {GOAL:g} states of qhybrid, whatever depth, outputs and batch", quick),
    ]
    title = "Peak memory of a gradient, in states: how far it rises in a process of its own"
    header = ["case", "one state, MiB", "in memory together, MiB", *names]
    check = {"tolerance": TOLERANCE, "cases": list(checks)}
    return Report("memory", title, header, rows, check, list(results), remarks)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Case(**json.loads(sys.argv[2])))))
