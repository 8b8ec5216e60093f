"""Measurements read from outcomes: which of them can share a measurement basis, and how each is read from its bits."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import xor

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import CircuitError
from qhybrid.program import (
    Angle,
    ArrayRef,
    ArraySlot,
    Constant,
    Expectation,
    Fixed,
    Gate,
    Matrix,
    Probabilities,
    Program,
    Samples,
    State,
    Tensor,
    Term,
)
from qhybrid_devices.externals import Values

_TO_Z = {
    "X": np.array([[1, 1], [1, -1]]) / np.sqrt(2),
    "Y": np.array([[1, -1j], [1, 1j]]) / np.sqrt(2),
}


# ------------------------------------------------------------------ groups of compatible measurements


@dataclass(frozen=True)
class Group:
    """Measurements that are read from the same outcomes.

    Args:
        wires: the wires that they read, ascending; none if they are multiples of the identity
        gates: the rotations into their common eigenbasis; those into the eigenvectors of ``Grouping.matrices[i]``,
            where it is a slot, refer to them as array ``len(program.arrays) + i``
        ordered: whether the order of the outcomes matters
    """

    wires: tuple[int, ...]
    gates: tuple[Gate, ...]
    ordered: bool


@dataclass(frozen=True)
class Grouping:
    """All measurements of a program in groups.

    Args:
        groups: the groups
        matrices: matrices to diagonalise before the rotations
        scalars: for each scalar, the group of each of its terms
        tensors: for each tensor, its group
    """

    groups: tuple[Group, ...]
    matrices: tuple[Constant | ArrayRef, ...]
    scalars: tuple[tuple[int, ...], ...]
    tensors: tuple[int, ...]

    def slots(self, arrays: tuple[ArraySlot, ...]) -> tuple[ArraySlot, ...]:
        """Array slots that the groups' gates refer to, given those of the program."""
        return (*arrays, *(_eigenvector_slot(m, arrays) for m in self.matrices))

    def diagonalize(self, values: Values) -> tuple[list[NDArray], Values]:
        """Eigenvalues of each matrix, and the slots with the eigenvectors behind the program's own arrays."""
        eigen = [np.linalg.eigh(m.array if isinstance(m, Constant) else values.arrays[m.index]) for m in self.matrices]
        return [e for e, _ in eigen], values._replace(arrays=(*values.arrays, *(vectors for _, vectors in eigen)))


@dataclass
class _OpenGroup:
    """A group that measurements still join."""

    basis: dict[int, Hashable] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    seen: set[Hashable] = field(default_factory=set)
    ordered: bool = False


_Part = tuple[tuple[int, ...], Hashable, Sequence[Gate]]  # wires, key of the basis, gates into it


class _Groups:
    """Greedy grouping: a measurement joins the first group whose bases agree with its own on all common wires."""

    def __init__(self) -> None:
        self.open: list[_OpenGroup] = []

    def join(self, parts: Sequence[_Part]) -> int:
        """Add a measurement made of parts; the group's index."""
        wanted = {w: key for wires, key, _ in parts for w in wires}
        fits = (i for i, g in enumerate(self.open) if all(g.basis.get(w, key) == key for w, key in wanted.items()))
        index = next(fits, len(self.open))
        if index == len(self.open):
            self.open.append(_OpenGroup())
        group = self.open[index]
        group.basis.update(wanted)
        for wires, key, gates in parts:
            if (wires, key) not in group.seen:
                group.seen.add((wires, key))
                group.gates += gates
        return index

    def closed(self) -> tuple[Group, ...]:
        return tuple(Group(tuple(sorted(g.basis)), tuple(g.gates), g.ordered) for g in self.open)


