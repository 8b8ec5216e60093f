"""Comparing a trace with a plain recording of the same call."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane.tape import QuantumScript

from qhybrid.program import (
    PAULI,
    Angle,
    ArrayRef,
    Channel,
    Constant,
    Diagonal,
    Evolution,
    Fixed,
    Gate,
    Matrix,
    Observable,
    PauliRotation,
    Program,
    Slots,
    SpectralRotation,
)

_WIDEST_MATRIX = 3


@np.errstate(all="ignore")  # values that are not finite are refused where they are used
def disagreement(traced: Program, traced_slots: Slots, plain: Program, plain_slots: Slots) -> str | None:
    """What differs between two programs once their slots are filled in, ``None`` if nothing does.

    Constants of one program may be slots of the other; only the numbers count.
    """
    if traced.num_wires != plain.num_wires or len(traced.gates) != len(plain.gates):
        return f"{len(traced.gates)} gates on {traced.num_wires} wires, not {len(plain.gates)} on {plain.num_wires}"
    for a, b in zip(traced.gates, plain.gates, strict=True):
        if not _same_gate(a, traced_slots, b, plain_slots):
            return (
                f"gate {a.name} on wires {list(a.wires)} became {b.name} on wires {list(b.wires)}, or its angle differs"
            )
    if not _same_preparation(traced, traced_slots, plain, plain_slots):
        return "the prepared state"
    return _measurement_disagreement(traced, traced_slots, plain, plain_slots)


def same_operations(a: QuantumScript, b: QuantumScript) -> bool:
    """Whether two recordings of a function applied the same operations, however PennyLane decomposes them."""
    return len(a.operations) == len(b.operations) and all(
        qml.equal(s, t, check_interface=False, check_trainability=False)
        for s, t in zip(a.operations, b.operations, strict=True)
    )


def _same_preparation(traced: Program, traced_slots: Slots, plain: Program, plain_slots: Slots) -> bool:
    a, b = traced.preparation, plain.preparation
    if a is None or b is None:
        return a is b
    same = _close(_slot_array(a.amplitudes, traced_slots), _slot_array(b.amplitudes, plain_slots))
    return a.wires == b.wires and same


def _measurement_disagreement(traced: Program, traced_slots: Slots, plain: Program, plain_slots: Slots) -> str | None:
    if traced.tensors != plain.tensors or [type(s) for s in traced.scalars] != [type(s) for s in plain.scalars]:
        return "the measurements"
    for a, b in zip(traced.observables(), plain.observables(), strict=True):
        if not _same_observable(a, traced_slots, b, plain_slots):
            return "an observable"
    return None


def _same_gate(a: Gate, a_slots: Slots, b: Gate, b_slots: Slots) -> bool:
    if (a.wires, a.controls, a.control_values) != (b.wires, b.controls, b.control_values):
        return False
    if len(a.wires) > _WIDEST_MATRIX and _word(a) != _word(b):
        return False
    return _close(_numbers(a, a_slots), _numbers(b, b_slots))


def _word(gate: Gate) -> str | None:
    return gate.operator.word if isinstance(gate.operator, PauliRotation) else None


def _numbers(gate: Gate, slots: Slots) -> NDArray:
    """The matrix of a small gate, otherwise what its matrix is made of; the batch axis in front if there is one."""
    op = gate.operator
    match op:
        case Fixed(matrix) | Channel(matrix):
            return matrix.array
        case PauliRotation(word, angle, scale):
            half = 0.5 * scale * np.asarray(_value(angle, slots))[..., None, None]
            if len(word) > _WIDEST_MATRIX:
                return np.exp(1j * half)
            pauli = reduce(np.kron, (PAULI[c] for c in word))
            return np.cos(half) * np.eye(len(pauli)) - 1j * np.sin(half) * pauli
        case SpectralRotation(eigenvalues, projectors, angle):
            phases = np.exp(1j * np.multiply.outer(np.asarray(_value(angle, slots)), np.array(eigenvalues)))
            return np.tensordot(phases, projectors.array, 1)
        case Evolution(terms, time, coefficients):
            values = [np.asarray(_value(c, slots))[..., None, None] for c in coefficients]
            energies, vectors = np.linalg.eigh(sum(v * t for v, t in zip(values, terms.array, strict=True)))
            phases = np.exp(-1j * np.asarray(_value(time, slots))[..., None] * energies)
            return (vectors * phases[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2))
        case Matrix(ref, adjoint):
            matrix_ = _slot_array(ref, slots)
            return np.conj(np.swapaxes(matrix_, -1, -2)) if adjoint else matrix_
        case Diagonal(ref, adjoint):
            entries = _slot_array(ref, slots)
            return (np.conj(entries) if adjoint else entries)[..., None] * np.eye(entries.shape[-1])


def _same_observable(a: Observable, a_slots: Slots, b: Observable, b_slots: Slots) -> bool:
    if len(a.terms) != len(b.terms):
        return False
    for s, t in zip(a.terms, b.terms, strict=True):
        if s.word != t.word or [w for w, _ in s.matrices] != [w for w, _ in t.matrices]:
            return False
        if not _close(_value(s.coefficient, a_slots), _value(t.coefficient, b_slots)):
            return False
        pairs = zip(s.matrices, t.matrices, strict=True)
        if not all(_close(_array(m, a_slots), _array(n, b_slots)) for (_, m), (_, n) in pairs):
            return False
    return True


def _value(angle: Angle | float, slots: Slots) -> Any:
    if not isinstance(angle, Angle):
        return angle
    rows = slots.batched if angle.batched else slots.shared
    assert rows is not None
    return rows[angle.index]


def _array(matrix: Constant | ArrayRef, slots: Slots) -> Any:
    return matrix.array if isinstance(matrix, Constant) else slots.arrays[matrix.index]


def _slot_array(ref: ArrayRef, slots: Slots) -> NDArray:
    array = slots.arrays[ref.index]
    assert array is not None
    return array


def _close(a: Any, b: Any) -> bool:
    if np.shape(a) != np.shape(b):
        return False
    return np.array_equal(a, b) or bool(np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True))
