"""Hadamard tests."""

import numpy as np
import pennylane as qml
import pytest
from scipy.linalg import expm

import qhybrid
from qhybrid.errors import DeviceError, DifferentiationError, FallbackWarning
from qhybrid.gradients import Adjoint, Hadamard
from qhybrid.gradients.hadamard import generator_words, hadamard_test, squared
from qhybrid.program import (
    PAULI,
    Angle,
    ArrayRef,
    Constant,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Observable,
    PauliRotation,
    Probabilities,
    Program,
    Slots,
    SpectralRotation,
    State,
    Term,
    Variance,
)
from qhybrid.testing import check_vjp
from tests.gradients.circuits import (
    ANGLES,
    ARRAYS,
    BASE,
    SPECTRAL,
    ZZ,
    B,
    S,
    X,
    Z,
    assert_unbiased,
    compile_fast,
    compile_reference,
    draws,
    exact_gradient,
    expval,
    function,
    random_inputs,
    rx,
)

REFUSED = ("state", "state and more", "variance of coefficients")


@pytest.mark.parametrize("name", [n for n in ANGLES if n not in REFUSED])
def test_derivatives_are_exact(name):
    check_vjp(function(ANGLES[name], Hadamard(), compile_fast), random_inputs(ANGLES[name]))


def test_second_derivatives_are_exact():
    for name in ("batched and shared", "variance"):
        check_vjp(function(ANGLES[name], Hadamard(), compile_fast), random_inputs(ANGLES[name]), order=2)


@pytest.mark.parametrize(
    ("name", "match"),
    [("state", "cannot differentiate a state.*adjoint"), ("variance of coefficients", "variance.*parameter-shift")],
)
def test_what_cannot_be_tested_is_refused(name, match):
    inputs = random_inputs(ANGLES[name])
    f = function(ANGLES[name], Hadamard(), compile_fast)
    c = [np.ones_like(y) for y in f(*inputs)]
    with pytest.raises(DifferentiationError, match=match):
        f.pullback((True,) * len(inputs))(*inputs, *c)


def test_arrays_are_refused_by_name():
    inputs = random_inputs(ARRAYS["unitary"])
    f = function(ARRAYS["unitary"], Hadamard(), compile_fast)
    with pytest.raises(DifferentiationError, match=r"hadamard.*U on wires \[0\].*adjoint"):
        f.pullback((True, True))(*inputs, np.ones(1))


def test_generators_that_change_are_refused():
    evolve = Gate("Evolve", (0,), Evolution(Constant(np.stack([X, Z])), 0.5, (S(0), 1.0)))
    with pytest.raises(DifferentiationError, match=r"Evolve.*adjoint"):
        Hadamard().executions(expval(evolve), 1)


# ------------------------------------------------------------------ generators and circuits


@pytest.mark.parametrize(
    ("gate", "count"),
    [
        (Gate("RX", (0,), PauliRotation("X", S(0), 3.0)), 1),
        (Gate("PauliRot", (1, 0), PauliRotation("XY", S(0))), 1),
        (Gate("CRX", (0,), PauliRotation("X", S(0)), (1,), (False,)), 2),
        (Gate("spectral", (0, 1), SPECTRAL), 3),
        (Gate("evolve", (0, 1), Evolution(Constant(np.stack([np.kron(X, Z), np.kron(Z, X)])), S(0), (0.7, 0.4))), 2),
    ],
)
def test_words_of_a_generator(gate, count):
    """``exp(i theta G)`` of the words is the gate, but for a phase that their missing identity gives."""
    words = generator_words(gate, 0)
    assert len(words) == count
    wires = (*gate.controls, *gate.wires)
    generator = np.zeros((2 ** len(wires),) * 2, complex)
    for g, word in words:
        letters, matrix = dict(word), np.eye(1)
        for w in wires:
            matrix = np.kron(matrix, PAULI[letters[w]] if w in letters else np.eye(2))
        generator += g * matrix
    # The columns of the gate's matrix are its states after each basis state.
    flips = [[Gate("X", (w,), Fixed(Constant(X))) for k, w in enumerate(wires) if b >> (len(wires) - 1 - k) & 1]
             for b in range(2 ** len(wires))]  # fmt: skip
    programs = [Program(len(wires), (*f, gate), (), (State(),), num_shared=1) for f in flips]
    order = [sum((b >> (len(wires) - 1 - k) & 1) << (len(wires) - 1 - w) for k, w in enumerate(wires))
             for b in range(2 ** len(wires))]  # fmt: skip
    columns = [compile_reference(p).run(Slots(np.array([0.7])))[1][order] for p in programs]
    product = np.array(columns).T @ expm(-0.7j * generator)
    np.testing.assert_allclose(product, product[0, 0] * np.eye(len(product)), atol=1e-12)


def test_a_free_wire_is_used_before_a_new_one():
    narrow, wide = expval(rx(S(0))), Program(3, BASE, (Expectation(ZZ),), num_shared=0)
    word = ((0, "X"),)
    assert hadamard_test(narrow, 0, word).num_wires == 3
    found = hadamard_test(wide, 0, word)
    assert found.num_wires == 3
    assert found.gates[2].controls == (2,)


