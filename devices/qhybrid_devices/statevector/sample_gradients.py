"""Tangents of few results along many directions: from the gradient of each result of each sample.

A result ``r`` of one sample moves by ``2 Re sum dU_ab G_ab`` over all gates, with the matrix cotangents ``G`` of ``r``
and of that sample. So one sweep backwards a result gives the tangents along every direction. The sweep adds up ``G`` of
an operation that all samples share; here each operation has coefficients of each sample instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from qhybrid_devices.statevector.plan import Plan
from qhybrid_devices.statevector.table import COTANGENT, FORM, LANES, PARAM, PAULI

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
) -> NDArray:
    """Tangents ``(k, B, S)`` of the scalars of a program of which only gates move.

    Args:
        compiled: the program
        layout, values: of the samples
        psi: the state before the first gate, not read if there are product operations; used up
        coef, dcoef: coefficients and their derivatives
        moving: for each operation whether its coefficients change along any direction
    """
    separate = _Separate.of(compiled.plan)
    own, count = separate.coefficients(layout, coef), len(compiled.program.scalars)
    out = np.zeros((len(dcoef.shared), layout.width, count))
    apply_plan(separate.plan, layout, psi, own)
    if not moving.any():
        return out[:, : layout.count].astype(layout.dtype)
    weights = separate.weights(coef, dcoef, np.flatnonzero(moving))
    for s in range(count):
        cotangents = np.zeros((layout.count, count))
        cotangents[:, s] = 1
        lam = seed(compiled.measurements, layout, values, psi, [cotangents], values, want_observables=False)
        state = psi if s == count - 1 else psi.copy()
        g = reverse_plan(separate.plan, layout, state, lam, own, moving, int(np.argmax(moving)))
        out[:, :, s] = separate.tangents(weights, g.lanes.astype(float, copy=False)).reshape(len(out), -1)
    return out[:, : layout.count].astype(layout.dtype)


@dataclass(frozen=True)
class _Separate:
    """A plan where all coefficients are of each sample: those that were shared first, then the others.

    Args:
        given: the plan that it was made of
        plan: the new one
    """

    given: Plan
    plan: Plan

    @classmethod
    def of(cls, plan: Plan) -> _Separate:
        """Move what is shared."""
        ops, own = plan.ops.copy(), plan.ops[:, FORM] == LANES
        coefficients, cotangents = len(plan.shared_constants), plan.num_shared_cotangents
        ops[own, PARAM] += coefficients
        ops[own, COTANGENT] += cotangents
        ops[:, FORM] = LANES
        made = replace(
            plan,
            ops=ops,
            num_lane_coefficients=coefficients + plan.num_lane_coefficients,
            num_shared_cotangents=0,
            num_lane_cotangents=cotangents + plan.num_lane_cotangents,
        )
        return cls(plan, made)

    def coefficients(self, layout: Layout, coef: Coefficients) -> Coefficients:
        """The coefficients of each sample."""
        shape = (layout.chunks, len(coef.shared), layout.lanes)
        return coef._replace(lanes=np.concatenate([np.broadcast_to(coef.shared[:, None], shape), coef.lanes], 1))

    def weights(self, coef: Coefficients, dcoef: CoefficientTangents, moving: NDArray) -> tuple[NDArray, NDArray]:
        """What matrix cotangents are multiplied with: ``2 Re dU G``, or ``2 dx g`` of Pauli rotations.

        Returns:
            the weights of operations that are shared ``(k, K)``, and of the others ``(k, C, K, L)``
        """
        k, chunks, _, lanes = dcoef.lanes.shape
        shared = np.zeros((k, 1, self.given.num_shared_cotangents, 1))
        own = np.zeros((k, chunks, self.given.num_lane_cotangents, lanes))
        shared_numbers = coef.shared[:, None], dcoef.shared[:, None, :, None]
        for i in moving:
            row, op = self.given.ops[i], self.given.operations[i]
            (u, du), out = ((coef.lanes, dcoef.lanes), own) if row[FORM] == LANES else (shared_numbers, shared)
            p, o = row[PARAM], row[COTANGENT]
            if op.kind == PAULI:
                out[:, :, o] = 2 * (u[..., p, :] * du[:, :, p + 1] - u[..., p + 1, :] * du[:, :, p])
            else:
                size = 2 * op.num_coefficients
                out[:, :, o : o + size : 2] = 2 * du[:, :, p : p + size : 2]
                out[:, :, o + 1 : o + size : 2] = -2 * du[:, :, p + 1 : p + size : 2]
        return shared[:, 0, :, 0], own

    def tangents(self, weights: tuple[NDArray, NDArray], g: NDArray) -> NDArray:
        """The tangents ``(k, C, L)`` of one result, given its matrix cotangents ``(C, K, L)``."""
        shared, own = weights
        count = shared.shape[1]
        return np.moveaxis(shared @ g[:, :count], 0, 1) + np.einsum("dckl,ckl->dcl", own, g[:, count:])
