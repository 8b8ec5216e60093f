"""Measurements estimated from samples: one rotated copy of the state for each group of compatible measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Program
from qhybrid_devices.externals import Values
from qhybrid_devices.outcomes import Grouping, Reading, group_measurements, plan_reading, read_outcomes
from qhybrid_devices.statevector.engine import Layout, apply_plan, coefficients
from qhybrid_devices.statevector.measure import cumulative_weights, draw
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, lower_gates
from qhybrid_devices.statevector.plan import Plan, PlanOptions, build_plan


@dataclass(frozen=True)
class SamplingPlan:
    """Groups of compatible measurements, the rotations into each one's eigenbasis, and how outcomes are read."""

    grouping: Grouping
    rotations: tuple[Plan, ...]
    reading: Reading


def plan_sampling(program: Program, frame: Frame, options: PlanOptions | None) -> SamplingPlan:
    """Plan the samples of a program after whose gates the bits mean ``frame``; ``options`` as for ``build_plan``.

    Raises:
        CircuitError: a measurement is only known exactly
    """
    grouping = group_measurements(program)
    lowering = LoweringOptions(relabel=False, absorb=True, restore=False)
    slots = grouping.slots(program.arrays)
    lowered = [lower_gates(list(g.gates), frame, slots, lowering) for g in grouping.groups]
    return SamplingPlan(
        grouping,
        tuple(build_plan(operations, program.num_wires, options) for operations, _ in lowered),
        plan_reading(program, grouping, [after.signs for _, after in lowered]),
    )


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
    spectra, extended = plan.grouping.diagonalize(values)
    outcomes = [
        _outcomes(rotations, layout, extended, psi, shots, rng, shuffle=group.ordered)
        for group, rotations in zip(plan.grouping.groups, plan.rotations, strict=True)
    ]
    results = read_outcomes(program, plan.reading, values, spectra, outcomes)
    return tuple(r.astype(layout.dtype) if r.dtype.kind == "f" else r for r in results)


def _outcomes(
    rotations: Plan, layout: Layout, values: Values, psi: NDArray, shots: int, rng: np.random.Generator, shuffle: bool
) -> NDArray:
    """Indices of basis states, ``(B, shots)``; ascending, unless they are shuffled."""
    if len(rotations.operations):
        psi = psi.copy()
        apply_plan(rotations, layout, psi, coefficients(rotations, layout, values))
    cumulative = np.empty((layout.width, 1 << layout.num_wires))
    cumulative_weights(psi, cumulative)
    out = np.empty((layout.count, shots), np.int64)
    draw(cumulative, rng.standard_exponential((layout.count, shots + 1)), out)
    return rng.permuted(out, axis=1, out=out) if shuffle else out