def group_measurements(program: Program) -> Grouping:
    """Group the measurements of a program.

    Raises:
        CircuitError: a measurement is only known exactly
    """
    groups, matrices = _Groups(), list[Constant | ArrayRef]()
    scalars = []
    for m in program.scalars:
        scalars.append(_join_terms(m.observable.terms, groups, matrices, len(program.arrays)))
        if not isinstance(m, Expectation) and len(set(scalars[-1])) > 1:
            raise CircuitError(
                "The variance of a sum whose terms need different measurement bases cannot be sampled. Measure the "
                "terms separately, or remove the shots."
            )
    tensors = tuple(_join_tensor(t, groups) for t in program.tensors)
    return Grouping(groups.closed(), tuple(matrices), tuple(scalars), tensors)


def _join_tensor(tensor: Tensor, groups: _Groups) -> int:
    if isinstance(tensor, State):
        raise CircuitError("The state is only known exactly, not from shots. Remove the shots from the circuit.")
    parts: list[_Part] = [((w,), "Z", ()) for w in tensor.wires]
    if tensor.basis:
        touched = {w for g in tensor.basis for w in (*g.wires, *g.controls)} | set(tensor.wires)
        parts = [(tuple(sorted(touched)), tensor.basis, tensor.basis)]
    index = groups.join(parts)
    groups.open[index].ordered |= isinstance(tensor, Samples)
    return index


def _eigenvector_slot(matrix: Constant | ArrayRef, arrays: Sequence[ArraySlot]) -> ArraySlot:
    return arrays[matrix.index] if isinstance(matrix, ArrayRef) else ArraySlot(matrix.array.shape)


def _join_terms(
    terms: Sequence[Term], groups: _Groups, matrices: list[Constant | ArrayRef], num_arrays: int
) -> tuple[int, ...]:
    """The groups of the terms of one observable; one group if they agree on all bases."""
    parts = [_term_parts(t, matrices, num_arrays) for t in terms]
    keys: dict[int, set[Hashable]] = {}
    for wires, key, _ in (p for term_parts in parts for p in term_parts):
        for w in wires:
            keys.setdefault(w, set()).add(key)
    if all(len(k) == 1 for k in keys.values()):
        return (groups.join([p for term_parts in parts for p in term_parts]),) * len(parts)
    return tuple(groups.join(p) for p in parts)


def _term_parts(term: Term, matrices: list[Constant | ArrayRef], num_arrays: int) -> list[_Part]:
    """Wires, key of the basis and gates into it, for each letter and each matrix of a term."""
    parts: list[_Part] = []
    for wire, letter in term.word:
        gates = () if letter == "Z" else (Gate(letter, (wire,), Fixed(Constant(_TO_Z[letter]))),)
        parts.append(((wire,), letter, gates))
    for wires, matrix in term.matrices:
        if matrix not in matrices:
            matrices.append(matrix)
        number = matrices.index(matrix)
        parts.append((wires, (wires, number), (_into_eigenbasis(wires, matrix, num_arrays + number),)))
    return parts


def _into_eigenbasis(wires: tuple[int, ...], matrix: Constant | ArrayRef, index: int) -> Gate:
    """The gate that diagonalises a matrix, whose eigenvectors are the array ``index`` if they are not known now."""
    if isinstance(matrix, ArrayRef):
        return Gate("eigenbasis", wires, Matrix(ArrayRef(index), adjoint=True))
    _, vectors = np.linalg.eigh(matrix.array)
    return Gate("eigenbasis", wires, Fixed(Constant(vectors.conj().T)))


# ------------------------------------------------------------------ how each measurement is read


@dataclass(frozen=True)
class TermOutcome:
    """Eigenvalues of a term from outcomes: the parity under ``mask`` times those of its diagonalised matrices.

    ``matrices`` pairs masks of parities (the most significant first) with the number of the diagonalised matrix.
    """

    number: float | Angle
    mask: int
    matrices: tuple[tuple[tuple[int, ...], int], ...]
    group: int


@dataclass(frozen=True)
class WiresOutcome:
    """Outcomes of some wires: parities under ``masks``, the most significant first."""

    masks: tuple[int, ...]
    group: int


