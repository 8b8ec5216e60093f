"""The hybrid classifier in JAX, whatever runs its circuit: jit of the whole step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax import numpy as jnp


def classifier(
    circuit: Callable[[jax.Array, jax.Array], jax.Array], problem: Mapping[str, np.ndarray], real: str
) -> dict[str, Callable[[], list]]:
    """A training step up to the gradients, and the outputs.

    Args:
        circuit: gives one row of expectation values a sample, from rows of inputs and from weights
        problem: parameters, features and labels
        real: dtype of the model
    """
    features, labels = jnp.asarray(problem["features"], real), jnp.asarray(problem["labels"])
    parameters = [jnp.asarray(problem[f"parameter {i}"], real) for i in range(5)]

    def model(parameters, features):
        into, into_bias, weights, out, out_bias = parameters
        return circuit(features @ into.T + into_bias, weights) @ out.T + out_bias

    def loss(parameters, features, labels):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(model(parameters, features)), labels[:, None], 1)
        return -jnp.mean(chosen)

    step, forward = jax.jit(jax.value_and_grad(loss)), jax.jit(model)
    return {
        "step": lambda: jax.block_until_ready(step(parameters, features, labels))[1],
        "forward": lambda: [jax.block_until_ready(forward(parameters, features))],
    }
