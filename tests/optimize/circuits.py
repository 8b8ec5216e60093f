"""Circuits whose metrics are compared, each a function that places gates, with its arguments."""

from __future__ import annotations

import numpy as np
import pennylane as qml

WIRES = 3
_RNG = np.random.default_rng(8)


def entangled_layers(w):
    for layer in w:
        for i in range(WIRES):
            qml.RY(layer[i, 0], wires=i)
            qml.RZ(layer[i, 1], wires=i)
        for i in range(WIRES - 1):
            qml.CNOT([i, i + 1])


def shared_angle(w, x):
    for i in range(WIRES):
        qml.RX(x, wires=i)
        qml.RY(w[i], wires=i)
    qml.IsingXX(x, wires=[0, 1])
    qml.RZ(2 * x, wires=2)
    qml.CNOT([1, 2])
    qml.RY(0.5 * w[0] + 0.3, wires=1)


def functions_of_arguments(w, x):
    for i in range(WIRES):
        qml.RX(qml.math.sin(w[i]), wires=i)
        qml.RY(w[i] * x, wires=i)
    qml.CNOT([0, 1])
    qml.RZ(qml.math.sin(x) ** 2, wires=1)


def controlled_and_spectral(w):
    qml.RX(w[0], wires=0)
    qml.CRY(w[1], wires=[0, 1])
    qml.SingleExcitation(w[2], wires=[1, 2])
    qml.ctrl(qml.PhaseShift(w[3], wires=2), control=[0, 1])
    qml.evolve(qml.X(0) @ qml.Z(1) + 0.5 * qml.Y(1), coeff=w[4])


#: By name: the gates and the arguments.
CIRCUITS = {
    "layers": (entangled_layers, (_RNG.uniform(0, 2, (2, WIRES, 2)),)),
    "shared angle": (shared_angle, (_RNG.uniform(0, 2, WIRES), np.array(0.7))),
    "functions": (functions_of_arguments, (_RNG.uniform(0, 2, WIRES), np.array(0.4))),
    "controlled": (controlled_and_spectral, (_RNG.uniform(0, 2, 5),)),
}
#: Those that PennyLane's metric tensor gets right: it is wrong for controlled rotations.
FOR_PENNYLANE = ("layers", "shared angle", "functions")


def tfim(n):
    """The transverse-field Ising chain, open, at its critical point."""
    terms = [qml.Z(i) @ qml.Z(i + 1) for i in range(n - 1)] + [qml.X(i) for i in range(n)]
    return qml.Hamiltonian([-1.0] * len(terms), terms)


def ising_ansatz(w):
    """From |+...+>, layers of IsingZZ on neighbours and RX, an angle each; ``w`` has shape ``(layers, 2 n - 1)``."""
    n = (w.shape[1] + 1) // 2
    for i in range(n):
        qml.Hadamard(i)
    for layer in w:
        for i in range(n - 1):
            qml.IsingZZ(layer[i], wires=[i, i + 1])
        for i in range(n):
            qml.RX(layer[n - 1 + i], wires=i)
