"""W2: value and gradient of ``<Z0 Z1>`` after four StronglyEntanglingLayers on 10, 16 and 20 qubits, two on 24.

``qml.grad`` in autograd, which evaluates the circuit on its way to the gradient. Values and gradients are compared, at
all sizes, before anything is timed. ``default.qubit`` keeps every intermediate state and is left out at 20 qubits,
where the reference is ``lightning.qubit``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml

import qhybrid
from benchmarks._timing import (
    FULL,
    QUICK,
    Effort,
    Report,
    absences,
    checked_difference,
    has_lightning,
    interleaved,
    pennylanes_best,
)

#: (qubits, layers)
SIZES = ((10, 4), (16, 4), (20, 4), (24, 2))
QUICK_SIZES = ((3, 4), (6, 2))
#: Qubits above which default.qubit is left out.
MAX_BACKPROP = 16
TOLERANCE = 1e-9
#: Qubits from which a contender has fewer turns, since one takes half a minute.
LONG, LONG_EFFORT = 24, Effort(rounds=3, warm_up=1)


def contenders(qubits: int) -> dict[str, tuple[Any, str, str]]:
    """Library, device and gradient method, by name; all that are installed and suit the size."""
    found = {}
    if qubits <= MAX_BACKPROP:
        found["default.qubit, backprop"] = (qml, "default.qubit", "backprop")
    if has_lightning():
        found["lightning.qubit, adjoint"] = (qml, "lightning.qubit", "adjoint")
    found["qhybrid"] = (qhybrid, "qhybrid.statevector", "best")
    return found


def build(
    library: Any, device: str, diff_method: str, qubits: int, layers: int
) -> Callable[[], tuple[float, np.ndarray]]:
    """A function that gives value and gradient at fixed weights."""

    @library.qnode(library.device(device, wires=qubits), diff_method=diff_method)
    def circuit(weights):
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return library.expval(library.PauliZ(0) @ library.PauliZ(1))

    shape = (layers, qubits, 3)
    weights = qml.numpy.array(np.random.default_rng(qubits).uniform(0, 2 * np.pi, shape), requires_grad=True)
    gradient = library.grad(circuit)

    def value_and_gradient() -> tuple[float, np.ndarray]:
        found = gradient(weights)
        return gradient.forward, found

    return value_and_gradient


def check(qubits: int, cases: dict[str, Callable]) -> dict[str, Any]:
    """Compare values and gradients with the first contender's.

    Raises:
        ResultsDifferError: they differ by more than the tolerance
    """
    reference, *others = cases
    expected = cases[reference]()
    return {
        "qubits": qubits,
        "reference": reference,
        "tolerance": TOLERANCE,
        "gradient difference": {
            name: checked_difference(f"value or gradient of {name}", cases[name](), expected, TOLERANCE)
            for name in others
        },
    }


def run(quick: bool) -> Report:
    """Check all sizes, then time them.

    Args:
        quick: small sizes, one call each
    """
    sizes = QUICK_SIZES if quick else SIZES
    alone = [n for n, _ in sizes if len(contenders(n)) == 1]
    cases = {
        (n, layers): {name: build(*c, n, layers) for name, c in contenders(n).items()}
        for n, layers in sizes
        if n not in alone
    }
    checks = [check(n, found) for (n, _), found in cases.items()]
    results = []
    for (n, layers), found in cases.items():
        seconds = interleaved(found, QUICK if quick else LONG_EFFORT if n >= LONG else FULL)
        results.append(
            {
                "qubits": n,
                "layers": layers,
                "milliseconds": {name: 1e3 * t for name, t in seconds.items()},
                "ratio": {"qhybrid": pennylanes_best(seconds) / seconds["qhybrid"]},
            }
        )
    names = list(dict.fromkeys(name for r in results for name in r["milliseconds"]))
    rows = [
        [
            r["qubits"],
            r["layers"],
            *(_cell(r["milliseconds"].get(name)) for name in names),
            f"{r['ratio']['qhybrid']:.1f}x",
        ]
        for r in results
    ]
    worst = max(c["gradient difference"]["qhybrid"] for c in checks)
    title = "W2, value and gradient of <Z0 Z1>: milliseconds, medians of interleaved calls"
    remarks = [f"Largest difference of a value or gradient of qhybrid to the reference: {worst:.0e}.", *absences()]
    remarks += [f"{n} qubits: left out, since qhybrid has nothing to be compared with." for n in alone]
    return Report(
        "w2_large_states",
        title,
        ["qubits", "layers", *names, "PennyLane's best / qhybrid"],
        rows,
        checks,
        results,
        remarks,
    )


def _cell(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3g}"
