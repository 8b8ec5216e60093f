"""Both kinds of functions against finite differences, as hosts see them."""

import autograd.numpy as anp
import numpy as np
import pytest
import torch
from autograd.extend import defvjp, primitive

from qhybrid.bridge.autograd_function import AutogradFunction
from qhybrid.bridge.torch_function import TorchFunction

#: PyTorch compiles rules of its own with it when forward mode is first used.

X, V = np.array([0.3, -0.5, 1.1]), np.array([0.2, 0.7, -0.4])
Z, W = np.array([0.1 + 0.4j, -0.3j]), np.array([0.5 - 0.2j, 0.3 + 0.1j])


def in_autograd(x, z):
    return anp.sin(x) * anp.sum(anp.abs(z) ** 2), z * anp.exp(1j * x[:2]), anp.argmax(x)


def in_torch(x, z):
    return torch.sin(x) * (z.abs() ** 2).sum(), z * torch.exp(1j * x[:2]), x.argmax()


FUNCTIONS = {
    "autograd": AutogradFunction(in_autograd, (True, True), in_autograd),
    "torch": TorchFunction(in_torch, (True, True), in_torch),
}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    return FUNCTIONS[request.param]


def differences(function, xs, vs, h=1e-6):
    ahead = function(*(x + h * v for x, v in zip(xs, vs, strict=True)))
    behind = function(*(x - h * v for x, v in zip(xs, vs, strict=True)))
    return [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]


def test_pushforward(function):
    tangents = function.pushforward((True, True))(X, Z, V, W)
    for got, expected in zip(tangents[:2], differences(function, (X, Z), (V, W)), strict=False):
        np.testing.assert_allclose(got, expected, atol=1e-9)
    assert tangents[2] == 0
    moved = function.pushforward((False, True))(X, Z, W)
    expected = differences(function, (X, Z), (0 * V, W))
    np.testing.assert_allclose(moved[0], expected[0], atol=1e-9)


def test_pushforward_without_forward_mode(function, monkeypatch):
    expected = function.pushforward((True, True))(X, Z, V, W)
    monkeypatch.setattr(type(function), "_pushed", lambda *args: None)
    for got, e in zip(function.pushforward((True, True))(X, Z, V, W), expected, strict=True):
        np.testing.assert_allclose(got, e, atol=1e-14)


def test_functions_without_a_forward_rule():
    x, v = np.array([0.3, 0.8]), np.array([1.0, 0.5])

    @primitive
    def cube(x):
        return x**3

    defvjp(cube, lambda ans, x: lambda g: 3 * g * x**2)
    (pushed,) = AutogradFunction(lambda x: [cube(x)], (True,), cube).pushforward((True,))(x, v)
    np.testing.assert_allclose(pushed, 3 * x**2 * v)

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * g * ctx.saved_tensors[0] ** 2

    (pushed,) = TorchFunction(lambda x: [Cube.apply(x)], (True,), Cube).pushforward((True,))(x, v)
    np.testing.assert_allclose(pushed, 3 * x**2 * v)


def test_pushforward_of_pullback(function):
    cotangents = (V, W, np.zeros(()))
    pullback = function.pullback((True, True))

    def gradient(x, z):
        return pullback(x, z, *cotangents)

    moved = pullback.pushforward((True, True, False, False, False))(X, Z, *cotangents, V, W)
    for got, expected in zip(moved, differences(gradient, (X, Z), (V, W)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-8)


def test_recorded_pullback_equals_the_plain_one(function):
    _, record = function.forward(X, Z)
    operands = (X, Z, V, W, np.zeros(()))
    for needs in ((True, True), (True, False), (False, True)):
        recorded = function.pullback(needs, record)(*operands)
        assert len(recorded) == sum(needs)
        for got, expected in zip(recorded, function.pullback(needs)(*operands), strict=True):
            np.testing.assert_allclose(got, expected)
            assert got.dtype == expected.dtype


def test_derivative_along_an_input_that_was_not_expected(function):
    passive = type(function)(function.raw, (False, True), function.origin)
    operands = (X, Z, V, W, np.zeros(()))
    _, record = passive.forward(X, Z)
    got = passive.pullback((True, True), record)(*operands)
    for a, b in zip(got, function.pullback((True, True))(*operands), strict=True):
        np.testing.assert_allclose(a, b)


def test_output_types(function):
    assert function.output_types([X, Z]) == (((3,), "f"), ((2,), "c"), ((), "i"))
    mapped = function.vmap(4, (True, False))
    assert mapped.output_types([np.stack([X] * 4), Z]) == (((4, 3), "f"), ((4, 2), "c"), ((4,), "i"))
