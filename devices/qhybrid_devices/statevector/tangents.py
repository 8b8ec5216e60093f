"""Tangents of slots to tangents of coefficients, and matrix cotangents to tangents of the slots' cotangents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.externals import (
    Directions,
    Values,
    external_cotangent_tangents,
    external_moves,
    external_tangents,
)
from qhybrid_devices.statevector.engine import (
    Coefficients,
    CoefficientTangents,
    Layout,
    MatrixCotangents,
    add_externals,
    external_g,
    product_workers,
)
from qhybrid_devices.statevector.matrices import scratch_memory
from qhybrid_devices.statevector.matrix_tangents import chain_tangents, compose_duals, moving_compositions
from qhybrid_devices.statevector.plan import Plan
from qhybrid_devices.statevector.table import LANES
from qhybrid_devices.statevector.threads import run_kernel


def moving_operations(plan: Plan, directions: Directions) -> NDArray:
    """For each operation of a plan whether it changes along any direction."""
    moving = np.zeros(len(plan.operations), np.bool_)
    if len(plan.comps):
        moving_compositions(plan.comps, plan.factors, directions.shared, directions.batched, moving)
    for external in plan.externals:
        moving[external.index] = external_moves(external.operator, directions)
    return moving


def coefficient_duals(
    plan: Plan, layout: Layout, values: Values, directions: Directions, moving: NDArray
) -> tuple[Coefficients, CoefficientTangents]:
    """Coefficients of a plan and their tangents.

    Args:
        plan, layout, values: as for ``coefficients``
        directions: tangents of the slots
        moving: from :func:`moving_operations`

    Returns:
        the coefficients, and their tangents, zero for operations that do not move
    """
    coef, k = Coefficients.empty(plan, layout), len(directions)
    across, lanes = np.zeros((len(coef.shared), k), layout.dtype), np.zeros((k, *coef.lanes.shape), layout.dtype)
    if len(plan.comps):
        workers = product_workers(plan, layout, 1 + k)
        run_kernel(
            compose_duals, layout.chunks, workers, plan.comps, plan.factors, plan.constants, values.shared,
            *values.rows(), directions.shared, directions.batched, np.ascontiguousarray(directions.shared.T), moving,
            scratch_memory(workers, plan.most_terms, plan.most_factors, 2), plan.most_terms, 2,
            coef.shared.reshape(-1, 1), coef.lanes, across, lanes,
        )  # fmt: skip
    tangents = CoefficientTangents(np.ascontiguousarray(across.T), lanes)
    add_externals(plan, layout, values, coef)
    _add_external_tangents(plan, layout, values, directions, moving, tangents)
    return coef, tangents


def _add_external_tangents(
    plan: Plan, layout: Layout, values: Values, directions: Directions, moving: NDArray, out: CoefficientTangents
) -> None:
    """Write the tangents of the matrices of the user."""
    for external in plan.externals:
        if moving[external.index]:
            matrices = external_tangents(external.operator, values, directions)
            size = 2 * external.dim ** (1 if external.diagonal else 2)
            flat = np.ascontiguousarray(matrices, complex).reshape(len(directions), -1, size // 2).view(float)
            own = slice(external.param, external.param + size)
            for i, rows in enumerate(flat):
                if external.form == LANES:
                    out.lanes[i, :, own] = layout.to_lanes(np.broadcast_to(rows.T, (size, layout.count)))
                else:
                    out.shared[i, own] = rows[0]


def chain_rule_tangents(
    plan: Plan,
    layout: Layout,
    values: Values,
    directions: Directions,
    g: MatrixCotangents,
    dg: MatrixCotangents,
    want: NDArray,
    into: Directions,
) -> None:
    """Add the tangents of the cotangents of all angles and arrays.

    Args:
        plan, layout, values: as for ``chain_rule``
        directions: tangents of the slots
        g: matrix cotangents
        dg: their tangents, with the axis of directions in front
        want: for each operation whether its matrix cotangent is there
        into: tangents of cotangents, changed in place
    """
    if len(plan.comps):
        across = np.zeros(directions.shared.shape[::-1])
        chain_tangents(
            plan.comps, plan.factors, plan.constants, values.shared, *values.rows(),
            directions.shared, directions.batched, np.ascontiguousarray(directions.shared.T), want,
            scratch_memory(1, plan.most_terms, plan.most_factors, 3), plan.most_terms, 3,
            g.shared[:, None], g.lanes.astype(float, copy=False),
            np.ascontiguousarray(dg.shared.T), dg.lanes.astype(float, copy=False),
            into.shared, into.batched, across,
        )  # fmt: skip
        into.shared[...] += across.T
    for external in plan.externals:
        if want[external.index]:
            parts = [MatrixCotangents(s, c) for s, c in zip(dg.shared, dg.lanes, strict=True)]
            own = np.stack([external_g(external, layout, part) for part in parts])
            g_own = external_g(external, layout, g)
            external_cotangent_tangents(external.operator, values, g_own, directions, own, into)
