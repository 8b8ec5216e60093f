"""Gates rewritten so that every angle stands in a Pauli rotation without controls.

That is what hardware has, and what noise models know. It is also what makes the shift rule exact under noise: noise
between the gates of a decomposition mixes frequencies that the gate itself does not have, but a rotation keeps its one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit.library import CXGate, UnitaryGate
from qiskit.quantum_info import Operator
from qiskit.synthesis import TwoQubitBasisDecomposer

from qhybrid.program import PAULI, Angle, Constant, Fixed, Gate, PauliRotation, Program, SpectralRotation
from qhybrid_devices.qiskit_circuits.fixed import fixed_gate

#: Smaller coefficients of a generator are rounding.
EXACT = 1e-12
#: For each letter one that turns it over.
_TURNS = {letter: Fixed(Constant(PAULI[turn])) for letter, turn in (("X", "Z"), ("Y", "X"), ("Z", "X"))}
_ONE = Constant(np.ones((1, 1, 1)))


def in_rotations(program: Program) -> Program:
    """The same program with its angles in Pauli rotations without controls, and global phases."""
    return replace(program, gates=tuple(part for gate in program.gates for part in rotations(gate)))


def in_hardware_gates(program: Program) -> Program:
    """The same, with two-qubit unitaries that have no name as CNOTs and one-qubit gates: the same ones every time."""
    gates = in_rotations(program).gates
    return replace(program, gates=tuple(part for gate in gates for part in _synthesized(gate)))


def rotations(gate: Gate) -> Iterator[Gate]:
    """The parts of a gate; itself, unless it has an angle and is not a plain rotation."""
    op = gate.operator
    if isinstance(op, PauliRotation) and gate.controls:
        yield from _controlled(gate, op)
    elif isinstance(op, SpectralRotation) and gate.wires:
        yield from _spectral(gate, op)
    elif isinstance(op, SpectralRotation) and gate.controls:
        yield from _phase(gate, op.eigenvalues[0], op.angle)
    else:
        yield gate


def _controlled(gate: Gate, op: PauliRotation) -> Iterator[Gate]:
    """Half of the rotation, and half of it back, unless the controls turn the second half over."""
    wire = gate.wires[0]
    turn = Gate(gate.name, (wire,), _TURNS[op.word[0]], gate.controls, gate.control_values)
    for half in (op.scale / 2, -op.scale / 2):
        yield Gate(gate.name, gate.wires, replace(op, scale=half))
        yield turn


def _spectral(gate: Gate, op: SpectralRotation) -> Iterator[Gate]:
    """``V exp(i theta D) V^dagger``; the diagonal ``D`` is a sum of parities, each with a rotation of its own."""
    vectors, energies = _eigenbasis(op)
    if vectors is not None:
        yield Gate(gate.name, gate.wires, Fixed(Constant(vectors.conj().T)))
    wires = gate.wires[::-1]
    for subset, coefficient in enumerate(_parities(energies).tolist()):
        own = tuple(w for i, w in enumerate(wires) if subset >> i & 1)
        if abs(coefficient) < EXACT:
            continue
        if not own:
            yield from _phase(gate, coefficient, op.angle)
            continue
        rotation = PauliRotation("Z" * len(own), op.angle, -2 * coefficient)
        yield from rotations(Gate(gate.name, own, rotation, gate.controls, gate.control_values))
    if vectors is not None:
        yield Gate(gate.name, gate.wires, Fixed(Constant(vectors)))


def _phase(gate: Gate, factor: float, angle: Angle) -> Iterator[Gate]:
    """``exp(i factor angle)`` where the controls of ``gate`` read their values.

    This is a rotation of the last control under the others, and half of the phase where these read theirs.
    """
    if not gate.controls:
        yield Gate("GlobalPhase", (), SpectralRotation((factor,), _ONE, angle))
        return
    (*others, last), (*values, own) = gate.controls, gate.control_values
    rest = replace(gate, controls=tuple(others), control_values=tuple(values))
    rotation = PauliRotation("Z", angle, factor if own else -factor)
    yield from rotations(replace(rest, wires=(last,), operator=rotation))
    yield from _phase(rest, factor / 2, angle)


def _eigenbasis(op: SpectralRotation) -> tuple[NDArray | None, NDArray]:
    """Eigenvectors, ``None`` if the generator is diagonal, and its eigenvalues in their order."""
    generator = np.tensordot(op.eigenvalues, op.projectors.array, 1)
    if np.abs(generator - np.diag(np.diag(generator))).max() < EXACT:
        return None, np.diag(generator).real
    energies, vectors = np.linalg.eigh(generator)
    return vectors, energies


def _parities(energies: NDArray) -> NDArray:
    """``c`` with ``energies[x] = sum_s c[s] (-1)**parity(x & s)``: the Walsh-Hadamard transform."""
    index = np.arange(len(energies))
    signs = 1 - 2.0 * (np.bitwise_count(index[:, None] & index) & 1)
    return signs @ energies / len(energies)


# ------------------------------------------------------------------ two-qubit unitaries


def _synthesized(gate: Gate) -> Iterator[Gate]:
    op = gate.operator
    if not isinstance(op, Fixed) or gate.controls or len(gate.wires) != 2 or _has_a_name(op):
        yield gate
        return
    for part in _two_qubit_gates(gate.name, op):
        wires, controls = (tuple(gate.wires[w] for w in own) for own in (part.wires, part.controls))
        yield replace(part, wires=wires, controls=controls)


@lru_cache(maxsize=1024)
def _has_a_name(op: Fixed) -> bool:
    return not isinstance(fixed_gate("", op.matrix.array), UnitaryGate)


@lru_cache(maxsize=1024)
def _two_qubit_gates(name: str, op: Fixed) -> tuple[Gate, ...]:
    """A unitary of the wires 0 and 1 as CNOTs and one-qubit gates, up to a global phase."""
    circuit = TwoQubitBasisDecomposer(CXGate(), euler_basis="ZYZ")(op.matrix.array)
    gates = []
    for instruction in circuit.data:
        wires = tuple(1 - circuit.find_bit(q).index for q in instruction.qubits)  # Qiskit's first is the last wire
        if len(wires) == 2:
            gates.append(Gate("CNOT", wires[1:], _TURNS["Z"], wires[:1], (True,)))
        else:
            gates.append(Gate(name, wires, Fixed(Constant(Operator(instruction.operation).data))))
    return tuple(gates)
