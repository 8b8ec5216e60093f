"""Circuits that several checks use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pennylane as qml

from qhybrid.testing.subject import Subject

#: Angles that :func:`entangle` takes.
NUM_ANGLES = 6


def entangle(x: Any) -> None:
    """Three wires, ``(..., 6)`` angles, each used once: a state in which wires, signs and phases show."""
    for wire in range(3):
        qml.RY(x[..., wire], wires=wire)
        qml.RZ(x[..., 3 + wire], wires=wire)
    for wire in range(3):
        qml.CNOT(wires=[wire, (wire + 1) % 3])
    for wire in range(3):
        qml.RX(0.4 + 0.3 * wire, wires=wire)


def angles(subject: Subject, *batch: int) -> Any:
    """Generic angles for :func:`entangle`, ``(*batch, 6)``."""
    return subject.inputs.uniform(-3, 3, (*batch, NUM_ANGLES))


def measuring(measure: Callable[[], Any]) -> Callable[[Any], Any]:
    """:func:`entangle`, then ``measure``."""

    def circuit(x: Any) -> Any:
        entangle(x)
        return measure()

    return circuit


def words() -> list[Any]:
    """Expectation values that together notice nearly any wrong state of three wires."""
    return [qml.expval(o) for o in (qml.X(0) @ qml.Y(1), qml.Z(2), qml.Y(0) @ qml.Z(1) @ qml.X(2), qml.Z(0) @ qml.Y(2))]


def three_values(x: Any) -> Any:
    """Of module level, so that its QNode can be pickled."""
    entangle(x)
    return words()
