"""Wires and batches: which axis is which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pennylane as qml

from qhybrid.testing.checks.circuits import angles, entangle, three_values, words
from qhybrid.testing.subject import Subject, compare, table

LABELS = ["cold", -3, "warm"]


def order(subject: Subject) -> None:
    """Wire 0 is the most significant bit of an outcome, and the first wire of a CNOT controls it."""

    def circuit() -> Any:
        qml.X(1)
        qml.CNOT([1, 2])
        return qml.probs(wires=[0, 1, 2])

    subject.close(subject.node(circuit)(), np.eye(8)[0b011])


def order_of_device(subject: Subject) -> None:
    """Wires in another order on the device than in the circuit mean the same qubits."""

    def circuit(x: Any) -> Any:
        entangle(x)
        return qml.probs(wires=[0, 1, 2]), qml.expval(qml.X(0) @ qml.Y(1))

    subject.agrees(circuit, angles(subject), wires=[2, 0, 1])


def labels(subject: Subject) -> None:
    """Wires may be labelled by words and any integers."""

    def circuit(x: Any) -> Any:
        qml.RY(x[0], wires=LABELS[0])
        qml.RX(x[1], wires=LABELS[1])
        qml.CRY(x[2], wires=[LABELS[0], LABELS[2]])
        qml.CNOT(wires=[LABELS[2], LABELS[1]])
        return qml.expval(qml.Y(LABELS[1])), qml.probs(wires=[LABELS[2], LABELS[0]])

    subject.agrees(circuit, angles(subject), wires=LABELS)


def idle_wires(subject: Subject) -> None:
    """Wires of the device that the circuit does not use stay in |0>."""

    def circuit(x: Any) -> Any:
        qml.RY(x, wires=3)
        return qml.expval(qml.Z(3)), qml.probs(wires=[0, 3])

    subject.agrees(circuit, 0.7, wires=5)


WIRES = table("wires", order, order_of_device, labels, idle_wires)


def _with_batch(x: Any) -> Any:
    entangle(x)
    return qml.expval(qml.X(0) @ qml.Y(1)), qml.probs(wires=[2, 0])


def _with_shared(x: Any, w: Any) -> Any:
    entangle(w)
    qml.RX(x, wires=1)
    qml.CRY(x, wires=[1, 2])
    return words()


def inputs(subject: Subject) -> None:
    """A batch of inputs gives what a loop over its samples gives."""
    x = angles(subject, 4)
    reference = qml.QNode(_with_batch, qml.device("default.qubit", wires=3))
    expected = [reference(row) for row in x]
    got = subject.node(_with_batch)(x)
    subject.close(got, tuple(np.stack(column) for column in zip(*expected, strict=True)))


def shared_angles(subject: Subject) -> None:
    """Some angles may be batched and others shared by all samples."""
    x, w = subject.inputs.uniform(-3, 3, 4), angles(subject)
    reference = qml.QNode(_with_shared, qml.device("default.qubit", wires=3))
    expected = [reference(one, w) for one in x]
    subject.close(subject.node(_with_shared)(x, w), list(np.stack(expected, axis=1)))


def of_one(subject: Subject) -> None:
    """A batch of one keeps its axis."""
    x = angles(subject, 1)
    reference = qml.QNode(three_values, qml.device("default.qubit", wires=3))(x[0])
    subject.close(subject.node(three_values)(x), [np.array([r]) for r in reference])


def other_sizes(subject: Subject) -> None:
    """The size of the batch may change from call to call."""
    node, x = subject.node(three_values), angles(subject, 5)
    expected = np.asarray([qml.QNode(three_values, qml.device("default.qubit", wires=3))(row) for row in x])
    for size in (2, 5, 3):
        subject.close(node(x[:size]), list(expected[:size].T))


def empty(subject: Subject) -> None:
    """An empty batch gives empty results."""
    node = subject.node(_with_batch)
    subject.needs_compiled(node, angles(subject))
    compare(node(angles(subject, 0)), (np.zeros(0), np.zeros((0, 4))), 0.0)


def empty_from_shots(subject: Subject) -> None:
    """An empty batch gives empty results from shots."""
    node = subject.node(_with_batch, shots=10)
    subject.needs_compiled(node, angles(subject))
    compare(node(angles(subject, 0)), (np.zeros(0), np.zeros((0, 4))), 0.0)


BATCHES = table("batches", inputs, shared_angles, of_one, other_sizes, empty, empty_from_shots)
