"""W3: the qubit-rotation tutorial, 100 steps of gradient descent on one qubit, qhybrid beside PennyLane.

The same script with another import: QNode and optimizer are those of the library that is imported. A cold run makes a
new QNode, as a script does, so qhybrid's tracing is part of it; a warm run takes a QNode that has been called before.
The first step of a new QNode is also timed alone. Kernels are compiled before; they stay on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pennylane as qml

from benchmarks._timing import (
    FULL,
    QUICK,
    Effort,
    Report,
    absences,
    checked_difference,
    interleaved,
    simulators,
    verdict,
)

STEPS = 100
#: By how much the times of others are to exceed qhybrid's: with a new QNode, and with one called before.
GOAL, LIGHTNING_GOAL = 8.0, 10.0
TOLERANCE = 1e-9
REFERENCE, LIGHTNING = "default.qubit", "lightning.qubit"


def build(library: Any, device: str) -> Callable:
    """A new QNode: two rotations and the height on the Bloch sphere."""

    @library.qnode(library.device(device, wires=1))
    def circuit(params):
        library.RX(params[0], wires=0)
        library.RY(params[1], wires=0)
        return library.expval(library.PauliZ(0))

    return circuit


def descend(library: Any, circuit: Callable, steps: int = STEPS) -> np.ndarray:
    """The angles on the way of steps of size 0.4 from (0.011, 0.012), shape (steps + 1, 2)."""
    optimizer = library.GradientDescentOptimizer(stepsize=0.4)
    path = [qml.numpy.array([0.011, 0.012], requires_grad=True)]
    for _ in range(steps):
        path.append(optimizer.step(circuit, path[-1]))
    return np.array(path)


def descend_anew(library: Any, device: str, steps: int = STEPS) -> np.ndarray:
    """:func:`descend` on a new QNode."""
    return descend(library, build(library, device), steps)


def check() -> dict[str, Any]:
    """Compare the ways that the contenders take, at every step.

    Raises:
        ResultsDifferError: one of them does not arrive at (0, pi), or leaves the way of the reference
    """
    paths = {name: descend_anew(*c) for name, c in simulators().items()}
    checked_difference(f"the end of {REFERENCE}", [paths[REFERENCE][-1]], [np.array([0, np.pi])], 1e-6)
    return {
        "reference": REFERENCE,
        "tolerance": TOLERANCE,
        "angle difference": {
            name: checked_difference(f"the way of {name}", [path], [paths[REFERENCE]], TOLERANCE)
            for name, path in paths.items()
        },
    }


def measure(effort: Effort) -> dict[str, dict[str, float]]:
    """Seconds by contender: 100 steps of a new QNode, of one called before, and the first step of a new QNode."""
    found = simulators()
    return {
        "cold": interleaved({name: partial(descend_anew, *c) for name, c in found.items()}, effort),
        "warm": interleaved({name: partial(descend, c[0], build(*c)) for name, c in found.items()}, effort),
        "first step": interleaved({name: partial(descend_anew, *c, 1) for name, c in found.items()}, effort),
    }


def run(quick: bool) -> Report:
    """Check, then time.

    Args:
        quick: one run each
    """
    checks = check()
    seconds = measure(QUICK if quick else FULL)
    ratios = {kind: {name: t / times["qhybrid"] for name, t in times.items()} for kind, times in seconds.items()}
    rows = [
        [name, *(cell for k in seconds for cell in (f"{seconds[k][name]:.4f}", f"{ratios[k][name]:.1f}x"))]
        for name in seconds["cold"]
    ]
    worst = checks["angle difference"]["qhybrid"]
    remarks = [
        f"Largest difference to {REFERENCE}, over all angles of all steps: {worst:.0e}.",
        *absences(),
        verdict(ratios["cold"][REFERENCE] >= GOAL, f"{REFERENCE} / qhybrid >= {GOAL:g} with a new QNode", quick),
    ]
    if LIGHTNING in ratios["warm"]:
        text = f"{LIGHTNING} / qhybrid >= {LIGHTNING_GOAL:g} with a QNode called before"
        remarks.append(verdict(ratios["warm"][LIGHTNING] >= LIGHTNING_GOAL, text, quick))
    title = f"W3, {STEPS} steps of the qubit rotation: seconds, medians of interleaved runs"
    columns = ["new QNode", "QNode called before", "making a QNode and its first step"]
    header = ["", *(cell for name in columns for cell in (name, "/ qhybrid"))]
    return Report("w3_qubit_rotation", title, header, rows, checks, {"seconds": seconds, "ratio": ratios}, remarks)
