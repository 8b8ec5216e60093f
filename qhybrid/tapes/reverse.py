"""The derivative of simulators that hold an exact state: one forward and one reverse sweep for a whole batch.

PennyLane's own derivatives of these devices go sample by sample, or fail silently for observables and prepared states
that are differentiated. This sweep is plain NumPy and covers every slot. ``psi`` is the state, ``lam`` the cotangent
with ``dL = Re <lam|dpsi>``; both have the shape ``(lanes, 2, ..., 2)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import (
    PAULI,
    Angle,
    ArrayRef,
    Constant,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Observable,
    PauliRotation,
    Probabilities,
    Program,
    Scalar,
    Slots,
    SpectralRotation,
    State,
    Term,
)
from qhybrid.tapes.parameters import (
    Block,
    EvolutionMatrix,
    SlotCotangents,
    SlotMatrix,
    SpectralMatrix,
    angle_values,
    wants,
)

#: Amplitudes that are swept together.
MAX_AMPLITUDES = 2**22


def reverse(program: Program, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs) -> Slots:
    """Cotangents of the slots of an exact, noiseless circuit.

    Args:
        program: the circuit
        slots: where
        cotangents: of the results; batch in front if the program has one
        needs: which cotangents are wanted
    """
    program = compact(program)
    into = SlotCotangents(program, slots)
    if not program.is_batched:
        _Sweep(program, slots, 1, needs, into).add(tuple(np.asarray(c)[None] for c in cotangents))
        return into.only(needs)
    assert slots.batch_size is not None
    size = max(1, MAX_AMPLITUDES >> program.num_wires)
    for start in range(0, slots.batch_size, size):
        part = _part(program, slots, slice(start, start + size))
        assert part.batch_size is not None
        own = SlotCotangents(program, part)
        _Sweep(program, part, part.batch_size, needs, own).add(tuple(c[start : start + size] for c in cotangents))
        into.shared += own.shared
        into.batched[:, start : start + size] += own.batched
        for whole, array, slot in zip(into.arrays, own.arrays, program.arrays, strict=True):
            assert whole is not None
            assert array is not None
            (whole[start : start + size] if slot.batched else whole)[...] += array
    return into.only(needs)


@lru_cache(maxsize=256)
def compact(program: Program) -> Program:
    """``program`` without the wires that it does not use."""
    if any(isinstance(t, State) for t in program.tensors):
        return program
    preparation, tensors = program.preparation, [t for t in program.tensors if not isinstance(t, State)]
    gates = [*program.gates, *(g for t in tensors for g in t.basis)]
    terms = [t for o in program.observables() for t in o.terms]
    used = {w for g in gates for w in (*g.controls, *g.wires)} | {w for t in tensors for w in t.wires}
    used |= {w for t in terms for w, _ in t.word} | {w for t in terms for wires, _ in t.matrices for w in wires}
    used |= set() if preparation is None else set(preparation.wires)
    index = {w: i for i, w in enumerate(sorted(used or {0}))}

    def moved(wires: Iterable[int]) -> tuple[int, ...]:
        return tuple(index[w] for w in wires)

    def gate(g: Gate) -> Gate:
        return replace(g, wires=moved(g.wires), controls=moved(g.controls))

    def observable(o: Observable) -> Observable:
        return Observable(
            tuple(
                replace(
                    t,
                    word=tuple((index[w], letter) for w, letter in t.word),
                    matrices=tuple((moved(wires), m) for wires, m in t.matrices),
                )
                for t in o.terms
            )
        )

    return replace(
        program,
        num_wires=len(index),
        gates=tuple(map(gate, program.gates)),
        scalars=tuple(replace(m, observable=observable(m.observable)) for m in program.scalars),
        tensors=tuple(replace(t, wires=moved(t.wires), basis=tuple(map(gate, t.basis))) for t in tensors),
        preparation=None if preparation is None else replace(preparation, wires=moved(preparation.wires)),
    )


def _part(program: Program, slots: Slots, part: slice) -> Slots:
    """Some of the samples."""
    assert slots.batch_size is not None
    arrays = tuple(
        a[part] if s.batched and a is not None else a for a, s in zip(slots.arrays, program.arrays, strict=True)
    )
    batched = None if slots.batched is None else slots.batched[:, part]
    return Slots(slots.shared, batched, arrays, len(range(*part.indices(slots.batch_size))))


@dataclass(frozen=True, eq=False)
class _Sweep:
    """One sweep over a program at ``slots``; cotangents are added to ``into``."""

    program: Program
    slots: Slots
    lanes: int
    needs: Needs
    into: SlotCotangents

    def add(self, cotangents: tuple[NDArray, ...]) -> None:
        """Run forward, seed with the cotangents of the results, run back."""
        psi = self._initial()
        for gate in self.program.gates:
            self._apply(gate, psi)
        lam = self._seed(psi, cotangents)
        for gate in reversed(self.program.gates):
            self._pull_back(gate, psi, lam)
        if self.program.preparation is not None:
            self._pull_back_preparation(lam)

    def _initial(self) -> NDArray:
        program = self.program
        psi = np.zeros((self.lanes, *(2,) * program.num_wires), complex)
        if program.preparation is None:
            psi.reshape(self.lanes, -1)[:, 0] = 1
            return psi
        amplitudes = self.slots.arrays[program.preparation.amplitudes.index]
        assert amplitudes is not None
        zero = self._prepared(psi)
        zero[...] = amplitudes.reshape(-1, *zero.shape[1:])
        return psi

    def _prepared(self, psi: NDArray) -> NDArray:
        """The amplitudes that a preparation sets, as a view with its wires in order."""
        assert self.program.preparation is not None
        wires = self.program.preparation.wires
        moved = np.moveaxis(psi, [w + 1 for w in wires], range(1, len(wires) + 1))
        index: tuple[Any, ...] = (..., *(0,) * (self.program.num_wires - len(wires)))
        return moved[index]

    def _pull_back_preparation(self, lam: NDArray) -> None:
        assert self.program.preparation is not None
        ref = self.program.preparation.amplitudes
        bar = self._prepared(lam).reshape(self.lanes, -1)
        self._add_array(ref, bar)

    def _add_array(self, ref: ArrayRef, bar: NDArray) -> None:
        """Add the cotangent of every lane to that of an array slot."""
        slot = self.program.arrays[ref.index]
        self.into.add_array(ref, bar if slot.batched else bar.sum(axis=0))

    def _add_angle(self, angle: Angle, bar: NDArray) -> None:
        self.into.add_angle(angle, bar if angle.batched else bar.sum())

    # ------------------------------------------------------------------ gates

    def _apply(self, gate: Gate, psi: NDArray, inverse: bool = False) -> None:
        """Change ``psi`` in place."""
        part, wires = _controlled_part(gate, psi)
        op = gate.operator
        if isinstance(op, PauliRotation):
            half = 0.5 * op.scale * angle_values(op.angle, self.slots)
            cosine, sine = _column(np.cos(half), part), _column(np.sin(-half if inverse else half), part)
            part[...] = cosine * part - 1j * sine * _word(op.word, wires, part)
            return
        matrix = self._matrix(gate)
        part[...] = _multiplied(matrix.conj().swapaxes(-1, -2) if inverse else matrix, wires, part)

    def _matrix(self, gate: Gate) -> NDArray:
        if isinstance(gate.operator, Fixed):
            return gate.operator.matrix.array
        return self._parameter(gate).matrices(self.slots)

    def _parameter(self, gate: Gate) -> SpectralMatrix | EvolutionMatrix | SlotMatrix:
        """What a gate's matrix depends on, without its controls."""
        op: Any = gate.operator
        if isinstance(op, SpectralRotation):
            block = Block.of((), op.projectors.array.shape[-1])
            return SpectralMatrix(op.eigenvalues, op.projectors, op.angle, block)
        block = Block.of((), 2 ** len(gate.wires))
        if isinstance(op, Evolution):
            return EvolutionMatrix(op.terms, op.time, op.coefficients, block)
        return SlotMatrix(op.ref, self.program.arrays[op.ref.index], op.adjoint, block)

    def _pull_back(self, gate: Gate, psi: NDArray, lam: NDArray) -> None:
        """Add the cotangents of a gate's slots; undo the gate on both states."""
        op = gate.operator
        if isinstance(op, PauliRotation):
            if wants(op.angle, self.needs):
                (after, wires), (bar, _) = _controlled_part(gate, psi), _controlled_part(gate, lam)
                self._add_angle(op.angle, 0.5 * op.scale * _overlap(bar, _word(op.word, wires, after)).imag)
            self._apply(gate, psi, inverse=True)
        else:
            self._apply(gate, psi, inverse=True)
            if not isinstance(op, Fixed) and (parameter := self._parameter(gate)).wanted(self.needs):
                (before, wires), (bar, _) = _controlled_part(gate, psi), _controlled_part(gate, lam)
                outer = _outer(bar, before, wires)
                parameter.pull_back(self.slots, outer if parameter.batched else outer.sum(axis=0), self.into)
        self._apply(gate, lam, inverse=True)

    # ------------------------------------------------------------------ measurements

    def _seed(self, psi: NDArray, cotangents: tuple[NDArray, ...]) -> NDArray:
        """``lam`` at the end; adds the cotangents of the observables' own slots."""
        lam = np.zeros_like(psi)
        for index, m in enumerate(self.program.scalars):
            self._seed_scalar(m, cotangents[0][:, index], psi, lam)
        for tensor, bar in zip(self.program.tensors, cotangents[1:], strict=True):
            if isinstance(tensor, State):
                lam += bar.reshape(psi.shape)
            elif isinstance(tensor, Probabilities):
                rotated = psi.copy()
                for gate in tensor.basis:
                    self._apply(gate, rotated)
                moved = np.moveaxis(rotated, [w + 1 for w in tensor.wires], range(1, len(tensor.wires) + 1))
                rest = (1,) * (psi.ndim - 1 - len(tensor.wires))
                moved *= 2 * bar.real.reshape(-1, *(2,) * len(tensor.wires), *rest)
                for gate in reversed(tensor.basis):
                    self._apply(gate, rotated, inverse=True)
                lam += rotated
        return lam

    def _seed_scalar(self, m: Scalar, bar: NDArray, psi: NDArray, lam: NDArray) -> None:
        observed = self._observe(m.observable, psi)
        weight = _column(2 * np.real(bar), psi)
        if isinstance(m, Expectation):
            lam += weight * observed
            chi = 0.5 * weight * psi
        else:
            mean = _column(_overlap(psi, observed).real, psi)
            lam += weight * (self._observe(m.observable, observed) - 2 * mean * observed)
            chi = weight * (observed - mean * psi)
        for term in m.observable.terms:
            self._term_cotangent(term, chi, psi)

    def _observe(self, observable: Observable, psi: NDArray) -> NDArray:
        total = np.zeros_like(psi)
        for term in observable.terms:
            total += _column(angle_values(term.coefficient, self.slots), psi) * self._apply_term(term, psi)
        return total

    def _apply_term(self, term: Term, psi: NDArray, skip: int = -1) -> NDArray:
        """The term without its coefficient, and without its matrix number ``skip``."""
        wires = [w for w, _ in term.word]
        result = _word("".join(letter for _, letter in term.word), wires, psi)
        for k, (targets, matrix) in enumerate(term.matrices):
            if k != skip:
                result = _multiplied(self._hermitian(matrix), targets, result)
        return result

    def _hermitian(self, matrix: Constant | ArrayRef) -> NDArray:
        found = matrix.array if isinstance(matrix, Constant) else self.slots.arrays[matrix.index]
        assert found is not None
        return found

    def _term_cotangent(self, term: Term, chi: NDArray, psi: NDArray) -> None:
        """Add what ``dL = Re <chi|dO|psi>`` gives for the coefficient and the matrices of a term."""
        if isinstance(term.coefficient, Angle):
            self._add_angle(term.coefficient, _overlap(chi, self._apply_term(term, psi)).real)
        for k, (wires, matrix) in enumerate(term.matrices):
            if isinstance(matrix, ArrayRef):
                coefficient = _column(angle_values(term.coefficient, self.slots), psi)
                bar = _outer(coefficient * chi, self._apply_term(term, psi, skip=k), wires)
                self._add_array(matrix, (bar + bar.conj().swapaxes(-1, -2)) / 2)