def test_squares_of_observables():
    words = Observable((Term(0.5, ((0, "X"),)), Term(2.0, ((0, "Z"), (1, "Z"))), Term(1.0, ((1, "Y"),))))
    found = {t.word: t.coefficient for t in squared(Variance(words)).terms}
    assert found == {(): 5.25, ((0, "X"), (1, "Y")): 1.0}  # X and ZZ, ZZ and Y anticommute
    matrix = Observable((Term(2.0, ((1, "X"),), (((0,), Constant(X + Z)),)),))
    (term,) = squared(Variance(matrix)).terms
    np.testing.assert_allclose(term.coefficient * term.matrices[0][1].array, 8 * np.eye(2))
    for refused in (ArrayRef(0), Constant(X)):
        terms = (Term(1.0, (), (((0,), refused),)), Term(1.0, ((1, "X"),)))
        with pytest.raises(DifferentiationError, match="matrices"):
            squared(Variance(Observable(terms)))


def test_executions_are_words():
    assert Hadamard().executions(ANGLES["batched and shared"], 4) == 4 * 3
    assert Hadamard().executions(ANGLES["controlled rotation"], 1) == 2 + 1
    assert Hadamard().executions(ANGLES["variance"], 2) == 2 * 3  # and the means
    assert Hadamard().executions(ANGLES["coefficients"], 1) == 2 + 1  # all coefficients at once


# ------------------------------------------------------------------ shots


GATES = (*BASE, rx(B(0)), Gate("CRX", (1,), PauliRotation("X", B(1)), (0,), (True,)), rx(B(2), 1, "Y"))
SINGLE = Observable((Term(1.0, ((0, "Z"), (1, "Z"))), Term(0.5)))


@pytest.mark.parametrize(
    "scalars", [(Expectation(ZZ),), (Variance(SINGLE),), (Expectation(Observable((Term(B(2), ((0, "Z"),)),))),)]
)
def test_derivatives_from_three_shots_are_unbiased(scalars):
    program = Program(2, GATES, scalars, num_batched=3)
    point = (0.4, 1.3, -0.7)
    assert_unbiased(draws(program, Hadamard(), 3, 4000, point), exact_gradient(program, point))


def test_derivatives_of_probabilities_from_three_shots_are_unbiased():
    program = Program(2, GATES, (), (Probabilities((1, 0)),), num_batched=3)
    rng = np.random.default_rng(0)
    f = function(program, Hadamard(), compile_fast, shots=3, rng=lambda: rng)
    x = np.repeat([[0.4], [1.3], [-0.7]], 4000, axis=1)
    c = (np.zeros((4000, 0)), np.tile([1.0, -0.5, 2.0, 0.3], (4000, 1)))
    exact = function(program, Adjoint(), compile_fast).pullback((True,))(x, *c)[0].T
    assert_unbiased(f.pullback((True,))(x, *c)[0].T, exact[0])


# ------------------------------------------------------------------ QNodes


def circuit(x):
    qml.RX(x[0], 0)
    qml.CRY(x[1], [0, 1])
    qml.SingleExcitation(x[2], [0, 1])
    return qml.expval(qml.Z(0) @ qml.X(1)), qml.probs(wires=1)


@pytest.mark.parametrize("name", ["qhybrid.statevector", "default.qubit", "lightning.qubit"])
def test_agrees_with_pennylane(name):
    x = qml.numpy.array([0.3, 0.5, 0.7], requires_grad=True)
    device = qml.device(name, wires=3)
    ours = qhybrid.QNode(circuit, device, diff_method="hadamard")
    theirs = qml.QNode(circuit, qml.device("default.qubit"), diff_method="hadamard", gradient_kwargs={"aux_wire": 2})
    assert ours.explain(x).path == "compiled"
    for a, b in zip(qml.jacobian(lambda x: qml.math.hstack(ours(x)))(x),
                    qml.jacobian(lambda x: qml.math.hstack(theirs(x)))(x), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_options_of_pennylanes_go_to_pennylane():
    x = qml.numpy.array([0.3, 0.5, 0.7], requires_grad=True)
    node = qhybrid.QNode(
        circuit, qml.device("default.qubit", wires=3), diff_method="hadamard", gradient_kwargs={"aux_wire": 2}
    )
    assert node.explain(x).path == "pennylane"
    with pytest.warns(FallbackWarning, match="'hadamard' is PennyLane's"):
        got = qml.jacobian(lambda x: qml.math.hstack(node(x)))(x)
    ours = qhybrid.QNode(circuit, qml.device("qhybrid.statevector"), diff_method="hadamard")
    np.testing.assert_allclose(got, qml.jacobian(lambda x: qml.math.hstack(ours(x)))(x), atol=1e-9)


def test_a_device_without_a_spare_wire_says_so():
    x = qml.numpy.array([0.3, 0.5, 0.7], requires_grad=True)
    node = qhybrid.QNode(circuit, qml.device("default.qubit", wires=2), diff_method="hadamard")
    with pytest.raises(DeviceError, match=r"3 wires does not fit on default.qubit.*more wires"):
        qml.jacobian(lambda x: qml.math.hstack(node(x)))(x)


def test_global_phases_have_no_generator():
    phase = SpectralRotation((-1.0,), Constant(np.ones((1, 1, 1))), Angle(0))
    assert generator_words(Gate("phase", (), phase), 0) == ()
