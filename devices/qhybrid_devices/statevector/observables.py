"""Scalar measurements: their values, the seeds of the reverse sweep, and the cotangents of what they are made of.

An observable is a sum of Pauli words, handled without any matrix, and of terms with matrices, which are applied to a
copy of the state. ``adjoint.md`` derives the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Angle, ArrayRef, ArraySlot, Fixed, Gate, Matrix, Observable, Term
from qhybrid_devices.externals import Values
from qhybrid_devices.statevector.engine import Layout, apply_plan, coefficients
from qhybrid_devices.statevector.measure import (
    amplitude_moments,
    apply_words,
    apply_words_to_amplitudes,
    apply_words_to_few,
    few_moments,
    moments,
)
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, lower_gates, sum_masks
from qhybrid_devices.statevector.plan import Plan, PlanOptions, build_plan
from qhybrid_devices.statevector.simd import register_lanes
from qhybrid_devices.statevector.sweeps import outer_lanes
from qhybrid_devices.statevector.threads import num_parts, run_kernel

Word = tuple[int, int, int]
Kernel = Callable[..., None]


def word_of(term: Term, frame: Frame) -> Word:
    """Flip mask, sign mask and number of Y of a term's Pauli word."""
    flips = sum_masks(frame.flips[w] for w, letter in term.word if letter in "XY")
    signs = sum_masks(frame.signs[w] for w, letter in term.word if letter in "YZ")
    return flips, signs, sum(letter == "Y" for _, letter in term.word)


@dataclass(frozen=True)
class WordTable:
    """Distinct Pauli words in groups; see ``measure.py``."""

    groups: NDArray
    words: NDArray

    def __len__(self) -> int:
        return len(self.words)


def tabulate_words(words: Sequence[Word]) -> tuple[WordTable, list[int]]:
    """A table of distinct words, and for each given word its row in the table."""
    ordered = sorted(set(words), key=lambda w: (w[0], w[2] & 1, w))
    groups: list[list[int]] = []
    for i, (x, _, ny) in enumerate(ordered):
        if not groups or (groups[-1][0], ordered[groups[-1][1]][2] & 1) != (x, ny & 1):
            groups.append([x, i, i])
        groups[-1][2] = i + 1
    index = {w: i for i, w in enumerate(ordered)}
    table = WordTable(
        np.array(groups, np.int64).reshape(-1, 3), np.array([w[1:] for w in ordered], np.int64).reshape(-1, 2)
    )
    return table, [index[w] for w in words]


@dataclass(frozen=True)
class WordSum:
    """``sum_i numbers[i] P_i`` over a table: entry ``i`` is row ``rows[i]``."""

    table: WordTable
    rows: NDArray
    numbers: tuple[float | Angle, ...]


@dataclass(frozen=True)
class MatrixFactor:
    """An array slot in a term: the bits it acts on, and the other matrices of the term."""

    ref: ArrayRef
    others: Plan
    bits: NDArray


@dataclass(frozen=True)
class MatrixTerm:
    """``number`` times a Pauli word times matrices; ``plan`` applies the matrices."""

    number: float | Angle
    word: WordTable
    plan: Plan
    slots: tuple[MatrixFactor, ...]


@dataclass(frozen=True)
class ObservablePlan:
    """An observable split into words and terms with matrices."""

    words: WordSum
    matrix_terms: tuple[MatrixTerm, ...]


def plan_observable(
    observable: Observable, frame: Frame, arrays: Sequence[ArraySlot], options: PlanOptions | None
) -> ObservablePlan:
    """Plan one observable.

    Args:
        observable: what to plan
        frame: what the bits mean; each stands for one wire if there are terms with matrices
        arrays: the program's array slots
        options: as for ``build_plan``
    """
    pure = [t for t in observable.terms if not t.matrices]
    table, rows = tabulate_words([word_of(t, frame) for t in pure])
    words = WordSum(table, np.array(rows, np.int64), tuple(t.coefficient for t in pure))
    terms = tuple(_plan_matrix_term(t, frame, arrays, options) for t in observable.terms if t.matrices)
    return ObservablePlan(words, terms)


