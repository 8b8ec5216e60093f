"""The engine against PennyLane's matrices and against closed forms, without the reference in between."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest

from qhybrid.execution import Needs
from qhybrid.program import (
    Angle,
    Constant,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Observable,
    PauliRotation,
    Program,
    Slots,
    State,
    Term,
    Variance,
)
from qhybrid_devices.statevector.executable import StateVectorExecutable

Z0 = Observable((Term(1.0, ((0, "Z"),)),))
FIXED = [
    qml.Hadamard(1), qml.S(0), qml.T(2), qml.SX(1), qml.CNOT([2, 0]), qml.CZ([0, 2]), qml.CY([1, 2]), qml.CH([0, 1]),
    qml.SWAP([0, 2]), qml.ISWAP([1, 2]), qml.ECR([2, 0]), qml.Toffoli([2, 0, 1]), qml.CSWAP([1, 0, 2]),
    qml.MultiControlledX([0, 2, 1], [0, 1]), qml.SISWAP([0, 2]),
]  # fmt: skip


def state_of(gates, options, **slots):
    return StateVectorExecutable(Program(3, tuple(gates), (), (State(),), **slots), options=options)


def start():
    """Fixed gates that make a state without zeros or symmetries."""
    rng = np.random.default_rng(1)
    return [qml.Rot(*rng.normal(size=3), wires=w) for w in range(3)] + [qml.CNOT([0, 1]), qml.IsingXY(0.7, [1, 2])]


def gate(op):
    return Gate(op.name, tuple(op.wires), Fixed(Constant(op.matrix())))


@pytest.mark.parametrize("op", FIXED, ids=lambda op: op.name)
def test_fixed_gates(op, options):
    state = state_of([gate(o) for o in [*start(), op]], options).run(Slots(np.zeros(0)))[1]
    np.testing.assert_allclose(state, _pennylane_state([*start(), op]), atol=1e-12)


def _pennylane_state(operations):
    tape = qml.tape.QuantumScript(operations, [qml.expval(qml.Z(0)), qml.state()])
    return qml.device("default.qubit", wires=3).execute(tape)[1]


@pytest.mark.parametrize(
    ("word", "controls"),
    [("X", 0), ("Y", 0), ("Z", 0), ("XY", 0), ("ZZ", 0), ("YZX", 0), ("X", 1), ("Z", 1), ("XY", 1), ("ZZ", 1)],
)
def test_pauli_rotations(word, controls, options):
    wires, control = tuple(range(len(word))), (2,) * controls
    op = qml.PauliRot(0.83, word, wires)
    op = qml.ctrl(op, control, control_values=[0]) if controls else op
    rotation = Gate("PauliRot", wires, PauliRotation(word, Angle(0)), control, (False,) * controls)
    executable = state_of([*(gate(o) for o in start()), rotation], options, num_shared=1)
    state = executable.run(Slots(np.array([0.83])))[1]
    np.testing.assert_allclose(state, _pennylane_state([*start(), op]), atol=1e-12)


def test_evolution(options):
    terms = np.stack([qml.matrix(qml.X(0) @ qml.Y(1)), qml.matrix(qml.Z(0) + qml.X(1), wire_order=[0, 1])])
    op = qml.evolve(0.4 * qml.X(0) @ qml.Y(1) - 1.1 * (qml.Z(0) + qml.X(1)), 0.9)
    evolution = Gate("Evolution", (0, 1), Evolution(Constant(terms), Angle(0), (Angle(1), Angle(2))))
    executable = state_of([*(gate(o) for o in start()), evolution], options, num_shared=3)
    state = executable.run(Slots(np.array([0.9, 0.4, -1.1])))[1]
    np.testing.assert_allclose(state, _pennylane_state([*start(), op]), atol=1e-12)


@pytest.mark.parametrize("batched", [False, True])
def test_rotation_has_the_known_derivative(batched, options):
    """<Z> after RX(theta) is cos(theta), its variance sin(theta)^2."""
    theta = np.linspace(-3, 3, 5)
    rx = Gate("RX", (0,), PauliRotation("X", Angle(0, batched)))
    program = Program(1, (rx,), (Expectation(Z0), Variance(Z0)), num_shared=int(not batched), num_batched=int(batched))
    executable = StateVectorExecutable(program, options=options)
    calls = [Slots(np.zeros(0), theta[None], (), 5)] if batched else [Slots(np.array([t])) for t in theta]
    values = np.concatenate([executable.run(s)[0].reshape(-1, 2) for s in calls])
    np.testing.assert_allclose(values, np.stack([np.cos(theta), np.sin(theta) ** 2], 1), atol=1e-12)
    for i, slope in enumerate((-np.sin(theta), np.sin(2 * theta))):
        cot = np.zeros((5, 2) if batched else 2)
        cot[..., i] = 1
        slots = [executable.vjp(s, (cot,), Needs()) for s in calls]
        got = slots[0].batched[0] if batched else np.concatenate([s.shared for s in slots])
        np.testing.assert_allclose(got, slope, atol=1e-12)
