"""A peer for tests of the benchmarks: W1 and W2 by dense matrices in NumPy, and ways to fail."""

import os
import sys

import numpy as np

from benchmarks.peers.ansatz import gates

I, X, Y, Z = np.eye(2), np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1.0, -1.0])
AXES = {"RX": X, "RY": Y, "RZ": Z}


def on(qubits, matrices):
    """The product of the matrices, by wire, as a matrix of all qubits."""
    full = np.eye(1)
    for wire in range(qubits):
        full = np.kron(full, matrices.get(wire, I))
    return full


def matrix(qubits, name, wires, angle):
    if name == "CNOT":
        return on(qubits, {wires[0]: (I + Z) / 2}) + on(qubits, {wires[0]: (I - Z) / 2, wires[1]: X})
    return np.cos(angle / 2) * np.eye(2**qubits) - 1j * np.sin(angle / 2) * on(qubits, {wires[0]: AXES[name]})


def value(weights):
    layers, qubits, _ = weights.shape
    angles = iter(weights.ravel())
    state = np.eye(2**qubits)[0]
    for name, wires in gates(layers, qubits):
        state = matrix(qubits, name, wires, None if name == "CNOT" else next(angles)) @ state
    return (state.conj() @ on(qubits, {0: Z, 1: Z}) @ state).real


def w2(problem, precision):
    print("what libraries print must not disturb the answers")
    weights = problem["weights"]

    def shifted(i, by):
        moved = weights.ravel().copy()
        moved[i] += by
        return value(moved.reshape(weights.shape))

    def gradient():
        found = [(shifted(i, np.pi / 2) - shifted(i, -np.pi / 2)) / 2 for i in range(weights.size)]
        return [value(weights), np.reshape(found, weights.shape)]

    return {"gradient": gradient}


def doubled(problem, precision):
    return {"call": lambda: [2 * problem["x"]]}


def failing(problem, precision):
    def call():
        raise ZeroDivisionError("this peer cannot divide")

    def die():
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)

    return {"call": call, "die": die}
