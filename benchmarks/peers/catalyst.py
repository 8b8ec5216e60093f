"""Catalyst: circuit and adjoint gradient on lightning.qubit, compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable

import catalyst
import jax
import numpy as np
import pennylane as qml


def w2(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """Value and gradient of ``<Z0 Z1>``."""
    weights = jax.numpy.asarray(problem["weights"])
    qubits = weights.shape[1]

    @qml.qnode(qml.device("lightning.qubit", wires=qubits, c_dtype=np.dtype(precision)), diff_method="adjoint")
    def circuit(weights):
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return qml.expval(qml.PauliZ(0) @ qml.PauliZ(1))

    compiled = catalyst.qjit(catalyst.value_and_grad(circuit))
    return {"gradient": lambda: jax.block_until_ready(list(compiled(weights)))}
