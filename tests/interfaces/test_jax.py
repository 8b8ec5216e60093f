"""The JAX primitives: every transformation, their compositions, precision, and PennyLane's and qhybrid's QNodes."""

import warnings
from contextlib import nullcontext
from functools import partial
from unittest import mock

import autograd
import autograd.numpy as anp
import numpy as np
import pennylane as qml
import pytest

from qhybrid import QNode, interfaces
from qhybrid.errors import DifferentiationError, FallbackWarning, NotFiniteError
from qhybrid.gradients import Adjoint, ParameterShift
from qhybrid_devices.statevector.small import SmallRun
from tests.gradients.circuits import ANGLES, ARRAYS, compile_fast, function, random_inputs

jax = pytest.importorskip("jax")
jnp = jax.numpy

METHODS = [Adjoint(), ParameterShift()]
PROGRAMS = {n: (ANGLES | ARRAYS)[n] for n in ("batched and shared", "state and more", "amplitudes")}
SECOND = {"jacfwd of jacrev": jax.hessian} | {
    f"{a.__name__} of {b.__name__}": lambda f, a=a, b=b: a(b(f))
    for a, b in [(jax.jacrev, jax.jacrev), (jax.jacfwd, jax.jacfwd), (jax.jacrev, jax.jacfwd)]
}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.experimental.enable_x64():
        yield


def loss(host, f):
    np_ = jnp if host == "jax" else anp

    def value(*xs):
        results = interfaces.apply(host, f, xs)
        return sum(np_.sum(np_.abs(y) ** 2) + np_.sum(0.3 * np_.real(y) + 0.7 * np_.imag(y)) for y in results)

    return value


@pytest.fixture(params=PROGRAMS)
def case(request):
    program = PROGRAMS[request.param]
    f, inputs = function(program, Adjoint(), compile_fast), random_inputs(program)
    everywhere = tuple(range(len(inputs)))
    gradient = [autograd.grad(loss("autograd", f), k)(*inputs) for k in everywhere]
    return loss("jax", f), inputs, everywhere, gradient


def close(got, expected):
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-9), tuple(got), tuple(expected))


def test_gradient(case):
    value, inputs, everywhere, gradient = case
    close(jax.grad(value, everywhere)(*inputs), gradient)
    close(jax.jit(jax.grad(value, everywhere))(*inputs), gradient)


def test_forward_mode_is_the_transpose_of_reverse_mode(case):
    value, inputs, _, gradient = case
    rng = np.random.default_rng(1)
    tangents = [rng.normal(size=x.shape) * x.dtype.type(1 + 1j if np.iscomplexobj(x) else 1) for x in inputs]
    expected = sum(np.sum(g * t).real for g, t in zip(gradient, tangents, strict=True))
    np.testing.assert_allclose(jax.jvp(value, inputs, tangents)[1], expected)
    np.testing.assert_allclose(jax.linearize(value, *inputs)[1](*tangents), expected)


def test_vmap_and_its_derivatives(case):
    value, inputs, everywhere, gradient = case
    stack = [np.stack([x, x]) for x in inputs]
    np.testing.assert_allclose(jax.vmap(value)(*stack), [value(*inputs)] * 2)
    close([g[1] for g in jax.jit(jax.vmap(jax.grad(value, everywhere)))(*stack)], gradient)
    close([g[1] for g in jax.grad(lambda *xs: jax.vmap(value)(*xs).sum(), everywhere)(*stack)], gradient)
    forward = jax.jacfwd(lambda x: jax.vmap(value, (0, *[None] * (len(inputs) - 1)))(x, *inputs[1:]))(stack[0])
    close([forward[1, 1], forward[0, 1]], [gradient[0], 0 * gradient[0]])


