"""Every gradient method on every kind of program, to second order."""

import numpy as np
import pytest
from scipy.linalg import expm

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit
from qhybrid.gradients import Adjoint, CircuitFunction, FiniteDiff, NoDerivative, ParameterShift, lanes, resolve
from qhybrid.program import (
    Angle,
    ArrayRef,
    ArraySlot,
    Constant,
    Evolution,
    Expectation,
    Gate,
    Observable,
    Probabilities,
    Program,
    Samples,
    Slots,
    Term,
)
from qhybrid.testing import check_vjp
from tests.gradients.circuits import (
    ANGLES,
    ARRAYS,
    BASE,
    HALF,
    ZZ,
    S,
    X,
    Z,
    compile_fast,
    compile_reference,
    expval,
    function,
    random_inputs,
    rx,
)

METHODS = [Adjoint(), ParameterShift(), FiniteDiff()]


@pytest.mark.parametrize("name", ANGLES)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_first_derivative(name, method):
    check_vjp(function(ANGLES[name], method), random_inputs(ANGLES[name]))


@pytest.mark.parametrize("name", ANGLES)
@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: m.name)
def test_second_derivative(name, method):
    check_vjp(function(ANGLES[name], method, compile_fast), random_inputs(ANGLES[name]), order=2)


def test_second_derivative_by_finite_differences_is_shifts_of_them():
    program = ANGLES["batched and shared"]
    inputs = random_inputs(program)
    c, u = np.ones((2, 1)), np.array([0.3, -0.7])
    got, expected = (
        function(program, m, compile_fast).pullback((True, False)).pullback((True, True, False))(*inputs, c, u)
        for m in (FiniteDiff(), Adjoint())
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def array_path(start, program):
    """A curve of unitaries, phases or normalised states."""
    rng = np.random.default_rng(3)
    if len(program.arrays[0].shape) == 2:
        hermitian = rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2))
        return lambda h: start @ expm(1j * h * (hermitian + hermitian.conj().T))
    if program.preparation is None:
        angles = rng.normal(size=4)
        return lambda h: start * np.exp(1j * h * angles)
    direction = rng.normal(size=start.shape) + 1j * rng.normal(size=start.shape)
    return lambda h: (start + h * direction) / np.linalg.norm(start + h * direction, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", ARRAYS)
def test_adjoint_differentiates_arrays(name):
    inputs = random_inputs(ARRAYS[name])
    check_vjp(function(ARRAYS[name], Adjoint()), inputs, paths={1: array_path(inputs[1], ARRAYS[name])})


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: m.name)
def test_second_derivative_of_angles_beside_frozen_arrays(name, method):
    check_vjp(function(ARRAYS[name], method, compile_fast), random_inputs(ARRAYS[name]), needs=(True, False), order=2)


@pytest.mark.parametrize("name", ARRAYS)
def test_mixed_second_derivative_of_angles_and_arrays(name):
    """The cotangent of an array, differentiated along an angle; along the array it is refused."""
    inputs = random_inputs(ARRAYS[name])
    first = function(ARRAYS[name], Adjoint()).pullback((True, False))
    c = [np.ones_like(y) for y in function(ARRAYS[name], Adjoint())(*inputs)]
    u, h = np.array([0.8]), 1e-4
    moved = [
        function(ARRAYS[name], Adjoint()).pullback((False, True))(inputs[0] + s * h * u, inputs[1], *c)[0]
        for s in (1, -1)
    ]
    got = first.pullback((False, True, *(False,) * len(c)))(*inputs, *c, u)[0]
    np.testing.assert_allclose(got, (moved[0] - moved[1]) / (2 * h), atol=1e-7)


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("name", "owner"), [("unitary", r"U on wires \[0\]"), ("amplitudes", r"state prepared on wires \[1, 0\]")]
)
def test_array_entries_are_refused_by_name(method, name, owner):
    f, inputs = function(ARRAYS[name], method), random_inputs(ARRAYS[name])
    c = [np.ones_like(y) for y in f(*inputs)]
    with pytest.raises(DifferentiationError, match=rf"{owner}.*adjoint"):
        f.pullback((True, True))(*inputs, *c)


