"""Functions without the last axis of some inputs and outputs: they and all their derivatives are those of another."""

from __future__ import annotations

import numpy as np
import pytest

import qhybrid
from qhybrid.execution import Circuit
from qhybrid.gradients import Adjoint, CircuitFunction, Single
from qhybrid.program import Angle, Expectation, Gate, Observable, PauliRotation, Program, Term

X, C, V = np.array([0.3, 1.1]), np.array([0.7]), np.array([0.2, -0.5])


@pytest.fixture
def function():
    """``cos x0 cos x1`` of one qubit that is turned about X and then about Y, with the axis of scalars."""
    gates = [Gate("R", (0,), PauliRotation(word, Angle(i))) for i, word in enumerate("XY")]
    z = Observable((Term(1.0, ((0, "Z"),)),))
    program = Program(1, tuple(gates), (Expectation(z),), num_shared=2)
    return CircuitFunction(Circuit(program, qhybrid.device("qhybrid.statevector", wires=1).compile), Adjoint())


def test_the_value_has_no_axis(function):
    (value,) = Single(function)(X)
    assert value.shape == ()
    np.testing.assert_allclose(value, np.cos(X).prod(), atol=1e-12)
    assert Single(function).output_types([X]) == (((), "f"),)


def test_the_pullback_and_what_is_derived_from_it(function):
    single, whole = Single(function).pullback((True,)), function.pullback((True,))
    np.testing.assert_array_equal(single(X, C[0])[0], whole(X, C)[0])
    assert single.output_types([X, C[0]]) == (((2,), "f"),)
    pairs = zip(single.pullback((True, True))(X, C[0], V), whole.pullback((True, True))(X, C, V), strict=True)
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected.reshape(found.shape))
    assert single.pullback((True, True)).output_types([X, C[0], V])[1] == ((), "f")
    (found,) = single.pullback((False, True))(X, C[0], V)
    assert found.shape == ()
    np.testing.assert_allclose(found, V @ whole(X, np.ones(1))[0], atol=1e-12)


def test_the_pushforward_and_what_is_derived_from_it(function):
    single, whole = Single(function).pushforward((True,)), function.pushforward((True,))
    np.testing.assert_array_equal(single(X, V)[0], whole(X, V)[0][0])
    assert single(X, V)[0].shape == ()
    (found,) = single.pullback((False, True))(X, V, C[0])
    np.testing.assert_array_equal(found, whole.pullback((False, True))(X, V, C)[0])
    moved = single.pushforward((False, True))(X, V, X)[0]
    np.testing.assert_allclose(moved, single(X, X)[0], atol=1e-12)
    tangent = Single(function).pullback((True,)).pushforward((False, True))(X, C[0], C[0])[0]
    np.testing.assert_array_equal(tangent, function.pullback((True,))(X, C)[0])


def test_a_residual_and_the_pullback_at_it(function):
    single = Single(function)
    outputs, residual = single.forward(X)
    assert [y.shape for y in outputs] == [()]
    expected = function.pullback((True,))(X, C)[0]
    np.testing.assert_array_equal(single.pullback((True,), residual)(X, C[0])[0], expected)
    np.testing.assert_array_equal(single.pullback_at((True,), residual)(C[0])[0], expected)
    assert single.pullback_at((True,), None) is None


def test_mapped_axes_are_in_front(function):
    many = np.stack([X, V, X + V])
    mapped = Single(function).vmap(3, (True,))
    np.testing.assert_allclose(mapped(many)[0], np.cos(many).prod(1), atol=1e-12)
    assert mapped.output_types([many]) == (((3,), "f"),)
    (found,) = mapped.pullback((True,))(many, np.arange(3.0))
    np.testing.assert_allclose(found, function.vmap(3, (True,)).pullback((True,))(many, np.arange(3.0)[:, None])[0])
