"""The autograd node: nested derivatives, its complex convention, plain results."""

import autograd
import autograd.numpy as anp
import numpy as np
import pennylane as qml
import pytest

from qhybrid import interfaces
from qhybrid.errors import DifferentiationError
from qhybrid.gradients import Adjoint, ParameterShift
from tests.gradients.circuits import ANGLES, ARRAYS, compile_fast, function, random_inputs

METHODS = [Adjoint(), ParameterShift()]
MIXED = ANGLES["batched and shared"]


def node(program, method=METHODS[0]):
    f = function(program, method, compile_fast)
    return lambda *xs: interfaces.apply("autograd", f, xs)


def loss(program, method=METHODS[0]):
    def value(*xs):
        return sum(anp.sum(anp.abs(y) ** 2) + 0.3 * anp.sum(anp.real(y)) for y in node(program, method)(*xs))

    return value


def differences(f, x, h=1e-5):
    flat = []
    for k in range(x.size):
        step = np.zeros(x.size)
        step[k] = h
        step = step.reshape(x.shape)
        flat.append((f(x + step) - f(x - step)) / (2 * h))
    return np.stack(flat, axis=-1).reshape(*np.shape(flat[0]), *x.shape)


@pytest.mark.parametrize("name", ["batched and shared", "state and more", "coefficients"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_gradient_and_hessian(name, method):
    value, inputs = loss(ANGLES[name], method), random_inputs(ANGLES[name])
    gradient = autograd.grad(value)(*inputs)
    np.testing.assert_allclose(gradient, differences(lambda x: value(x, *inputs[1:]), inputs[0]), atol=1e-8)
    hessian = autograd.jacobian(autograd.grad(value))(*inputs)
    expected = differences(lambda x: autograd.grad(value)(x, *inputs[1:]), inputs[0])
    np.testing.assert_allclose(hessian, expected, atol=1e-8)


def test_pennylane_functions():
    value, (x, b) = loss(MIXED), random_inputs(MIXED)
    x, b = qml.numpy.array(x, requires_grad=True), qml.numpy.array(b, requires_grad=True)
    got = qml.grad(value)(x, b)
    np.testing.assert_allclose(got[1], autograd.grad(value, 1)(x.unwrap(), b.unwrap()))
    hessian = qml.jacobian(qml.grad(value, argnums=0), argnums=0)(x, b)
    np.testing.assert_allclose(hessian, differences(lambda y: qml.grad(value, argnums=0)(y, b), x.unwrap()), atol=1e-8)


def test_jacobian_of_all_results():
    program = ANGLES["state and more"]
    inputs = random_inputs(program)
    for k in (0, 2):
        got = autograd.jacobian(lambda x, k=k: node(program)(x, inputs[1])[k])(inputs[0])
        np.testing.assert_allclose(
            got, differences(lambda x, k=k: node(program)(x, inputs[1])[k], inputs[0]), atol=1e-8
        )


@pytest.mark.parametrize("name", ARRAYS)
def test_complex_gradient_is_autograds(name):
    """autograd's gradient of a real function is dL/dx - i dL/dy."""
    value, (x, z) = loss(ARRAYS[name]), random_inputs(ARRAYS[name])
    real = differences(lambda d: value(x, z + d), np.zeros(z.shape), 1e-6)
    imaginary = differences(lambda d: value(x, z + 1j * d), np.zeros(z.shape), 1e-6)
    np.testing.assert_allclose(autograd.grad(value, 1)(x, z), real - 1j * imaginary, atol=1e-8)


def test_real_array_gets_a_real_gradient():
    program = ARRAYS["amplitudes"]
    x, z = random_inputs(program)
    amplitudes = np.abs(z)
    got = autograd.grad(loss(program), 1)(x, amplitudes)
    assert got.dtype == float
    np.testing.assert_allclose(got, differences(lambda a: loss(program)(x, a), amplitudes, 1e-6), atol=1e-8)


def test_results_are_plain_arrays():
    program = ANGLES["state and more"]
    for result in node(program)(*(qml.numpy.array(x) for x in random_inputs(program))):
        assert type(result) is np.ndarray


def test_only_what_is_differentiated_is_needed():
    """The array has no shift rule, but its gradient is not asked for."""
    program = ARRAYS["unitary"]
    inputs = random_inputs(program)
    got = autograd.grad(loss(program, ParameterShift()))(*inputs)
    np.testing.assert_allclose(got, autograd.grad(loss(program))(*inputs), atol=1e-12)
    with pytest.raises(DifferentiationError, match="U on wires"):
        autograd.grad(loss(program, ParameterShift()), 1)(*inputs)


def test_third_derivative_is_refused():
    def value(t):
        return loss(MIXED)(t * np.ones(2), np.ones((1, 2)))

    with pytest.raises(DifferentiationError, match="Third derivatives"):
        autograd.grad(autograd.grad(autograd.grad(value)))(0.3)


def test_apply_dispatches():
    inputs = random_inputs(MIXED)
    (expected,) = function(MIXED, METHODS[0], compile_fast)(*inputs)
    np.testing.assert_array_equal(
        interfaces.apply("numpy", function(MIXED, METHODS[0], compile_fast), inputs)[0], expected
    )
    with pytest.raises(ValueError, match="numpy, autograd, torch, jax"):
        interfaces.apply("tensorflow", function(MIXED, METHODS[0], compile_fast), inputs)
