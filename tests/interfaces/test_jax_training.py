"""Training in JAX: jit around everything, optax, one batched execution under vmap."""

from __future__ import annotations

import numpy as np
import pytest

import qhybrid as qml

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

WIRES = 2


def qnode(**settings):
    @qml.qnode(qml.device("qhybrid.statevector", wires=WIRES), interface="jax", **settings)
    def circuit(x, w):
        qml.AngleEmbedding(x, range(WIRES))
        qml.StronglyEntanglingLayers(w, range(WIRES))
        return qml.expval(qml.Z(0))

    return circuit


def data():
    """Points and on which side of a line they are, -1 or 1."""
    x = np.random.default_rng(0).uniform(-1, 1, (40, WIRES))
    return jnp.asarray(x), jnp.asarray(np.sign(x @ [1.0, -0.5]))


@pytest.mark.parametrize("diff_method", ["adjoint", "parameter-shift"])
def test_optax_trains_a_hybrid_classifier_under_jit(diff_method):
    circuit = qnode(diff_method=diff_method)
    x, y = data()
    rng = np.random.default_rng(1)
    parameters = {
        "w": jnp.asarray(rng.uniform(0, 2 * np.pi, (2, WIRES, 3))),
        "scale": jnp.ones(WIRES),
        "bias": jnp.zeros(()),
    }

    @jax.jit
    def model(p):
        return circuit(x * p["scale"], p["w"]) + p["bias"]

    def loss(p):
        return jnp.mean((model(p) - y) ** 2)

    optimizer = optax.adam(0.1)

    @jax.jit
    def step(p, state):
        value, gradient = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(p, updates), state, value

    state, values = optimizer.init(parameters), []
    for _ in range(60):
        parameters, state, value = step(parameters, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    assert float(jnp.mean(jnp.sign(model(parameters)) == y)) >= 0.9


def test_vmap_is_one_batched_execution(monkeypatch):
    from qhybrid_devices.statevector.executable import StateVectorExecutable

    batches, run = [], StateVectorExecutable.run_with_residual

    def counted(self, slots, *args, **kwargs):
        batches.append(slots.batch_size)
        return run(self, slots, *args, **kwargs)

    circuit = qnode()
    weights = jnp.asarray(np.random.default_rng(2).uniform(0, 6, (7, 1, WIRES, 3)))
    x = jnp.asarray([0.3, -0.4])
    many = jax.jit(jax.vmap(lambda w: circuit(x, w)))
    many(weights)
    monkeypatch.setattr(StateVectorExecutable, "run_with_residual", counted)
    found = many(weights)
    assert batches == [7]
    np.testing.assert_allclose(found, [jax.jit(circuit)(x, w) for w in weights], atol=1e-6)
