"""Tangents of few results along many directions: from the gradient of each result of each sample.

A result ``r`` of one sample moves by ``2 Re sum dU_ab G_ab`` over all gates, with the matrix cotangents ``G`` of ``r``
and of that sample. So one sweep backwards a result gives the tangents along every direction. The sweep adds up ``G`` of
an operation that all samples share, so it is given one where nothing is shared; see ``separate.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Angle, ArrayRef, Program
from qhybrid_devices.externals import Values
from qhybrid_devices.statevector.compiled import Compiled
from qhybrid_devices.statevector.engine import (
    Coefficients,
    CoefficientTangents,
    Layout,
    apply_plan,
    reverse_plan,
)
from qhybrid_devices.statevector.measurements import seed

#: Directions whose tangents take as long as the gradient of one result.
DIRECTIONS_OF_GRADIENT = 3


def gradients_pay(program: Program, directions: int) -> bool:
    """Whether gradients give all tangents, and faster: nothing but gates may move, and results are few."""
    if program.tensors or program.preparation or DIRECTIONS_OF_GRADIENT * len(program.scalars) > directions:
        return False
    terms = [t for m in program.scalars for t in m.observable.terms]
    numbers = [t.coefficient for t in terms] + [matrix for t in terms for _, matrix in t.matrices]
    return not any(isinstance(n, Angle | ArrayRef) for n in numbers)


def tangents_by_gradients(
    compiled: Compiled,
    layout: Layout,
    values: Values,
    psi: NDArray,
    coef: Coefficients,
    dcoef: CoefficientTangents,
    moving: NDArray,
    read: Callable[[NDArray], None] | None = None,
) -> NDArray:
    """Tangents ``(k, B, S)`` of the scalars of a program of which only gates move.

    Args:
        compiled: the program
        layout, values: of the samples
        psi: the state before the first gate, not read if there are product operations; used up
        coef, dcoef: coefficients and their derivatives
        moving: for each operation whether its coefficients change along any direction
        read: is given the final state
    """
    separate = compiled.separate
    own, count = separate.coefficients(layout, coef), len(compiled.program.scalars)
    out = np.zeros((len(dcoef.shared), layout.width, count))
    apply_plan(separate.plan, layout, psi, own)
    if read:
        read(psi)
    if not moving.any():
        return out[:, : layout.count].astype(layout.dtype)
    weights = separate.weights(coef, dcoef)
    for s in range(count):
        cotangents = np.zeros((layout.count, count))
        cotangents[:, s] = 1
        lam = seed(compiled.measurements, layout, values, psi, [cotangents], values, want_observables=False)
        state = psi if s == count - 1 else psi.copy()
        g = reverse_plan(separate.plan, layout, state, lam, own, moving, int(np.argmax(moving)))
        out[:, :, s] = separate.tangents(weights, g.lanes.astype(float, copy=False)).reshape(len(out), -1)
    return out[:, : layout.count].astype(layout.dtype)