def test_second_derivative_along_an_array_is_refused():
    f, inputs = function(ARRAYS["unitary"], Adjoint()), random_inputs(ARRAYS["unitary"])
    second = f.pullback((False, True)).pullback((True, False, False))
    with pytest.raises(DifferentiationError, match=r"second derivatives.*U on wires \[0\]"):
        second(*inputs, np.ones(1), np.ones((2, 2)))
    np.testing.assert_array_equal(second(*inputs, np.ones(1), np.zeros((2, 2)))[0], [0.0])


def test_third_derivative_is_refused():
    second = function(ANGLES["one rotation"], Adjoint()).pullback((True,)).pullback((True, True))
    third, x, one = second.pullback((True, True, True)), np.array([0.3]), np.ones(1)
    with pytest.raises(DifferentiationError, match="Third derivatives"):
        third(x, one, one, one, one)
    with pytest.raises(DifferentiationError, match="Third derivatives"):
        third.pullback((True, False, False, False, False))
    still, *_ = third(x, one, np.zeros(1), one, one)  # linear in the direction, so that there it is known
    np.testing.assert_array_equal(still, [0.0])


def test_gate_without_rule_names_gate_and_method():
    evolve = Gate("Evolve", (0,), Evolution(Constant(np.stack([X, Z])), 0.5, (S(0), 1.0)))
    f = function(expval(evolve), ParameterShift())
    with pytest.raises(DifferentiationError, match=r"Evolve.*adjoint"):
        f.pullback((True,))(np.array([0.3]), np.ones(1))
    check_vjp(function(expval(evolve), Adjoint()), [np.array([0.3])])
    with pytest.raises(DifferentiationError, match="Evolve"):
        function(expval(evolve), Adjoint()).pullback((True,)).pullback((True, False))(*np.ones((3, 1)))


# ------------------------------------------------------------------ lanes


class Counting:
    """Counts device calls."""

    def __init__(self, program):
        self.calls = []
        self.circuit = Circuit(program, self.compile)

    def compile(self, program):
        exe, calls = compile_reference(program), self.calls

        class Counted(type(exe)):
            def run(self, slots):
                calls.append(("run", slots.batch_size))
                return super().run(slots)

            def vjp(self, slots, cotangents, needs):
                calls.append(("vjp", slots.batch_size))
                return super().vjp(slots, cotangents, needs)

        return Counted(program)


def test_all_shifts_of_all_samples_are_one_device_call():
    program = ANGLES["batched and shared"]
    counting = Counting(program)
    f, inputs = CircuitFunction(counting.circuit, ParameterShift()), random_inputs(program, batch=3)
    f.pullback((True, True))(*inputs, np.ones((3, 1)))
    assert counting.calls == [("run", 4 * 2 * 3 - 2 * 3)]  # three rotations, two shifts, three samples
    assert ParameterShift().executions(program, 3) == 18
    counting.calls.clear()
    f.pullback((False, True))(*inputs, np.ones((3, 1)))
    assert counting.calls == [("run", 6)]


def test_second_derivative_is_one_device_call_and_skips_zero_directions():
    program = ANGLES["batched and shared"]
    counting = Counting(program)
    f, inputs = CircuitFunction(counting.circuit, Adjoint()), random_inputs(program, batch=3)
    second = f.pullback((True, True)).pullback((True, True, False))
    second(*inputs, np.ones((3, 1)), np.array([0.0, 1.0]), np.zeros((1, 3)))
    assert counting.calls == [("vjp", 6)]


