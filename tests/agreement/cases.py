"""Circuits for the agreement tests: every gate, observable and template that the compiled path takes.

A case is a function of one flat array of angles. ``batches`` says whether PennyLane's own ``default.qubit`` takes the
case with a batch axis; where it does not, batches are checked against a loop over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pennylane as qml
from scipy.linalg import expm

WIRES = (0, 1, 2, 3)
_H = np.array([[0.3, 0.2 - 0.1j, 0.05, 0.4], [0.2 + 0.1j, -0.7, 0.3j, 0], [0.05, -0.3j, 0.6, 0.1], [0.4, 0, 0.1, 0.2]])
U1 = expm(1j * _H[:2, :2])
U2 = expm(1j * _H)
SIGNS = np.exp(1j * np.array([0.3, -1.2, 2.1, 0.7]))


@dataclass(frozen=True)
class Case:
    """One circuit fragment.

    Args:
        name: shown by pytest
        num_params: angles that it takes
        apply: queues it, given the angles along the last axis
        batches: whether the angles may have a batch axis in front
        shift: whether parameter-shift has a rule for it
        host: whose backprop on ``default.qubit`` is the reference; PennyLane is wrong in autograd for evolutions under
            sums, and in torch for SelectPauliRot
    """

    name: str
    num_params: int
    apply: Callable
    batches: bool = True
    shift: bool = True
    host: str = "torch"


def _gate(op: type, num_params: int, wires: tuple, **kwargs) -> Case:
    """A PennyLane operation of scalar parameters."""
    return Case(op.__name__, num_params, lambda x: op(*(x[..., i] for i in range(num_params)), wires=wires, **kwargs))


def _with(name: str, num_params: int, apply: Callable, batches: bool = True, shift: bool = True) -> Case:
    return Case(name, num_params, apply, batches, shift)


ONE_QUBIT = [
    *(_gate(op, 1, (1,)) for op in (qml.RX, qml.RY, qml.RZ, qml.PhaseShift, qml.U1)),
    _gate(qml.Rot, 3, (2,)),
    _gate(qml.U2, 2, (0,)),
    _gate(qml.U3, 3, (3,)),
]
MULTI_QUBIT = [
    *(_gate(op, 1, (2, 0)) for op in (qml.IsingXX, qml.IsingYY, qml.IsingZZ, qml.IsingXY, qml.PSWAP)),
    *(_gate(op, 1, (2, 0)) for op in (qml.CRX, qml.CRY, qml.CRZ, qml.ControlledPhaseShift)),
    *(_gate(op, 1, (1, 3)) for op in (qml.CPhaseShift00, qml.CPhaseShift01, qml.CPhaseShift10)),
    *(_gate(op, 1, (1, 3)) for op in (qml.SingleExcitation, qml.SingleExcitationPlus, qml.SingleExcitationMinus)),
    *(_gate(op, 1, (3, 1, 0, 2)) for op in (qml.DoubleExcitation, qml.OrbitalRotation)),
    _gate(qml.FermionicSWAP, 1, (0, 2)),
    _gate(qml.CRot, 3, (3, 1)),
    _gate(qml.MultiRZ, 1, (3, 0, 1)),
    _gate(qml.MultiRZ, 1, WIRES),
    _with("PauliRot", 1, lambda x: qml.PauliRot(x[..., 0], "XIYZ", wires=WIRES)),
    _with("GlobalPhase", 1, lambda x: qml.GlobalPhase(x[..., 0], wires=0), batches=False),
]
FIXED = [
    _with(type(op).__name__ + f" {op.num_wires}", 0, lambda x, op=op: qml.apply(op))
    for op in (
        qml.Hadamard(1), qml.X(0), qml.Y(2), qml.Z(3), qml.S(1), qml.T(2), qml.SX(0), qml.Identity(1),
        qml.CNOT([2, 0]), qml.CZ([1, 3]), qml.CY([3, 0]), qml.CH([0, 2]), qml.SWAP([0, 3]), qml.ISWAP([1, 2]),
        qml.SISWAP([3, 0]), qml.ECR([2, 1]), qml.Toffoli([3, 0, 1]), qml.CSWAP([1, 3, 0]), qml.CCZ([0, 2, 3]),
        qml.MultiControlledX([0, 2, 1, 3], [True, False, True]), qml.Barrier(wires=[0, 1]),
        qml.QubitUnitary(U2, [2, 0]), qml.DiagonalQubitUnitary(SIGNS, [3, 1]),
        qml.ControlledQubitUnitary(U1, [1, 2, 0], control_values=[0, 1]), qml.QFT([0, 1, 2, 3]),
    )
]  # fmt: skip
MODIFIED = [
    _with("ctrl(RX)", 1, lambda x: qml.ctrl(qml.RX(x[..., 0], 0), [2, 3], [0, 1])),
    _with("ctrl(Rot)", 3, lambda x: qml.ctrl(qml.Rot(x[..., 0], x[..., 1], x[..., 2], 3), 1, 0)),
    _with("ctrl(PhaseShift)", 1, lambda x: qml.ctrl(qml.PhaseShift(x[..., 0], 1), [0])),
    _with("ctrl(GlobalPhase)", 1, lambda x: qml.ctrl(qml.GlobalPhase(x[..., 0]), [1, 2], [1, 0]), batches=False),
    _with("ctrl(IsingXY)", 1, lambda x: qml.ctrl(qml.IsingXY(x[..., 0], [0, 3]), 2)),
    _with("ctrl(MultiRZ)", 1, lambda x: qml.ctrl(qml.MultiRZ(x[..., 0], [0, 3]), 2, 0)),
    _with("ctrl(ctrl(RY))", 1, lambda x: qml.ctrl(qml.ctrl(qml.RY(x[..., 0], 0), 1), 3, 0)),
    _with("ctrl(adjoint(T))", 0, lambda x: qml.ctrl(qml.adjoint(qml.T(0)), 3)),
    _with("adjoint(Rot)", 3, lambda x: qml.adjoint(qml.Rot(x[..., 0], x[..., 1], x[..., 2], 3))),
    _with("adjoint(U3)", 3, lambda x: qml.adjoint(qml.U3(x[..., 0], x[..., 1], x[..., 2], 3))),
    _with("adjoint(IsingXY)", 1, lambda x: qml.adjoint(qml.IsingXY(x[..., 0], [3, 1]))),
    _with("adjoint(ctrl(PhaseShift))", 1, lambda x: qml.adjoint(qml.ctrl(qml.PhaseShift(x[..., 0], 0), 1))),
    _with("pow(RX)", 1, lambda x: qml.pow(qml.RX(x[..., 0], 0), 0.3)),
    _with("pow(SingleExcitation)", 1, lambda x: qml.pow(qml.SingleExcitation(x[..., 0], [0, 1]), 3), batches=False),
    _with("prod", 2, lambda x: qml.prod(qml.RX(x[..., 0], 0), qml.CNOT([0, 1]), qml.RY(x[..., 1], 1)), batches=False),
    _with("evolve(word)", 1, lambda x: qml.evolve(0.7 * qml.X(0) @ qml.Z(1), x[..., 0]), batches=False),
    _with("evolve(sum)", 1, lambda x: qml.evolve(qml.X(0) + 0.3 * qml.Z(1) @ qml.Z(0), x[..., 0]), batches=False),
    _with("exp", 1, lambda x: qml.exp(qml.X(0) + qml.Y(1), 1j * x[..., 0]), batches=False),
    _with("evolve(coefficients)", 3,
          lambda x: qml.evolve(qml.dot([x[..., 0], x[..., 1]], [qml.X(0), qml.Z(0) @ qml.Y(2)]), x[..., 2]),
          batches=False, shift=False),
]  # fmt: skip


def _layers(template: type, shape: tuple, **kwargs) -> Case:
    def apply(x):
        template(qml.math.reshape(x, (*qml.math.shape(x)[:-1], *shape)), wires=WIRES, **kwargs)

    return Case(template.__name__, int(np.prod(shape)), apply)


def _simplified(x):
    qml.SimplifiedTwoDesign(x[:4], qml.math.reshape(x[4:], (2, 3, 2))[:, :, :], wires=WIRES)


TEMPLATES = [
    _layers(qml.StronglyEntanglingLayers, (2, 4, 3)),
    _layers(qml.BasicEntanglerLayers, (2, 4), rotation=qml.RY),
    _with("AngleEmbedding", 4, lambda x: qml.AngleEmbedding(x, WIRES, rotation="Y")),
    _with("IQPEmbedding", 4, lambda x: qml.IQPEmbedding(x, WIRES, n_repeats=2)),
    _with("QAOAEmbedding", 12, lambda x: qml.QAOAEmbedding(
        x[..., :4], qml.math.reshape(x[..., 4:], (*qml.math.shape(x)[:-1], 1, 8)), wires=WIRES)),
    _with("RandomLayers", 6, lambda x: qml.RandomLayers(
        qml.math.reshape(x, (2, 3)), wires=WIRES, seed=7), batches=False),
    _with("SimplifiedTwoDesign", 16, lambda x: _simplified(x), batches=False),
    _with("ParticleConservingU1", 12, lambda x: qml.ParticleConservingU1(
        qml.math.reshape(x, (2, 3, 2)), WIRES, init_state=np.array([1, 1, 0, 0])), batches=False),
    _with("ParticleConservingU2", 14, lambda x: qml.ParticleConservingU2(
        qml.math.reshape(x, (2, 7)), WIRES, init_state=np.array([1, 0, 1, 0])), batches=False),
    _with("AllSinglesDoubles", 2, lambda x: qml.AllSinglesDoubles(
        x, WIRES, hf_state=np.array([1, 1, 0, 0]), singles=[[0, 2]], doubles=[[0, 1, 2, 3]]), batches=False),
    _with("BasisRotation", 0, lambda x: qml.BasisRotation(WIRES, np.linalg.qr(np.vander([1.0, 2, 3, 4]))[0])),
    _with("CommutingEvolution", 1, lambda x: qml.CommutingEvolution(
        qml.Hamiltonian([0.2, 0.3], [qml.X(0) @ qml.X(1), qml.X(2)]), x[..., 0]), batches=False),
    _with("ApproxTimeEvolution", 1, lambda x: qml.ApproxTimeEvolution(
        qml.Hamiltonian([0.4, 0.3], [qml.X(0), qml.Z(0) @ qml.Z(1)]), x[..., 0], 2), batches=False),
    _with("TrotterProduct", 1, lambda x: qml.TrotterProduct(
        qml.dot([0.3, 0.7], [qml.X(0), qml.Z(0) @ qml.Z(1)]), x[..., 0], n=2, order=2), batches=False),
    Case("SelectPauliRot", 4, lambda x: qml.SelectPauliRot(x, [0, 1], 2, rot_axis="Y"), False, host="autograd"),
    _with("GroverOperator", 0, lambda x: qml.GroverOperator([0, 1, 2, 3])),
    _with("Permute", 0, lambda x: qml.Permute([3, 1, 0, 2], WIRES)),
    _with("QuantumPhaseEstimation", 0, lambda x: qml.QuantumPhaseEstimation(
        qml.QubitUnitary(U1, 0), estimation_wires=[1, 2])),
]  # fmt: skip

CASES = [*ONE_QUBIT, *MULTI_QUBIT, *FIXED, *MODIFIED, *TEMPLATES]

_HERMITIAN = _H + 0.0
OBSERVABLES = {
    "X": lambda: qml.X(0),
    "Y": lambda: qml.Y(3),
    "Z": lambda: qml.Z(1),
    "Identity": lambda: qml.Identity(2),
    "word": lambda: qml.X(0) @ qml.Y(1) @ qml.Z(3),
    "Hadamard": lambda: qml.Hadamard(2),
    "Projector of bits": lambda: qml.Projector([0, 1], wires=[3, 1]),
    "Projector of a state": lambda: qml.Projector(np.array([0.6, 0.8j]), wires=[2]),
    "Hermitian": lambda: qml.Hermitian(_HERMITIAN, wires=[2, 0]),
    "product": lambda: qml.Hermitian(_HERMITIAN, wires=[2, 0]) @ qml.Hadamard(1) @ qml.Z(3),
    "overlapping product": lambda: qml.prod(qml.Hadamard(0), qml.X(1), qml.Hadamard(0)),
    "sum": lambda: qml.X(0) + 0.3 * qml.Z(1) @ qml.Z(2) + qml.Y(3),
    "sum of all kinds": lambda: qml.Hadamard(0) + 2.0 * qml.Hermitian(_HERMITIAN, [1, 3]) + qml.Projector([1], [2]),
    "multiple": lambda: -1.7 * qml.Hadamard(0) @ qml.Z(1),
    "Hamiltonian": lambda: qml.Hamiltonian([0.3, -1.1, 0.2], [qml.X(0) @ qml.X(1), qml.Z(2), qml.Identity(0)]),
    "dot": lambda: qml.dot([0.5, 1.5], [qml.Y(0) @ qml.Z(3), qml.X(2)]),
}


def entangle(x) -> None:
    """A state in which every gate and observable shows."""
    for w in WIRES:
        qml.RY(0.3 + 0.4 * w, wires=w)
        qml.RZ(0.2 - 0.3 * w, wires=w)
    for w in WIRES:
        qml.CNOT([w, (w + 1) % 4])
