"""Exact results of noiseless circuits: what to save at the end of a circuit, and how results are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from qhybrid.program import Angle, Constant, Expectation, Observable, Probabilities, Program, Samples, Scalar, Term
from qhybrid_devices.externals import Values
from qhybrid_devices.qiskit_circuits.translation import Translated, append_gates

#: Pauli words of an observable below this part of its norm are left out.
NEGLIGIBLE = 1e-14


@dataclass(frozen=True)
class Part:
    """A summand of an observable: an operator and the coefficient that scales it."""

    coefficient: float | Angle
    operator: SparsePauliOp


def parts_of(observable: Observable, num_wires: int, values: Values | None) -> list[Part]:
    """An observable as few operators: one for all terms with constant coefficients, one for each other term."""
    fixed = [(t.coefficient, t) for t in observable.terms if not isinstance(t.coefficient, Angle)]
    parts = [
        Part(t.coefficient, _operator([(1.0, t)], num_wires, values))
        for t in observable.terms
        if isinstance(t.coefficient, Angle)
    ]
    if fixed or not parts:
        parts.append(Part(1.0, _operator(fixed, num_wires, values)))
    return parts


def _operator(terms: Sequence[tuple[float, Term]], num_wires: int, values: Values | None) -> SparsePauliOp:
    """A sum of terms on all wires, qubit ``w`` for wire ``w``."""
    entries: list[tuple[str, list[int], complex]] = []
    for coefficient, term in terms:
        entries += [(letters, list(wires), coefficient * c) for letters, wires, c in pauli_words(term, values)]
    return SparsePauliOp.from_sparse_list(entries or [("", [], 0.0)], num_qubits=num_wires).simplify()


def pauli_words(term: Term, values: Values | None) -> list[tuple[str, tuple[int, ...], complex]]:
    """A term without its coefficient as Pauli words: letters, their wires, coefficient."""
    words = [("".join(letter for _, letter in term.word), tuple(w for w, _ in term.word), 1.0 + 0j)]
    for wires, matrix in term.matrices:
        if isinstance(matrix, Constant):
            array = matrix.array
        else:
            assert values is not None
            array = values.arrays[matrix.index]
        found = SparsePauliOp.from_operator(array.reshape(array.shape[-2:]), atol=NEGLIGIBLE, rtol=NEGLIGIBLE)
        words = [
            (a + label, own + wires, x * y)
            for a, own, x in words
            for label, y in found.to_list()  # the label's first letter acts on the first wire
        ]
    return words


@dataclass(frozen=True)
class ScalarSaves:
    """Labels of the expectation values that a scalar is made of.

    Args:
        scalar: what is measured
        coefficients: of its parts
        means: label of each part
        products: for a variance, label of each symmetrised product of parts ``i <= j``
    """

    scalar: Scalar
    coefficients: tuple[float | Angle, ...]
    means: tuple[str, ...]
    products: tuple[str, ...]

    def value(self, data: Sequence[Any], values: Values, count: int) -> NDArray:
        """The scalar of each sample, ``(B,)``."""
        c = np.stack([np.broadcast_to(values.number(k), (count,)) for k in self.coefficients])
        mean = np.sum(c * _column(data, self.means), axis=0)
        if isinstance(self.scalar, Expectation):
            return mean
        pairs = list(combinations_with_replacement(range(len(c)), 2))
        weights = np.stack([c[i] * c[j] * (1 if i == j else 2) for i, j in pairs])
        return np.sum(weights * _column(data, self.products), axis=0) - mean**2


def _column(data: Sequence[Any], labels: Sequence[str]) -> NDArray:
    """Saved numbers, ``(labels, B)``."""
    return np.array([[getattr(d, label) for d in data] for label in labels], float).reshape(len(labels), len(data))


def save_scalars(out: Translated, program: Program, values: Values | None) -> list[ScalarSaves]:
    """Save what the scalars of a program need; the same operator is saved once."""
    saved: list[tuple[SparsePauliOp, str]] = []

    def save(operator: SparsePauliOp) -> str:
        for known, label in saved:
            if known == operator:
                return label
        label = f"mean_{len(saved)}"
        saved.append((operator, label))
        entries = operator.to_sparse_list()
        wires = sorted({w for _, own, _ in entries for w in own}) or [0]
        narrow = [(letters, [wires.index(w) for w in own], c) for letters, own, c in entries]
        out.circuit.save_expectation_value(
            SparsePauliOp.from_sparse_list(narrow, num_qubits=len(wires)), wires, label=label
        )
        return label

    scalars = []
    for m in program.scalars:
        parts = parts_of(m.observable, program.num_wires, values)
        means = tuple(save(p.operator) for p in parts)
        products: tuple[str, ...] = ()
        if not isinstance(m, Expectation):
            pairs = combinations_with_replacement([p.operator for p in parts], 2)
            products = tuple(save(((a @ b + b @ a) / 2).simplify()) for a, b in pairs)
        scalars.append(ScalarSaves(m, tuple(p.coefficient for p in parts), means, products))
    return scalars


def save_tensors(out: Translated, program: Program) -> None:
    """Save the tensors of a program as ``tensor_0``, ``tensor_1``, ..."""
    for i, tensor in enumerate(program.tensors):
        assert not isinstance(tensor, Samples)
        if isinstance(tensor, Probabilities):
            basis = Translated(QuantumCircuit(program.num_wires))
            append_gates(basis, tensor.basis)
            out.circuit.compose(basis.circuit, inplace=True)
            out.circuit.save_probabilities(list(reversed(tensor.wires)), label=f"tensor_{i}")
            out.circuit.compose(basis.circuit.inverse(), inplace=True)
        else:
            out.circuit.save_statevector(label=f"tensor_{i}")


def read_tensors(data: Sequence[Any], program: Program, phase: NDArray) -> list[NDArray]:
    """The tensors, with the samples in front; ``phase`` is the global phase ``(B,)`` that the circuit leaves out."""
    tensors = []
    for i, tensor in enumerate(program.tensors):
        saved = np.stack([np.asarray(getattr(d, f"tensor_{i}")) for d in data])
        if not isinstance(tensor, Probabilities):
            n = program.num_wires
            wires_first = (0, *range(n, 0, -1))
            saved = saved.reshape(-1, *(2,) * n).transpose(wires_first).reshape(len(data), -1)
            saved = saved * np.exp(1j * phase)[:, None]
        tensors.append(saved)
    return tensors
