"""Derivatives of a circuit along directions: tangents of its results, and of its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from qhybrid.execution import Needs, Wanted
from qhybrid_devices.externals import Directions, Values
from qhybrid_devices.statevector.compiled import Compiled
from qhybrid_devices.statevector.duals import DualState
from qhybrid_devices.statevector.engine import (
    Coefficients,
    CoefficientTangents,
    Layout,
    apply_tangents,
    chain_rule,
    reverse_tangents,
)
from qhybrid_devices.statevector.measurement_tangents import result_tangents, seed_tangents, tangent_states
from qhybrid_devices.statevector.preparation import add_amplitude_cotangent, initial_state, initial_tangents
from qhybrid_devices.statevector.sample_gradients import gradients_pay, tangents_by_gradients
from qhybrid_devices.statevector.tangents import chain_rule_tangents, coefficient_duals, moving_operations


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
class _Start:
    """What the operations work with; if there are product operations ``state`` is not initialised."""

    state: NDArray
    coef: Coefficients
    tangents: CoefficientTangents
    moving: NDArray


def _start(p: Pass) -> _Start:
    program, plan = p.compiled.program, p.compiled.plan
    moving = moving_operations(plan, p.directions)
    state = p.layout.empty() if len(plan.product_bits) else initial_state(program, p.layout, p.values)
    return _Start(state, *coefficient_duals(plan, p.layout, p.values, p.directions, moving), moving)


def _forward(p: Pass, start: _Start, phase_free: bool) -> tuple[DualState, NDArray]:
    """The final states, and the births of their tangents; the states in ``start`` become them."""
    program, plan, from_zeros = p.compiled.program, p.compiled.plan, p.compiled.program.preparation is None
    if from_zeros:
        tangents = tangent_states(len(p.directions), p.layout)
    else:
        tangents = initial_tangents(program, p.layout, p.directions)
    given = (start.coef, start.tangents, start.moving)
    births = apply_tangents(plan, p.layout, start.state, tangents, *given, from_zeros, phase_free)
    return DualState(start.state, tangents), births


def jvp(p: Pass, read: Callable[[NDArray], None] | None = None) -> tuple[NDArray, ...]:
    """Tangents of the results, directions and then samples in front.

    Args:
        p: where
        read: is given the final states, which may not last longer
    """
    start, compiled = _start(p), p.compiled
    if gradients_pay(compiled.program, len(p.directions)):
        given = (start.state, start.coef, start.tangents, start.moving)
        return (tangents_by_gradients(compiled, p.layout, p.values, *given, read),)
    psi = _forward(p, start, phase_free=not compiled.measurements.shows_phases)[0]
    if read:
        read(psi.state)
    return result_tangents(compiled.measurements, p.layout, p.values, p.directions, psi)


def second_order(
    p: Pass,
    cotangents: Sequence[NDArray],
    cotangent_tangents: Sequence[NDArray],
    needs: Needs,
    wanted: Wanted,
    into: Values,
    tangents: Directions,
) -> tuple[NDArray, ...]:
    """Tangents of the results, as :func:`jvp` gives them, and of the cotangents of the slots.

    Args:
        p: where
        cotangents: of the results, samples in front
        cotangent_tangents: directions of these, with the axis of directions in front
        needs: which cotangents are wanted
        wanted: which of the three are wanted at all
        into: receives the cotangents of the slots
        tangents: receives the tangents of these
    """
    plan, request = p.compiled.plan, p.compiled.request(needs)
    start = _start(p)
    psi, births = _forward(p, start, phase_free=False)
    results: tuple[NDArray, ...] = ()
    if wanted.results:
        results = result_tangents(p.compiled.measurements, p.layout, p.values, p.directions, psi)
    lam, d_lam = seed_tangents(
        p.compiled.measurements, p.layout, p.values, p.directions, psi, cotangents, cotangent_tangents,
        into, tangents, request.observables,
    )  # fmt: skip
    if request.stop >= len(plan.operations) and not request.preparation:
        return results
    g, dg = reverse_tangents(
        plan, p.layout, *psi, lam, d_lam, start.coef, start.tangents, start.moving, request.want, request.stop,
        births,
    )  # fmt: skip
    if wanted.cotangents:
        chain_rule(plan, p.layout, p.values, start.coef, g, request.want, into)
    chain_rule_tangents(plan, p.layout, p.values, p.directions, g, dg, request.want, tangents)
    if request.preparation:
        add_amplitude_cotangent(p.compiled.program, p.layout, lam, into)
        for i, own in enumerate(d_lam):
            add_amplitude_cotangent(p.compiled.program, p.layout, own, tangents.one(i))
    return results