def test_many_lanes_are_split_over_calls(monkeypatch):
    program = ANGLES["state and more"]
    inputs = random_inputs(program)
    f = function(program, ParameterShift())
    c = [np.ones_like(y) for y in f(*inputs)]
    expected = f.pullback((True, True))(*inputs, *c)
    monkeypatch.setattr(lanes, "MAX_NUMBERS_A_CALL", 40)
    for a, b in zip(f.pullback((True, True))(*inputs, *c), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_empty_batch(method):
    program = ANGLES["batched and shared"]
    f = function(program, method)
    x, b = np.array([0.1, 0.2]), np.empty((1, 0))
    assert f(x, b)[0].shape == (0, 1)
    shared, batched = f.pullback((True, True))(x, b, np.empty((0, 1)))
    assert shared.tolist() == [0.0, 0.0]
    assert batched.shape == (1, 0)
    second = f.pullback((True, True)).pullback((True, True, True))(x, b, np.empty((0, 1)), x, b)
    assert [s.shape for s in second] == [(2,), (1, 0), (0, 1)]
    assert not second[0].any()


def test_batch_of_one_equals_no_batch():
    inputs = random_inputs(ANGLES["one rotation"])
    batched = Program(2, (*BASE, rx(Angle(0, True)), rx(Angle(0, True), 1, "Y")), (Expectation(ZZ),), num_batched=1)
    for method in METHODS:
        (one,) = function(ANGLES["one rotation"], method).pullback((True,))(*inputs, np.ones(1))
        (many,) = function(batched, method).pullback((True,))(inputs[0][:, None], np.ones((1, 1)))
        np.testing.assert_allclose(many[:, 0], one, atol=1e-12)


# ------------------------------------------------------------------ shots


def sampled(program, method=None, shots=20000, seed=7):
    rng = np.random.default_rng(seed)
    return function(program, method or ParameterShift(), shots=shots, rng=lambda: rng)


@pytest.mark.parametrize(
    "name", ["batched and shared", "controlled rotation", "coefficients", "variance", "probabilities"]
)
def test_parameter_shift_with_shots(name):
    program = ANGLES[name]
    inputs = random_inputs(program)
    exact = function(program, Adjoint())
    c = [np.ones_like(y) for y in exact(*inputs)]
    needs = (True,) * len(inputs)
    for got, expected in zip(
        sampled(program).pullback(needs)(*inputs, *c), exact.pullback(needs)(*inputs, *c), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=0.06)


def test_second_derivative_with_shots():
    program = ANGLES["one rotation"]
    x, c, u = np.array([0.4]), np.ones(1), np.ones(1)
    got, expected = (
        f.pullback((True,)).pullback((True, False))(x, c, u)[0]
        for f in (sampled(program), function(program, Adjoint()))
    )
    np.testing.assert_allclose(got, expected, atol=0.1)


def test_the_same_seed_gives_the_same_derivative():
    inputs = random_inputs(ANGLES["variance"])
    first, second = (
        sampled(ANGLES["variance"], shots=50).pullback((True, True))(*inputs, np.ones((2, 2))) for _ in "ab"
    )
    np.testing.assert_array_equal(first[0], second[0])


def test_samples_have_no_derivative_but_do_not_disturb_others():
    program = Program(
        2, (*BASE, rx(S(0)), HALF), (Expectation(ZZ),), (Samples((0, 1)), Probabilities((0,))), None, 1, 1
    )
    f, inputs = sampled(program, shots=20000), random_inputs(program)
    scalars, samples, probs = f(*inputs)
    assert samples.shape == (2, 20000, 2)
    zero, one = np.zeros(samples.shape), np.ones(samples.shape)
    (got,) = f.pullback((True, False))(*inputs, np.ones_like(scalars), zero, np.zeros_like(probs))
    exact = Program(2, program.gates, program.scalars, (), None, 1, 1)
    (expected,) = function(exact, Adjoint()).pullback((True, False))(*inputs, np.ones_like(scalars))
    np.testing.assert_allclose(got, expected, atol=0.06)
    with pytest.raises(DifferentiationError, match="Samples have no derivative"):
        f.pullback((True, False))(*inputs, np.ones_like(scalars), one, np.zeros_like(probs))


# ------------------------------------------------------------------ choosing a method


@pytest.mark.parametrize(
    ("given", "has_vjp", "shots", "expected"),
    [
        ("best", True, None, Adjoint()),
        ("best", True, 10, ParameterShift()),
        ("best", False, None, ParameterShift()),
        ("adjoint", True, None, Adjoint()),
        ("backprop", True, None, Adjoint()),
        ("device", True, None, Adjoint()),
        ("parameter-shift", True, None, ParameterShift()),
        ("finite-diff", True, None, FiniteDiff()),
        (FiniteDiff(h=0.5), True, 10, FiniteDiff(h=0.5)),
        (FiniteDiff(h=0.1, order=2), True, None, FiniteDiff(h=0.1, order=2)),
        (None, True, None, NoDerivative()),
    ],
)
def test_resolve(given, has_vjp, shots, expected):
    assert resolve(given, has_vjp, shots)[0] == expected


def test_small_steps_are_refused_with_shots():
    with pytest.raises(DifferentiationError, match=r"shots=10 divides the noise.*h=0.001.*at least h=0.1"):
        resolve("finite-diff", True, 10)


def test_resolve_passes_options():
    assert resolve("finite-diff", True, None, {"h": 0.5})[0] == FiniteDiff(h=0.5)
    with pytest.raises(DifferentiationError, match=r"\['step'\]; it takes \['h', 'order'\]"):
        resolve("finite-diff", True, None, {"step": 0.5})


@pytest.mark.parametrize("given", ["adjoint", "backprop", "device", Adjoint()])
@pytest.mark.parametrize(("has_vjp", "shots", "why"), [(True, 100, "with shots=100"), (False, None, "on this device")])
def test_impossible_method_lists_possible_ones(given, has_vjp, shots, why):
    with pytest.raises(
        DifferentiationError, match=rf"{why}.*'best', 'parameter-shift', 'finite-diff', 'hadamard', 'spsa' or None"
    ):
        resolve(given, has_vjp, shots)


def test_unknown_method():
    with pytest.raises(DifferentiationError, match=r"Unknown diff_method 'adjont'.*'adjoint'"):
        resolve("adjont", True, None)


def test_no_derivative():
    f = function(ANGLES["one rotation"], NoDerivative())
    with pytest.raises(DifferentiationError, match="diff_method=None"):
        f.pullback((True,))(np.ones(1), np.ones(1))


def test_without_derivative_there_is_no_forward_mode_either():
    f = function(ANGLES["one rotation"], NoDerivative(), compile_fast)
    for derivative in (f.pullback((True,)), f.pushforward((True,))):
        with pytest.raises(DifferentiationError, match="diff_method=None"):
            derivative(np.array([0.3]), np.ones(1))


def test_finite_differences_are_finite_in_forward_mode_too():
    """A step so large that its error tells a difference from a derivative."""
    f, x, one = function(ANGLES["one rotation"], FiniteDiff(h=0.3, order=2), compile_fast), np.array([0.3]), np.ones(1)
    (forward,), (reverse,) = f.pushforward((True,))(x, one), f.pullback((True,))(x, one)
    exact, *_ = function(ANGLES["one rotation"], Adjoint(), compile_fast).pushforward((True,))(x, one)
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    assert abs(forward - exact) > 1e-3


@pytest.mark.parametrize("options", [{"h": 0.0}, {"order": 3}])
def test_finite_diff_checks_its_options(options):
    with pytest.raises(DifferentiationError, match="FiniteDiff got"):
        FiniteDiff(**options)


def test_unused_arrays_keep_their_place():
    """An array read by an observable only is named as such."""
    hermitian = Observable((Term(1.0, (), (((0,), ArrayRef(0)),)),))
    program = expval(rx(S(0)), observable=hermitian, arrays=(ArraySlot((2, 2)),))
    with pytest.raises(DifferentiationError, match="matrix observable on wires"):
        function(program, ParameterShift()).pullback((False, True))(np.ones(1), Z.astype(complex), np.ones(1))
    slots = Slots(np.ones(1), None, (Z.astype(complex),))
    assert compile_reference(program).run(slots)[0].shape == (1,)


def test_adjoint_differentiates_a_matrix_observable():
    program = expval(
        rx(S(0)), observable=Observable((Term(0.7, ((1, "X"),), (((0,), ArrayRef(0)),)),)), arrays=(ArraySlot((2, 2)),)
    )
    hermitian, direction = np.array([[1, 2j], [-2j, 0.5]]), np.array([[0.3, 1 + 1j], [1 - 1j, -2]])
    inputs = [np.array([0.4]), hermitian]
    check_vjp(function(program, Adjoint()), inputs, paths={1: lambda h: hermitian + h * direction})
    check_vjp(function(program, Adjoint()), inputs, needs=(True, False), order=2)


def test_check_vjp_finds_a_wrong_derivative():
    class Wrong(Adjoint):
        def vjp(self, *args, **kwargs):
            right = super().vjp(*args, **kwargs)
            return Slots(1.01 * right.shared, None, right.arrays, right.batch_size)

    with pytest.raises(AssertionError, match="the pullback gives"):
        check_vjp(function(ANGLES["one rotation"], Wrong()), random_inputs(ANGLES["one rotation"]))