# ------------------------------------------------------------------ states


def _controlled_part(gate: Gate, psi: NDArray) -> tuple[NDArray, list[int]]:
    """A view of the part of ``psi`` where the controls are satisfied, and the gate's wires in it."""
    index: list[Any] = [slice(None)] * psi.ndim
    for wire, value in zip(gate.controls, gate.control_values, strict=True):
        index[wire + 1] = int(value)
    return psi[tuple(index)], [w - sum(c < w for c in gate.controls) for w in gate.wires]


def _column(values: NDArray, psi: NDArray) -> NDArray:
    """One number, or one a lane, ready to multiply states."""
    return values.reshape(-1, *(1,) * (psi.ndim - 1))


def _word(word: str, wires: list[int], psi: NDArray) -> NDArray:
    """A Pauli word on ``psi``."""
    for letter, wire in zip(word, wires, strict=True):
        psi = _multiplied(PAULI[letter], (wire,), psi)
    return psi


def _multiplied(matrix: NDArray, wires: Any, psi: NDArray) -> NDArray:
    """``matrix (d, d)``, or one a lane, on ``wires`` of ``psi``."""
    axes = [w + 1 for w in wires]
    moved = np.moveaxis(psi, axes, range(1, len(axes) + 1))
    result = (matrix @ moved.reshape(len(psi), 2 ** len(axes), -1)).reshape(moved.shape)
    return np.moveaxis(result, range(1, len(axes) + 1), axes)


def _outer(a: NDArray, b: NDArray, wires: Any) -> NDArray:
    """``sum a_i conj(b_j)`` over all other wires, ``(lanes, d, d)``."""
    axes = [w + 1 for w in wires]
    x, y = (np.moveaxis(s, axes, range(1, len(axes) + 1)).reshape(len(s), 2 ** len(axes), -1) for s in (a, b))
    return x @ y.conj().swapaxes(-1, -2)


def _overlap(a: NDArray, b: NDArray) -> NDArray:
    """``<a|b>`` of every lane."""
    return np.einsum("lk,lk->l", a.reshape(len(a), -1).conj(), b.reshape(len(b), -1))
