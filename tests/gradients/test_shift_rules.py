"""Shift rules against PennyLane's and against trigonometric polynomials."""

import numpy as np
import pennylane as qml
import pytest

from qhybrid.errors import DifferentiationError
from qhybrid.gradients.shift_rules import Measured, frequencies, second_shift_rule, shift_rule
from qhybrid.program import Angle, Constant, Evolution, Gate, PauliRotation, SpectralRotation

X, Z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
PAULI = PauliRotation("X", Angle(0), 3.0)


@pytest.mark.parametrize(
    ("found", "shifts"),
    [
        ((1.0,), None),
        ((0.5, 1.0), None),
        ((1.0, 2.0, 3.0), None),
        ((2.5,), None),
        ((1.0,), (0.3,)),
        ((1.0, 2.0), (0.7, 2.0)),
        ((1.0, 1.9, 3.1), (0.4, 1.0, 2.2)),
    ],
)
def test_agrees_with_pennylane(found, shifts):
    rule = shift_rule(found, shifts)
    theirs = np.array(qml.gradients.generate_shift_rule(found, shifts))
    theirs = theirs[np.lexsort(theirs.T)]
    ours = np.array([rule.coefficients, rule.shifts]).T
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "found",
    [
        (),
        (0.5,),
        (0.5, 1.0, 1.5, 2.0),
        (1.0, 3.0),
        (1.0, 1.01),
        (1.0, 1.7),
        (1.0, 2.0, 4.0),
        (0.3, 1.0, 2.2, 2.5, 4.7),
        tuple(np.arange(1, 30.0)),
    ],
)
def test_differentiates_every_trigonometric_polynomial(found, order):
    rng = np.random.default_rng(0)
    omega, a, b = np.array(found), rng.normal(size=len(found)), rng.normal(size=len(found))

    def f(x):
        return 1.7 + a @ np.cos(omega * x) + b @ np.sin(omega * x)

    rule = shift_rule(found) if order == 1 else second_shift_rule(found)
    got = sum(c * f(0.4 + s) for c, s in zip(rule.coefficients, rule.shifts, strict=True))
    sine, cosine = np.sin(omega * 0.4), np.cos(omega * 0.4)
    expected = (omega * b) @ cosine - (omega * a) @ sine if order == 1 else -(omega**2) @ (a * cosine + b * sine)
    assert got == pytest.approx(expected, abs=1e-8 if order == 2 else 1e-9)


def random_frequencies(count, seed=0):
    return tuple(np.sort(np.random.default_rng(seed).uniform(0.2, 10, count)).tolist())


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 40])
def test_numbers_of_evaluations(count):
    """``2 R`` for the first derivative, equidistant or not; as many for the second, one of them the circuit."""
    equidistant = tuple(0.5 * np.arange(1, count + 1))
    assert len(shift_rule(equidistant).shifts) == 2 * count
    assert len(second_shift_rule(equidistant).shifts) == 2 * count
    assert second_shift_rule(equidistant).shifts[0] == 0.0
    assert len(shift_rule(random_frequencies(count)).shifts) == 2 * count
    assert len(second_shift_rule(random_frequencies(count)).shifts) <= 2 * count + 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 40])
def test_noise_is_the_least_there_is(count):
    """No rule has a smaller sum of absolute coefficients than the highest frequency, by Bernstein's inequality."""
    assert shift_rule(tuple(0.5 * np.arange(1, count + 1))).norm == pytest.approx(0.5 * count, rel=1e-12)
    found = random_frequencies(count)
    assert 1 - 1e-9 <= shift_rule(found).norm / found[-1] < 1.05
    assert 1 - 1e-9 <= second_shift_rule(found).norm / found[-1] ** 2 < 1.1


def test_noise_is_less_than_that_of_pennylanes_rule():
    found = (0.3, 1.0, 2.2, 2.5, 4.7)
    theirs = np.abs(qml.gradients.generate_shift_rule(found)[:, 0]).sum()
    assert shift_rule(found).norm < 0.65 * theirs


@pytest.mark.parametrize(
    ("found", "shifts", "match"),
    [
        ((1.0,), (np.pi,), "amplifies noise"),
        ((1.0, 2.0), (0.3,), "at least 2 positive shifts"),
        ((1.0,), (np.pi - 1e-3,), r"amplifies noise 1e\+03 times"),
        ((1.0, 2.0), (0.3, 0.301), "further apart"),
    ],
)
def test_given_shifts_that_do_not_do(found, shifts, match):
    with pytest.raises(DifferentiationError, match=match):
        shift_rule(found, shifts)


@pytest.mark.parametrize(
    ("gate", "measured", "expected"),
    [
        (Gate("RX", (0,), PAULI), Measured(), (3.0,)),
        (Gate("RX", (0,), PAULI), Measured(variance=True), (3.0, 6.0)),
        (Gate("RX", (0,), PAULI), Measured(amplitudes=True), (1.5, 3.0)),
        (Gate("CRX", (0,), PAULI, (1,), (True,)), Measured(), (1.5, 3.0)),
        (Gate("phase", (), SpectralRotation((-1.0,), Constant(np.ones((1, 1, 1))), Angle(0))), Measured(), ()),
        (Gate("exp", (0,), Evolution(Constant(np.stack([X, Z])), Angle(0), (3.0, 4.0))), Measured(), (10.0,)),
        (Gate("exp", (0,), Evolution(Constant(np.stack([X])), 0.5, (Angle(0),))), Measured(), (1.0,)),
    ],
)
def test_frequencies(gate, measured, expected):
    assert frequencies(gate, 0, measured) == pytest.approx(expected)


@pytest.mark.parametrize(
    "operator",
    [
        Evolution(Constant(np.stack([X, Z])), 0.5, (Angle(0), 1.0)),
        Evolution(Constant(np.stack([X, Z])), Angle(0), (Angle(1), 1.0)),
    ],
)
def test_no_rule_names_gate_and_method(operator):
    with pytest.raises(DifferentiationError, match=r"Evolve on wires \[0\].*adjoint"):
        frequencies(Gate("Evolve", (0,), operator), 0, Measured())
