"""Exact values of every measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pennylane as qml

from qhybrid.testing.checks.circuits import angles, entangle, measuring, three_values
from qhybrid.testing.subject import Subject, table

MATRIX = np.array(
    [[0.3, 0.2 - 0.1j, 0.05, 0.4], [0.2 + 0.1j, -0.7, 0.3j, 0], [0.05, -0.3j, 0.6, 0.1], [0.4, 0, 0.1, 0.2]]
)

#: Observables, by the name that a device's capabilities would list.
OBSERVABLES = {
    "PauliX": lambda: qml.X(0),
    "PauliY": lambda: qml.Y(2),
    "PauliZ": lambda: qml.Z(1),
    "Identity": lambda: qml.Identity(2),
    "Hadamard": lambda: qml.Hadamard(2),
    "Hermitian": lambda: qml.Hermitian(MATRIX, wires=[2, 0]),
    "Projector": lambda: qml.Projector([0, 1], wires=[2, 1]),
    "Projector of a state": lambda: qml.Projector(np.array([0.6, 0.8j]), wires=[2]),
    "Prod": lambda: qml.prod(qml.X(0), qml.Y(1), qml.Z(2)),
    "SProd": lambda: qml.s_prod(-1.7, qml.Hadamard(0)),
    "Sum": lambda: qml.sum(qml.X(0), qml.s_prod(0.3, qml.Z(1) @ qml.Z(2)), qml.Y(2)),
    "LinearCombination": lambda: qml.Hamiltonian([0.3, -1.1, 0.2], [qml.X(0) @ qml.X(1), qml.Z(2), qml.Identity(0)]),
}
SUMS = ("Sum", "LinearCombination")
#: Subsets of wires out of order, and rotated bases.
PROBABILITIES = {
    "all wires": lambda: qml.probs(wires=[0, 1, 2]),
    "one wire": lambda: qml.probs(wires=1),
    "wires out of order": lambda: qml.probs(wires=[2, 0]),
    "basis of X(1)": lambda: qml.probs(op=qml.X(1)),
    "basis of X(2) @ Y(0)": lambda: qml.probs(op=qml.X(2) @ qml.Y(0)),
}


def rotation(subject: Subject) -> None:
    """One rotated qubit has <Z> = cos x and <Y> = -sin x."""

    def circuit(x: Any) -> Any:
        qml.RX(x, wires=0)
        return qml.expval(qml.Z(0)), qml.expval(qml.Y(0))

    subject.close(subject.node(circuit, wires=1)(0.7), (np.cos(0.7), -np.sin(0.7)))


def clifford(subject: Subject) -> None:
    """A GHZ state has <XXX> = 1, <ZZ> = 1, <XYY> = -1 and <Z> = 0."""

    def circuit() -> Any:
        qml.Hadamard(0)
        qml.CNOT([0, 1])
        qml.CNOT([1, 2])
        return [
            qml.expval(qml.X(0) @ qml.X(1) @ qml.X(2)),
            qml.expval(qml.Z(0) @ qml.Z(2)),
            qml.expval(qml.X(0) @ qml.Y(1) @ qml.Y(2)),
            qml.expval(qml.Z(1)),
        ]

    subject.close(subject.node(circuit)(), [1, 1, -1, 0])


def photonic(subject: Subject) -> None:
    """A displaced mode of light has <x> = 2 r cos(phi) and <n> = r^2."""

    def quadrature(r: Any, phi: Any) -> Any:
        qml.Displacement(r, phi, wires=0)
        return qml.expval(qml.QuadX(0))

    def photons(r: Any, phi: Any) -> Any:
        qml.Displacement(r, phi, wires=0)
        return qml.expval(qml.NumberOperator(0))

    subject.close(subject.node(quadrature, wires=1)(0.6, 0.4), 1.2 * np.cos(0.4))
    subject.close(subject.node(photons, wires=1)(0.6, 0.4), 0.36)


def pauli_words(subject: Subject) -> None:
    """Expectation values of Pauli words are right, several in one circuit."""
    subject.agrees(three_values, angles(subject))


def expectations(subject: Subject) -> str | None:
    """Expectation values of sums, products, Hermitian matrices and projectors are right."""
    x = angles(subject)
    return subject.each(OBSERVABLES, lambda make: subject.agrees(measuring(lambda: qml.expval(make())), x))


def variances(subject: Subject) -> str | None:
    """Variances are right."""
    x = angles(subject)
    single = {name: make for name, make in OBSERVABLES.items() if name not in SUMS}
    return subject.each(single, lambda make: subject.agrees(measuring(lambda: qml.var(make())), x))


def variances_of_sums(subject: Subject) -> str | None:
    """Variances of sums include their covariances."""
    x = angles(subject)
    sums = {name: OBSERVABLES[name] for name in SUMS}
    return subject.each(sums, lambda make: subject.agrees(measuring(lambda: qml.var(make())), x))


def probabilities(subject: Subject) -> str | None:
    """Probabilities are right, of wires in any order and in rotated bases."""
    x = angles(subject)
    return subject.each(PROBABILITIES, lambda make: subject.agrees(measuring(make), x))


def state(subject: Subject) -> None:
    """The state is right, as a vector or a density matrix."""
    subject.agrees(measuring(qml.state), angles(subject), state=True)


def mixed_shapes(subject: Subject) -> None:
    """Measurements of different kinds in one circuit come in the order in which they are returned."""

    def circuit(x: Any) -> Any:
        entangle(x)
        return qml.probs(wires=[1]), qml.expval(qml.X(2)), qml.probs(wires=[2, 0]), qml.var(qml.Z(0))

    subject.agrees(circuit, angles(subject))


def plain_qnode(subject: Subject) -> None:
    """A QNode of PennyLane's own gives the same on this device."""
    x = angles(subject)
    expected = qml.QNode(three_values, qml.device("default.qubit"))(x)
    node = qml.QNode(three_values, subject.device())
    if not subject.exact:
        node = qml.set_shots(node, shots=subject.shots)
    subject.close(node(x), expected)


def mid_circuit(subject: Subject) -> None:
    """A measurement in the middle of a circuit conditions a gate."""

    def circuit(x: Any) -> Any:
        qml.RY(x, wires=0)
        outcome = qml.measure(0)
        qml.cond(outcome, qml.RX)(1.3, wires=1)
        return qml.expval(qml.Z(1))

    got = subject.node(circuit, wires=3)(0.8)
    subject.close(got, np.cos(0.4) ** 2 + np.sin(0.4) ** 2 * np.cos(1.3))


def trainable_coefficients(subject: Subject) -> None:
    """Coefficients of a sum may be arguments."""

    def circuit(x: Any, c: Any) -> Any:
        entangle(x)
        return qml.expval(qml.dot([c[0], c[1]], [qml.X(0) @ qml.Z(1), qml.Y(2)]))

    subject.agrees(circuit, angles(subject), np.array([0.4, -1.2]))


CHECKS = table(
    "values",
    rotation,
    clifford,
    photonic,
    pauli_words,
    expectations,
    variances,
    variances_of_sums,
    probabilities,
    state,
    mixed_shapes,
    plain_qnode,
    mid_circuit,
    trainable_coefficients,
    pauli_words="ExpectationMP",
    variances="VarianceMP",
    probabilities="ProbabilityMP",
    state="StateMP",
)