def test_loops(case):
    value, inputs, everywhere, gradient = case

    def total(*xs):
        return jax.lax.scan(lambda carry, x: (carry + value(*x), None), 0.0, xs)[0]

    stack = [np.stack([x, x]) for x in inputs]
    close([g[1] for g in jax.grad(total, everywhere)(*stack)], gradient)
    mapped = jax.vmap(jax.grad(total, everywhere), (0, *[None] * (len(inputs) - 1)))
    close([g[0, 1] for g in mapped(stack[0][None], *stack[1:])], gradient)


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("name", ["batched and shared", "state and more"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_hessian(second, name, method):
    f, inputs = function(ANGLES[name], method, compile_fast), random_inputs(ANGLES[name])
    expected = autograd.jacobian(autograd.grad(loss("autograd", f)))(*inputs)
    np.testing.assert_allclose(SECOND[second](loss("jax", f))(*inputs), expected, atol=1e-9)


def test_compiled_hessian_under_vmap():
    f, inputs = function(ANGLES["one rotation"], Adjoint(), compile_fast), random_inputs(ANGLES["one rotation"])
    value = loss("jax", f)
    got = jax.jit(jax.vmap(jax.hessian(value)))(np.stack(inputs * 2))
    np.testing.assert_allclose(got, [jax.hessian(value)(*inputs)] * 2, atol=1e-9)


@pytest.mark.parametrize("order", [jax.jacfwd, partial(jax.jacrev, holomorphic=False)], ids=["forward", "reverse"])
def test_jacobian_of_all_results(order):
    program = ANGLES["state and more"]
    f, (x, b) = function(program, Adjoint(), compile_fast), random_inputs(program)

    def parts(y):
        scalars, state, probs = interfaces.apply("jax", f, (y, b))
        return scalars, jnp.real(state), jnp.imag(state), probs

    for k, got in enumerate(order(parts)(x)):
        difference = (parts(x + 1e-6)[k] - parts(x - 1e-6)[k]) / 2e-6
        np.testing.assert_allclose(got[..., 0], difference, atol=1e-8)


def test_only_what_is_differentiated_is_needed():
    f, inputs = function(ARRAYS["unitary"], ParameterShift(), compile_fast), random_inputs(ARRAYS["unitary"])
    expected = autograd.grad(loss("autograd", f))(*inputs)
    np.testing.assert_allclose(jax.grad(loss("jax", f))(*inputs), expected, atol=1e-12)
    with pytest.raises(DifferentiationError, match="U on wires"):
        jax.grad(loss("jax", f), 1)(*inputs)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("x64", [True, False])
def test_precision_is_that_of_the_inputs(transform, x64):
    f = function(ANGLES["state and more"], Adjoint(), compile_fast)
    x, b = random_inputs(ANGLES["state and more"])
    with jax.experimental.enable_x64(x64):
        for dtype in (jnp.float32, jnp.result_type(float)):
            inputs = jnp.asarray(x, dtype), jnp.asarray(b, dtype)
            got = transform(lambda *xs: interfaces.apply("jax", f, xs))(*inputs)
            assert [y.dtype for y in got] == [dtype, jnp.result_type(dtype, jnp.complex64), dtype]
            assert transform(jax.grad(loss("jax", f)))(*inputs).dtype == dtype
        (integers,) = interfaces.apply("jax", function(ANGLES["one rotation"], METHODS[0]), [jnp.ones(1, int)])
        assert integers.dtype == jnp.result_type(float)


def test_errors():
    f = function(ANGLES["one rotation"], Adjoint(), compile_fast)
    value = loss("jax", f)
    with pytest.raises(NotFiniteError):
        value(jnp.array([np.nan]))
    with pytest.raises(DifferentiationError, match="Third derivatives"):
        jax.grad(jax.grad(jax.grad(lambda x: value(x[None]))))(0.3)


# ------------------------------------------------------------------ QNodes


def body(x, w):
    qml.RX(x, wires=0)
    qml.RY(w[0], wires=1)
    qml.CNOT([0, 1])
    qml.RX(x * w[1], wires=1)
    return qml.expval(qml.Z(0)), qml.probs(wires=[0, 1]), qml.var(qml.X(1))


X, W = 0.5, np.array([0.3, 0.7])
TRANSFORMS = {
    "gradient": lambda f: jax.grad(f, (0, 1)),
    "compiled gradient": lambda f: jax.jit(jax.grad(f, (0, 1))),
    "hessian": lambda f: jax.hessian(f, 1),
    "mapped": lambda f: lambda x, w: jax.vmap(jax.grad(f, 1), (None, 0))(x, jnp.stack([w, 2 * w])),
}


def combined(circuit):
    def value(x, w):
        z, probs, variance = circuit(x, w)
        return 2 * z + jnp.sum(probs * jnp.arange(4)) + variance**2

    return value


@pytest.mark.parametrize(
    ("transform", "diff_method"),
    [*((t, "best") for t in TRANSFORMS), ("compiled gradient", "backprop"), ("compiled gradient", "adjoint")],
)
def test_pennylanes_qnode(transform, diff_method):
    got, expected = (
        TRANSFORMS[transform](combined(qml.QNode(body, qml.device(name, wires=2), diff_method=method)))(X, W)
        for name, method in (("qhybrid.statevector", diff_method), ("default.qubit", "backprop"))
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-9), got, expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("settings", [{}, {"interface": "jax"}, {"diff_method": "parameter-shift"}], ids=str)
def test_qnode(transform, settings):
    circuit = QNode(body, qml.device("qhybrid.statevector", wires=2), **settings)
    with warnings.catch_warnings(record=True, action="always", category=FallbackWarning) as record:
        got = TRANSFORMS[transform](combined(circuit))(jnp.array(X), jnp.array(W))
    found = ["JAX array" in str(r.message) for r in record]
    assert found == ([] if transform == "compiled gradient" else [True])  # recorded once, there is nothing to tell
    expected = TRANSFORMS[transform](combined(qml.QNode(body, qml.device("default.qubit", wires=2))))(X, W)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-9), got, expected)


