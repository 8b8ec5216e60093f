"""One table: host x method x order x batch x measurement, all against default.qubit with backpropagation.

Orders are the value (0), the Jacobian (1), the Hessian of a contraction of the results (2), a Jacobian-vector product
(jvp) and a Hessian-vector product (hvp).
"""

from __future__ import annotations

from functools import cache

import autograd
import autograd.numpy as anp
import numpy as np
import pennylane
import pytest
import torch
from torch.autograd import forward_ad

import qhybrid as qml

try:
    import jax
except ImportError:
    jax = None

WIRES = 3
TOLERANCE = 1e-9
METHODS = ["adjoint", "parameter-shift"]
BATCHES = {"one sample": (), "batch": (4,)}

MEASUREMENTS = {
    "expval": lambda: [qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Y(2))],
    "expval of a sum": lambda: [qml.expval(0.5 * qml.Z(0) @ qml.Z(1) - 1.5 * qml.X(2))],
    "var": lambda: [qml.var(qml.Z(0)), qml.var(qml.X(1) @ qml.Z(2))],
    "expval of a matrix": lambda: [qml.expval(qml.Hermitian(np.array([[1.0, 0.5j], [-0.5j, -2.0]]), 1))],
    "probs": lambda: [qml.probs(wires=[0, 2])],
    "state": lambda: [qml.state()],
}


def circuit_of(measurement):
    def circuit(x, w):
        qml.AngleEmbedding(x, range(WIRES))
        qml.Rot(w[0], w[1], w[2], 1)
        qml.CNOT([0, 1])
        qml.IsingXY(w[3], [1, 2])
        qml.CRY(w[0] * w[4], [2, 0])
        qml.PauliRot(w[2], "XYZ", [0, 1, 2])
        return MEASUREMENTS[measurement]()

    return circuit


def arguments(batch):
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (*batch, WIRES)), rng.uniform(-1, 1, 5)


# ------------------------------------------------------------------ the function of one host: real numbers, flat


def flat(results, lib, real, imag, join):
    whole = join([lib.reshape(r, (-1,)) for r in results])
    return join([real(whole), imag(whole)]) if "complex" in str(whole.dtype) else whole


def torch_function(node, x):
    inputs = torch.from_numpy(x)
    return lambda w: flat(node(inputs, w), torch, torch.real, torch.imag, torch.cat)


def autograd_function(node, x):
    def join(parts):
        return anp.concatenate(parts)

    return lambda w: flat([anp.array(r) for r in node(x, w)], anp, anp.real, anp.imag, join)


def jax_function(node, x):
    import jax.numpy as jnp

    return lambda w: flat(node(jnp.asarray(x), w), jnp, jnp.real, jnp.imag, jnp.concatenate)


# ------------------------------------------------------------------ what is expected


@cache
def expected(measurement, batch_name):
    """Value, Jacobian, and the Hessian of the contraction with :func:`cotangent`, by backpropagation."""
    x, w = arguments(BATCHES[batch_name])
    node = pennylane.QNode(
        circuit_of(measurement), pennylane.device("default.qubit", wires=WIRES), diff_method="backprop"
    )
    f, start = torch_function(node, x), torch.from_numpy(w)
    value = f(start)
    c = torch.from_numpy(cotangent(len(value)))
    jacobian = torch.autograd.functional.jacobian(f, start)
    hessian = torch.autograd.functional.hessian(lambda v: (c * f(v)).sum(), start)
    return value.numpy(), jacobian.numpy(), hessian.numpy()


def cotangent(size):
    return np.random.default_rng(2).normal(size=size)


TANGENT = np.random.default_rng(3).normal(size=5)


def node_of(measurement, method):
    return qml.QNode(circuit_of(measurement), qml.device("qhybrid.statevector", wires=WIRES), diff_method=method)


# ------------------------------------------------------------------ every order in every host


def in_autograd(node, x, w):
    f = autograd_function(node, x)
    c = cotangent(len(f(w)))

    def loss(v):
        return anp.sum(c * f(v))

    yield "0", f(w)
    yield "1", autograd.jacobian(f)(w)
    yield "2", autograd.hessian(loss)(w)
    yield "jvp", autograd.make_jvp(f)(w)(TANGENT)[1]
    yield "hvp", autograd.differential_operators.hessian_vector_product(loss)(w, TANGENT)
    yield "hvp", autograd.make_jvp(autograd.grad(loss))(w)(TANGENT)[1]


def in_torch(node, x, w):
    f, start, v = torch_function(node, x), torch.tensor(w, requires_grad=True), torch.from_numpy(TANGENT)
    c = torch.from_numpy(cotangent(len(f(start))))
    functional = torch.autograd.functional

    def loss(v):
        return (c * f(v)).sum()

    yield "0", f(start).detach()
    yield "1", functional.jacobian(f, start)
    yield "2", functional.hessian(loss, start)
    with forward_ad.dual_level():
        dual = f(forward_ad.make_dual(start.detach(), v))
        yield "jvp", forward_ad.unpack_dual(dual).tangent
    yield "hvp", functional.hvp(loss, start, v)[1]
    (gradient,) = torch.autograd.grad(loss(start), start, create_graph=True)
    yield "hvp", torch.autograd.grad(gradient @ v, start)[0]


def in_torch_func(node, x, w):
    f, start, v = torch_function(node, x), torch.from_numpy(w), torch.from_numpy(TANGENT)
    c = torch.from_numpy(cotangent(len(f(start))))
    func = torch.func

    def loss(v):
        return (c * f(v)).sum()

    yield "0", f(start)
    yield "1", func.jacrev(f)(start)
    yield "1", func.jacfwd(f)(start)
    yield "2", func.hessian(loss)(start)
    yield "2", func.jacrev(func.jacfwd(loss))(start)
    yield "jvp", func.jvp(f, (start,), (v,))[1]
    yield "hvp", func.jvp(func.grad(loss), (start,), (v,))[1]
    yield "hvp", func.vjp(func.grad(loss), start)[1](v)[0]


def in_jax(node, x, w):
    f = jax_function(node, x)
    c = cotangent(len(f(w)))

    def loss(v):
        return (c * f(v)).sum()

    yield "0", f(w)
    yield "1", jax.jacrev(f)(w)
    yield "1", jax.jacfwd(f)(w)
    yield "2", jax.hessian(loss)(w)
    yield "jvp", jax.jvp(f, (w,), (TANGENT,))[1]
    yield "hvp", jax.jvp(jax.grad(loss), (w,), (TANGENT,))[1]


HOSTS = {"autograd": in_autograd, "torch": in_torch, "torch.func": in_torch_func, "jax": in_jax}


@pytest.mark.filterwarnings("ignore:The QNode:qhybrid.FallbackWarning")  # JAX arrays are traced under jit only
@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", HOSTS)
def test_derivatives_are_those_of_backpropagation(host, method, batch, measurement):
    if host == "jax":
        pytest.importorskip("jax").config.update("jax_enable_x64", True)
    value, jacobian, hessian = expected(measurement, batch)
    wanted = {"0": value, "1": jacobian, "2": hessian, "jvp": jacobian @ TANGENT, "hvp": hessian @ TANGENT}
    met = set()
    for order, found in HOSTS[host](node_of(measurement, method), *arguments(BATCHES[batch])):
        np.testing.assert_allclose(found, wanted[order], atol=TOLERANCE, rtol=0, err_msg=f"order {order}")
        met.add(order)
    assert met == set(wanted)
