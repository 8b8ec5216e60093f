"""What a gradient costs on top of the forward pass, whatever the depth: ``<Z0 Z1>`` of StronglyEntanglingLayers.

The gradient is one call of ``qml.grad``, which evaluates the circuit on its way; the forward pass is one plain call of
the QNode with the same weights. Values and gradients are compared, at all depths, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml

import qhybrid
from benchmarks._timing import (
    QUICK,
    Effort,
    Report,
    absences,
    checked_difference,
    has_lightning,
    interleaved,
    verdict,
)

QUBITS, DEPTHS = 16, (1, 2, 4, 8, 16, 32, 64)
QUICK_QUBITS, QUICK_DEPTHS = 4, (1, 2)
GOAL = 4.5
TOLERANCE = 1e-9
EFFORT = Effort(rounds=7, seconds=0.2)


@dataclass(frozen=True)
class Circuit:
    """A QNode and its gradient at fixed weights."""

    qnode: Callable
    gradient: Callable
    weights: Any

    def forward(self) -> Any:
        """The value alone."""
        return self.qnode(self.weights)

    def value_and_gradient(self) -> Sequence[Any]:
        """Both, in one call."""
        found = self.gradient(self.weights)
        return self.gradient.forward, found


def build(library: Any, device: str, diff_method: str, qubits: int, layers: int) -> Circuit:
    """The circuit in one library."""

    @library.qnode(library.device(device, wires=qubits), diff_method=diff_method)
    def circuit(weights):
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return library.expval(library.PauliZ(0) @ library.PauliZ(1))

    shape = (layers, qubits, 3)
    weights = qml.numpy.array(np.random.default_rng(layers).uniform(0, 2 * np.pi, shape), requires_grad=True)
    return Circuit(circuit, library.grad(circuit), weights)


def contenders() -> dict[str, tuple[Any, str, str]]:
    """Library, device and gradient method, by name; the reference first."""
    reference = "lightning.qubit" if has_lightning() else "default.qubit"
    return {
        f"{reference}, adjoint": (qml, reference, "adjoint"),
        "qhybrid": (qhybrid, "qhybrid.statevector", "best"),
    }


def check(circuits: dict[str, Circuit]) -> dict[str, Any]:
    """Compare values and gradients with the first circuit's, and values with those of forward passes.

    Raises:
        ResultsDifferError: they differ by more than the tolerance
    """
    reference, *others = circuits
    value, gradient = circuits[reference].value_and_gradient()
    return {
        "reference": reference,
        "tolerance": TOLERANCE,
        "gradient difference": {
            name: checked_difference(
                f"value or gradient of {name}",
                [*circuits[name].value_and_gradient(), circuits[name].forward()],
                [value, gradient, value],
                TOLERANCE,
            )
            for name in others
        },
    }


def measure(circuits: dict[str, Circuit], effort: Effort) -> dict[str, Any]:
    """Milliseconds of forward pass and gradient, which take turns, and qhybrid's ratio."""
    calls: dict[str, Callable[[], Any]] = {}
    for name, circuit in circuits.items():
        calls |= {f"{name}, forward": circuit.forward, f"{name}, gradient": circuit.value_and_gradient}
    seconds = interleaved(calls, effort)
    return {
        "milliseconds": {
            name: {what: 1e3 * seconds[f"{name}, {what}"] for what in ("forward", "gradient")} for name in circuits
        },
        "ratio": {"qhybrid": seconds["qhybrid, gradient"] / seconds["qhybrid, forward"]},
    }


def run(quick: bool) -> Report:
    """Check all depths, then time them.

    Args:
        quick: few qubits and layers, one call each
    """
    qubits, depths = (QUICK_QUBITS, QUICK_DEPTHS) if quick else (QUBITS, DEPTHS)
    cases = {layers: {name: build(*c, qubits, layers) for name, c in contenders().items()} for layers in depths}
    checks = [{"layers": layers, **check(circuits)} for layers, circuits in cases.items()]
    effort = QUICK if quick else EFFORT
    results = [{"qubits": qubits, "layers": layers, **measure(c, effort)} for layers, c in cases.items()]
    names = list(contenders())
    rows = [
        [
            r["layers"],
            *(f"{r['milliseconds'][name][what]:.3g}" for name in names for what in ("forward", "gradient")),
            f"{r['ratio']['qhybrid']:.2f}",
        ]
        for r in results
    ]
    worst = max(c["gradient difference"]["qhybrid"] for c in checks)
    met = all(r["ratio"]["qhybrid"] <= GOAL for r in results)
    remarks = [
        f"Largest difference of a value or gradient of qhybrid to the reference: {worst:.0e}.",
        "With trainable weights PennyLane's adjoint method takes gradients in the forward pass: there is no ratio.",
        *absences(),
        verdict(met, f"gradient / forward of qhybrid <= {GOAL:g} at each depth", quick),
    ]
    title = f"Gradient beside forward pass on {qubits} qubits: milliseconds, medians of interleaved calls"
    header = [
        "layers",
        *(f"{name}, {what}" for name in names for what in ("forward", "gradient")),
        "gradient / forward, qhybrid",
    ]
    return Report("ratio", title, header, rows, checks, {"goal": GOAL, "depths": results}, remarks)
