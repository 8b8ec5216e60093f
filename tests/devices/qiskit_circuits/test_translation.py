"""500 random circuits of PennyLane's gates: Qiskit's matrices, states and expectation values are PennyLane's."""

from __future__ import annotations

import re

import numpy as np
import pennylane as qml
import pytest
from qiskit.circuit import ControlledGate
from qiskit.circuit.library import CRXGate
from qiskit.quantum_info import Operator, SparsePauliOp, Statevector
from scipy.stats import unitary_group

from qhybrid.circuit import run_tape
from qhybrid.execution import Executable
from qhybrid_devices.externals import Values
from qhybrid_devices.program_device import ProgramDevice
from qhybrid_devices.qiskit_circuits.translation import translate

CIRCUITS = 500
PER_TEST = 25
TOLERANCE = 1e-9

ROTATIONS = {
    1: [qml.RX, qml.RY, qml.RZ, qml.PhaseShift, qml.U1],
    2: [qml.CRX, qml.CRY, qml.CRZ, qml.ControlledPhaseShift, qml.CPhaseShift00, qml.CPhaseShift01, qml.CPhaseShift10,
        qml.IsingXX, qml.IsingYY, qml.IsingZZ, qml.IsingXY, qml.PSWAP, qml.SingleExcitation,
        qml.SingleExcitationPlus, qml.SingleExcitationMinus, qml.FermionicSWAP],
    4: [qml.DoubleExcitation, qml.DoubleExcitationPlus, qml.DoubleExcitationMinus, qml.OrbitalRotation],
}  # fmt: skip
SEVERAL = {1: [(qml.Rot, 3), (qml.U2, 2), (qml.U3, 3)], 2: [(qml.CRot, 3)]}
FIXED = {
    1: [qml.Hadamard, qml.X, qml.Y, qml.Z, qml.S, qml.T, qml.SX, qml.Identity],
    2: [qml.CNOT, qml.CZ, qml.CY, qml.CH, qml.SWAP, qml.ISWAP, qml.SISWAP, qml.ECR],
    3: [qml.Toffoli, qml.CSWAP, qml.CCZ],
}


class Recorder(Executable):
    """Keeps what it is asked to run."""

    def run(self, slots):
        self.slots = slots
        return (np.zeros(len(self.program.scalars)),)

    def sample(self, slots, shots, rng):
        raise NotImplementedError


class Recording(ProgramDevice):
    name = "recording"

    def make_executable(self, program):
        self.made = Recorder(program)
        return self.made


def some_rotation(rng, order):
    k = int(rng.choice([k for k in ROTATIONS if k <= len(order)]))
    return ROTATIONS[k][rng.integers(len(ROTATIONS[k]))](rng.uniform(-4, 4), wires=order[:k])


def some_angles(rng, order):
    k = int(rng.integers(1, 3))
    op, number = SEVERAL[k][rng.integers(len(SEVERAL[k]))]
    return op(*rng.uniform(-4, 4, number), wires=order[:k])


def some_fixed(rng, order):
    k = int(rng.integers(1, 4))
    return FIXED[k][rng.integers(len(FIXED[k]))](wires=order[0] if k == 1 else order[:k])


def some_multi_rotation(rng, order):
    k = int(rng.integers(1, 4))
    if rng.integers(2):
        return qml.MultiRZ(rng.uniform(-4, 4), wires=order[:k])
    word = "".join(rng.choice(list("XYZ"), k))
    return qml.PauliRot(rng.uniform(-4, 4), word, wires=order[:k])


def some_matrix(rng, order):
    k = int(rng.integers(1, 3))
    if rng.integers(2):
        return qml.DiagonalQubitUnitary(np.exp(1j * rng.normal(size=2**k)), wires=order[:k])
    return qml.QubitUnitary(unitary_group.rvs(2**k, random_state=rng), wires=order[:k])


def some_phase(rng, order):
    return qml.GlobalPhase(rng.uniform(-4, 4))


def some_evolution(rng, order):
    generator = qml.X(order[0]) @ qml.Z(order[1]) + 0.5 * qml.Y(order[2])
    return qml.exp(generator, 1j * rng.uniform(-2, 2))


KINDS = {
    "rotation": some_rotation,
    "angles": some_angles,
    "fixed": some_fixed,
    "multi": some_multi_rotation,
    "matrix": some_matrix,
    "phase": some_phase,
    "evolution": some_evolution,
}
WEIGHTS = [0.3, 0.12, 0.2, 0.15, 0.12, 0.06, 0.05]


def random_operations(rng, num_wires):
    out = []
    for _ in range(rng.integers(4, 9)):
        order = [int(w) for w in rng.permutation(num_wires)]
        kind = rng.choice(list(KINDS), p=WEIGHTS)
        op = KINDS[kind](rng, order)
        if rng.random() < 0.25:
            op = qml.adjoint(op, lazy=bool(rng.integers(2)))
        free = [w for w in order if w not in op.wires]
        if free and rng.random() < 0.4 and kind != "evolution":
            controls = free[: rng.integers(1, len(free) + 1)]
            op = qml.ctrl(op, control=controls, control_values=[bool(v) for v in rng.integers(2, size=len(controls))])
        out.append(op)
    return out


