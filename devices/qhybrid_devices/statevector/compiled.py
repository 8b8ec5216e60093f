"""A program compiled for one way of laying out states, and what a derivative of it must deliver."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Angle, Evolution, Program
from qhybrid_devices.statevector.idle_operations import without_idle
from qhybrid_devices.statevector.measurements import MeasurementPlan, has_matrices, plan_measurements
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, Operation, commute, lower_gates
from qhybrid_devices.statevector.plan import Plan, PlanOptions, Sweep, build_plan
from qhybrid_devices.statevector.sampling import SamplingPlan, plan_sampling
from qhybrid_devices.statevector.separate import SeparatePlan


@dataclass(frozen=True)
class Request:
    """What a derivative must deliver.

    Args:
        want: for each operation whether its matrix cotangent is wanted
        stop: first operation that the reverse sweep must reach
        preparation: whether the prepared amplitudes' cotangent is wanted
        observables: whether any cotangent of theirs may be wanted
    """

    want: NDArray
    stop: int
    preparation: bool
    observables: bool


@dataclass(frozen=True)
class Compiled:
    """Everything about one program in one mode.

    Args:
        plan: the gates
        frame: what the bits mean after them
        measurements: the measurements
        program: all of them
        options: sizes of tiles where lanes are amplitudes; ``None`` where they are samples
        requests: what each way to ask for derivatives means, once it was asked for
        schedules: how second derivatives by some angles are found, by the bytes of these
    """

    plan: Plan
    frame: Frame
    measurements: MeasurementPlan
    program: Program
    options: PlanOptions | None
    requests: dict[Needs, Request] = field(default_factory=dict)
    schedules: dict[bytes, Any] = field(default_factory=dict)

    @cached_property
    def sampling(self) -> SamplingPlan:
        """How the measurements are sampled; made when it is first asked for."""
        return plan_sampling(self.program, self.frame, self.options)

    @cached_property
    def separate(self) -> SeparatePlan:
        """The same with coefficients of each sample; made when it is first asked for."""
        return SeparatePlan.of(self.plan)

    def is_one_tile(self, register_lanes: int) -> bool:
        """Whether all operations are done on whole states as they lie in memory."""
        return self.options is None or (
            len(self.plan.sweeps) == 1 and self.plan.sweeps[0].tiling.is_state(register_lanes)
        )

    @cached_property
    def anywhere(self) -> Plan:
        """The plan without a product that its first operations make of zeros."""
        if not len(self.plan.product_bits):
            return self.plan
        (sweep,) = self.plan.sweeps
        sweeps = (Sweep.of(0, sweep.stop, sweep.tiling),)
        return replace(self.plan, sweeps=sweeps, product_bits=self.plan.product_bits[:0])

    @cached_property
    def movers(self) -> dict[int, int]:
        """For each shared angle of one gate the operation that it moves."""
        factors = ((f, i) for i, op in enumerate(self.plan.operations) for f in op.factors)
        return {f.angle.index: i for f, i in factors if f.angle is not None and not f.angle.batched}

    @cached_property
    def commuting(self) -> NDArray:
        """For each operation the first later one that it does not commute with; their number if there is none."""
        generators = [op.generators for op in self.plan.operations]
        pairs = ((own, enumerate(generators[i + 1 :], i + 1)) for i, own in enumerate(generators))
        stops = (next((j for j, other in later if not commute(own, other)), len(generators)) for own, later in pairs)
        return np.fromiter(stops, np.int64, len(generators))

    def request(self, needs: Needs) -> Request:
        """What ``needs`` means for the operations of the plan."""
        request = self.requests.get(needs)
        if request is None:
            want = np.array([_wants(op, needs) for op in self.plan.operations], np.bool_)
            preparation = self.program.preparation
            prepared = preparation is not None and _wants_array(preparation.amplitudes.index, needs)
            stop = int(np.argmax(want)) if want.any() else len(want)
            terms = [t for m in self.program.scalars for t in m.observable.terms]
            angles = [t.coefficient for t in terms if isinstance(t.coefficient, Angle)]
            observables = any(needs.arrays) or any(map(needs.wants, angles))
            request = self.requests[needs] = Request(want, 0 if prepared else stop, prepared, observables)
        return request


def compile_program(program: Program, tile: bool, options: PlanOptions) -> Compiled:
    """Compile a program.

    Args:
        program: the circuit
        tile: whether lanes are samples
        options: sizes of tiles where they are not
    """
    n, sizes = program.num_wires, None if tile else options
    lowering = LoweringOptions(absorb=True, restore=has_matrices(program), fuse_mixed=not tile)
    operations, frame = lower_gates(program.gates, Frame.of_wires(n), program.arrays, lowering)
    plan = build_plan(without_idle(operations, program, frame), n, sizes, from_zeros=program.preparation is None)
    return Compiled(plan, frame, plan_measurements(program, frame, sizes), program, sizes)


def _wants_array(index: int, needs: Needs) -> bool:
    return bool(needs.arrays) and needs.arrays[index]


def _wants(op: Operation, needs: Needs) -> bool:
    """Whether a parameter of an operation is wanted."""
    if isinstance(op.external, Evolution):
        angles = (op.external.time, *op.external.coefficients)
        return any(isinstance(a, Angle) and needs.wants(a) for a in angles)
    if op.external is not None:
        return _wants_array(op.external.ref.index, needs)
    return any(f.angle is not None and needs.wants(f.angle) for f in op.factors)
