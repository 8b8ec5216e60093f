"""All measurements of a program: results of a final state, and the seed of the reverse sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import (
    Angle,
    Expectation,
    Observable,
    Probabilities,
    Program,
    Samples,
    State,
    Term,
)
from qhybrid_devices.externals import Values
from qhybrid_devices.statevector.engine import Layout, apply_plan, coefficients
from qhybrid_devices.statevector.measure import marginals, weigh_outcomes
from qhybrid_devices.statevector.observables import (
    ObservablePlan,
    WordTable,
    add_number,
    add_words,
    apply_observable,
    expectation,
    observable_cotangents,
    plan_observable,
    tabulate_words,
    word_moments,
    word_of,
)
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, lower_gates
from qhybrid_devices.statevector.plan import Plan, PlanOptions, build_plan
from qhybrid_devices.statevector.tilings import sums

#: Largest number of entries of a matrix from Pauli words to scalars; beyond it sums are sparse.
DENSE_ENTRIES = 1 << 16


@dataclass(frozen=True)
class Entries:
    """Scalars that are moments of single Pauli words: entry ``i`` uses row ``rows[i]`` for scalar ``scalars[i]``.

    ``matrix`` takes the moments ``(T, B)`` to the scalars ``(S, B)``, if the coefficients are constant. Where it only
    changes their order, ``order`` says which moment each scalar is, and ``places`` which scalar each moment becomes.
    """

    scalars: NDArray
    rows: NDArray
    numbers: tuple[float | Angle, ...]
    constants: NDArray
    is_constant: bool
    shape: tuple[int, int]
    matrix: NDArray | None
    order: NDArray | None
    places: NDArray | None

    @classmethod
    def of(cls, items: Sequence[tuple[int, float | Angle]], rows: Sequence[int], shape: tuple[int, int]) -> Entries:
        """Entries from pairs of scalar and coefficient, and their rows; ``shape`` counts scalars and words."""
        numbers = tuple(n for _, n in items)
        scalars, row_index = np.array([s for s, _ in items], np.int64), np.array(rows, np.int64)
        constants = np.array([0.0 if isinstance(n, Angle) else n for n in numbers])
        is_constant, matrix = not any(isinstance(n, Angle) for n in numbers), None
        if is_constant and shape[0] * shape[1] <= DENSE_ENTRIES:
            matrix = np.zeros(shape)
            np.add.at(matrix, (scalars, row_index), constants)
        order, places = (None, None) if matrix is None else _permutation(matrix)
        return cls(scalars, row_index, numbers, constants[:, None], is_constant, shape, matrix, order, places)

    def values(self, values: Values) -> NDArray:
        """The coefficients, ``(E, 1)`` or ``(E, B)``."""
        if self.is_constant:
            return self.constants
        batched = any(isinstance(n, Angle) and n.batched for n in self.numbers)
        out = np.repeat(self.constants, values.batched.shape[1] if batched else 1, axis=1)
        for i, n in enumerate(self.numbers):
            if isinstance(n, Angle):
                out[i] = values.number(n)
        return out

    def sums(self, values: Values, moments: NDArray) -> NDArray:
        """The scalars ``(S, B)``."""
        if self.order is not None:
            return moments.take(self.order, 0)
        if self.matrix is not None:
            return self.matrix @ moments
        out = np.zeros((self.shape[0], moments.shape[1]))
        np.add.at(out, self.scalars, self.values(values) * moments[self.rows])
        return out

    def weights(self, values: Values, g: NDArray) -> NDArray:
        """The weight of each word ``(T, B)``, given cotangents of the scalars ``(S, B)``."""
        if self.places is not None:
            return g.take(self.places, 0)
        if self.matrix is not None:
            return self.matrix.T @ g
        out = np.zeros((self.shape[1], g.shape[1]))
        np.add.at(out, self.rows, self.values(values) * g[self.scalars])
        return out


def _permutation(matrix: NDArray) -> tuple[NDArray | None, NDArray | None]:
    """Where the one of each row is, and that of each column, if each has a single one and nothing else."""
    rows, columns = np.nonzero(matrix)
    every = np.arange(len(matrix))
    if matrix.shape != (len(rows), len(rows)) or not (matrix[rows, columns] == 1).all():
        return None, None
    if not (np.array_equal(rows, every) and np.array_equal(np.sort(columns), every)):
        return None, None
    return columns, np.argsort(columns)


@dataclass(frozen=True)
class ProbabilityPlan:
    """Outcomes whose bits (the most significant first) are parities under ``masks``, after the gates of ``basis``."""

    masks: NDArray
    basis: Plan | None


@dataclass(frozen=True)
class MeasurementPlan:
    """How each measurement of a program is made from its final state.

    Args:
        table: Pauli words of ``means`` and ``variances``
        means: expectation values of Pauli words
        variances: variances of one Pauli word
        identity: row of the identity, the squared norm, if there are variances
        matrix_means: scalar index and terms with matrices of expectation values
        general_variances: scalar index and observable of all other variances
        tensors: one entry a tensor measurement, ``None`` for the state
        order: the indices of a state's amplitudes in the order of wires; ``None`` if they are in order
    """

    num_scalars: int
    table: WordTable
    means: Entries
    variances: Entries
    identity: int
    matrix_means: tuple[tuple[int, ObservablePlan], ...]
    general_variances: tuple[tuple[int, ObservablePlan], ...]
    tensors: tuple[ProbabilityPlan | None, ...]
    order: NDArray | None

    @cached_property
    def has_words_only(self) -> bool:
        """Whether all results are expectation values of Pauli words, and there are any."""
        others = len(self.variances.scalars) or self.matrix_means or self.general_variances or self.tensors
        return not others and len(self.table) > 0

    @property
    def shows_phases(self) -> bool:
        """Whether results depend on the phases of states: amplitudes are among them."""
        return None in self.tensors


def has_matrices(program: Program) -> bool:
    """Whether an observable has matrices, for which each bit must stand for one wire."""
    return any(t.matrices for m in program.scalars for t in m.observable.terms)


def plan_measurements(program: Program, frame: Frame, options: PlanOptions | None) -> MeasurementPlan:
    """Plan the measurements of a program.

    Args:
        program: its measurements
        frame: what the bits mean at the end; each stands for one wire if there are matrices
        options: as for ``build_plan``
    """
    means: list[tuple[int, Term]] = []
    variances: list[tuple[int, Term]] = []
    matrix_means, general = [], []
    for s, m in enumerate(program.scalars):
        terms = m.observable.terms
        if isinstance(m, Expectation):
            means += [(s, t) for t in terms if not t.matrices]
            rest = Observable(tuple(t for t in terms if t.matrices))
            if rest.terms:
                matrix_means.append((s, plan_observable(rest, frame, program.arrays, options)))
        elif len(terms) == 1 and not terms[0].matrices:
            variances.append((s, terms[0]))
        else:
            general.append((s, plan_observable(m.observable, frame, program.arrays, options)))
    identity = [(0, 0, 0)] if variances else []
    table, rows = tabulate_words([word_of(t, frame) for _, t in means + variances] + identity)
    shape = (len(program.scalars), len(table))
    n = program.num_wires
    in_order = frame.flips == tuple(1 << n - 1 - w for w in range(n))
    whole = any(isinstance(m, State) for m in program.tensors)
    order = sums(frame.flips[::-1]) if whole and not in_order else None
    return MeasurementPlan(
        len(program.scalars),
        table,
        Entries.of([(s, t.coefficient) for s, t in means], rows[: len(means)], shape),
        Entries.of([(s, t.coefficient) for s, t in variances], rows[len(means) : len(means) + len(variances)], shape),
        rows[-1] if variances else 0,
        tuple(matrix_means),
        tuple(general),
        tuple(None if isinstance(m, State) else plan_outcomes(program, m, frame, options) for m in program.tensors),
        order,
    )


def plan_outcomes(
    program: Program, m: Probabilities | Samples, frame: Frame, options: PlanOptions | None
) -> ProbabilityPlan:
    """Plan the outcomes of some wires."""
    operations, after = lower_gates(m.basis, frame, program.arrays, LoweringOptions(absorb=True, restore=False))
    basis = build_plan(operations, program.num_wires, options) if operations else None
    return ProbabilityPlan(np.array([after.signs[w] for w in m.wires], np.int64), basis)


# ------------------------------------------------------------------ results


def results(plan: MeasurementPlan, layout: Layout, values: Values, psi: NDArray) -> tuple[NDArray, ...]:
    """The results of a final state, each with the samples in front: ``(B, S)``, then one array a tensor."""
    if not len(plan.table):
        scalars = np.zeros((plan.num_scalars, layout.count))
    else:
        moments = word_moments(plan.table, layout, psi, psi)
        scalars = plan.means.sums(values, moments)
        if len(plan.variances.scalars):
            scalars[plan.variances.scalars] = plan.variances.values(values) ** 2 * (
                moments[plan.identity] - moments[plan.variances.rows] ** 2
            )
    for s, observable in plan.matrix_means:
        scalars[s] += expectation(observable, layout, values, psi)
    for s, observable in plan.general_variances:
        o_psi = np.zeros_like(psi)
        apply_observable(observable, layout, values, psi, o_psi, np.ones(1))
        scalars[s] = overlap(layout, o_psi, o_psi) - overlap(layout, psi, o_psi) ** 2
    tensors = [
        state_vector(plan, layout, psi) if p is None else probabilities(p, layout, values, psi).T for p in plan.tensors
    ]
    real = (t if t.dtype.kind == "c" else t.astype(layout.dtype) for t in tensors)
    return (np.ascontiguousarray(scalars.T, layout.dtype), *real)


def overlap(layout: Layout, a: NDArray, b: NDArray) -> NDArray:
    """``Re <a|b>`` of each sample, ``(B,)``."""
    return np.einsum("cpnl,cpnl->cl", a, b, dtype=float).reshape(-1)[: layout.count]


def state_vector(plan: MeasurementPlan, layout: Layout, psi: NDArray) -> NDArray:
    """The state vectors in wire order, complex ``(B, 2**n)``."""
    n = layout.num_wires
    out = np.empty((layout.chunks, layout.lanes, 1 << n), np.result_type(layout.dtype, 1j))
    for plane, target in ((0, out.real), (1, out.imag)):
        part = psi[:, plane]
        target[...] = (part if plan.order is None else part[:, plan.order]).transpose(0, 2, 1)
    return out.reshape(layout.width, -1)[: layout.count]


def rotated(p: ProbabilityPlan, layout: Layout, values: Values, psi: NDArray) -> NDArray:
    """The state in the basis of a measurement; ``psi`` itself if that has no gates."""
    if p.basis is None:
        return psi
    out = psi.copy()
    apply_plan(p.basis, layout, out, coefficients(p.basis, layout, values))
    return out


def probabilities(p: ProbabilityPlan, layout: Layout, values: Values, psi: NDArray) -> NDArray:
    """Probabilities of outcomes, ``(2**k, B)``."""
    out = np.zeros((1 << len(p.masks), layout.width))
    marginals(rotated(p, layout, values, psi), 0, layout.chunks, p.masks, out)
    return out[:, : layout.count]


# ------------------------------------------------------------------ the seed of the reverse sweep


def seed(
    plan: MeasurementPlan,
    layout: Layout,
    values: Values,
    psi: NDArray,
    cotangents: Sequence[NDArray],
    into: Values,
    want_observables: bool,
) -> NDArray:
    """``lambda`` with ``dL = 2 Re <lambda|dpsi>`` at the end of the circuit.

    Args:
        psi: the final state, not changed
        cotangents: of the results, samples in front
        into: receives the cotangents of coefficients and Hermitian arrays
        want_observables: whether those are wanted at all
    """
    g = np.ascontiguousarray(np.asarray(cotangents[0], float).T)  # (S, B)
    lam = layout.empty()
    _seed_words(plan, layout, values, psi, g, lam, into, want_observables)
    for s, observable in plan.matrix_means:
        apply_observable(observable, layout, values, psi, lam, g[s])
        if want_observables:
            observable_cotangents(observable, layout, values, psi, psi, g[s], into)
    for s, observable in plan.general_variances:
        _seed_variance(observable, layout, values, psi, g[s], lam, into, want_observables)
    for p, c in zip(plan.tensors, cotangents[1:], strict=True):
        if p is None:
            add_state_cotangent(plan, layout, np.asarray(c), lam)
        else:
            _seed_probabilities(p, layout, values, psi, np.asarray(c, float), lam)
    return lam


def _seed_words(
    plan: MeasurementPlan,
    layout: Layout,
    values: Values,
    psi: NDArray,
    g: NDArray,
    lam: NDArray,
    into: Values,
    want_observables: bool,
) -> None:
    """Write the part of Pauli words to ``lam``: ``g c P psi`` a mean, ``g c^2 (1 - 2 <P> P) psi`` a variance."""
    if not len(plan.table):
        lam[...] = 0
        return
    means, variances = plan.means, plan.variances
    weights = means.weights(values, g)
    numbers = want_observables and not (means.is_constant and variances.is_constant)
    if len(variances.scalars) or numbers:
        moments = word_moments(plan.table, layout, psi, psi)
    if len(variances.scalars):
        c, m = variances.values(values), moments[variances.rows]
        np.add.at(weights, variances.rows, -2 * c**2 * m * g[variances.scalars])
        weights[plan.identity] += np.sum(c**2 * g[variances.scalars], 0)
        if numbers:
            slopes = 2 * c * (moments[plan.identity] - m**2) * g[variances.scalars]
            for number, row in zip(variances.numbers, slopes, strict=True):
                add_number(number, row, into)
    if numbers:
        for number, row in zip(means.numbers, moments[means.rows] * g[means.scalars], strict=True):
            add_number(number, row, into)
    add_words(plan.table, layout, psi, lam, weights, add=False)


def _seed_variance(
    observable: ObservablePlan,
    layout: Layout,
    values: Values,
    psi: NDArray,
    g: NDArray,
    lam: NDArray,
    into: Values,
    want_observables: bool,
) -> None:
    """Add ``g O (O psi - 2 <O> psi)``; ``dL = Re <chi|dO|psi>`` with ``chi = 2 g (O - <O>) psi``."""
    o_psi = np.zeros_like(psi)
    apply_observable(observable, layout, values, psi, o_psi, np.ones(1))
    mean = layout.pad(overlap(layout, psi, o_psi)[None]).reshape(layout.chunks, 1, 1, layout.lanes)
    mean = mean.astype(layout.dtype)
    if want_observables:
        observable_cotangents(observable, layout, values, o_psi - mean * psi, psi, 2 * g, into)
    o_psi -= 2 * mean * psi
    apply_observable(observable, layout, values, o_psi, lam, g)


def add_state_cotangent(plan: MeasurementPlan, layout: Layout, c: NDArray, lam: NDArray) -> None:
    """Add what the cotangent ``c`` of the state vectors, complex ``(B, 2**n)``, gives for ``lambda``."""
    n = layout.num_wires
    padded = np.zeros((layout.width, 1 << n), np.result_type(layout.dtype, 1j))
    padded[: layout.count] = c
    for plane, part in ((0, padded.real), (1, padded.imag)):
        part = part.reshape(layout.chunks, layout.lanes, -1).transpose(0, 2, 1)
        lam[:, plane, slice(None) if plan.order is None else plan.order] += part / 2


def _seed_probabilities(
    p: ProbabilityPlan, layout: Layout, values: Values, psi: NDArray, c: NDArray, lam: NDArray
) -> None:
    state = psi.copy() if p.basis is None else rotated(p, layout, values, psi)
    weigh_outcomes(state, 0, layout.chunks, p.masks, layout.pad(np.ascontiguousarray(c.T)))
    if p.basis is not None:
        apply_plan(p.basis, layout, state, coefficients(p.basis, layout, values), reverse=True)
    lam += state
