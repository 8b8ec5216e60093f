"""Parameter shifts: given shifts, shots in proportion, variances, and what is unbiased."""

import pickle

import numpy as np
import pytest

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit
from qhybrid.gradients import SPSA, Adjoint, CircuitFunction, Hadamard, ParameterShift
from qhybrid.program import (
    Constant,
    Evolution,
    Expectation,
    Gate,
    Observable,
    PauliRotation,
    Probabilities,
    Program,
    Term,
    Variance,
)
from qhybrid.testing import check_jvp, check_vjp
from tests.gradients.circuits import (
    ANGLES,
    BASE,
    ZZ,
    B,
    Z,
    assert_unbiased,
    compile_fast,
    draws,
    exact_gradient,
    expval,
    function,
    random_inputs,
    rx,
)

CRX = Gate("CRX", (1,), PauliRotation("X", B(1)), (0,), (True,))
GATES = (*BASE, rx(B(0)), CRX, rx(B(2), 1, "Y"))
POINT = (0.4, 1.3, -0.7)


def program(*scalars, tensors=()):
    return Program(2, GATES, scalars, tensors, num_batched=3)


ENERGY = program(Expectation(ZZ))
VARIANCE = program(Variance(Observable(ZZ.terms[:1])), Expectation(ZZ))


class Recording:
    """A compiler whose executables note what they are asked to sample: executions and shots of each device call."""

    def __init__(self):
        self.calls = []

    def __call__(self, program):
        executable, calls = compile_fast(program), self.calls

        class Recorded(type(executable)):
            def sample(self, slots, shots, rng):
                calls.append((slots.batch_size, shots))
                return super().sample(slots, shots, rng)

        return Recorded(program)


# ------------------------------------------------------------------ numbers of executions


def test_a_generator_with_few_differences_takes_few_executions():
    """The cost layer of QAOA on a triangle: as one gate it has one frequency, gate by gate it takes six executions."""
    edges = [(0, 1), (1, 2), (0, 2)]
    rotations = [Gate("IsingZZ", e, PauliRotation("ZZ", B(0), 2.0)) for e in edges]
    words = [[Z if w in e else np.eye(2) for w in range(3)] for e in edges]
    terms = Constant(np.stack([np.kron(np.kron(a, b), c) for a, b, c in words]))
    whole = Gate("Evolve", (0, 1, 2), Evolution(terms, B(0), (1.0, 1.0, 1.0)))
    first, last = [rx(B(0), w, "Y") for w in range(3)], [rx(B(0), w, "X") for w in range(3)]
    x = Observable((Term(1.0, ((0, "Z"), (1, "Z"))),))
    programs = [Program(3, (*first, *cost, *last), (Expectation(x),), num_batched=1) for cost in (rotations, [whole])]
    numbers = [ParameterShift().executions(p, 1) for p in programs]
    assert numbers == [12 + 6, 12 + 2]
    gradients = [draws(p, ParameterShift(), None, 1, [0.3]) for p in programs]
    np.testing.assert_allclose(*gradients, atol=1e-12)
    np.testing.assert_allclose(gradients[0], draws(programs[0], Adjoint(), None, 1, [0.3]), atol=1e-12)


def test_variances_take_one_execution_more_than_expectation_values():
    assert ParameterShift().executions(ENERGY, 5) == 5 * (2 + 4 + 2)
    assert ParameterShift().executions(VARIANCE, 5) == 5 * (2 + 4 + 2 + 1)
    recording = Recording()
    f = CircuitFunction(Circuit(VARIANCE, recording, 10), ParameterShift())
    f.pullback((True,))(np.ones((3, 5)), np.ones((5, 2)))
    assert recording.calls == [(45, 10)]


# ------------------------------------------------------------------ given shifts


@pytest.mark.parametrize("shifts", [(0.3, 1.1, 1.9), {1: [0.2], 2: [0.5, 2.0]}, {3: (0.2, 0.7, 1.3)}])
@pytest.mark.parametrize(
    "name", ["batched and shared", "controlled rotation", "spectral", "variance", "probabilities", "coefficients"]
)
def test_given_shifts_are_exact(name, shifts):
    check_vjp(function(ANGLES[name], ParameterShift(shifts)), random_inputs(ANGLES[name]))


