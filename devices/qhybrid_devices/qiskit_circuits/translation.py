"""Program to QuantumCircuit: wire ``w`` is qubit ``w``, and every angle is a parameter.

Qiskit's first qubit is the least significant bit of a matrix index, PennyLane's first wire the most significant one: a
matrix acts on its wires in reverse. A rotation by ``scale * angle`` is one parameter of its own, so that binding never
evaluates an expression. No gate with controls has a parameter: Qiskit calls such gates not parameterised
(``CRXGate(p).is_parameterized()`` is false), and Aer then takes zero for the angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import Gate as QiskitGate
from qiskit.circuit import Parameter, library
from qiskit.quantum_info import Kraus

from qhybrid.program import (
    Angle,
    Channel,
    Diagonal,
    Evolution,
    Fixed,
    Gate,
    Matrix,
    PauliRotation,
    Program,
    SpectralRotation,
)
from qhybrid_devices.externals import Values, external_matrix
from qhybrid_devices.qiskit_circuits.fixed import ROTATIONS, fixed_gate
from qhybrid_devices.qiskit_circuits.rotations import rotations

#: Widest controlled unitary that is one matrix.
MAX_DENSE_WIRES = 6

#: A multiple of an angle.
Multiple: TypeAlias = tuple[float, Angle]

_TO_Z = {"X": (library.HGate(),), "Y": (library.SdgGate(), library.HGate()), "Z": ()}
_FROM_Z = {"X": (library.HGate(),), "Y": (library.HGate(), library.SGate()), "Z": ()}


@dataclass
class Translated:
    """A circuit and what its parameters mean.

    Args:
        circuit: without measurements
        parameters: named after their slots; parameter ``i`` is ``sources[i][0]`` times the angle ``sources[i][1]``
        phases: global phases, each a factor and an angle
    """

    circuit: QuantumCircuit
    parameters: list[Parameter] = field(default_factory=list)
    sources: list[tuple[float, Angle]] = field(default_factory=list)
    phases: list[tuple[float, Angle]] = field(default_factory=list)

    def parameter(self, factor: float, angle: Angle) -> Parameter:
        """The parameter ``factor * angle``, made if there is none."""
        if (factor, angle) not in self.sources:
            self.sources.append((factor, angle))
            self.parameters.append(Parameter(_name(factor, angle)))
        return self.parameters[self.sources.index((factor, angle))]

    def values(self, values: Values, count: int) -> NDArray:
        """Values of the parameters, ``(P, B)``."""
        out = np.empty((len(self.sources), count))
        for row, (factor, angle) in zip(out, self.sources, strict=True):
            row[:] = factor * values.number(angle)
        return out

    def phase(self, values: Values, count: int) -> NDArray:
        """The global phase that the circuit leaves out, ``(B,)``."""
        return sum((f * np.asarray(values.number(a)) for f, a in self.phases), np.zeros(count))


def _name(factor: float, angle: Angle) -> str:
    """Which slot it is, as in ``shared_3`` or ``-0.5*batched_0``."""
    slot = f"{'batched' if angle.batched else 'shared'}_{angle.index}"
    return slot if factor == 1 else f"{float(factor)!r}*{slot}"


def translate(program: Program, values: Values | None = None) -> Translated:
    """The gates of a program as a circuit.

    Args:
        program: what to translate; its measurements are left out
        values: slots of one sample, where the program has a preparation or gates given as numbers
    """
    out = Translated(QuantumCircuit(program.num_wires))
    if program.preparation is not None:
        assert values is not None
        amplitudes = np.asarray(values.arrays[program.preparation.amplitudes.index]).reshape(-1)
        norm = np.linalg.norm(amplitudes)
        out.circuit.initialize(amplitudes / norm, list(reversed(program.preparation.wires)))
    append_gates(out, program.gates, values)
    return out


def append_gates(out: Translated, gates: Sequence[Gate], values: Values | None = None) -> None:
    """Append gates to a circuit; ``values`` as for :func:`translate`."""
    for gate in chain.from_iterable(map(rotations, gates)):
        match gate.operator:
            case Fixed(matrix):
                _append(out, gate, fixed_gate(gate.name, matrix.array), reversed(gate.wires))
            case PauliRotation(word, angle, scale):
                _pauli_rotation(out, gate, word, (scale, angle))
            case Channel(kraus):
                noise = Kraus(list(kraus.array)).to_instruction()
                out.circuit.append(noise, list(reversed(gate.wires)))
            case SpectralRotation((factor,), _, angle):
                out.phases.append((factor, angle))
            case operator:
                assert values is not None
                assert isinstance(operator, Matrix | Diagonal | Evolution)
                array = external_matrix(operator, values)
                array = array.reshape(array.shape[-(1 if isinstance(operator, Diagonal) else 2) :])
                full = np.diag(array) if isinstance(operator, Diagonal) else array
                _append(out, gate, fixed_gate(gate.name, full), reversed(gate.wires))


def _append(out: Translated, gate: Gate, operation: QiskitGate, wires: Any) -> None:
    """Append ``operation`` on ``wires`` (Qiskit's order) under the controls of ``gate``."""
    wires = list(wires)
    if not gate.controls:
        out.circuit.append(operation, wires)
        return
    if isinstance(operation, library.UnitaryGate) and len(gate.controls) + len(wires) <= MAX_DENSE_WIRES:
        out.circuit.append(_controlled_unitary(gate, operation), [*wires, *gate.controls])
        return
    operation = operation.control(len(gate.controls), ctrl_state=_control_state(gate), annotated=False)
    out.circuit.append(operation, [*gate.controls, *wires])


def _control_state(gate: Gate) -> int:
    return sum(int(v) << i for i, v in enumerate(gate.control_values))


def _controlled_unitary(gate: Gate, unitary: QiskitGate) -> QiskitGate:
    """One matrix for a unitary and its controls, which are the most significant qubits: exact, and no synthesis."""
    matrix = unitary.to_matrix()
    full = np.eye(len(matrix) << len(gate.controls), dtype=complex)
    own = slice(_control_state(gate) * len(matrix), (_control_state(gate) + 1) * len(matrix))
    full[own, own] = matrix
    return library.UnitaryGate(full, label=gate.name)


# ------------------------------------------------------------------ rotations


def _pauli_rotation(out: Translated, gate: Gate, word: str, angle: Multiple) -> None:
    """``exp(-i angle / 2 P)``."""
    if word in ROTATIONS:
        out.circuit.append(ROTATIONS[word](out.parameter(*angle)), gate.wires)
        return
    for wire, letter in zip(gate.wires, word, strict=True):
        for g in _TO_Z[letter]:
            out.circuit.append(g, [wire])
    pairs = list(pairwise(gate.wires))
    for pair in pairs:
        out.circuit.cx(*pair)
    out.circuit.rz(out.parameter(*angle), gate.wires[-1])
    for pair in reversed(pairs):
        out.circuit.cx(*pair)
    for wire, letter in zip(gate.wires, word, strict=True):
        for g in _FROM_Z[letter]:
            out.circuit.append(g, [wire])
