"""qhybrid in JAX, in a process of its own like others there: JAX's threads would be in the way of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax import numpy as jnp

import qhybrid
from benchmarks.peers.hybrid_jax import classifier


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier: a training step up to the gradients, and its outputs."""
    jax.config.update("jax_enable_x64", precision == "complex128")
    qubits = problem["parameter 2"].shape[1]

    @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=qubits), interface="jax")
    def circuit(inputs, weights):
        qhybrid.AngleEmbedding(inputs, wires=range(qubits))
        qhybrid.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qhybrid.expval(qhybrid.PauliZ(i)) for i in range(qubits)]

    return classifier(lambda inputs, weights: jnp.stack(circuit(inputs, weights), -1), problem, "float64")
