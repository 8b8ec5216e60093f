"""Tangents of the results, and of the seed of the reverse sweep: ``measurements.py`` with dual numbers and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Angle
from qhybrid_devices.externals import Directions, Values
from qhybrid_devices.statevector.duals import Dual, DualState
from qhybrid_devices.statevector.engine import Coefficients, Layout, apply_plan, coefficients
from qhybrid_devices.statevector.measure import marginal_overlaps, weigh_outcomes
from qhybrid_devices.statevector.measurements import (
    Entries,
    MeasurementPlan,
    ProbabilityPlan,
    add_state_cotangent,
    overlap,
    state_vector,
)
from qhybrid_devices.statevector.observables import (
    ObservablePlan,
    WordTable,
    add_number,
    add_words,
    add_words_along,
    hermitian_part,
    outer,
    word_moments,
    word_moments_along,
)
from qhybrid_devices.statevector.plan import Plan, Sweep
from qhybrid_devices.statevector.simd import register_array
from qhybrid_devices.statevector.tangents import coefficient_duals, moving_operations


def tangent_states(count: int, layout: Layout) -> NDArray:
    """``count`` states for each sample, not initialised: ``(count, C, 2, N, L)``."""
    return register_array((count, *layout.shape), layout.dtype)


# ------------------------------------------------------------------ results


def result_tangents(
    plan: MeasurementPlan, layout: Layout, values: Values, directions: Directions, psi: DualState
) -> tuple[NDArray, ...]:
    """Tangents of the results of a final state: ``(k, B, S)``, then ``(k, B, ...)`` of each tensor."""
    scalars = np.zeros((len(directions), plan.num_scalars, layout.count))
    if len(plan.table):
        needed = len(plan.variances.scalars) > 0 or plan.means.matrix is None
        moments = _moments(plan.table, layout, psi, psi, needed)
        scalars += _sums(plan.means, values, directions, moments)
        if len(plan.variances.scalars):
            c, m = _numbers(plan.variances.numbers, values, directions), moments.rows(plan.variances.rows)
            scalars[:, plan.variances.scalars] = (
                c * c * (moments.rows(slice(plan.identity, plan.identity + 1)) - m * m)
            ).tangents
    for s, observable in plan.matrix_means:
        scalars[:, s] += _expectation(observable, layout, values, directions, psi).tangents[:, 0]
    for s, observable in plan.general_variances:
        o_psi = _observed(observable, layout, values, directions, psi)
        mean = _overlap(layout, psi, o_psi)
        scalars[:, s] = (_overlap(layout, o_psi, o_psi) - mean * mean).tangents[:, 0]
    tensors = []
    for p in plan.tensors:
        if p is None:
            tensors.append(np.stack([state_vector(plan, layout, chi) for chi in psi.tangents]))
        else:
            tensors.append(_probability_tangents(p, layout, values, psi).astype(layout.dtype))
    return (scalars.transpose(0, 2, 1).astype(layout.dtype), *tensors)


def _probability_tangents(p: ProbabilityPlan, layout: Layout, values: Values, psi: DualState) -> NDArray:
    """Tangents of the probabilities of outcomes, ``(k, B, 2**w)``."""
    rotated, copies = _rotated(p, layout, values, psi), len(psi.tangents)
    out = np.zeros((1 << len(p.masks), copies * layout.width))
    chi = rotated.tangents.reshape(-1, *rotated.state.shape[1:])
    marginal_overlaps(rotated.state, chi, 0, len(chi), p.masks, out)
    return out.reshape(-1, copies, layout.width)[:, :, : layout.count].transpose(1, 2, 0)


def _rotated(p: ProbabilityPlan, layout: Layout, values: Values, psi: DualState) -> DualState:
    """The states in the basis of a measurement; ``psi`` itself if that has no gates."""
    return psi if p.basis is None else _through(p.basis, layout, values, psi.copy())


def _through(basis: Plan, layout: Layout, values: Values, psi: DualState, reverse: bool = False) -> DualState:
    """Constant gates on states and tangents alike, in place."""
    coef = coefficients(basis, layout, values)
    for state in (psi.state, *psi.tangents):
        apply_plan(basis, layout, state, coef, reverse)
    return psi


# ------------------------------------------------------------------ numbers


def _numbers(numbers: Sequence[float | Angle], values: Values, directions: Directions) -> Dual:
    """Coefficients, ``(E, 1)`` or ``(E, B)``."""
    batched = any(isinstance(n, Angle) and n.batched for n in numbers)
    value = np.zeros((len(numbers), values.batched.shape[1] if batched else 1))
    tangents = np.zeros((len(directions), *value.shape))
    for i, n in enumerate(numbers):
        value[i] = values.number(n)
        if isinstance(n, Angle):
            tangents[:, i] = directions.number(n)
    return Dual(value, tangents)


def _sums(entries: Entries, values: Values, directions: Directions, moments: Dual) -> NDArray:
    """Tangents of the scalars, ``(k, S, B)``."""
    if entries.matrix is not None:
        return entries.matrix @ moments.tangents
    products = _numbers(entries.numbers, values, directions) * moments.rows(entries.rows)
    return products.gathered(entries.scalars, entries.shape[0]).tangents


def _weights(entries: Entries, values: Values, directions: Directions, g: Dual) -> Dual:
    """The weight of each word ``(T, B)``, given cotangents of the scalars ``(S, B)``."""
    if entries.matrix is not None:
        return g.transformed(entries.matrix.T)
    products = _numbers(entries.numbers, values, directions) * g.rows(entries.scalars)
    return products.gathered(entries.rows, entries.shape[1])


def _moments(table: WordTable, layout: Layout, bra: DualState, ket: DualState, with_value: bool = True) -> Dual:
    """``Re <bra|P|ket>`` of each word and sample, ``(T, B)``; zeros in place of the value if that is not needed."""
    zero = np.zeros((len(table), layout.count))
    value = word_moments(table, layout, bra.state, ket.state) if with_value else zero
    tangents = word_moments_along(table, layout, bra.state, ket.tangents)
    tangents = tangents + (tangents if bra is ket else word_moments_along(table, layout, bra.tangents, ket.state))
    return Dual(value, tangents.swapaxes(0, 1))


def _overlap(layout: Layout, a: DualState, b: DualState) -> Dual:
    """``Re <a|b>`` of each sample, ``(1, B)``."""
    tangents = [
        overlap(layout, a.state, db) + overlap(layout, da, b.state)
        for da, db in zip(a.tangents, b.tangents, strict=True)
    ]
    return Dual(overlap(layout, a.state, b.state)[None], np.stack(tangents)[:, None])


def _add_number(number: float | Angle, cotangent: Dual, into: Values, tangents: Directions) -> None:
    """Add the cotangent ``(1, B)`` of a coefficient and its tangents."""
    add_number(number, cotangent.value[0], into)
    for i, own in enumerate(cotangent.tangents):
        add_number(number, own[0], tangents.one(i))


# ------------------------------------------------------------------ observables on states


def _with_matrices(plan: Plan, layout: Layout, values: Values, directions: Directions, psi: DualState) -> DualState:
    """A copy of ``psi`` with the matrices of a term applied, which may move too.

    They are Hermitian, and the kernels of circuits rely on unitary ones: here ``dA psi`` is made of its own.
    """
    out, moving = psi.copy(), moving_operations(plan, directions)
    coef, (shared, lanes) = coefficient_duals(plan, layout, values, directions, moving)
    for sweep in plan.sweeps:
        for i in sweep.order:
            step = replace(plan, sweeps=(Sweep.of(i, i + 1, sweep.tiling),))
            for d, chi in enumerate(out.tangents):
                apply_plan(step, layout, chi, coef)
                if moving[i]:
                    change = out.state.copy()
                    apply_plan(step, layout, change, Coefficients(shared[d], lanes[d]))
                    chi += change
            apply_plan(step, layout, out.state, coef)
    return out


def _add_words(
    table: WordTable, layout: Layout, psi: DualState, out: DualState, weights: Dual, add: bool = True
) -> None:
    """``out = sum_t weights[t] P_t psi``, added to ``out`` if ``add``."""
    add_words(table, layout, psi.state, out.state, weights.value, add)
    add_words_along(table, layout, psi.tangents, out.tangents, weights.value, add)
    if weights.tangents.any():
        add_words_along(table, layout, psi.state, out.tangents, weights.tangents)


def _add_observed(
    observable: ObservablePlan,
    layout: Layout,
    values: Values,
    directions: Directions,
    psi: DualState,
    out: DualState,
    scale: Dual,
) -> None:
    """Add ``scale * O psi`` to ``out``, with ``scale`` of shape ``(1, B)`` or ``(1, 1)``."""
    words = observable.words
    if len(words.table):
        weights = _numbers(words.numbers, values, directions) * scale
        _add_words(words.table, layout, psi, out, weights.gathered(words.rows, len(words.table)))
    for term in observable.matrix_terms:
        ket = _with_matrices(term.plan, layout, values, directions, psi)
        _add_words(term.word, layout, ket, out, _numbers((term.number,), values, directions) * scale)


def _observed(
    observable: ObservablePlan, layout: Layout, values: Values, directions: Directions, psi: DualState
) -> DualState:
    """``O psi``."""
    out = DualState(layout.empty(), tangent_states(len(directions), layout))
    out.state[...] = 0
    out.tangents[...] = 0
    _add_observed(observable, layout, values, directions, psi, out, Dual.constant(1.0, len(directions)))
    return out


def _expectation(
    observable: ObservablePlan, layout: Layout, values: Values, directions: Directions, psi: DualState
) -> Dual:
    """``<O>`` of each sample, ``(1, B)``, for terms with matrices."""
    total = Dual(np.zeros((1, layout.count)), np.zeros((len(directions), 1, layout.count)))
    for term in observable.matrix_terms:
        ket = _with_matrices(term.plan, layout, values, directions, psi)
        total += _numbers((term.number,), values, directions) * _moments(term.word, layout, psi, ket)
    return total


def _observable_cotangents(
    observable: ObservablePlan,
    layout: Layout,
    values: Values,
    directions: Directions,
    bra: DualState,
    psi: DualState,
    scale: Dual,
    into: Values,
    tangents: Directions,
) -> None:
    """Add what ``dL = scale Re <bra|dO|psi>`` gives for the coefficients and the Hermitian arrays, and its tangents."""
    words = observable.words
    if any(isinstance(n, Angle) for n in words.numbers):
        overlaps = _moments(words.table, layout, bra, psi).rows(words.rows) * scale
        for i, number in enumerate(words.numbers):
            _add_number(number, overlaps.rows(slice(i, i + 1)), into, tangents)
    for term in observable.matrix_terms:
        if isinstance(term.number, Angle):
            ket = _with_matrices(term.plan, layout, values, directions, psi)
            _add_number(term.number, _moments(term.word, layout, bra, ket) * scale, into, tangents)
        weight = _numbers((term.number,), values, directions) * scale
        for slot in term.slots:
            partial = _with_matrices(slot.others, layout, values, directions, psi)
            ket = DualState(layout.empty(), tangent_states(len(directions), layout))
            _add_words(term.word, layout, partial, ket, Dual.constant(1.0, len(directions)), add=False)
            _add_array(slot.ref.index, _outer(slot.bits, layout, bra, ket) * weight, into, tangents)


def _outer(bits: NDArray, layout: Layout, bra: DualState, ket: DualState) -> Dual:
    """``conj sum conj(bra_a) ket_b`` over all bits but ``bits``, ``(d * d, B)``."""

    def of(a: NDArray, b: NDArray) -> NDArray:
        return outer(bits, layout, a, b).conj().reshape(layout.count, -1).T

    pairs = zip(bra.tangents, ket.tangents, strict=True)
    tangents = np.stack([of(bra.state, k) + of(b, ket.state) for b, k in pairs])
    return Dual(of(bra.state, ket.state), tangents)


def _add_array(index: int, cotangent: Dual, into: Values, tangents: Directions) -> None:
    """Add the part along Hermitian directions of a cotangent ``(d * d, B)``."""
    targets = [(cotangent.value, into.arrays[index])]
    targets += zip(cotangent.tangents, tangents.arrays[index], strict=True)
    for rows, target in targets:
        c = hermitian_part(rows.T.reshape(-1, *target.shape[-2:]))
        target += c if target.ndim == 3 else c.sum(0)


# ------------------------------------------------------------------ the seed of the reverse sweep


def seed_tangents(
    plan: MeasurementPlan,
    layout: Layout,
    values: Values,
    directions: Directions,
    psi: DualState,
    cotangents: Sequence[NDArray],
    cotangent_tangents: Sequence[NDArray],
    into: Values,
    tangents: Directions,
    want_observables: bool,
    out: DualState | None = None,
) -> DualState:
    """``lambda`` of ``seed`` with its tangents.

    Args:
        psi: the final states, not changed
        cotangents: of the results, samples in front
        cotangent_tangents: the same with the axis of directions in front
        into: receives the cotangents of coefficients and Hermitian arrays
        tangents: receives the tangents of these
        want_observables: whether those are wanted at all
        out: states to add to, changed in place; otherwise new ones

    Returns:
        ``out``, or the new states
    """
    g = Dual(np.asarray(cotangents[0], float).T, np.asarray(cotangent_tangents[0], float).transpose(0, 2, 1))
    lam = out or DualState(layout.empty(), tangent_states(len(directions), layout))
    _seed_words(plan, layout, values, directions, psi, g, lam, into, tangents, want_observables, out is not None)
    for s, observable in plan.matrix_means:
        own = g.rows(slice(s, s + 1))
        _add_observed(observable, layout, values, directions, psi, lam, own)
        if want_observables:
            _observable_cotangents(observable, layout, values, directions, psi, psi, own, into, tangents)
    for s, observable in plan.general_variances:
        own = g.rows(slice(s, s + 1))
        _seed_variance(observable, layout, values, directions, psi, own, lam, into, tangents, want_observables)
    for p, c, dc in zip(plan.tensors, cotangents[1:], cotangent_tangents[1:], strict=True):
        if p is None:
            add_state_cotangent(plan, layout, np.asarray(c), lam.state)
            for own_c, target in zip(dc, lam.tangents, strict=True):
                add_state_cotangent(plan, layout, own_c, target)
        else:
            _seed_probabilities(p, layout, values, psi, np.asarray(c, float), np.asarray(dc, float), lam)
    return lam


def _seed_words(
    plan: MeasurementPlan,
    layout: Layout,
    values: Values,
    directions: Directions,
    psi: DualState,
    g: Dual,
    lam: DualState,
    into: Values,
    tangents: Directions,
    want_observables: bool,
    add: bool,
) -> None:
    """Write or add the part of Pauli words to ``lam``: ``g c P psi`` a mean, ``g c^2 (1 - 2 <P> P) psi`` a variance."""
    if not len(plan.table):
        if not add:
            lam.state[...] = 0
            lam.tangents[...] = 0
        return
    means, variances = plan.means, plan.variances
    weights = _weights(means, values, directions, g)
    numbers = want_observables and not (means.is_constant and variances.is_constant)
    if len(variances.scalars) or numbers:
        moments = _moments(plan.table, layout, psi, psi)
    if len(variances.scalars):
        c, m = _numbers(variances.numbers, values, directions), moments.rows(variances.rows)
        own, identity = g.rows(variances.scalars), np.full(len(variances.rows), plan.identity)
        squares = c * c * own
        weights += (squares * m).scaled(-2).gathered(variances.rows, len(plan.table))
        weights += squares.gathered(identity, len(plan.table))
        if numbers:
            slopes = (c * (moments.rows(identity) - m * m) * own).scaled(2)
            for i, number in enumerate(variances.numbers):
                _add_number(number, slopes.rows(slice(i, i + 1)), into, tangents)
    if numbers:
        slopes = moments.rows(means.rows) * g.rows(means.scalars)
        for i, number in enumerate(means.numbers):
            _add_number(number, slopes.rows(slice(i, i + 1)), into, tangents)
    _add_words(plan.table, layout, psi, lam, weights, add)


def _seed_variance(
    observable: ObservablePlan,
    layout: Layout,
    values: Values,
    directions: Directions,
    psi: DualState,
    g: Dual,
    lam: DualState,
    into: Values,
    tangents: Directions,
    want_observables: bool,
) -> None:
    """Add ``g O (O psi - 2 <O> psi)``; ``dL = Re <chi|dO|psi>`` with ``chi = 2 g (O - <O>) psi``."""
    o_psi = _observed(observable, layout, values, directions, psi)
    mean = _overlap(layout, psi, o_psi)
    _subtract(layout, o_psi, mean, psi)
    if want_observables:
        twice = g.scaled(2)
        _observable_cotangents(observable, layout, values, directions, o_psi, psi, twice, into, tangents)
    _subtract(layout, o_psi, mean, psi)
    _add_observed(observable, layout, values, directions, o_psi, lam, g)


def _subtract(layout: Layout, out: DualState, number: Dual, psi: DualState) -> None:
    """Subtract ``number * psi``, a number ``(1, B)`` for each sample, from ``out`` in place."""

    def per_lane(row: NDArray) -> NDArray:
        return layout.pad(row).reshape(layout.chunks, 1, 1, layout.lanes).astype(layout.dtype)

    out.state[...] -= per_lane(number.value) * psi.state
    for target, chi, own in zip(out.tangents, psi.tangents, number.tangents, strict=True):
        target -= per_lane(number.value) * chi
        target -= per_lane(own) * psi.state


def _seed_probabilities(
    p: ProbabilityPlan, layout: Layout, values: Values, psi: DualState, c: NDArray, dc: NDArray, lam: DualState
) -> None:
    rotated = _rotated(p, layout, values, psi)
    weighed, weights = rotated.copy(), layout.pad(np.ascontiguousarray(c.T))
    for state in (weighed.state, *weighed.tangents):
        weigh_outcomes(state, 0, layout.chunks, p.masks, weights)
    for own, target in zip(dc, weighed.tangents, strict=True):
        if own.any():
            state = rotated.state.copy()
            weigh_outcomes(state, 0, layout.chunks, p.masks, layout.pad(np.ascontiguousarray(own.T)))
            target += state
    if p.basis is not None:
        _through(p.basis, layout, values, weighed, reverse=True)
    lam.state[...] += weighed.state
    lam.tangents[...] += weighed.tangents