def _plan_matrix_term(term: Term, frame: Frame, arrays: Sequence[ArraySlot], options: PlanOptions | None) -> MatrixTerm:
    gates = [Gate("matrix", wires, Matrix(m) if isinstance(m, ArrayRef) else Fixed(m)) for wires, m in term.matrices]

    def plan(part: Sequence[Gate]) -> Plan:
        operations, _ = lower_gates(part, frame, arrays, LoweringOptions(relabel=False))
        return build_plan(operations, len(frame.bits), options)

    slots = tuple(
        MatrixFactor(m, plan(gates[:i] + gates[i + 1 :]), np.array([frame.bits[w] for w in wires], np.int64))
        for i, (wires, m) in enumerate(term.matrices)
        if isinstance(m, ArrayRef)
    )
    return MatrixTerm(term.coefficient, tabulate_words([word_of(term, frame)])[0], plan(gates), slots)


# ------------------------------------------------------------------ on states


def numbers_of(words: WordSum, values: Values) -> NDArray:
    """The coefficients, ``(E, 1)`` or ``(E, B)``."""
    if not words.numbers:
        return np.zeros((0, 1))
    parts = [np.atleast_1d(np.asarray(values.number(n), float)) for n in words.numbers]
    width = max(len(p) for p in parts) if all(len(p) for p in parts) else 0
    return np.stack([np.broadcast_to(p, (width,)) for p in parts])


def word_moments(table: WordTable, layout: Layout, bra: NDArray, ket: NDArray) -> NDArray:
    """``Re <bra|P|ket>`` of each word and sample, ``(T, B)``."""
    return _moments(table, layout, bra, ket, 1)[:, : layout.count]


def word_moments_along(table: WordTable, layout: Layout, bra: NDArray, ket: NDArray) -> NDArray:
    """The same for ``k`` directions, ``(T, k, B)``: one of the states has their axis in front."""
    k = len(bra if bra.ndim > ket.ndim else ket)
    bra, ket = _without_directions(bra, ket)
    return _moments(table, layout, bra, ket, k).reshape(len(table), k, layout.width)[..., : layout.count]


def _moments(table: WordTable, layout: Layout, bra: NDArray, ket: NDArray, copies: int) -> NDArray:
    """Moments ``(T, copies * W)``, of states with ``copies`` times as many chunks as the layout, or with as many."""
    items, pieces, workers = layout.row_pieces(len(table), copies)
    out = np.zeros((num_parts(items, workers) if pieces > 1 else 1, len(table), copies * layout.width))
    if out.size:
        kernel = _for_rows(layout, moments, amplitude_moments, few_moments)
        run_kernel(kernel, items, workers, bra, ket, pieces, table.groups, table.words, out)
    return out[0] if len(out) == 1 else out.sum(0)


def add_words(table: WordTable, layout: Layout, psi: NDArray, out: NDArray, weights: NDArray, add: bool = True) -> None:
    """``out = sum_t weights[t] P_t psi``, added to ``out`` if ``add``; weights are ``(T, B)`` or ``(T, 1)``."""
    if weights.shape[1] != layout.count:
        weights = np.broadcast_to(weights, (len(table), layout.count))
    _apply(table, layout, psi, out, layout.to_lanes(weights), add, 1)


def add_words_along(
    table: WordTable, layout: Layout, psi: NDArray, out: NDArray, weights: NDArray, add: bool = True
) -> None:
    """The same for ``k`` directions, whose axis is in front of ``out`` and of ``psi``, of the weights, or of both."""
    psi, target = _without_directions(psi, out)
    if weights.shape[-1] != layout.count:
        weights = np.broadcast_to(weights, (*weights.shape[:-1], layout.count))
    rows = weights.reshape(-1, len(table), layout.count)
    lanes = np.concatenate([layout.to_lanes(own) for own in rows]) if len(rows) else np.empty((0, 0, 0))
    _apply(table, layout, psi, target, lanes, add, len(out))


def _apply(
    table: WordTable, layout: Layout, psi: NDArray, out: NDArray, weights: NDArray, add: bool, copies: int
) -> None:
    own = np.ascontiguousarray(weights, layout.dtype)
    kernel = _for_rows(layout, apply_words, apply_words_to_amplitudes, apply_words_to_few)
    if copies:
        items, pieces, workers = layout.row_pieces(len(table) + 1, copies)
        run_kernel(kernel, items, workers, psi, out, pieces, table.groups, table.words, own, add)


def _for_rows(layout: Layout, samples: Kernel, amplitudes: Kernel, few: Kernel) -> Kernel:
    """The kernel for what lanes are."""
    if layout.tile:
        return samples
    return amplitudes if 1 << layout.num_wires >= register_lanes(layout.dtype) else few


