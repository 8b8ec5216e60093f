"""MindQuantum: adjoint gradients with two parallel workers; the classical layers in NumPy, with their gradients."""

from __future__ import annotations

import os
from collections.abc import Callable

import mindquantum as mq
import numpy as np
from mindquantum.core import gates as mqg
from mindquantum.core.circuit import Circuit
from mindquantum.core.operators import Hamiltonian, QubitOperator
from mindquantum.simulator import Simulator

from benchmarks.peers.ansatz import gates


def layers_of(layers: int, qubits: int) -> Circuit:
    """StronglyEntanglingLayers with a parameter for each rotation."""
    circuit = Circuit()
    for i, (name, wires) in enumerate(gates(layers, qubits)):
        circuit += mqg.X.on(wires[1], wires[0]) if name == "CNOT" else getattr(mqg, name)(f"w{i}").on(*wires)
    return circuit


def gradient_of(observables: list[str], circuit: Circuit, precision: str) -> Callable:
    """MindQuantum's function for values and gradients."""
    dtype = getattr(mq, precision)
    hamiltonians = [Hamiltonian(QubitOperator(o)).astype(dtype) for o in observables]
    simulator = Simulator("mqvector", circuit.n_qubits, dtype=dtype)
    return simulator.get_expectation_with_grad(hamiltonians, circuit, parallel_worker=os.cpu_count())


def w2(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """Value and gradient of ``<Z0 Z1>``."""
    weights = problem["weights"]
    function = gradient_of(["Z0 Z1"], layers_of(*weights.shape[:2]), precision)

    def value_and_gradient() -> list:
        value, gradient = function(weights.ravel())
        return [value[0, 0].real, gradient[0, 0].real.reshape(weights.shape)]

    return {"gradient": value_and_gradient}


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier: a training step up to the gradients. MindQuantum has no forward pass for a batch."""
    real = {"complex64": np.float32, "complex128": np.float64}[precision]
    features, labels = problem["features"].astype(real), problem["labels"]
    into, into_bias, weights, out, out_bias = (problem[f"parameter {i}"].astype(real) for i in range(5))
    layers, qubits, _ = weights.shape
    embedding = Circuit([mqg.RX(f"x{i}").on(i) for i in range(qubits)])
    circuit = embedding.as_encoder() + layers_of(layers, qubits).as_ansatz()
    function = gradient_of([f"Z{i}" for i in range(qubits)], circuit, precision)
    samples = np.arange(len(labels))

    def step() -> list[np.ndarray]:
        values, by_angles, by_weights = function(features @ into.T + into_bias, weights.ravel())
        heights = values.real
        logits = heights @ out.T + out_bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        d_logits = odds / odds.sum(axis=1, keepdims=True)
        d_logits[samples, labels] -= 1
        d_logits /= len(labels)
        d_heights = d_logits @ out
        d_angles = np.einsum("bm,bmi->bi", d_heights, by_angles.real)
        d_weights = np.tensordot(d_heights, by_weights.real, 2)
        return [
            d_angles.T @ features,
            d_angles.sum(axis=0),
            d_weights.reshape(weights.shape),
            d_logits.T @ heights,
            d_logits.sum(axis=0),
        ]

    return {"step": step}
