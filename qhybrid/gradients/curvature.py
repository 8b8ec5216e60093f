"""How tangents bend: second derivatives along two directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs, Wanted
from qhybrid.gradients.base import GradientMethod
from qhybrid.program import Slots


def tangent_tangents(
    method: GradientMethod,
    circuit: Circuit,
    slots: Slots,
    tangents: Slots | None,
    others: Slots | None,
    moves: Slots | None,
) -> tuple[NDArray, ...]:
    """``D^2 f[v, w] + J dv``: the derivative along ``w`` of the tangent ``J v``, where ``v`` changes by ``dv``.

    The quadratic form of every number of the results, each from one Hessian-vector product, so it costs as many of
    these as there are numbers.

    Args:
        method: how the circuit is differentiated
        circuit: every slot of its program is batched
        slots: where
        tangents: ``v``, like the slots with an axis of one direction in front
        others: ``w``, without such an axis
        moves: ``dv``, like ``w``; ``None``: zero

    Returns:
        one array a result, the batch axis in front
    """
    assert tangents is not None
    assert others is not None
    total = [np.zeros(r.shape, r.dtype) for r in circuit.run(slots)]
    needs = Needs(False, True, (True,) * len(slots.arrays))
    if moves is not None:
        total = [r[0].copy() for r in method.jvp(circuit, slots, _one_direction(moves))]
    still = not any(part is not None and part.any() for part in (others.batched, *others.arrays))
    for result, place, unit in () if still else _units(total):
        cotangents = tuple(_unit_of(r, place, unit) if i == result else np.zeros_like(r) for i, r in enumerate(total))
        found = method.second_order(circuit, slots, cotangents, tangents, None, needs, Wanted(False, False)).tangents
        total[result][place] += unit * _form(found, others)
    return tuple(total)


def _units(results: list[NDArray]) -> Iterator[tuple[int, tuple, complex]]:
    """Every number of the results: which result, its place in all samples, and 1, or i for an imaginary part."""
    for i, r in enumerate(results):
        for index in np.ndindex(r.shape[1:]):
            for unit in (1, 1j) if r.dtype.kind == "c" else (1,):
                yield i, (slice(None), *index), unit


def _unit_of(result: NDArray, place: tuple, unit: complex) -> NDArray:
    out = np.zeros_like(result)
    out[place] = unit
    return out


def _form(found: Slots, others: Slots) -> NDArray:
    """``<H v, w>`` of each sample."""
    total = np.zeros(others.batch_size or 1)
    if found.batched is not None and others.batched is not None:
        total += np.sum(found.batched[0] * others.batched, axis=0)
    for h, w in zip(found.arrays, others.arrays, strict=True):
        if h is not None and w is not None:
            total += np.sum((h[0].conj() * w).real, axis=tuple(range(1, w.ndim)))
    return total


def _one_direction(slots: Slots) -> Slots:
    batched = None if slots.batched is None else slots.batched[None]
    return Slots(
        np.empty((1, 0)), batched, tuple(None if a is None else a[None] for a in slots.arrays), slots.batch_size
    )
