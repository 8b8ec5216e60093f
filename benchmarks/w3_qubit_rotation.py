"""W3: the qubit-rotation tutorial, 100 steps of gradient descent on one qubit, qhybrid beside PennyLane.

A run makes a new QNode, as a script does, so tracing is part of it; kernels are compiled before (they stay on disk).
"""

from __future__ import annotations

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


def descend(library: Any, device: str, diff_method: str) -> np.ndarray:
    """The angles after 100 steps of size 0.4 from (0.011, 0.012), shape (2,)."""

    @library.qnode(library.device(device, wires=1), diff_method=diff_method)
    def circuit(params):
        library.RX(params[0], wires=0)
        library.RY(params[1], wires=0)
        return library.expval(library.PauliZ(0))

    optimizer = qml.GradientDescentOptimizer(stepsize=0.4)
    params = qml.numpy.array([0.011, 0.012], requires_grad=True)
    for _ in range(STEPS):
        params = optimizer.step(circuit, params)
    return np.array(params)


def check() -> float:
    """Compare where the contenders arrive.

    Returns:
        the largest difference between qhybrid's angles and the reference's

    Raises:
        AssertionError: one of them does not arrive at (0, pi), or not where the reference does
    """
    ends = {name: descend(*contender) for name, contender in CONTENDERS.items()}
    for name, end in ends.items():
        np.testing.assert_allclose(end, [0, np.pi], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(end, ends[REFERENCE], rtol=0, atol=1e-9, err_msg=name)
    return float(np.abs(ends["qhybrid"] - ends[REFERENCE]).max())


def main() -> None:
    """Run, print, write."""
    difference = check()
    seconds = interleaved({name: lambda c=c: descend(*c) for name, c in CONTENDERS.items()}, warm_up=1)
    ratios = {name: t / seconds["qhybrid"] for name, t in seconds.items()}
    print(f"W3, {STEPS} steps of the qubit rotation: seconds, medians of interleaved runs\n")
    rows = [[name, f"{seconds[name]:.4f}", f"{ratios[name]:.1f}x"] for name in CONTENDERS]
    print(markdown_table(["", "seconds", "times qhybrid"], rows))
    print(f"\nLargest difference of the final angles to {REFERENCE}: {difference:.0e}.")
    print(verdict(ratios[REFERENCE] >= GOAL, f"{REFERENCE} / qhybrid >= {GOAL:g}"))
    write_results("w3_qubit_rotation", {"seconds": seconds, "ratio": ratios, "angle_difference": difference})


if __name__ == "__main__":
    main()
