"""The circuits of one program: translated and transpiled when first needed, and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister
from qiskit.quantum_info import SparsePauliOp

from qhybrid.program import Diagonal, Evolution, Gate, Matrix, Program
from qhybrid_devices.externals import Values, external_matrix
from qhybrid_devices.outcomes import Group
from qhybrid_devices.qiskit_backend.paulis import Word
from qhybrid_devices.qiskit_backend.primitives import REGISTER, Isa
from qhybrid_devices.qiskit_backend.transpiler import Transpiler
from qhybrid_devices.qiskit_circuits.translation import Translated, append_gates, translate

#: Sets of numbers, such as unitaries given as arrays, whose circuits are kept.
MAX_KEPT = 1024


@dataclass(frozen=True, eq=False)
class Compiled:
    """Circuits that differ in how they are measured only.

    Args:
        isa: the circuits
        translated: what the parameters of each mean
    """

    isa: tuple[Isa, ...]
    translated: tuple[Translated, ...]


#: Makes circuits; is given the slots of one sample where the program has gates given as numbers.
Make = Callable[[Values], Compiled]


class Circuits:
    """The circuits of a program, one set for each set of numbers that gates are given as.

    Args:
        program: its gates and slots
        gates: all gates that the circuits have
        make: makes one set of circuits
    """

    def __init__(self, program: Program, gates: Sequence[Gate], make: Make) -> None:
        self._program, self._make = program, make
        self._operators = [g.operator for g in gates if isinstance(g.operator, Matrix | Diagonal | Evolution)]
        self._kept: OrderedDict[bytes, Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, values: Values, count: int) -> list[tuple[Compiled, NDArray]]:
        """Sets of circuits, each with the samples that it holds for."""
        samples: dict[bytes, list[int]] = {}
        for sample, key in enumerate(self._keys(values, count)):
            samples.setdefault(key, []).append(sample)
        return [
            (self._compiled(key, values.part(self._program, own[0], own[0] + 1)), np.array(own))
            for key, own in samples.items()
        ]

    def _keys(self, values: Values, count: int) -> list[bytes]:
        """For each sample, the numbers that its circuits are made of."""
        arrays = [(external_matrix(op, values), 1 if isinstance(op, Diagonal) else 2) for op in self._operators]
        if self._program.preparation is not None:
            arrays.append((values.arrays[self._program.preparation.amplitudes.index], 1))
        common = b"".join(a.tobytes() for a, axes in arrays if a.ndim == axes)
        own = [a for a, axes in arrays if a.ndim > axes]
        if not own:
            return [common] * count
        return [common + b"".join(a[b].tobytes() for a in own) for b in range(count)]

    def _compiled(self, key: bytes, values: Values) -> Compiled:
        with self._lock:
            compiled = self._kept.get(key)
            if compiled is None:
                compiled = self._kept[key] = self._make(values)
                if len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(key)
        return compiled


def measured_circuits(program: Program, groups: Sequence[Group], transpiler: Transpiler, values: Values) -> Compiled:
    """For each group of measurements, the circuit that measures its wires in its basis.

    All of them start on the qubits that the first one was laid out on.
    """
    isa: list[Isa] = []
    translated: list[Translated] = []
    layout: Sequence[int] | None = None
    for group in groups:
        out = translate(program, values)
        append_gates(out, group.gates, values)
        out.circuit.add_register(ClassicalRegister(len(group.wires), REGISTER))
        out.circuit.measure(group.wires, range(len(group.wires)))
        circuit = transpiler.transpile(out.circuit, layout)
        if circuit.layout is not None:
            layout = circuit.layout.initial_index_layout(filter_ancillas=True)
        isa.append(Isa(circuit, _columns(circuit, out)))
        translated.append(out)
    return Compiled(tuple(isa), tuple(translated))


def estimated_circuit(program: Program, words: Sequence[Word], transpiler: Transpiler, values: Values) -> Compiled:
    """The circuit, and the Pauli words on the qubits that its wires end on."""
    out = translate(program, values)
    circuit = transpiler.transpile(out.circuit)
    observables = [[_on_qubits(word, program.num_wires, circuit)] for word in words]
    return Compiled((Isa(circuit, _columns(circuit, out), observables),), (out,))


def _on_qubits(word: Word, num_wires: int, circuit: Any) -> SparsePauliOp:
    letters, wires = "".join(letter for _, letter in word), [w for w, _ in word]
    observable = SparsePauliOp.from_sparse_list([(letters, wires, 1.0)], num_qubits=num_wires)
    return observable if circuit.layout is None else observable.apply_layout(circuit.layout)


def _columns(circuit: Any, translated: Translated) -> NDArray:
    """Which parameters the transpiler has left: those that change nothing that is measured are gone."""
    numbers = {p: i for i, p in enumerate(translated.parameters)}
    return np.array([numbers[p] for p in circuit.parameters], int)
