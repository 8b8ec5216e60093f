"""Every standard operation of PennyLane, on an entangled state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pennylane as qml
from scipy.linalg import expm

from qhybrid.testing.checks.circuits import NUM_ANGLES, entangle
from qhybrid.testing.checks.values import MATRIX
from qhybrid.testing.subject import Subject, table

WIRES = 4
U1, U2 = expm(1j * MATRIX[:2, :2]), expm(1j * MATRIX)
AMPLITUDES = np.array([0.1, -0.3j, 0.5, 0.2, 0.4 - 0.1j, 0, 0.6, 0.2])
AMPLITUDES = AMPLITUDES / np.linalg.norm(AMPLITUDES)


@dataclass(frozen=True)
class Case:
    """An operation with ``num_params`` angles, queued by ``apply``."""

    apply: Callable[[Any], Any]
    num_params: int = 0


def _queue(op: type, wires: list[int], x: Any) -> None:
    op(*x, wires=wires)


def _queue_fixed(op: Any, x: Any) -> None:
    qml.apply(op)


def _gates(num_params: int, wires: list[int], *ops: type) -> dict[str, Case]:
    return {op.__name__: Case(partial(_queue, op, wires), num_params) for op in ops}


def _fixed(*ops: Any) -> dict[str, Case]:
    return {op.name: Case(partial(_queue_fixed, op)) for op in ops}


def _layers(template: type, *shape: int, **kwargs: Any) -> dict[str, Case]:
    case = Case(lambda x: template(qml.math.reshape(x, shape), wires=range(WIRES), **kwargs), int(np.prod(shape)))
    return {template.__name__: case}


ONE_WIRE = {
    **_gates(1, [1], qml.RX, qml.RY, qml.RZ, qml.PhaseShift, qml.U1),
    **_gates(2, [0], qml.U2),
    **_gates(3, [2], qml.Rot, qml.U3),
}
SEVERAL_WIRES = {
    **_gates(1, [2, 0], qml.IsingXX, qml.IsingYY, qml.IsingZZ, qml.IsingXY, qml.PSWAP),
    **_gates(1, [2, 0], qml.CRX, qml.CRY, qml.CRZ, qml.ControlledPhaseShift, qml.FermionicSWAP),
    **_gates(1, [1, 3], qml.CPhaseShift00, qml.CPhaseShift01, qml.CPhaseShift10),
    **_gates(1, [1, 3], qml.SingleExcitation, qml.SingleExcitationPlus, qml.SingleExcitationMinus),
    **_gates(1, [3, 1, 0, 2], qml.DoubleExcitation, qml.DoubleExcitationPlus, qml.OrbitalRotation),
    **_gates(1, [3, 0, 1], qml.MultiRZ),
    **_gates(3, [3, 1], qml.CRot),
    "PauliRot": Case(lambda x: qml.PauliRot(x[0], "XYZ", wires=[0, 1, 3]), 1),
    "PCPhase": Case(lambda x: qml.PCPhase(x[0], 3, wires=[2, 0]), 1),
    "GlobalPhase": Case(lambda x: qml.ctrl(qml.GlobalPhase(x[0]), control=1), 1),
}
WITHOUT_ANGLES = _fixed(
    qml.Hadamard(1), qml.X(0), qml.Y(2), qml.Z(3), qml.S(1), qml.T(2), qml.SX(0), qml.Identity(1),
    qml.CNOT([2, 0]), qml.CZ([1, 3]), qml.CY([3, 0]), qml.CH([0, 2]), qml.SWAP([0, 3]), qml.ISWAP([1, 2]),
    qml.SISWAP([3, 0]), qml.ECR([2, 1]), qml.Toffoli([3, 0, 1]), qml.CSWAP([1, 3, 0]), qml.CCZ([0, 2, 3]),
    qml.MultiControlledX([0, 2, 1, 3], [True, False, True]), qml.Barrier(wires=[0, 1]),
)  # fmt: skip
UNITARIES = _fixed(
    qml.QubitUnitary(U1, 3), qml.DiagonalQubitUnitary(np.exp(1j * np.array([0.3, -1.2, 2.1, 0.7])), [3, 1]),
    qml.ControlledQubitUnitary(U1, [1, 2, 0], control_values=[0, 1]), qml.BlockEncode(0.3 * MATRIX, [2, 0, 1]),
) | {"QubitUnitary": Case(lambda x: qml.QubitUnitary(U2, [2, 0]))}  # fmt: skip
CONTROLLED = {
    "ctrl(RX)": Case(lambda x: qml.ctrl(qml.RX(x[0], 0), [2, 3], [0, 1]), 1),
    "ctrl(Rot)": Case(lambda x: qml.ctrl(qml.Rot(*x, 3), 1, 0), 3),
    "ctrl(PhaseShift)": Case(lambda x: qml.ctrl(qml.PhaseShift(x[0], 1), [0]), 1),
    "ctrl(IsingXY)": Case(lambda x: qml.ctrl(qml.IsingXY(x[0], [0, 3]), 2), 1),
    "ctrl(MultiRZ)": Case(lambda x: qml.ctrl(qml.MultiRZ(x[0], [0, 3]), 2, 0), 1),
    "ctrl(ctrl(RY))": Case(lambda x: qml.ctrl(qml.ctrl(qml.RY(x[0], 0), 1), 3, 0), 1),
    "ctrl(adjoint(T))": Case(lambda x: qml.ctrl(qml.adjoint(qml.T(0)), 3)),
    "ctrl(Hadamard)": Case(lambda x: qml.ctrl(qml.Hadamard(2), [0, 1], [0, 1])),
    "ctrl(QubitUnitary)": Case(lambda x: qml.ctrl(qml.QubitUnitary(U2, [0, 3]), 1, 0)),
}
MODIFIED = {
    "Adjoint(Rot)": Case(lambda x: qml.adjoint(qml.Rot(*x, 3)), 3),
    "Adjoint(S)": Case(lambda x: qml.adjoint(qml.S(0))),
    "Adjoint(IsingXY)": Case(lambda x: qml.adjoint(qml.IsingXY(x[0], [3, 1])), 1),
    "Adjoint(ctrl(PhaseShift))": Case(lambda x: qml.adjoint(qml.ctrl(qml.PhaseShift(x[0], 0), 1)), 1),
    "Adjoint(QubitUnitary)": Case(lambda x: qml.adjoint(qml.QubitUnitary(U2, [1, 2]))),
    "Pow(RX)": Case(lambda x: qml.pow(qml.RX(x[0], 0), 0.3), 1),
    "Pow(S)": Case(lambda x: qml.pow(qml.S(0), 3)),
    "Prod": Case(lambda x: qml.prod(qml.RX(x[0], 0), qml.CNOT([0, 1]), qml.RY(x[1], 1)), 2),
    "Evolution of a word": Case(lambda x: qml.evolve(0.7 * qml.X(0) @ qml.Z(1), x[0]), 1),
    "Exp": Case(lambda x: qml.exp(qml.X(0) @ qml.Z(1), 1j * x[0]), 1),
}
TEMPLATES = {
    **_layers(qml.StronglyEntanglingLayers, 2, WIRES, 3),
    **_layers(qml.BasicEntanglerLayers, 2, WIRES, rotation=qml.RY),
    **_layers(qml.RandomLayers, 2, 3, seed=7),
    "AngleEmbedding": Case(lambda x: qml.AngleEmbedding(x, range(4), rotation="Y"), 4),
    "IQPEmbedding": Case(lambda x: qml.IQPEmbedding(x, range(4), n_repeats=2), 4),
    "QAOAEmbedding": Case(lambda x: qml.QAOAEmbedding(x[:4], qml.math.reshape(x[4:], (1, 8)), wires=range(4)), 12),
    "TrotterProduct": Case(lambda x: qml.TrotterProduct(
        qml.dot([0.3, 0.7], [qml.X(0), qml.Z(0) @ qml.Z(1)]), x[0], n=2, order=2), 1),
    "QFT": Case(lambda x: qml.QFT(range(4))),
    "GroverOperator": Case(lambda x: qml.GroverOperator(range(4))),
    "Permute": Case(lambda x: qml.Permute([3, 1, 0, 2], range(4))),
    "QuantumPhaseEstimation": Case(lambda x: qml.QuantumPhaseEstimation(
        qml.QubitUnitary(U1, 0), estimation_wires=[1, 2])),
}  # fmt: skip
PREPARATIONS = {
    "BasisState": lambda: qml.BasisState(np.array([1, 0, 1]), wires=[3, 1, 0]),
    "StatePrep": lambda: qml.StatePrep(AMPLITUDES, wires=[2, 0, 3]),
    "AmplitudeEmbedding": lambda: qml.AmplitudeEmbedding([1.0, 2.0, -3.0], wires=[2, 0], pad_with=0.5, normalize=True),
    "MottonenStatePreparation": lambda: qml.MottonenStatePreparation(AMPLITUDES, wires=[1, 0, 3]),
    "BasisEmbedding": lambda: qml.BasisEmbedding(5, wires=[0, 1, 2]),
}
CHANNELS = {
    "AmplitudeDamping": lambda: qml.AmplitudeDamping(0.3, wires=1),
    "GeneralizedAmplitudeDamping": lambda: qml.GeneralizedAmplitudeDamping(0.3, 0.2, wires=0),
    "PhaseDamping": lambda: qml.PhaseDamping(0.4, wires=2),
    "DepolarizingChannel": lambda: qml.DepolarizingChannel(0.2, wires=0),
    "BitFlip": lambda: qml.BitFlip(0.3, wires=1),
    "PhaseFlip": lambda: qml.PhaseFlip(0.3, wires=1),
    "ResetError": lambda: qml.ResetError(0.2, 0.3, wires=0),
    "PauliError": lambda: qml.PauliError("XY", 0.3, wires=[2, 0]),
    "ThermalRelaxationError": lambda: qml.ThermalRelaxationError(0.1, 1.2, 1.3, 0.5, wires=0),
    "QubitChannel": lambda: qml.QubitChannel([0.6 * np.eye(2), 0.8 * np.array([[0, 1], [1, 0]])], wires=0),
}  # fmt: skip


def _measured() -> list[Any]:
    words = (qml.X(0) @ qml.Y(1), qml.Z(3), qml.Y(0) @ qml.Z(1) @ qml.X(3), qml.Z(0) @ qml.Y(2), qml.X(2))
    return [qml.expval(w) for w in words]


def _check(subject: Subject, cases: Mapping[str, Case]) -> str | None:
    before = subject.inputs.uniform(-3, 3, NUM_ANGLES)

    def test(case: Case) -> None:
        def circuit(x: Any) -> Any:
            entangle(before)
            qml.CRY(0.9, wires=[0, 3])
            case.apply(x)
            return _measured()

        subject.agrees(circuit, subject.inputs.uniform(-3, 3, case.num_params), wires=WIRES)

    return subject.each(cases, test)


def one_wire(subject: Subject) -> str | None:
    """Rotations of one wire are right."""
    return _check(subject, ONE_WIRE)


def several_wires(subject: Subject) -> str | None:
    """Gates with angles on several wires are right."""
    return _check(subject, SEVERAL_WIRES)


def without_angles(subject: Subject) -> str | None:
    """Gates without angles are right."""
    return _check(subject, WITHOUT_ANGLES)


def unitaries(subject: Subject) -> str | None:
    """Gates given as matrices are right."""
    return _check(subject, UNITARIES)


def controlled(subject: Subject) -> str | None:
    """Controlled operations are right, with any control values."""
    return _check(subject, CONTROLLED)


def modified(subject: Subject) -> str | None:
    """Adjoints, powers, products and exponentials are right."""
    return _check(subject, MODIFIED)


def templates(subject: Subject) -> str | None:
    """Templates are right."""
    return _check(subject, TEMPLATES)


def preparations(subject: Subject) -> str | None:
    """Prepared states are right, on wires in any order."""

    def test(prepare: Callable[[], Any]) -> None:
        def circuit() -> Any:
            prepare()
            qml.CRY(0.9, wires=[0, 3])
            qml.RX(0.4, wires=1)
            return _measured()

        subject.agrees(circuit, wires=WIRES)

    return subject.each(PREPARATIONS, test)


def channels(subject: Subject) -> str | None:
    """Noise channels are those of default.mixed."""
    x = subject.inputs.uniform(-3, 3, NUM_ANGLES)

    def test(channel: Callable[[], Any]) -> None:
        def circuit() -> Any:
            entangle(x)
            channel()
            return [qml.expval(qml.X(0) @ qml.Y(1)), qml.expval(qml.Z(0)), qml.expval(qml.Y(1) @ qml.X(2))]

        subject.agrees(circuit, reference="default.mixed")

    return subject.each(CHANNELS, test)


CHECKS = table(
    "gates",
    one_wire,
    several_wires,
    without_angles,
    unitaries,
    controlled,
    modified,
    templates,
    preparations,
    channels,
)
