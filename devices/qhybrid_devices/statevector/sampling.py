"""Measurements estimated from samples: one rotated copy of the state for each group of compatible measurements."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

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
from qhybrid_devices.statevector.engine import Layout, apply_plan, coefficients
from qhybrid_devices.statevector.externals import Values
from qhybrid_devices.statevector.measure import cumulative_weights, draw
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, lower_gates, sum_masks
from qhybrid_devices.statevector.plan import Plan, PlanOptions, build_plan

_TO_Z = {
    "X": np.array([[1, 1], [1, -1]]) / np.sqrt(2),
    "Y": np.array([[1, -1j], [1, 1j]]) / np.sqrt(2),
}


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
class SamplingPlan:
    """Groups of compatible measurements and how each measurement is read from its group's outcomes.

    Args:
        groups: for each group the rotations into its eigenbasis
        matrices: matrices to diagonalise before the rotations
        scalars: for each scalar its terms
        tensors: for each tensor its bits
    """

    groups: tuple[Plan, ...]
    matrices: tuple[Constant | ArrayRef, ...]
    scalars: tuple[tuple[TermOutcome, ...], ...]
    tensors: tuple[WiresOutcome, ...]


class _Groups:
    """Greedy grouping: a measurement joins the first group whose bases agree with its own on all common wires."""

    def __init__(self) -> None:
        self.bases: list[dict[int, Hashable]] = []
        self.gates: list[list[Gate]] = []
        self.seen: list[set[Hashable]] = []

    def join(self, parts: Sequence[tuple[tuple[int, ...], Hashable, Sequence[Gate]]]) -> int:
        """Add a measurement made of parts (wires, key of the basis, gates into the basis); the group's index."""
        wanted = {w: key for wires, key, _ in parts for w in wires}
        fits = (i for i, basis in enumerate(self.bases) if all(basis.get(w, key) == key for w, key in wanted.items()))
        group = next(fits, len(self.bases))
        if group == len(self.bases):
            self.bases.append({})
            self.gates.append([])
            self.seen.append(set())
        self.bases[group].update(wanted)
        for wires, key, gates in parts:
            if (wires, key) not in self.seen[group]:
                self.seen[group].add((wires, key))
                self.gates[group] += gates
        return group


def plan_sampling(program: Program, frame: Frame, options: PlanOptions | None) -> SamplingPlan:
    """Plan the samples of a program after whose gates the bits mean ``frame``; ``options`` as for ``build_plan``.

    Raises:
        CircuitError: a measurement is only known exactly
    """
    groups, matrices = _Groups(), list[Constant | ArrayRef]()
    joined = []
    for m in program.scalars:
        joined.append(_join_terms(m.observable.terms, groups, matrices, len(program.arrays)))
        if not isinstance(m, Expectation) and len(set(joined[-1])) > 1:
            raise CircuitError(
                "The variance of a sum whose terms need different measurement bases cannot be sampled. Measure the "
                "terms separately, or remove the shots."
            )
    read = [_join_tensor(t, groups) for t in program.tensors]
    slots = (*program.arrays, *(_eigenvector_slot(m, program.arrays) for m in matrices))
    lowering = LoweringOptions(relabel=False, absorb=True, restore=False)
    lowered = [lower_gates(gates, frame, slots, lowering) for gates in groups.gates]
    signs = [after.signs for _, after in lowered]
    return SamplingPlan(
        tuple(build_plan(operations, program.num_wires, options) for operations, _ in lowered),
        tuple(matrices),
        tuple(
            tuple(_term_outcome(t, signs[g], matrices, g) for t, g in zip(m.observable.terms, own, strict=True))
            for m, own in zip(program.scalars, joined, strict=True)
        ),
        tuple(WiresOutcome(tuple(signs[g][w] for w in t.wires), g) for t, g in read),
    )


def _join_tensor(tensor: Tensor, groups: _Groups) -> tuple[Probabilities | Samples, int]:
    """The measurement of some wires, and its group."""
    if isinstance(tensor, State):
        raise CircuitError("The state is only known exactly, not from shots. Remove the shots from the circuit.")
    parts: list[tuple[tuple[int, ...], Hashable, Sequence[Gate]]] = [((w,), "Z", ()) for w in tensor.wires]
    if tensor.basis:
        touched = {w for g in tensor.basis for w in (*g.wires, *g.controls)} | set(tensor.wires)
        parts = [(tuple(sorted(touched)), tensor.basis, tensor.basis)]
    return tensor, groups.join(parts)


def _eigenvector_slot(matrix: Constant | ArrayRef, arrays: Sequence[ArraySlot]) -> ArraySlot:
    return arrays[matrix.index] if isinstance(matrix, ArrayRef) else ArraySlot(matrix.array.shape)


def _join_terms(
    terms: Sequence[Term], groups: _Groups, matrices: list[Constant | ArrayRef], num_arrays: int
) -> list[int]:
    """The groups of the terms of one observable; one group if they agree on all bases."""
    parts = [_term_parts(t, matrices, num_arrays) for t in terms]
    keys: dict[int, set[Hashable]] = {}
    for wires, key, _ in (p for term_parts in parts for p in term_parts):
        for w in wires:
            keys.setdefault(w, set()).add(key)
    if all(len(k) == 1 for k in keys.values()):
        return [groups.join([p for term_parts in parts for p in term_parts])] * len(parts)
    return [groups.join(p) for p in parts]