@dataclass(frozen=True)
class Reading:
    """How each measurement is read from its group's outcomes: for each scalar its terms, for each tensor its bits."""

    scalars: tuple[tuple[TermOutcome, ...], ...]
    tensors: tuple[WiresOutcome, ...]


def plan_reading(program: Program, grouping: Grouping, signs: Sequence[Mapping[int, int] | Sequence[int]]) -> Reading:
    """The reading of a grouping in whose group ``g`` wire ``w`` is the parity of an outcome under ``signs[g][w]``."""
    scalars = tuple(
        tuple(_term_outcome(t, signs[g], grouping, g) for t, g in zip(m.observable.terms, own, strict=True))
        for m, own in zip(program.scalars, grouping.scalars, strict=True)
    )
    tensors = (
        WiresOutcome(tuple(signs[g][w] for w in t.wires), g)
        for t, g in zip(program.tensors, grouping.tensors, strict=True)
        if not isinstance(t, State)
    )
    return Reading(scalars, tuple(tensors))


def _term_outcome(term: Term, signs: Mapping[int, int] | Sequence[int], grouping: Grouping, group: int) -> TermOutcome:
    return TermOutcome(
        term.coefficient,
        reduce(xor, (signs[w] for w, _ in term.word), 0),
        tuple((tuple(signs[w] for w in wires), grouping.matrices.index(m)) for wires, m in term.matrices),
        group,
    )


def read_outcomes(
    program: Program, reading: Reading, values: Values, spectra: Sequence[NDArray], outcomes: Sequence[NDArray]
) -> tuple[NDArray, ...]:
    """Results estimated from outcomes, each with the samples in front.

    Args:
        program: what was measured
        reading: how
        values: slots, for coefficients
        spectra: eigenvalues of the diagonalised matrices
        outcomes: for each group, ``(B, shots)`` integers; in any order where the group is not ordered
    """
    count = outcomes[0].shape[0]
    scalars = np.zeros((count, len(program.scalars)))
    for i, (m, terms) in enumerate(zip(program.scalars, reading.scalars, strict=True)):
        drawn = [eigenvalues(t, values, spectra, outcomes[t.group]) for t in terms]
        if isinstance(m, Expectation):
            scalars[:, i] = sum((d.mean(1) for d in drawn), np.zeros(count))
        else:
            scalars[:, i] = np.var(sum(drawn, np.zeros((count, 1))), axis=1)
    tensors = []
    for tensor, read in zip(program.tensors, reading.tensors, strict=True):
        if isinstance(tensor, Samples):
            tensors.append(_samples(read, outcomes[read.group]))
        else:
            assert isinstance(tensor, Probabilities)
            tensors.append(_histogram(read_bits(outcomes[read.group], read.masks), 1 << len(read.masks)))
    return (scalars, *tensors)


def _samples(read: WiresOutcome, outcomes: NDArray) -> NDArray:
    """Bits ``(B, shots, wires)``."""
    return _parity(outcomes[:, :, None] & np.array(read.masks, np.int64)).astype(np.int64)


def eigenvalues(term: TermOutcome, values: Values, spectra: Sequence[NDArray], outcomes: NDArray) -> NDArray:
    """``coefficient * eigenvalue`` of each outcome, ``(B, shots)``."""
    out = 1.0 - 2.0 * _parity(outcomes & term.mask)
    for masks, number in term.matrices:
        index, spectrum = read_bits(outcomes, masks), spectra[number]
        if spectrum.ndim > 1:
            index = np.broadcast_to(index, (len(spectrum), index.shape[1]))
        out = out * (spectrum[index] if spectrum.ndim == 1 else np.take_along_axis(spectrum, index, axis=1))
    return out * np.reshape(values.number(term.number), (-1, 1))


def read_bits(outcomes: NDArray, masks: Iterable[int]) -> NDArray:
    """The parities of outcomes under masks as numbers, the first one most significant."""
    out = np.zeros_like(outcomes)
    for mask in masks:
        out = (out << 1) | _parity(outcomes & mask)
    return out