def test_given_shifts_are_used():
    seen = []

    def compile_and_look(program):
        executable = compile_fast(program)

        class Seen(type(executable)):
            def run(self, slots):
                seen.append(slots.batched)
                return super().run(slots)

        return Seen(program)

    f = CircuitFunction(Circuit(ENERGY, compile_and_look), ParameterShift({1: [0.2]}))
    f.pullback((True,))(np.zeros((3, 1)), np.ones((1, 1)))
    assert sorted(set(np.round(seen[0][0], 12))) == [-0.2, 0.0, 0.2]
    assert len(set(np.round(seen[0][1], 12))) == 5


@pytest.mark.parametrize(
    ("shifts", "match"),
    [
        ((), "positive numbers"),
        ((0.0,), "positive numbers"),
        ((-1.0, 2.0), "positive numbers"),
        ((np.inf,), "positive numbers"),
        ({2: [0.3]}, "angles with 2 frequencies; give at least 2 different"),
        ({2: [0.3, 0.3]}, "at least 2 different"),
        ([(0.3,), (0.4,)], "a mapping from the number of frequencies"),
        ([[0.3], [0.4]], "a mapping from the number of frequencies"),
    ],
)
def test_shifts_are_checked(shifts, match):
    with pytest.raises(DifferentiationError, match=match):
        ParameterShift(shifts)


def test_shifts_that_do_not_determine_a_derivative_name_the_gate():
    f = function(ANGLES["controlled rotation"], ParameterShift([0.3]))
    with pytest.raises(DifferentiationError, match=r"CRX on wires \[1\]: .*not determined by the shifts \[0.3\]"):
        f.pullback((True,))(np.ones(2), np.ones(1))


def test_methods_are_values():
    one, two = ParameterShift({2: [0.5, 2], 1: [1]}), ParameterShift({1: (1.0,), 2: (0.5, 2.0)})
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == two
    assert ParameterShift(one.shifts) == one
    assert one != ParameterShift()
    with pytest.raises(DifferentiationError, match=r'allotment=.*"proportional"'):
        ParameterShift(allotment="fair")


# ------------------------------------------------------------------ shots


@pytest.mark.parametrize("allotment", ["equal", "proportional"])
@pytest.mark.parametrize(
    "measured",
    [
        ENERGY,
        VARIANCE,
        program(tensors=(Probabilities((0, 1)), Probabilities((1,)))),
        program(Variance(Observable((Term(B(2), ((0, "Z"),)), Term(0.5, ((1, "Z"),)))))),
    ],
    ids=["expval", "var", "probs", "var of coefficients"],
)
def test_derivatives_from_three_shots_are_unbiased(measured, allotment):
    if measured.tensors:  # all probabilities sum to one: weigh them differently
        measured = program(tensors=(Probabilities((0, 1)),))
        rng = np.random.default_rng(1)
        f = [function(measured, m, compile_fast, shots=s, rng=lambda: rng) for m, s in
             ((ParameterShift(allotment=allotment), 3), (Adjoint(), None))]  # fmt: skip
        x = np.repeat(np.array(POINT)[:, None], 4000, axis=1)
        c = [np.zeros((4000, 0)), np.tile([1.0, -0.5, 2.0, 0.3], (4000, 1))]
        got, expected = (g.pullback((True,))(x, *c)[0].T for g in f)
        assert_unbiased(got, expected[0])
        return
    estimates = draws(measured, ParameterShift(allotment=allotment), 3, 4000, POINT)
    assert_unbiased(estimates, exact_gradient(measured, POINT))


def test_the_variance_of_a_sample_is_too_small():
    """What the product rule is for: with three shots a variance is a third too small, and so would its shifts be."""
    measured = program(VARIANCE.scalars[0])
    x = np.repeat(np.array(POINT)[:, None], 20000, axis=1)
    rng = np.random.default_rng(0)
    found = function(measured, ParameterShift(), compile_fast, shots=3, rng=lambda: rng)(x)[0]
    exact = function(measured, ParameterShift(), compile_fast)(x[:, :1])[0]
    assert_unbiased(found, exact[0] * 2 / 3)


