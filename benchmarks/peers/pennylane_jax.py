"""PennyLane's default.qubit in JAX: jit of the whole Hessian."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pennylane as qml
from jax import numpy as jnp


def hessian(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The Hessian of ``<Z0 Z1>`` by the weights, forward over reverse."""
    jax.config.update("jax_enable_x64", precision == "complex128")
    weights = jnp.asarray(problem["weights"])
    qubits = weights.shape[1]

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="jax", diff_method="backprop")
    def circuit(weights):
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return qml.expval(qml.PauliZ(0) @ qml.PauliZ(1))

    compiled = jax.jit(jax.hessian(circuit))
    return {"hessian": lambda: [jax.block_until_ready(compiled(weights))]}
