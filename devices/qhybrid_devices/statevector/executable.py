"""The executable of the state-vector device: exact results, their derivatives, and samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Executable, Needs
from qhybrid.program import Angle, Evolution, Program, Slots, Variance
from qhybrid_devices.externals import Values
from qhybrid_devices.statevector import memory
from qhybrid_devices.statevector.engine import (
    Coefficients,
    Layout,
    apply_plan,
    chain_rule,
    coefficients,
    reverse_plan,
)
from qhybrid_devices.statevector.measurements import MeasurementPlan, has_matrices, plan_measurements, results, seed
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, Operation, lower_gates
from qhybrid_devices.statevector.plan import Plan, PlanOptions, build_plan
from qhybrid_devices.statevector.sampling import SamplingPlan, plan_sampling, sample_results
from qhybrid_devices.statevector.simd import register_lanes
from qhybrid_devices.statevector.threads import PARTS_PER_WORKER, num_threads

#: Below this many bytes a run is not checked against the available memory.
UNCHECKED_BYTES = 1 << 26


@dataclass(frozen=True)
class Request:
    """What a derivative must deliver.

    Args:
        want: for each operation whether its matrix cotangent is wanted
        stop: first operation that the reverse sweep must reach
        preparation: whether the prepared amplitudes' cotangent is wanted
        anything: whether any cotangent is
    """

    want: NDArray
    stop: int
    preparation: bool
    anything: bool


@dataclass(frozen=True)
class Compiled:
    """Everything about one program in one mode."""

    plan: Plan
    frame: Frame
    measurements: MeasurementPlan
    program: Program
    options: PlanOptions | None
    requests: dict[Needs, Request] = field(default_factory=dict)

    @cached_property
    def sampling(self) -> SamplingPlan:
        """How the measurements are sampled; made when it is first asked for."""
        return plan_sampling(self.program, self.frame, self.options)

    def request(self, needs: Needs) -> Request:
        """What ``needs`` means for the operations of the plan."""
        request = self.requests.get(needs)
        if request is None:
            want = np.array([_wants(op, needs) for op in self.plan.operations], np.bool_)
            preparation = self.program.preparation
            prepared = preparation is not None and _wants_array(preparation.amplitudes.index, needs)
            stop = int(np.argmax(want)) if want.any() else len(want)
            anything = needs.shared or needs.batched or any(needs.arrays)
            request = self.requests[needs] = Request(want, 0 if prepared else stop, prepared, anything)
        return request


class Final(NamedTuple):
    """How a run ends: the final state and the gates' coefficients."""

    layout: Layout
    psi: NDArray
    coef: Coefficients


class Residual:
    """A :class:`Final` kept for derivatives, of which each wants to overwrite the state.

    A small state is copied for each of them. A large one goes to the first, so that no more than psi and lambda are in
    memory; a later derivative of the same run finds nothing and runs the circuit again.
    """

    def __init__(self, final: Final, copied_bytes: int) -> None:
        self._kept = [final]  # taking from a list is atomic: derivatives may be in several threads
        self._copies = final.psi.nbytes <= copied_bytes

    def take(self) -> Final | None:
        """A final state of one's own; ``None`` if it has gone to another."""
        if self._copies:
            (final,) = self._kept
            psi = final.layout.empty()
            psi[...] = final.psi
            return final._replace(psi=psi)
        try:
            return self._kept.pop()
        except IndexError:
            return None


