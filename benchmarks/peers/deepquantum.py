"""DeepQuantum: a circuit as a PyTorch module, vectorised over the batch by itself."""

from __future__ import annotations

from collections.abc import Callable

import deepquantum as dq
import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import hybrid_torch
from benchmarks.peers.ansatz import cnots

REAL = {"complex64": torch.float32, "complex128": torch.float64}


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier.

    A rotation about three axes is one ``u3``, and all observables are read from the probabilities: both are faster here
    than three gates and ``expectation``.
    """
    values = problem["parameter 2"]
    layers, qubits, _ = values.shape
    circuit = dq.QubitCircuit(qubits)
    for wire in range(qubits):
        circuit.rx(wire, encode=True)
    for layer in range(layers):
        for wire in range(qubits):
            circuit.u3(wire)
        for wires in cnots(layer, qubits):
            circuit.cnot(*wires)
    circuit.to(REAL[precision])
    rotations = [gate for gate in circuit.operators if isinstance(gate, dq.gate.U3Gate)]
    weights = [angle for gate in rotations for angle in (gate.lambd, gate.theta, gate.phi)]
    with torch.no_grad():
        for weight, value in zip(weights, values.ravel().tolist(), strict=True):
            weight.fill_(value)
    signs = torch.tensor([[1 - 2 * (i >> w & 1) for w in reversed(range(qubits))] for i in range(2**qubits)])
    signs = signs.to(REAL[precision])

    def heights(angles: Tensor) -> Tensor:
        state = circuit(angles).squeeze(-1)
        return (state.real**2 + state.imag**2) @ signs

    return hybrid_torch.calls(problem, REAL[precision], heights, weights)
