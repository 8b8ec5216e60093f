"""TensorCircuit on JAX: jit of the whole step, vmap over the batch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import tensorcircuit as tc
from jax import numpy as jnp

from benchmarks.peers.ansatz import cnots
from benchmarks.peers.hybrid_jax import classifier

tc.set_backend("jax")


def probabilities(weights: jax.Array, inputs: jax.Array | None = None) -> jax.Array:
    """Of the state after the embedding, if any, and StronglyEntanglingLayers; one axis of length 2 a qubit.

    A rotation about three axes is one ``u``, and all observables are read from one state: both are faster here than
    three gates and ``expectation_ps``.
    """
    layers, qubits, _ = weights.shape
    circuit = tc.Circuit(qubits)
    if inputs is not None:
        for wire in range(qubits):
            circuit.rx(wire, theta=inputs[wire])
    for layer in range(layers):
        for wire in range(qubits):
            first, middle, last = weights[layer, wire]
            circuit.u(wire, theta=middle, phi=last, lbd=first)
        for wires in cnots(layer, qubits):
            circuit.cnot(*wires)
    return (jnp.abs(circuit.state()) ** 2).reshape((2,) * qubits)


def height(probabilities: jax.Array, *wires: int) -> jax.Array:
    """The expectation value of a product of Z."""
    marginal = probabilities.sum(axis=tuple(i for i in range(probabilities.ndim) if i not in wires))
    for _ in wires:
        marginal = marginal[0] - marginal[1]
    return marginal


def heights(inputs: jax.Array, weights: jax.Array) -> jax.Array:
    """The expectation value of Z on each wire."""
    found = probabilities(weights, inputs)
    return jnp.stack([height(found, wire) for wire in range(found.ndim)])


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier: a training step up to the gradients, and its outputs."""
    real = set_precision(precision)
    return classifier(jax.vmap(heights, in_axes=(0, None)), problem, real)


def w2(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """Value and gradient of ``<Z0 Z1>``."""
    weights = jnp.asarray(problem["weights"], set_precision(precision))

    compiled = jax.jit(jax.value_and_grad(lambda weights: height(probabilities(weights), 0, 1)))
    return {"gradient": lambda: list(jax.block_until_ready(compiled(weights)))}


def set_precision(precision: str) -> str:
    """Make TensorCircuit compute in a precision; the real type that belongs to it."""
    tc.set_dtype(precision)
    return {"complex64": "float32", "complex128": "float64"}[precision]
