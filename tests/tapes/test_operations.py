"""Operations keep PennyLane's names, and their matrices are those of the gates."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest

from qhybrid.capture.lowering import lower
from qhybrid.errors import CaptureError
from qhybrid.program import Constant, Fixed, Gate, Program, Slots
from qhybrid.tapes import backend_of
from qhybrid.tapes.operations import rebound, tape_operations
from qhybrid.tapes.template import with_data

THETA = 0.37
NAMED = [
    qml.Hadamard(0), qml.X(0), qml.Y(0), qml.Z(0), qml.S(0), qml.T(0), qml.SX(0), qml.SWAP([0, 1]), qml.ISWAP([0, 1]),
    qml.ECR([0, 1]), qml.SISWAP([0, 1]), qml.CNOT([0, 1]), qml.CY([0, 1]), qml.CZ([0, 1]), qml.CH([0, 1]),
    qml.Toffoli([0, 1, 2]), qml.CSWAP([0, 1, 2]), qml.CCZ([0, 1, 2]),
    qml.MultiControlledX([0, 1, 2], control_values=[0, 1]), qml.adjoint(qml.S(0)), qml.adjoint(qml.T(1)),
    qml.RX(THETA, 0), qml.RY(THETA, 0), qml.RZ(THETA, 0), qml.PhaseShift(THETA, 0), qml.MultiRZ(THETA, [0, 1, 2]),
    qml.IsingXX(THETA, [0, 1]), qml.IsingYY(THETA, [0, 1]), qml.IsingZZ(THETA, [0, 1]), qml.IsingXY(THETA, [0, 1]),
    qml.CRX(THETA, [0, 1]), qml.CRY(THETA, [0, 1]), qml.CRZ(THETA, [0, 1]), qml.ControlledPhaseShift(THETA, [0, 1]),
    qml.SingleExcitation(THETA, [0, 1]), qml.SingleExcitationPlus(THETA, [0, 1]),
    qml.SingleExcitationMinus(THETA, [0, 1]), qml.DoubleExcitation(THETA, [0, 1, 2, 3]),
    qml.DoubleExcitationPlus(THETA, [0, 1, 2, 3]), qml.OrbitalRotation(THETA, [0, 1, 2, 3]),
    qml.FermionicSWAP(THETA, [0, 1]), qml.PauliRot(THETA, "XYZ", [0, 1, 2]), qml.GlobalPhase(THETA),
    qml.ctrl(qml.Hadamard(0), [1, 2], control_values=[0, 1]), qml.ctrl(qml.RY(THETA, 0), [1, 2], control_values=[1, 0]),
]  # fmt: skip
OTHERS = [
    (qml.adjoint(qml.RX(THETA, 0)), ["RX"]),
    (qml.adjoint(qml.PhaseShift(THETA, 0)), ["PhaseShift"]),
    (qml.PauliRot(THETA, "XIX", [0, 1, 2]), ["IsingXX"]),
    (qml.Rot(0.1, 0.2, 0.3, 0), ["RZ", "RY", "RZ"]),
    (qml.ctrl(qml.GlobalPhase(THETA), [1, 2], control_values=[1, 0]), ["C(PhaseShift)"]),
    (qml.ctrl(qml.GlobalPhase(THETA), [1], control_values=[0]), ["QubitUnitary"]),
    (qml.BasisState(np.array([0, 1]), [0, 1]), ["PauliX"]),
    (qml.PCPhase(THETA, 3, [0, 1]), ["QubitUnitary"]),
    (qml.DiagonalQubitUnitary(np.exp(1j * np.arange(4.0)), [0, 1]), ["QubitUnitary"]),
    (qml.evolve(qml.X(0) @ qml.Z(1) + 0.3 * qml.Y(0), THETA), ["QubitUnitary"]),
]


def _operations(op, varies, expand_words=False):
    tape = qml.tape.QuantumScript([op], [qml.state()])
    found = lower(tape, backend_of(qml.device("default.qubit", wires=4)), varies=lambda value: varies)
    values = [np.asarray(v, dtype=float) for v in found.shared]
    arrays = tuple(np.asarray(a, dtype=complex) for a in found.arrays)
    slots = Slots(np.array(values), None, arrays)
    operations = tape_operations(found.program, range(4), expand_words)
    data = iter(with_data(operations, [o.parameter.values(slots) for o in operations if o.parameter is not None]))
    return [o.operation if o.parameter is None else next(data) for o in operations]


def _agrees(made, op):
    wires = list(range(4))
    found = np.eye(16)
    for m in made:
        found = qml.matrix(m, wire_order=wires) @ found
    if isinstance(op, qml.BasisState):
        np.testing.assert_allclose(found[:, 0], op.state_vector(wire_order=wires).reshape(-1), atol=1e-10)
    else:
        np.testing.assert_allclose(found, qml.matrix(op, wire_order=wires), atol=1e-10)


@pytest.mark.parametrize("op", NAMED, ids=str)
def test_names_of_varying_gates(op):
    made = _operations(op, varies=True)
    assert [m.name for m in made] == [op.name]
    _agrees(made, op)


CONSTANT = [op for op in NAMED if op.num_params == 0 or op.name in {"RX", "RY", "RZ", "PhaseShift", "IsingXX", "CRY"}]


@pytest.mark.parametrize("op", CONSTANT, ids=str)
def test_names_of_constant_gates(op):
    made = _operations(op, varies=False)
    assert [m.name for m in made] == [op.name]
    _agrees(made, op)


@pytest.mark.parametrize("varies", [True, False])
@pytest.mark.parametrize("op", [op for op in NAMED if op.num_params], ids=str)
def test_constant_gates_agree(op, varies):
    _agrees(_operations(op, varies), op)


@pytest.mark.parametrize(("op", "names"), OTHERS, ids=[str(o[0].name) for o in OTHERS])
def test_other_names(op, names):
    made = _operations(op, varies=not isinstance(op, qml.BasisState))
    assert [m.name for m in made] == names
    _agrees(made, op)


@pytest.mark.parametrize("controls", [[], [3]])
def test_mixed_words_between_changes_of_basis(controls):
    op = qml.PauliRot(THETA, "YXZ", [0, 1, 2])
    op = qml.ctrl(op, controls) if controls else op
    made = _operations(op, varies=True, expand_words=True)
    assert [m.name for m in made] == ["RX", "Hadamard", "C(MultiRZ)" if controls else "MultiRZ", "RX", "Hadamard"]
    _agrees(made, op)


def test_global_phases_that_nothing_shows_are_left_out():
    tape = qml.tape.QuantumScript([qml.GlobalPhase(0.3), qml.X(0)], [qml.probs(wires=0)])
    program = lower(tape, backend_of(qml.device("default.qubit")), varies=lambda value: True).program
    assert [o.operation.name for o in tape_operations(program, [0])] == ["PauliX"]


def test_labels():
    program = Program(2, (Gate("CNOT", (1,), Fixed(Constant(np.array([[0, 1], [1, 0]]))), (0,), (True,)),))
    (operation,) = tape_operations(program, ["a", "b"])
    assert operation.operation.wires.tolist() == ["a", "b"]


def test_matrices_that_are_not_of_qubits_are_refused():
    with pytest.raises(CaptureError, match="not of qubits"):
        tape_operations(Program(1, (Gate("TShift", (0,), Fixed(Constant(np.eye(3)))),)), [0])


@pytest.mark.parametrize("op", [qml.RX(0.1, 0), qml.CRZ(0.1, [0, 1]), qml.ctrl(qml.RY(0.1, 0), [1, 2])], ids=str)
def test_rebound_shares_nothing_that_changes(op):
    before = qml.matrix(op)
    other = rebound(op, np.float64(0.9))
    assert other.data == (0.9,)
    np.testing.assert_allclose(qml.matrix(other), qml.matrix(qml.ops.functions.bind_new_parameters(op, [0.9])))
    np.testing.assert_array_equal(qml.matrix(op), before)
