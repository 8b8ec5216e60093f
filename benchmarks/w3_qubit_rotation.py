"""W3: the qubit-rotation tutorial, 100 steps of gradient descent on one qubit, qhybrid beside PennyLane.

A run makes a new QNode, as a script does, so qhybrid's tracing is part of it. Beside it stand runs of a QNode that has
been called before. Kernels are compiled before either; they stay on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pennylane as qml

import qhybrid
from benchmarks._timing import interleaved, markdown_table, verdict, write_results

STEPS = 100
GOAL = 8.0
REFERENCE = "default.qubit, backprop"
#: Library, device and gradient method, by name.
CONTENDERS: dict[str, tuple[Any, str, str]] = {
    REFERENCE: (qml, "default.qubit", "backprop"),
    "default.qubit, parameter-shift": (qml, "default.qubit", "parameter-shift"),
    "lightning.qubit, adjoint": (qml, "lightning.qubit", "adjoint"),
    "qhybrid": (qhybrid, "qhybrid.statevector", "best"),
}


def build(library: Any, device: str, diff_method: str) -> Callable:
    """A new QNode: two rotations and the height on the Bloch sphere."""

    @library.qnode(library.device(device, wires=1), diff_method=diff_method)
    def circuit(params):
        library.RX(params[0], wires=0)
        library.RY(params[1], wires=0)
        return library.expval(library.PauliZ(0))

    return circuit


def descend(circuit: Callable) -> np.ndarray:
    """The angles on the way of 100 steps of size 0.4 from (0.011, 0.012), shape (STEPS + 1, 2)."""
    optimizer = qml.GradientDescentOptimizer(stepsize=0.4)
    path = [qml.numpy.array([0.011, 0.012], requires_grad=True)]
    for _ in range(STEPS):
        path.append(optimizer.step(circuit, path[-1]))
    return np.array(path)


def descend_anew(contender: str) -> np.ndarray:
    """:func:`descend` on a new QNode."""
    return descend(build(*CONTENDERS[contender]))


def check() -> float:
    """Compare the ways that the contenders take.

    Returns:
        the largest difference between an angle of qhybrid and one of the reference, over all steps

    Raises:
        AssertionError: one of them does not arrive at (0, pi), or leaves the way of the reference
    """
    paths = {name: descend_anew(name) for name in CONTENDERS}
    for name, path in paths.items():
        np.testing.assert_allclose(path[-1], [0, np.pi], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(path, paths[REFERENCE], rtol=0, atol=1e-9, err_msg=name)
    return float(np.abs(paths["qhybrid"] - paths[REFERENCE]).max())


def main() -> None:
    """Run, print, write."""
    difference = check()
    new = interleaved({name: partial(descend_anew, name) for name in CONTENDERS}, warm_up=1)
    again = interleaved({name: partial(descend, build(*c)) for name, c in CONTENDERS.items()}, warm_up=1)
    print(f"W3, {STEPS} steps of the qubit rotation: seconds, medians of interleaved runs\n")
    rows = [
        [name, *(cell for t in (new, again) for cell in (f"{t[name]:.4f}", f"{t[name] / t['qhybrid']:.1f}x"))]
        for name in CONTENDERS
    ]
    print(markdown_table(["", "new QNode", "/ qhybrid", "QNode called before", "/ qhybrid"], rows))
    print(f"\nLargest difference to {REFERENCE}, over all angles of all steps: {difference:.0e}.")
    print(verdict(new[REFERENCE] / new["qhybrid"] >= GOAL, f"{REFERENCE} / qhybrid >= {GOAL:g} with a new QNode"))
    write_results("w3_qubit_rotation", {"new": new, "again": again, "angle_difference": difference})


if __name__ == "__main__":
    main()
