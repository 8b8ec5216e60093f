"""Shift rules against PennyLane's and against trigonometric polynomials."""

import numpy as np
import pennylane as qml
import pytest

from qhybrid.errors import DifferentiationError
from qhybrid.gradients.shift_rules import Measured, frequencies, shift_rule
from qhybrid.program import Angle, Constant, Evolution, Gate, PauliRotation, SpectralRotation

X, Z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
PAULI = PauliRotation("X", Angle(0), 3.0)


@pytest.mark.parametrize("found", [(1.0,), (0.5, 1.0), (1.0, 2.0, 3.0), (2.5,), (1.0, 1.9, 3.1)])
def test_agrees_with_pennylane(found):
    rule = shift_rule(found)
    theirs = np.array(qml.gradients.generate_shift_rule(found))
    theirs = theirs[np.lexsort(theirs.T)]
    ours = np.array([rule.coefficients, rule.shifts]).T
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs, atol=1e-12)


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
def test_differentiates_every_trigonometric_polynomial(found):
    rng = np.random.default_rng(0)
    omega, a, b = np.array(found), rng.normal(size=len(found)), rng.normal(size=len(found))

    def f(x):
        return 1.7 + a @ np.cos(omega * x) + b @ np.sin(omega * x)

    rule = shift_rule(found)
    got = sum(c * f(0.4 + s) for c, s in zip(rule.coefficients, rule.shifts, strict=True))
    expected = (omega * b) @ np.cos(omega * 0.4) - (omega * a) @ np.sin(omega * 0.4)
    assert got == pytest.approx(expected, abs=1e-9)


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