class StateVectorExecutable(Executable):
    """A program compiled for the CPU.

    Args:
        program: the circuit
        c_dtype: ``numpy.complex128`` or ``numpy.complex64``
        options: sizes of the memory layout

    Example:
        >>> import numpy as np
        >>> from qhybrid.program import Expectation, Gate, Observable, PauliRotation, Term
        >>> rx = Gate("RX", (0,), PauliRotation("X", Angle(0)))
        >>> z = Observable((Term(1.0, ((0, "Z"),)),))
        >>> exe = StateVectorExecutable(Program(1, (rx,), (Expectation(z),), num_shared=1))
        >>> exe.run(Slots(shared=np.array([np.pi / 3])))[0].round(6)
        array([0.5])
    """

    has_vjp = True

    def __init__(self, program: Program, c_dtype: Any = np.complex128, options: PlanOptions | None = None) -> None:
        super().__init__(program)
        self.c_dtype = np.dtype(c_dtype)
        #: The dtype of results and of the planes of a state.
        self.real_dtype = np.dtype(np.float32 if self.c_dtype == np.complex64 else np.float64)
        self.options = options or PlanOptions.of_machine(self.real_dtype)
        self._compiled: dict[bool, Compiled] = {}

    def __reduce__(self) -> tuple:
        return (StateVectorExecutable, (self.program, self.c_dtype, self.options))

    # ------------------------------------------------------------------ running

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results."""
        return self.run_with_residual(slots, keep=False)[0]

    def run_with_residual(self, slots: Slots, keep: bool = True) -> tuple[tuple[NDArray, ...], Residual | None]:
        """The exact results, and the final state if it is small enough to keep for :meth:`vjp`.

        Args:
            slots: parameters of all samples
            keep: whether to keep the state
        """
        values, count = Values.of(self.program, slots)
        groups = self._groups(count, 1 + self._scratch_states)
        parts, residual = [], None
        for start, stop in groups:
            part = values.part(self.program, start, stop)
            final = self._forward(part, stop - start)
            parts.append(results(self._compile(final.layout.tile).measurements, final.layout, part, final.psi))
            if keep and len(groups) == 1 and final.psi.nbytes <= self.options.residual_bytes:
                residual = Residual(final, self.options.copied_bytes)
        return self._joined(parts), residual

    def vjp(
        self, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Residual | None = None
    ) -> Slots:
        """Cotangents of the slots.

        Args:
            slots: parameters of all samples
            cotangents: shaped like the results of :meth:`run`
            needs: which cotangents are wanted
            residual: from :meth:`run_with_residual` on the same slots; saves the forward run, once if it is large
        """
        values, count = Values.of(self.program, slots)
        if not self.program.is_batched:
            cotangents = tuple(np.asarray(c)[None] for c in cotangents)
        total = _zeros_like(values)
        for start, stop in self._groups(count, 2 + self._scratch_states):
            part, into = values.part(self.program, start, stop), total.part(self.program, start, stop)
            self._vjp_group(part, stop - start, [c[start:stop] for c in cotangents], needs, residual, into)
        wanted = needs.arrays or (False,) * len(self.program.arrays)
        return Slots(
            total.shared.astype(self.real_dtype, copy=False) if needs.shared else None,
            total.batched.astype(self.real_dtype, copy=False) if needs.batched and slots.batched is not None else None,
            tuple(a.astype(self.c_dtype, copy=False) if w else None for a, w in zip(total.arrays, wanted, strict=True)),
            slots.batch_size,
        )

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples of each group of compatible measurements.

        Raises:
            CircuitError: a measurement is only known exactly, or the variance of a sum needs several bases
        """
        values, count = Values.of(self.program, slots)
        parts = []
        for start, stop in self._groups(count, states=3):
            part = values.part(self.program, start, stop)
            final = self._forward(part, stop - start)
            plan = self._compile(final.layout.tile).sampling
            parts.append(sample_results(plan, self.program, final.layout, part, final.psi, shots, rng))
        return self._joined(parts, shots)

    # ------------------------------------------------------------------ one group of samples

    def _forward(self, values: Values, count: int) -> Final:
        layout = self._layout(count)
        plan = self._compile(layout.tile).plan
        psi = layout.empty() if len(plan.product_bits) else self._initial(layout, values)
        coef = coefficients(plan, layout, values)
        apply_plan(plan, layout, psi, coef)
        return Final(layout, psi, coef)

    def _vjp_group(
        self,
        values: Values,
        count: int,
        cotangents: list[NDArray],
        needs: Needs,
        residual: Residual | None,
        into: Values,
    ) -> None:
        final = (residual.take() if residual else None) or self._forward(values, count)
        layout, psi = final.layout, final.psi
        compiled = self._compile(layout.tile)
        plan, request = compiled.plan, compiled.request(needs)
        lam = seed(compiled.measurements, layout, values, psi, cotangents, into, request.anything)
        if request.stop >= len(plan.operations) and not request.preparation:
            return
        g = reverse_plan(plan, layout, psi, lam, final.coef, request.want, request.stop)
        chain_rule(plan, layout, values, final.coef, g, request.want, into)
        if request.preparation:
            self._preparation_cotangent(layout, lam, into)

    def _initial(self, layout: Layout, values: Values) -> NDArray:
        psi = layout.empty()
        psi[...] = 0
        preparation = self.program.preparation
        if preparation is None:
            psi[:, 0, 0, :] = 1
            return psi
        amplitudes = np.atleast_2d(values.arrays[preparation.amplitudes.index])
        for plane, part in ((0, amplitudes.real), (1, amplitudes.imag)):
            rows = np.broadcast_to(part.T, (part.shape[1], layout.count))
            psi[:, plane, self._prepared_rows()] = layout.to_lanes(rows)
        return psi

    def _prepared_rows(self) -> NDArray | slice:
        """Rows of the prepared amplitudes, in their order."""
        assert self.program.preparation is not None
        n, wires = self.program.num_wires, self.program.preparation.wires
        if wires == tuple(range(n)):
            return slice(None)
        rows = np.zeros(1, np.int64)
        for w in wires:
            rows = (rows[:, None] | np.array([0, 1 << (n - 1 - w)])).reshape(-1)
        return rows

    def _preparation_cotangent(self, layout: Layout, lam: NDArray, into: Values) -> None:
        assert self.program.preparation is not None
        kept = lam[:, :, self._prepared_rows()]  # (C, 2, K, L)
        c = 2 * (kept[:, 0] + 1j * kept[:, 1]).transpose(0, 2, 1).reshape(layout.width, -1)[: layout.count]
        target = into.arrays[self.program.preparation.amplitudes.index]
        target += c if target.ndim == 2 else c.sum(0)

    # ------------------------------------------------------------------ layout

    def _compile(self, tile: bool) -> Compiled:
        """The program for one layout."""
        compiled = self._compiled.get(tile)
        if compiled is None:
            program, n, options = self.program, self.program.num_wires, None if tile else self.options
            lowering = LoweringOptions(absorb=True, restore=has_matrices(program), fuse_mixed=not tile)
            operations, frame = lower_gates(program.gates, Frame.of_wires(n), program.arrays, lowering)
            compiled = Compiled(
                build_plan(operations, n, options, from_zeros=program.preparation is None),
                frame,
                plan_measurements(program, frame, options),
                program,
                options,
            )
            self._compiled[tile] = compiled
        return compiled

    def _layout(self, count: int) -> Layout:
        n, o = self.program.num_wires, self.options
        tile = n < o.sweep_wires or (n <= o.tile_wires and count >= o.tile_batch)
        if not tile:
            return Layout(n, count, count, 1, False, self.real_dtype, o.parallel_work)
        width = register_lanes(self.real_dtype)
        most = max(width, o.tile_bytes // ((2 * self.real_dtype.itemsize) << n) // width * width)
        chunks = -(-count // most)
        if (count << n) * 16 > o.parallel_work and (workers := num_threads()) > 1:
            chunks = max(chunks, min(workers * PARTS_PER_WORKER, -(-count // (o.tile_lanes * width))))
        lanes = -(-count // chunks)
        lanes += -lanes % width
        return Layout(n, count, -(-count // lanes), lanes, True, self.real_dtype, o.parallel_work)

    @cached_property
    def _scratch_states(self) -> int:
        """States that measurements need besides psi and lambda."""
        most = 0
        for m in self.program.scalars:
            matrices = any(t.matrices for t in m.observable.terms)
            if isinstance(m, Variance) and (matrices or len(m.observable.terms) > 1):
                return 3
            most = max(most, 2 if matrices else 0)
        return max(most, 1) if self.program.tensors else most

    def _groups(self, count: int, states: int) -> list[tuple[int, int]]:
        """Ranges of samples whose states are in memory together.

        Raises:
            DeviceError: ``states`` states of one range do not fit
        """
        sample = (2 * self.real_dtype.itemsize) << self.program.num_wires
        size = max(1, self.options.group_bytes // sample)
        needed = sample * min(size, count) * states
        if needed > UNCHECKED_BYTES:
            memory.require(needed, self.program.num_wires, f"{states} state{'s' if states > 1 else ''} in memory")
        return [(i, min(i + size, count)) for i in range(0, count, size)]

    # ------------------------------------------------------------------ slots and results

    def _joined(self, parts: list[tuple[NDArray, ...]], shots: int | None = None) -> tuple[NDArray, ...]:
        if not self.program.is_batched:
            return tuple(r[0] for r in parts[0])
        if len(parts) == 1:
            return parts[0]
        if parts:
            return tuple(np.concatenate(r) for r in zip(*parts, strict=True))
        kinds = {"f": self.real_dtype, "c": self.c_dtype}
        return tuple(r.astype(kinds.get(r.dtype.kind, r.dtype)) for r in self.no_results(shots))


def _zeros_like(values: Values) -> Values:
    arrays = tuple([np.zeros(a.shape, a.dtype) for a in values.arrays])
    return Values(np.zeros(values.shared.shape), np.zeros(values.batched.shape), arrays)


def _wants_array(index: int, needs: Needs) -> bool:
    return bool(needs.arrays) and needs.arrays[index]


def _wants_angle(angle: Angle, needs: Needs) -> bool:
    return needs.batched if angle.batched else needs.shared


def _wants(op: Operation, needs: Needs) -> bool:
    """Whether a parameter of an operation is wanted."""
    if isinstance(op.external, Evolution):
        angles = (op.external.time, *op.external.coefficients)
        return any(isinstance(a, Angle) and _wants_angle(a, needs) for a in angles)
    if op.external is not None:
        return _wants_array(op.external.ref.index, needs)
    return any(f.angle is not None and _wants_angle(f.angle, needs) for f in op.factors)