def _term_outcome(term: Term, signs: Sequence[int], matrices: Sequence[Constant | ArrayRef], group: int) -> TermOutcome:
    """How a term is read from its group's outcomes, in which wire ``w`` is the parity under ``signs[w]``."""
    return TermOutcome(
        term.coefficient,
        sum_masks(signs[w] for w, _ in term.word),
        tuple((tuple(signs[w] for w in wires), matrices.index(m)) for wires, m in term.matrices),
        group,
    )


def _term_parts(
    term: Term, matrices: list[Constant | ArrayRef], num_arrays: int
) -> list[tuple[tuple[int, ...], Hashable, Sequence[Gate]]]:
    """Wires, key of the basis and gates into it, for each letter and each matrix of a term."""
    parts: list[tuple[tuple[int, ...], Hashable, Sequence[Gate]]] = []
    for wire, letter in term.word:
        gates = () if letter == "Z" else (Gate(letter, (wire,), Fixed(Constant(_TO_Z[letter]))),)
        parts.append(((wire,), letter, gates))
    for wires, matrix in term.matrices:
        if matrix not in matrices:
            matrices.append(matrix)
        number = matrices.index(matrix)
        gate = Gate("eigenbasis", wires, Matrix(ArrayRef(num_arrays + number), adjoint=True))
        parts.append((wires, (wires, number), (gate,)))
    return parts


# ------------------------------------------------------------------ drawing


def sample_results(
    plan: SamplingPlan,
    program: Program,
    layout: Layout,
    values: Values,
    psi: NDArray,
    shots: int,
    rng: np.random.Generator,
) -> tuple[NDArray, ...]:
    """Results estimated from a final state, each with the samples in front.

    Args:
        psi: the final state, not changed
        shots: outcomes drawn for each group and sample
        rng: source of the outcomes
    """
    eigen = [np.linalg.eigh(m.array if isinstance(m, Constant) else values.arrays[m.index]) for m in plan.matrices]
    extended = values._replace(arrays=(*values.arrays, *(vectors for _, vectors in eigen)))
    ordered = {read.group for m, read in zip(program.tensors, plan.tensors, strict=True) if isinstance(m, Samples)}
    outcomes = [
        _outcomes(group, layout, extended, psi, shots, rng, shuffle=i in ordered) for i, group in enumerate(plan.groups)
    ]
    spectra = [e for e, _ in eigen]
    scalars = np.zeros((layout.count, len(program.scalars)))
    for i, (m, terms) in enumerate(zip(program.scalars, plan.scalars, strict=True)):
        drawn = [_eigenvalues(t, values, spectra, outcomes[t.group]) for t in terms]
        if isinstance(m, Expectation):
            scalars[:, i] = sum((d.mean(1) for d in drawn), np.zeros(layout.count))
        else:
            scalars[:, i] = np.var(sum(drawn, np.zeros((layout.count, 1))), axis=1)
    tensors = []
    for tensor, read in zip(program.tensors, plan.tensors, strict=True):
        if isinstance(tensor, Samples):
            bits = _parity(outcomes[read.group][:, :, None] & np.array(read.masks, np.int64))
            tensors.append(bits.astype(np.int64))
        else:
            tensors.append(_histogram(_read(outcomes[read.group], read.masks), 1 << len(read.masks)))
    return (scalars.astype(layout.dtype), *(t.astype(layout.dtype) if t.dtype.kind == "f" else t for t in tensors))


def _outcomes(
    group: Plan, layout: Layout, values: Values, psi: NDArray, shots: int, rng: np.random.Generator, shuffle: bool
) -> NDArray:
    """Indices of basis states, ``(B, shots)``; ascending, unless they are shuffled."""
    if len(group.operations):
        psi = psi.copy()
        apply_plan(group, layout, psi, coefficients(group, layout, values))
    cumulative = np.empty((layout.width, 1 << layout.num_wires))
    cumulative_weights(psi, cumulative)
    out = np.empty((layout.count, shots), np.int64)
    draw(cumulative, rng.standard_exponential((layout.count, shots + 1)), out)
    return rng.permuted(out, axis=1, out=out) if shuffle else out


def _parity(values: NDArray) -> NDArray:
    return np.bitwise_count(values) & 1


def _read(outcomes: NDArray, masks: Sequence[int]) -> NDArray:
    """The parities of outcomes under masks as numbers, the first one most significant."""
    out = np.zeros_like(outcomes)
    for mask in masks:
        out = (out << 1) | _parity(outcomes & mask)
    return out


def _eigenvalues(term: TermOutcome, values: Values, spectra: Sequence[NDArray], outcomes: NDArray) -> NDArray:
    """``coefficient * eigenvalue`` of each outcome, ``(B, shots)``."""
    out = 1.0 - 2.0 * _parity(outcomes & term.mask)
    for masks, number in term.matrices:
        index, spectrum = _read(outcomes, masks), spectra[number]
        out = out * (spectrum[index] if spectrum.ndim == 1 else np.take_along_axis(spectrum, index, axis=1))
    return out * np.reshape(values.number(term.number), (-1, 1))


def _histogram(outcomes: NDArray, size: int) -> NDArray:
    """Relative frequencies ``(B, size)``."""
    count, shots = outcomes.shape
    flat = (outcomes + size * np.arange(count)[:, None]).reshape(-1)
    return np.bincount(flat, minlength=count * size).reshape(count, size) / shots
