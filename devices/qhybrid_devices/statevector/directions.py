"""Derivatives of a circuit along directions: tangents of its results, and of its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid_devices.externals import Directions, Values
from qhybrid_devices.statevector.compiled import Compiled
from qhybrid_devices.statevector.duals import DualState
from qhybrid_devices.statevector.engine import (
    Coefficients,
    CoefficientTangents,
    Layout,
    apply_tangents,
    chain_rule,
    coefficients,
    reverse_tangents,
)
from qhybrid_devices.statevector.measurement_tangents import result_tangents, seed_tangents
from qhybrid_devices.statevector.preparation import add_amplitude_cotangent, initial_state, initial_tangents
from qhybrid_devices.statevector.tangents import chain_rule_tangents, coefficient_tangents, moving_operations


@dataclass(frozen=True)
class Pass:
    """Some samples and some directions, whose states are in memory together.

    Args:
        samples, some: which samples, and which directions
        compiled: the program
        layout: of the samples
        values: the slots of the samples
        directions: their tangents
    """

    samples: slice
    some: slice
    compiled: Compiled
    layout: Layout
    values: Values
    directions: Directions


@dataclass(frozen=True)
class _Final:
    """The final states and what led to them."""

    psi: DualState
    coef: Coefficients
    tangents: CoefficientTangents
    moving: NDArray


def _forward(p: Pass) -> _Final:
    program, plan = p.compiled.program, p.compiled.plan
    psi = DualState(
        initial_state(program, p.layout, p.values), initial_tangents(program, p.layout, p.directions)
    )  # fmt: skip
    moving = moving_operations(plan, p.directions)
    coef = coefficients(plan, p.layout, p.values)
    tangents = coefficient_tangents(plan, p.layout, p.values, p.directions, moving)
    apply_tangents(plan, p.layout, psi.state, psi.tangents, coef, tangents, moving)
    return _Final(psi, coef, tangents, moving)


def jvp(p: Pass) -> tuple[NDArray, ...]:
    """Tangents of the results, directions and then samples in front."""
    final = _forward(p)
    return result_tangents(p.compiled.measurements, p.layout, p.values, p.directions, final.psi)


def second_order(
    p: Pass,
    cotangents: Sequence[NDArray],
    cotangent_tangents: Sequence[NDArray],
    needs: Needs,
    into: Values,
    tangents: Directions,
) -> tuple[NDArray, ...]:
    """Tangents of the results, as :func:`jvp` gives them, and of the cotangents of the slots.

    Args:
        p: where
        cotangents: of the results, samples in front
        cotangent_tangents: directions of these, with the axis of directions in front
        needs: which cotangents are wanted
        into: receives the cotangents of the slots
        tangents: receives the tangents of these
    """
    plan, request = p.compiled.plan, p.compiled.request(needs)
    final = _forward(p)
    psi, chi = final.psi
    results = result_tangents(p.compiled.measurements, p.layout, p.values, p.directions, final.psi)
    lam, d_lam = seed_tangents(
        p.compiled.measurements, p.layout, p.values, p.directions, final.psi, cotangents, cotangent_tangents,
        into, tangents, request.anything,
    )  # fmt: skip
    if request.stop >= len(plan.operations) and not request.preparation:
        return results
    g, dg = reverse_tangents(
        plan, p.layout, psi, chi, lam, d_lam, final.coef, final.tangents, final.moving, request.want, request.stop
    )
    chain_rule(plan, p.layout, p.values, final.coef, g, request.want, into)
    chain_rule_tangents(plan, p.layout, p.values, p.directions, g, dg, request.want, tangents)
    if request.preparation:
        add_amplitude_cotangent(p.compiled.program, p.layout, lam, into)
        for i, own in enumerate(d_lam):
            add_amplitude_cotangent(p.compiled.program, p.layout, own, tangents.one(i))
    return results