def test_named_interface_converts_results():
    circuit = QNode(body, qml.device("qhybrid.statevector", wires=2), interface="jax")
    assert all(isinstance(y, jax.Array) for y in circuit(X, W))
    assert circuit.explain(X, W).path == "compiled"


def test_tracer_from_outside():
    def value(x):
        def inner():
            qml.RX(x, wires=0)
            return qml.expval(qml.Z(0))

        with pytest.warns(FallbackWarning):
            return QNode(inner, qml.device("qhybrid.statevector"))()

    np.testing.assert_allclose(jax.grad(value)(X), -np.sin(X))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_samples(transform):
    def flipped(x):
        qml.RX(x, wires=0)
        return qml.sample(wires=[0, 1]), qml.expval(qml.Z(0))

    circuit = qml.set_shots(QNode(flipped, qml.device("qhybrid.statevector", wires=2, seed=1)), 20)
    with nullcontext() if transform is jax.jit else pytest.warns(FallbackWarning):
        samples, z = transform(circuit)(jnp.array(np.pi))
    np.testing.assert_array_equal(samples, [[1, 0]] * 20)
    assert z == -1
    np.testing.assert_allclose(transform(jax.grad(lambda x: circuit(x)[1]))(jnp.array(np.pi / 2)), -1.0, atol=1e-9)


def test_numbers_are_constants_of_a_compiled_program():
    """So that a circuit whose words have no coefficients, or known ones, runs there as it does on other hosts."""

    def turned(x):
        qml.RX(x, wires=0)
        qml.RY(0.3, wires=0)
        qml.CNOT([0, 1])
        return qml.expval(2.0 * qml.Z(1)), qml.expval(qml.X(0) @ qml.X(1))

    circuit = QNode(turned, qml.device("qhybrid.statevector", wires=2))
    with mock.patch.object(SmallRun, "run", autospec=True, side_effect=SmallRun.run) as run:
        found = jax.jit(circuit)(jnp.array(X))
    run.assert_called_once()
    np.testing.assert_allclose(found, qml.QNode(turned, qml.device("default.qubit", wires=2))(X), atol=1e-12)
