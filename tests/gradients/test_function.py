"""Functions of circuits, and the way past their records of slots that small circuits take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from qhybrid.errors import NotFiniteError
from qhybrid.execution import Circuit
from qhybrid.gradients import Adjoint, Block, CircuitFunction, Gathered, ParameterShift
from qhybrid.gradients.gathered import Arrangement
from qhybrid.program import Angle, Expectation, Gate, Observable, PauliRotation, Probabilities, Program, Samples, Term
from qhybrid_devices.statevector.executable import StateVectorExecutable

BATCH = 5
X, Y = (Observable((Term(1.0, ((0, p),)),)) for p in "XY")


def circuit(shared=True, batched=True, tensors=(), shots=None):
    """Rotations by angles of both kinds, or of one, measured in X and Y."""
    kinds = [k for k, there in ((False, shared), (True, batched)) if there]
    angles = [Angle(i, k) for i in range(2) for k in kinds]
    gates = [Gate("R" + p, (0,), PauliRotation(p, a)) for p, a in zip("XYZY", angles, strict=False)]
    scalars = (Expectation(X), Expectation(Y))
    program = Program(1, tuple(gates), scalars, tensors, num_shared=2 * shared, num_batched=2 * batched)
    return Circuit(program, StateVectorExecutable, shots)


def inputs_of(shared=True, batched=True):
    rng = np.random.default_rng(3)
    return [rng.normal(size=s) for s, there in (((2,), shared), ((2, BATCH), batched)) if there]


@dataclass(frozen=True)
class Doubled(Adjoint):
    """A method that has more to say than its base."""

    def vjp(self, circuit, slots, cotangents, needs, residual=None):
        return super().vjp(circuit, slots, tuple(2 * c for c in cotangents), needs, residual)


@pytest.mark.parametrize(("shared", "batched"), [(True, True), (True, False), (False, True)])
def test_pullback_at_inputs_gives_what_the_pullback_gives(shared, batched):
    function, inputs = CircuitFunction(circuit(shared, batched), Adjoint()), inputs_of(shared, batched)
    outputs, residual = function.forward(*inputs)
    np.testing.assert_array_equal(outputs[0], function(*inputs)[0])
    cotangents = [np.cos(outputs[0])]
    for needs in [(True,) * len(inputs), *([(True, False), (False, True)] if len(inputs) == 2 else [])]:
        expected = function.pullback(needs)(*inputs, *cotangents)
        for _ in range(2):
            found = function.pullback_at(needs, residual)(*cotangents)
            assert len(found) == sum(needs)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)
        for a, b in zip(function.pullback(needs, residual)(*inputs, *cotangents), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_pullback_at_inputs_is_the_derivative_of_the_evaluation():
    """Whatever has become of the inputs since."""
    function, inputs = CircuitFunction(circuit(), Adjoint()), inputs_of()
    outputs, residual = function.forward(*inputs)
    expected = function.pullback_at((True, True), residual)(*outputs)
    for array in inputs:
        array += 1
    for a, b in zip(function.pullback_at((True, True), residual)(*outputs), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pullback_of_larger_circuits_is_the_derivative_of_the_evaluation(monkeypatch):
    """Those have a record of slots, which is kept; the second pullback runs the circuit again at them."""
    monkeypatch.setattr(StateVectorExecutable, "direct", lambda *_: None)
    function, inputs = CircuitFunction(circuit(), Adjoint()), inputs_of()
    outputs, residual = function.forward(*inputs)
    expected = function.pullback((True, True))(*inputs, *outputs)
    for array in inputs:
        array += 1
    for _ in range(2):
        for a, b in zip(function.pullback((True, True), residual)(*inputs, *outputs), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-14)


@pytest.mark.parametrize(
    ("made", "method"),
    [
        (circuit(tensors=(Probabilities((0,)),)), Adjoint()),
        (circuit(shots=10), ParameterShift()),
        (circuit(), ParameterShift()),
        (circuit(), Doubled()),
    ],
    ids=["tensors", "shots", "another method", "a subclass"],
)
def test_everything_else_takes_its_own_way(made, method):
    function, inputs = CircuitFunction(made, method), inputs_of()
    outputs, residual = function.forward(*inputs)
    assert function.pullback_at((True, True), residual) is None
    factor = 2 if isinstance(method, Doubled) else 1
    if made.shots is None:
        found = function.pullback((True, True), residual)(*inputs, *outputs)
        expected = CircuitFunction(made, Adjoint()).pullback((True, True))(*inputs, *outputs)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, factor * b, atol=1e-12)


def test_derived_functions_take_their_own_way():
    function, inputs = CircuitFunction(circuit(), Adjoint()), inputs_of()
    outputs, _ = function.forward(*inputs)
    pullback = function.pullback((True, True))
    _, residual = pullback.forward(*inputs, *outputs)
    assert residual is None
    assert pullback.pullback_at((True, True, True), residual) is None
    pairs = [np.stack([x, x]) for x in inputs]
    (mapped,), residual = function.vmap(2, (True, True)).forward(*pairs)
    np.testing.assert_allclose(mapped[1], outputs[0], atol=1e-12)
    assert function.vmap(2, (True, True)).pullback_at((True, True), residual) is None
    one = function.vmap(1, (True, True))
    (mapped,), residual = one.forward(*[x[None] for x in inputs])
    np.testing.assert_array_equal(mapped[0], outputs[0])
    assert one.pullback_at((True, True), residual) is None


def test_gathered_functions_scatter_what_is_pulled_back():
    inner = CircuitFunction(circuit(), Adjoint())
    index, scale = np.array([1, 0]), np.array([[2.0], [-1.0]])
    blocks = (Block((Arrangement((2,), "vector"),)), Block((Arrangement((BATCH, 2), "leading"),), index, scale))
    function, (weights, data) = Gathered(inner, blocks), (inputs_of()[0], inputs_of()[1].T)
    outputs, residual = function.forward(weights, data)
    for needs in ((True, True), (True, False), (False, True)):
        found = function.pullback_at(needs, residual)(*outputs)
        expected = function.pullback(needs)(weights, data, *outputs)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    pullback = function.pullback((True, True))
    assert pullback.pullback_at((True,) * 3, None) is None


def test_angles_that_are_not_finite_are_refused():
    function, (shared, batched) = CircuitFunction(circuit(), Adjoint()), inputs_of()
    batched[1, 3] = np.nan
    for call in (function, function.forward):
        with pytest.raises(NotFiniteError, match="in sample 3"):
            call(shared, batched)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("moving", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("pulled", [False, True])
def test_outputs_with_their_tangents(pulled, moving):
    """Those of the function and of its pushforward, mapped or not: tangents alone, or inputs as well."""
    function, rng = CircuitFunction(circuit(), Adjoint()), np.random.default_rng(5)
    inputs = inputs_of()
    if pulled:
        inputs = [*inputs, np.cos(function(*inputs)[0])]
        function, moving = function.pullback((True, True)), (*moving, True)
    both, pushed = function.with_tangents(moving), function.pushforward(moving)
    tangents = [rng.normal(size=x.shape) for x, moves in zip(inputs, moving, strict=True) if moves]
    assert_same(both(*inputs, *tangents), function(*inputs) + pushed(*inputs, *tangents))
    for own in (False, True):
        mapped = (own,) * len(inputs) + (True,) * len(tangents)
        arrays = [rng.normal(size=(3, *x.shape)) if m else x for x, m in zip(inputs + tangents, mapped, strict=True)]
        count = len(inputs)
        expected = function.vmap(3, mapped[:count])(*arrays[:count]) + pushed.vmap(3, mapped)(*arrays)
        assert_same(both.vmap(3, mapped)(*arrays), expected)


def test_what_does_not_come_with_its_tangents():
    """Samples, and derivatives that are linear in all that moves, or second ones."""
    function = CircuitFunction(circuit(), Adjoint())
    assert function.pullback((True, True)).with_tangents((False, False, True)) is None
    assert function.pushforward((True, True)).with_tangents((True,) * 4) is None
    sampled = CircuitFunction(circuit(tensors=(Samples((0,)),), shots=10), ParameterShift())
    assert sampled.with_tangents((True, True)) is None


def test_tangents_by_shift_rules_come_with_outputs_too():
    function, inputs = CircuitFunction(circuit(), ParameterShift()), inputs_of()
    both, exact = (CircuitFunction(circuit(), m).with_tangents((True, True)) for m in (ParameterShift(), Adjoint()))
    assert_same(both(*inputs, *inputs), exact(*inputs, *inputs))
    assert_same(both(*inputs, *inputs)[:1], function(*inputs))
