"""Programs rewritten for hardware: the same unitary, every angle in a rotation, named gates left as they are."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
from qiskit.quantum_info import Operator

from qhybrid.capture.lowering import lower
from qhybrid.program import Fixed, PauliRotation, SpectralRotation
from qhybrid.tapes import backend_of
from qhybrid_devices.externals import Values
from qhybrid_devices.qiskit_circuits.rotations import in_hardware_gates, in_rotations
from qhybrid_devices.qiskit_circuits.translation import translate

THETA = 0.7
UNITARY = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)) + 1j * np.vander([1.0, 2, 3, 4]))[0]
OPERATIONS = [
    qml.RX(THETA, 0),
    qml.CRY(THETA, [2, 0]),
    qml.ctrl(qml.PauliRot(THETA, "YX", [0, 1]), [2, 3], control_values=[0, 1]),
    qml.PauliRot(THETA, "XYZ", [2, 0, 1]),
    qml.PhaseShift(THETA, 1),
    qml.ctrl(qml.PhaseShift(THETA, 0), [1, 2], control_values=[1, 0]),
    qml.ctrl(qml.GlobalPhase(THETA), [3, 1]),
    qml.SingleExcitationPlus(THETA, [0, 2]),
    qml.DoubleExcitation(THETA, [3, 1, 2, 0]),
    qml.IsingXY(THETA, [2, 1]),
    qml.QubitUnitary(UNITARY, [2, 0]),
    qml.ctrl(qml.QubitUnitary(UNITARY, [2, 0]), 1, control_values=[0]),
    qml.ISWAP([3, 1]),
    qml.ECR([1, 3]),
    qml.SWAP([0, 3]),
]


def _program(op):
    tape = qml.tape.QuantumScript([op], [qml.expval(qml.Z(0))])
    lowered = lower(tape, backend_of(qml.device("default.qubit", wires=4)), varies=lambda value: np.ndim(value) == 0)
    return lowered.program, Values(np.array(lowered.shared, float), np.zeros((0, 1)), ())


@pytest.mark.parametrize("rewrite", [in_rotations, in_hardware_gates])
@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_the_same_unitary(op, rewrite):
    program, values = _program(op)
    translated = translate(rewrite(program))
    bound = translated.circuit.assign_parameters(
        dict(zip(translated.parameters, translated.values(values, 1)[:, 0], strict=True))
    )
    overlap = np.vdot(qml.matrix(op, wire_order=range(4)), Operator(bound.reverse_bits()).data) / 16
    assert abs(overlap) == pytest.approx(1, abs=1e-10)
    if rewrite is in_rotations:  # which keeps the global phase, too
        assert overlap * np.exp(1j * translated.phase(values, 1)[0]) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_every_angle_is_in_a_rotation_without_controls(op):
    for gate in in_hardware_gates(_program(op)[0]).gates:
        if gate.angles:
            assert not gate.controls
            assert isinstance(gate.operator, PauliRotation) or (
                isinstance(gate.operator, SpectralRotation) and not gate.wires  # a global phase
            )


def test_unitaries_without_a_name_become_cnots_and_others_keep_theirs():
    def wide(op):
        return [g.name for g in in_hardware_gates(_program(op)[0]).gates if len(g.wires) + len(g.controls) == 2]

    assert wide(qml.SWAP([0, 3])) == ["SWAP"]
    assert set(wide(qml.QubitUnitary(UNITARY, [2, 0]))) == {"CNOT"}
    assert len(wide(qml.QubitUnitary(UNITARY, [2, 0]))) == 3
    assert len(wide(qml.ISWAP([0, 1]))) == 2
    gates = in_hardware_gates(_program(qml.QubitUnitary(UNITARY, [2, 0]))[0]).gates
    assert all(isinstance(g.operator, Fixed) for g in gates)