def _without_directions(*states: NDArray) -> tuple[NDArray, ...]:
    """States whose axis of directions, if they have one, is one with that of chunks."""
    return tuple([x if x.ndim == 4 else x.reshape(-1, *x.shape[2:]) for x in states])


def row_weights(words: WordSum, entry_weights: NDArray) -> NDArray:
    """Weights of entries ``(E, B)`` summed to rows of the table ``(T, B)``."""
    out = np.zeros((len(words.table), entry_weights.shape[1]))
    np.add.at(out, words.rows, entry_weights)
    return out


def with_matrices(plan: Plan, layout: Layout, values: Values, psi: NDArray) -> NDArray:
    """A copy of ``psi`` with the matrices of a term applied."""
    out = psi.copy()
    apply_plan(plan, layout, out, coefficients(plan, layout, values))
    return out


def apply_observable(
    observable: ObservablePlan, layout: Layout, values: Values, psi: NDArray, out: NDArray, scale: NDArray
) -> None:
    """Add ``scale * O psi`` to ``out``, with ``scale`` of shape ``(B,)`` or ``(1,)``."""
    words = observable.words
    if len(words.table):
        add_words(words.table, layout, psi, out, row_weights(words, numbers_of(words, values) * scale))
    for term in observable.matrix_terms:
        weight = np.atleast_1d(np.asarray(values.number(term.number) * scale, float))[None]
        add_words(term.word, layout, with_matrices(term.plan, layout, values, psi), out, weight)


def expectation(observable: ObservablePlan, layout: Layout, values: Values, psi: NDArray) -> NDArray:
    """``<O>`` of each sample, ``(B,)``."""
    words, total = observable.words, np.zeros(layout.count)
    if len(words.table):
        mean = word_moments(words.table, layout, psi, psi)
        total += np.sum(numbers_of(words, values) * mean[words.rows], 0)
    for term in observable.matrix_terms:
        ket = with_matrices(term.plan, layout, values, psi)
        total += values.number(term.number) * word_moments(term.word, layout, psi, ket)[0]
    return total


def observable_cotangents(
    observable: ObservablePlan,
    layout: Layout,
    values: Values,
    chi: NDArray,
    psi: NDArray,
    scale: NDArray,
    into: Values,
) -> None:
    """Add what ``dL = scale Re <chi|dO|psi>`` gives for the coefficients and the Hermitian arrays of ``O``.

    Args:
        chi, psi: states
        scale: ``(B,)``
        into: cotangents, changed in place
    """
    words = observable.words
    if any(isinstance(n, Angle) for n in words.numbers):
        overlaps = word_moments(words.table, layout, chi, psi)[words.rows] * scale
        for number, row in zip(words.numbers, overlaps, strict=True):
            add_number(number, row, into)
    for term in observable.matrix_terms:
        if isinstance(term.number, Angle):
            ket = with_matrices(term.plan, layout, values, psi)
            add_number(term.number, word_moments(term.word, layout, chi, ket)[0] * scale, into)
        for slot in term.slots:
            ket = layout.empty()
            partial = with_matrices(slot.others, layout, values, psi)
            add_words(term.word, layout, partial, ket, np.ones((1, 1)), add=False)
            g = outer(slot.bits, layout, chi, ket)
            c = g.conj() * np.reshape(values.number(term.number) * scale, (-1, 1, 1))
            target = into.arrays[slot.ref.index]
            target += hermitian_part(c if target.ndim == 3 else c.sum(0))


def hermitian_part(c: NDArray) -> NDArray:
    """The part of cotangents ``(..., d, d)`` along Hermitian directions."""
    return (c + np.swapaxes(c, -1, -2).conj()) / 2


def outer(bits: NDArray, layout: Layout, chi: NDArray, ket: NDArray) -> NDArray:
    """``sum conj(chi_a) ket_b`` over all bits but ``bits``, the first one most significant, ``(B, d, d)``."""
    dim = 1 << len(bits)
    out = np.zeros((layout.chunks, 2 * dim**2, layout.lanes), layout.dtype)
    outer_lanes(chi, ket, bits, out)
    rows = out.transpose(0, 2, 1).reshape(layout.width, -1)[: layout.count]
    return np.ascontiguousarray(rows, float).view(complex).reshape(-1, dim, dim)


def add_number(number: float | Angle, cotangent: NDArray, into: Values) -> None:
    """Add the cotangent ``(B,)`` of a coefficient."""
    if isinstance(number, Angle) and number.batched:
        into.batched[number.index] += cotangent
    elif isinstance(number, Angle):
        into.shared[number.index] += np.sum(cotangent)