def some_preparation(rng, num_wires):
    order = [int(w) for w in rng.permutation(num_wires)]
    if rng.integers(2):
        k = int(rng.integers(1, num_wires))
        return qml.BasisState(rng.integers(2, size=k), wires=order[:k])
    k = int(rng.integers(1, num_wires + 1))
    amplitudes = rng.normal(size=2**k) + 1j * rng.normal(size=2**k)
    return qml.StatePrep(amplitudes / np.linalg.norm(amplitudes), wires=order[:k])


def random_observable(rng, num_wires):
    """The same sum of Pauli words in PennyLane's and in Qiskit's notation, whose last letter is the first qubit."""
    words = ["".join(w) for w in rng.choice(list("IXYZ"), (3, num_wires))]
    coefficients = rng.normal(size=3)
    ours = qml.sum(*(c * qml.pauli.string_to_pauli_word(w) for c, w in zip(coefficients, words, strict=True)))
    return ours, SparsePauliOp([w[::-1] for w in words], coefficients)


def translated(tape):
    """Qiskit's circuit of a tape with its parameters bound by their names, and the phase that it leaves out."""
    device = Recording(wires=sorted(tape.wires))
    run_tape(tape, device)
    values, count = Values.of(device.made.program, device.made.slots)
    assert count == 1
    out = translate(device.made.program, values)
    bound = {p: by_name(p.name, values) for p in out.circuit.parameters}
    np.testing.assert_allclose(list(bound.values()), [out.values(values, 1)[out.parameters.index(p), 0] for p in bound])
    return out.circuit.assign_parameters(bound), out.phase(values, 1)[0]


def by_name(name, values):
    """The value that the name of a parameter promises."""
    factor, kind, index = re.fullmatch(r"(?:(.+)\*)?(shared|batched)_(\d+)", name).groups()
    assert kind == "shared"
    return float(factor or 1) * values.shared[int(index)]


@pytest.mark.parametrize("first", range(0, CIRCUITS, PER_TEST))
def test_random_circuits(first):
    for seed in range(first, first + PER_TEST):
        rng = np.random.default_rng(seed)
        num_wires = int(rng.integers(3, 6))
        wires = range(num_wires)
        ours, theirs = random_observable(rng, num_wires)
        prepared = [some_preparation(rng, num_wires)] if seed % 4 == 0 else []
        operations = [*prepared, qml.Identity(wires), *random_operations(rng, num_wires)]
        tape = qml.tape.QuantumScript(operations, [qml.expval(ours)])
        circuit, phase = translated(tape)
        what = f"seed {seed}: {operations}"
        if prepared:
            # Qiskit's preparation starts with a reset, which has no matrix.
            state = Statevector.from_instruction(circuit)
            found = state.reverse_qargs().data * np.exp(1j * phase)
            tape = qml.tape.QuantumScript(operations, [qml.expval(ours), qml.state()])
            expectation, wanted = qml.device("default.qubit", wires=wires).execute(tape)
        else:
            found = Operator(circuit.reverse_bits()).data * np.exp(1j * phase)
            state = Statevector(found[:, 0]).reverse_qargs()
            wanted = qml.matrix(qml.tape.QuantumScript(operations), wire_order=wires)
            expectation = np.vdot(wanted[:, 0], qml.matrix(ours, wire_order=wires) @ wanted[:, 0])
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, err_msg=what)
        np.testing.assert_allclose(state.expectation_value(theirs), expectation, atol=TOLERANCE, err_msg=what)


def test_no_gate_with_controls_has_a_parameter():
    """Aer takes zero for such a parameter, since Qiskit says that the gate has none."""
    assert not CRXGate(0.1).is_parameterized()
    for seed in range(50):
        rng = np.random.default_rng(seed)
        tape = qml.tape.QuantumScript([*random_operations(rng, 4), qml.Identity(range(4))], [qml.expval(qml.Z(0))])
        device = Recording(wires=range(4))
        run_tape(tape, device)
        values, _ = Values.of(device.made.program, device.made.slots)
        circuit = translate(device.made.program, values).circuit
        for instruction in circuit.data:
            gate = instruction.operation
            assert not (isinstance(gate, ControlledGate) and any(hasattr(p, "parameters") for p in gate.params))


def test_parameters_are_named_after_slots():
    tape = qml.tape.QuantumScript(
        [qml.RX(0.1, 0), qml.CRZ(0.2, [0, 1]), qml.RY(0.3, 1)], [qml.expval(qml.Z(0) @ qml.Z(1))]
    )
    device = Recording(wires=[0, 1])
    run_tape(tape, device)
    names = [p.name for p in translate(device.made.program).parameters]
    assert names == ["shared_0", "0.5*shared_1", "-0.5*shared_1", "shared_2"]