def _parity(values: NDArray) -> NDArray:
    return np.bitwise_count(values) & 1


def _histogram(outcomes: NDArray, size: int) -> NDArray:
    """Relative frequencies ``(B, size)``."""
    count, shots = outcomes.shape
    flat = (outcomes + size * np.arange(count)[:, None]).reshape(-1)
    return np.bincount(flat, minlength=count * size).reshape(count, size) / shots


def read_distributions(
    program: Program, reading: Reading, values: Values, spectra: Sequence[NDArray], distributions: Sequence[NDArray]
) -> tuple[NDArray, ...]:
    """Exact results from the distribution of outcomes of each group, ``(B, 2**k)``; see :func:`read_outcomes`."""
    tensors = [_marginal(distributions[read.group], read.masks) for read in reading.tensors]
    return (_scalars(program, reading, values, spectra, distributions), *tensors)


def draw_results(
    program: Program,
    reading: Reading,
    values: Values,
    spectra: Sequence[NDArray],
    distributions: Sequence[NDArray],
    shots: int,
    rng: np.random.Generator,
) -> tuple[NDArray, ...]:
    """Results estimated from ``shots`` outcomes drawn from each group's distribution; see :func:`read_outcomes`."""
    counts = [rng.multinomial(shots, np.clip(d, 0, None) / d.sum(1, keepdims=True)) for d in distributions]
    frequencies = [c / shots for c in counts]
    pairs = list(zip(program.tensors, reading.tensors, strict=True))
    ordered = sorted({read.group for tensor, read in pairs if isinstance(tensor, Samples)})
    outcomes = {g: rng.permuted(_expanded(counts[g]), axis=1) for g in ordered}
    tensors = [
        _samples(read, outcomes[read.group])
        if isinstance(tensor, Samples)
        else _marginal(frequencies[read.group], read.masks)
        for tensor, read in pairs
    ]
    return (_scalars(program, reading, values, spectra, frequencies), *tensors)


def _expanded(counts: NDArray) -> NDArray:
    """Counts ``(B, 2**k)`` of equal sums as outcomes ``(B, shots)``, ascending."""
    every = np.tile(np.arange(counts.shape[1]), len(counts))
    return np.repeat(every, counts.reshape(-1)).reshape(len(counts), -1)


def _scalars(
    program: Program, reading: Reading, values: Values, spectra: Sequence[NDArray], distributions: Sequence[NDArray]
) -> NDArray:
    """Expectation values and variances, ``(B, S)``."""
    count = distributions[0].shape[0]
    scalars = np.zeros((count, len(program.scalars)))
    for i, (m, terms) in enumerate(zip(program.scalars, reading.scalars, strict=True)):
        if isinstance(m, Expectation):
            means = (_mean(distributions[t.group], [t], values, spectra) for t in terms)
            scalars[:, i] = sum(means, np.zeros(count))
        else:
            own = distributions[terms[0].group]
            scalars[:, i] = _mean(own, terms, values, spectra, power=2) - _mean(own, terms, values, spectra) ** 2
    return scalars


def _mean(
    distribution: NDArray, terms: Sequence[TermOutcome], values: Values, spectra: Sequence[NDArray], power: int = 1
) -> NDArray:
    """Mean of a power of a sum of terms, ``(B,)``."""
    every = np.arange(distribution.shape[1])[None]
    total = sum((eigenvalues(t, values, spectra, every) for t in terms), np.zeros((1, 1)))
    return np.sum(distribution * total**power, axis=1)


def _marginal(distribution: NDArray, masks: Sequence[int]) -> NDArray:
    """Probabilities ``(B, 2**len(masks))`` of the parities under masks."""
    out = np.zeros((1 << len(masks), len(distribution)))
    np.add.at(out, read_bits(np.arange(distribution.shape[1]), masks), distribution.T)
    return out.T