@pytest.mark.parametrize("allotment", ["equal", "proportional"])
def test_the_number_of_shots_is_that_of_the_circuit(allotment):
    recording = Recording()
    f = CircuitFunction(Circuit(ENERGY, recording, 1000), ParameterShift(allotment=allotment))
    f.pullback((True,))(np.ones((3, 2)), np.ones((2, 1)))
    executions = sum(batch for batch, _ in recording.calls)
    assert executions == ParameterShift().executions(ENERGY, 2)
    assert sum(batch * shots for batch, shots in recording.calls) == 1000 * executions
    assert len(recording.calls) == {"equal": 1, "proportional": 3}[allotment]


def test_shots_in_proportion_have_less_noise():
    """For two equidistant frequencies the sum of squares of the coefficients falls by 1.5."""
    gates = (rx(B(0), 0, "Y"), rx(B(0), 1, "Y"), Gate("CRX", (1,), PauliRotation("X", B(1)), (0,), (True,)))
    measured = Program(2, gates, (Expectation(Observable((Term(1.0, ((1, "X"),)),))),), num_batched=2)
    point = (0.0, 0.0)  # <X> is zero at every shift of the controlled rotation: each outcome has variance one
    equal, proportional = (
        draws(measured, ParameterShift(allotment=a), 100, 4000, point)[:, 1].var() for a in ("equal", "proportional")
    )
    assert equal / proportional == pytest.approx(1.5, rel=0.15)


def test_the_gradient_of_a_square_is_unbiased_but_that_of_a_cube_is_not():
    """Cotangents are estimates, too: ``2 f`` is unbiased, ``3 f^2`` is not."""
    repeats, rng = 20000, np.random.default_rng(3)
    f = function(ENERGY, ParameterShift(), compile_fast, shots=4, rng=lambda: rng)
    exact = function(ENERGY, Adjoint(), compile_fast)
    x = np.repeat(np.array(POINT)[:, None], repeats, axis=1)
    value, true = f(x)[0], exact(x[:, :1])[0]
    slope = exact_gradient(ENERGY, POINT)
    assert_unbiased(f.pullback((True,))(x, 2 * value)[0].T, 2 * true[0, 0] * slope)
    cubes = f.pullback((True,))(x, 3 * value**2)[0].T
    with pytest.raises(AssertionError, match="is more than"):
        assert_unbiased(cubes, 3 * true[0, 0] ** 2 * slope)


def test_an_empty_batch_of_variances():
    (got,) = function(VARIANCE, ParameterShift(), compile_fast, shots=5).pullback((True,))(
        np.empty((3, 0)), np.empty((0, 2))
    )
    assert got.shape == (3, 0)


def test_nothing_runs_for_nothing():
    recording = Recording()
    shared = expval(rx(B(0)), num_batched=1)
    f = CircuitFunction(Circuit(shared, recording, 5), ParameterShift())
    assert f.pullback((False, False))(np.ones(1), np.ones((1, 2)), np.ones((2, 1))) == ()
    assert recording.calls == []


# ------------------------------------------------------------------ forward mode


@pytest.mark.parametrize("method", [ParameterShift(), ParameterShift({1: [0.3], 2: [0.4, 2.0]}), Hadamard(), SPSA()])
@pytest.mark.parametrize(
    "name", ["batched and shared", "variance", "variance of coefficients", "probabilities", "state"]
)
def test_tangents_are_exact(name, method):
    check_jvp(function(ANGLES[name], method), random_inputs(ANGLES[name]))


@pytest.mark.parametrize("method", [ParameterShift(), ParameterShift(allotment="proportional"), Hadamard()])
def test_tangents_of_variances_from_three_shots_are_unbiased(method):
    x = np.repeat(np.array(POINT)[:, None], 4000, axis=1)
    u = np.repeat(np.array([0.5, -1.0, 0.7])[:, None], 4000, axis=1)
    rng = np.random.default_rng(0)
    found = function(VARIANCE, method, compile_fast, shots=3, rng=lambda: rng).pushforward((True,))(x, u)[0]
    exact = function(VARIANCE, ParameterShift(), compile_fast).pushforward((True,))(x[:, :1], u[:, :1])[0]
    assert_unbiased(found, exact[0])


def test_tangents_of_nothing():
    f = function(VARIANCE, ParameterShift(), compile_fast).pushforward((True,))
    np.testing.assert_array_equal(f(np.ones((3, 2)), np.zeros((3, 2)))[0], np.zeros((2, 2)))
    assert f(np.ones((3, 0)), np.zeros((3, 0)))[0].shape == (0, 2)
