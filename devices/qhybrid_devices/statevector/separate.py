"""A plan where all operations have coefficients of each sample, and what its matrix cotangents say along directions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.statevector.engine import Coefficients, CoefficientTangents, Layout
from qhybrid_devices.statevector.plan import Plan
from qhybrid_devices.statevector.table import COTANGENT, FORM, LANES, PARAM, PAULI, SHARED


@dataclass(frozen=True)
class _Places:
    """Where the numbers of operations of one form are in the given plan.

    Args:
        entries, cotangents: the real parts of coefficients and of cotangents, their imaginary parts behind them
        cosines, moments: cosines of Pauli rotations, their sines behind them, and their cotangents
        size: number of cotangents
    """

    entries: NDArray
    cotangents: NDArray
    cosines: NDArray
    moments: NDArray
    size: int

    @classmethod
    def of(cls, plan: Plan, form: int) -> _Places:
        """Those of the operations that can move."""
        entries: list[int] = []
        cotangents: list[int] = []
        rotations: list[tuple[int, int]] = []
        for row, op in zip(plan.ops, plan.operations, strict=True):
            if row[FORM] != form or (op.composition is None and op.external is None):
                continue
            if op.kind == PAULI:
                rotations.append((row[PARAM], row[COTANGENT]))
            else:
                entries += range(row[PARAM], row[PARAM] + 2 * op.num_coefficients, 2)
                cotangents += range(row[COTANGENT], row[COTANGENT] + 2 * op.num_coefficients, 2)
        cosines, moments = np.array(rotations, np.int64).reshape(-1, 2).T
        size = plan.num_lane_cotangents if form == LANES else plan.num_shared_cotangents
        return cls(np.array(entries, np.int64), np.array(cotangents, np.int64), cosines, moments, size)

    def weights(self, u: NDArray, du: NDArray) -> NDArray:
        """What to multiply cotangents with, ``(k, C, size, L)``: ``2 dU`` conjugated, and ``2 dx`` of Pauli rotations.

        Args:
            u: coefficients ``(C, K, L)``
            du: their derivatives ``(k, C, K, L)``
        """
        out = np.zeros((*du.shape[:2], self.size, du.shape[3]))
        out[:, :, self.cotangents] = 2 * du[:, :, self.entries]
        out[:, :, self.cotangents + 1] = -2 * du[:, :, self.entries + 1]
        c, s = u[:, self.cosines], u[:, self.cosines + 1]
        out[:, :, self.moments] = 2 * (c * du[:, :, self.cosines + 1] - s * du[:, :, self.cosines])
        return out


@dataclass(frozen=True)
class SeparatePlan:
    """A plan where nothing is shared: the coefficients that were shared come first, then the others.

    Args:
        plan: the new one
        shared, own: where numbers were in the given one
    """

    plan: Plan
    shared: _Places
    own: _Places

    @classmethod
    def of(cls, plan: Plan) -> SeparatePlan:
        """Change the form of all operations of ``plan``."""
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
        return cls(made, _Places.of(plan, SHARED), _Places.of(plan, LANES))

    def coefficients(self, layout: Layout, coef: Coefficients) -> Coefficients:
        """The coefficients of each sample, given those of the given plan."""
        shape = (layout.chunks, len(coef.shared), layout.lanes)
        return coef._replace(lanes=np.concatenate([np.broadcast_to(coef.shared[:, None], shape), coef.lanes], 1))

    def weights(self, coef: Coefficients, dcoef: CoefficientTangents) -> tuple[NDArray, NDArray]:
        """What :meth:`tangents` needs, given coefficients of the given plan and their derivatives."""
        shared = self.shared.weights(coef.shared[None, :, None], dcoef.shared[:, None, :, None])
        return shared[:, 0, :, 0], self.own.weights(coef.lanes, dcoef.lanes)

    def tangents(self, weights: tuple[NDArray, NDArray], g: NDArray) -> NDArray:
        """``2 Re sum dU G`` along each direction, ``(k, C, L)``.

        Args:
            weights: from :meth:`weights`
            g: matrix cotangents of each sample ``(C, K, L)``, of the new plan
        """
        shared, own = weights
        count = shared.shape[1]
        out = np.moveaxis(shared @ g[:, :count], 1, 0)
        return out + np.einsum("dckl,ckl->dcl", own, g[:, count:]) if own.shape[2] else out
