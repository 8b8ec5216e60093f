"""Circuits of a program for Aer: transpiled once where they can be, made anew where they hold numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from qiskit import ClassicalRegister, QuantumCircuit

from qhybrid.program import Evolution, Program
from qhybrid_devices.aer.exact import ScalarSaves, save_scalars, save_tensors
from qhybrid_devices.aer.simulator import Bound, Simulator
from qhybrid_devices.externals import Values
from qhybrid_devices.outcomes import Group
from qhybrid_devices.qiskit_circuits.translation import Translated, append_gates, translate

#: Ends the circuit of a group on the qubits where its wires are.
Finish = Callable[[QuantumCircuit, list[int]], None]


@dataclass(frozen=True)
class Compiled:
    """Transpiled circuits of one structure.

    Args:
        translated: what the parameters of each circuit mean
        circuits: one that saves exact results, or one for each group of measurements
        qubits: of each group, where its wires are measured
        scalars: how scalars are read from what is saved
    """

    translated: tuple[Translated, ...]
    circuits: tuple[QuantumCircuit, ...]
    qubits: tuple[list[int], ...] = ()
    scalars: tuple[ScalarSaves, ...] = ()

    def bound(self, values: Values, count: int) -> list[Bound]:
        """The circuits with the parameters of some samples."""
        pairs = zip(self.translated, self.circuits, strict=True)
        return [Bound(c, t.parameters, t.values(values, count), t.circuit.num_qubits) for t, c in pairs]


class Recipe:
    """How circuits of one structure are made, and for how many samples each holds.

    Args:
        program: its gates and slots
        make: makes the circuits; takes the slots of one sample where the program has gates given as numbers
    """

    def __init__(self, program: Program, make: Callable[[Values | None], Compiled]) -> None:
        self.program, self.make = program, make
        evolutions = [g for g in program.gates if isinstance(g.operator, Evolution)]
        self._holds_numbers = bool(program.arrays or evolutions)
        self._differs = any(a.batched for a in program.arrays) or any(a.batched for g in evolutions for a in g.angles)

    @cached_property
    def _kept(self) -> Compiled:
        return self.make(None)

    def circuits(self, values: Values, count: int) -> list[tuple[Compiled, Values, int]]:
        """Circuits with the samples that they hold for: kept ones, or ones made for these values."""
        if not self._holds_numbers:
            return [(self._kept, values, count)]
        if not self._differs:
            return [(self.make(values), values, count)]
        samples = [values.part(self.program, b, b + 1) for b in range(count)]
        return [(self.make(own), own, 1) for own in samples]


def saving_circuit(program: Program, simulator: Simulator, values: Values | None) -> Compiled:
    """The circuit that saves all exact results of a program."""
    out = translate(program, values)
    (out.circuit,) = simulator.unrolled([out.circuit])
    scalars = save_scalars(out, program, values)
    save_tensors(out, program)
    return Compiled((out,), (out.circuit,), scalars=tuple(scalars))


def grouped_circuits(
    program: Program,
    groups: Sequence[Group],
    simulator: Simulator,
    values: Values | None,
    finish: Finish,
    method: str | None,
) -> Compiled:
    """For each group, the circuit with the rotations into its basis, ended by ``finish``; it runs by ``method``."""
    translated = []
    for group in groups:
        out = translate(program, values)
        append_gates(out, group.gates, values)
        translated.append(out)
    circuits = simulator.transpile([t.circuit for t in translated], method)
    qubits = [positions(circuit, group.wires or (0,)) for group, circuit in zip(groups, circuits, strict=True)]
    for circuit, own in zip(circuits, qubits, strict=True):
        circuit.global_phase = 0  # no outcome shows it, and Aer cannot bind several values of a parameter in it
        finish(circuit, own)
    return Compiled(tuple(translated), tuple(circuits), tuple(qubits))


def positions(circuit: QuantumCircuit, wires: Sequence[int]) -> list[int]:
    """The qubits on which the wires of a transpiled circuit end."""
    if circuit.layout is None:
        return list(wires)
    final = circuit.layout.final_index_layout()
    return [final[w] for w in wires]


def measure(circuit: QuantumCircuit, qubits: list[int]) -> None:
    """Count the outcomes of some qubits."""
    circuit.add_register(ClassicalRegister(len(qubits), "outcome"))
    circuit.measure(qubits, range(len(qubits)))


def save_distribution(circuit: QuantumCircuit, qubits: list[int]) -> None:
    """Save the exact distribution of the outcomes of some qubits."""
    circuit.save_probabilities(qubits, label="outcomes")
