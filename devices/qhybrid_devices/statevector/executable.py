"""The executable of the state-vector device: exact results, their derivatives, and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DeviceError
from qhybrid.execution import EVERYTHING, Executable, Needs, SecondOrder, Wanted, result_shape
from qhybrid.program import Program, Slots, State, Variance
from qhybrid_devices.externals import Directions, Values, accumulate
from qhybrid_devices.statevector import memory
from qhybrid_devices.statevector.compiled import Compiled, compile_program
from qhybrid_devices.statevector.directions import Pass, jvp, second_order
from qhybrid_devices.statevector.engine import (
    Layout,
    apply_plan,
    chain_rule,
    coefficients,
    reverse_plan,
)
from qhybrid_devices.statevector.final import Final, Residual
from qhybrid_devices.statevector.hessians import GateAngles, curvature, products
from qhybrid_devices.statevector.measurements import results, seed
from qhybrid_devices.statevector.plan import PlanOptions
from qhybrid_devices.statevector.preparation import add_amplitude_cotangent, initial_state
from qhybrid_devices.statevector.sampling import sample_results
from qhybrid_devices.statevector.simd import register_lanes
from qhybrid_devices.statevector.small import MOST_AMPLITUDES, SmallRun
from qhybrid_devices.statevector.threads import PARTS_PER_WORKER, num_threads

#: Below this many bytes a run is not checked against the available memory.
UNCHECKED_BYTES = 1 << 26
#: Numbers of samples whose layouts are kept, and whose small runs are.
MOST_LAYOUTS = 64


class StateVectorExecutable(Executable):
    """A program compiled for the CPU.

    Args:
        program: the circuit
        c_dtype: ``numpy.complex128`` or ``numpy.complex64``
        options: sizes of the memory layout

    Example:
        >>> import numpy as np
        >>> from qhybrid.program import Angle, Expectation, Gate, Observable, PauliRotation, Program, Slots, Term
        >>> rx = Gate("RX", (0,), PauliRotation("X", Angle(0)))
        >>> z = Observable((Term(1.0, ((0, "Z"),)),))
        >>> exe = StateVectorExecutable(Program(1, (rx,), (Expectation(z),), num_shared=1))
        >>> exe.run(Slots(shared=np.array([np.pi / 3])))[0].round(6)
        array([0.5])
    """

    has_vjp = True
    has_jvp = True

    def __init__(self, program: Program, c_dtype: Any = np.complex128, options: PlanOptions | None = None) -> None:
        super().__init__(program)
        self.c_dtype = np.dtype(c_dtype)
        #: The dtype of results and of the planes of a state.
        self.real_dtype = np.dtype(np.float32 if self.c_dtype == np.complex64 else np.float64)
        self.options = options or PlanOptions.of_machine(self.real_dtype)
        self._compiled: dict[bool, Compiled] = {}
        self._layouts: dict[tuple[int, int, int], Layout] = {}
        self._small: dict[int, SmallRun | None] = {}

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
        small = self.direct(count)
        if small is not None:
            scalars, kept = small.run(values.shared, values.batched)
            return (scalars,), kept if keep else None
        groups = self._groups(count, 1 + self._scratch_states)
        parts, residual = [], None
        for start, stop in groups:
            part = values.part(self.program, start, stop).contiguous()
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
            residual: from :meth:`run_with_residual` on the same slots; saves a forward run, as the first
                derivative takes the state; later ones share another if it is small
        """
        values, count = Values.of(self.program, slots)
        small = self.direct(count)
        if small is not None and (residual is None or residual.layout is small.layout):
            found = small.vjp(values.shared, values.batched, cotangents[0], needs, residual)
            return self._cotangents(Values(*found, ()), slots, needs)
        if not self.program.is_batched:
            cotangents = tuple([np.asarray(c)[None] for c in cotangents])
        total = values.zeros()
        for start, stop in self._groups(count, 2 + self._scratch_states):
            part, target = values.part(self.program, start, stop).contiguous(), total.part(self.program, start, stop)
            into = target if target is total else part.zeros()
            run = partial(self._forward, part, stop - start)
            final = residual.take(run) if residual else run()
            self._vjp_group(part, [c[start:stop] for c in cotangents], needs, final, into)
            if into is not target:
                accumulate(target, into)
        return self._cotangents(total, slots, needs)

    def jvp(self, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """Tangents of the results; see :meth:`qhybrid.execution.Executable.jvp`."""
        return self._tangents(slots, tangents)

    def run_with_tangents(self, slots: Slots, tangents: Slots) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """The exact results, read from the states that tangents are found beside, and their tangents."""
        parts: list[tuple[NDArray, ...]] = []

        def read(p: Pass, psi: NDArray) -> None:
            if p.some.start == 0:
                parts.append(results(p.compiled.measurements, p.layout, p.values, psi))

        assert tangents.shared is not None
        found = self._tangents(slots, tangents, read)
        return self._joined(parts) if len(tangents.shared) else self.run(slots), found

    def second_order(
        self,
        slots: Slots,
        cotangents: tuple[NDArray, ...],
        tangents: Slots,
        cotangent_tangents: tuple[NDArray, ...] | None,
        needs: Needs,
        wanted: Wanted = EVERYTHING,
    ) -> SecondOrder:
        """Tangents of the results and of :meth:`vjp`; see :meth:`qhybrid.execution.Executable.second_order`."""
        values, count = Values.of(self.program, slots)
        directions = Directions.of(values, tangents)
        k, batched = len(directions), self.program.is_batched
        given = cotangent_tangents or tuple(np.zeros((k, *np.shape(c))) for c in cotangents)
        c, dc = [np.asarray(a) for a in cotangents], [np.asarray(a) for a in given]
        if not batched:
            c, dc = [a[None] for a in c], [a[:, None] for a in dc]
        out, total, d_total = self._no_tangents(k, count), values.zeros(), Directions.zeros(k, values)
        job = _Curves(values, count, c, directions, dc, needs, wanted, out, total, d_total)
        by_curvature = self._curvature_passes(job)
        if by_curvature is not None:
            self._by_curvature(job, *by_curvature)
        else:
            self._along_directions(job)
        first = self._cotangents(total, slots, needs) if k else self.vjp(slots, cotangents, needs)
        return SecondOrder(self._unbatched(out), first, self._cotangents(d_total, slots, needs))

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples of each group of compatible measurements.

        Raises:
            CircuitError: a measurement is only known exactly, or the variance of a sum needs several bases
        """
        values, count = Values.of(self.program, slots)
        parts = []
        for start, stop in self._groups(count, states=3):
            part = values.part(self.program, start, stop).contiguous()
            final = self._forward(part, stop - start)
            plan = self._compile(final.layout.tile).sampling
            parts.append(sample_results(plan, self.program, final.layout, part, final.psi, shots, rng))
        return self._joined(parts, shots)

    # ------------------------------------------------------------------ along directions

    def _tangents(
        self, slots: Slots, tangents: Slots, read: Callable[[Pass, NDArray], None] | None = None
    ) -> tuple[NDArray, ...]:
        """Tangents of the results; ``read`` is given the final states of each pass."""
        values, count = Values.of(self.program, slots)
        directions = Directions.of(values, tangents)
        out = self._no_tangents(len(directions), count)
        for p in self._passes(values, directions, count, states=1):
            _write(jvp(p, partial(read, p) if read else None), p, out)
        return self._unbatched(out)

    def _along_directions(self, job: _Curves) -> None:
        """A reverse sweep with tangents."""
        program = self.program
        for p in self._passes(job.values, job.directions, job.count, states=2):
            own, d_own = [a[p.samples] for a in job.cotangents], [a[p.some, p.samples] for a in job.moves]
            into, d_into = p.values.zeros(), Directions.zeros(len(p.directions), p.values)
            found = second_order(p, own, d_own, job.needs, job.wanted, into, d_into)
            if job.wanted.results:
                _write(found, p, job.results)
            start, stop = p.samples.start, p.samples.stop
            if p.some.start == 0:  # the cotangents themselves are the same in all directions
                accumulate(job.total.part(program, start, stop), into)
            accumulate(job.tangents.part(program, start, stop).some(p.some.start, p.some.stop), d_into)

    def _curvature_passes(self, job: _Curves) -> tuple[NDArray, list[Pass]] | None:
        """What :meth:`_by_curvature` goes through, if it is the faster way and its states fit."""
        angles = self._gate_angles.angles_for(job.values, job.directions, job.needs)
        if angles is None or len(angles) > self._most_directions:
            return None
        still = Directions.zeros(len(angles), job.values)
        try:
            passes = list(self._passes(job.values, still, job.count, states=4))
        except DeviceError:  # a sweep along directions needs fewer states, and says so if it does not fit either
            return None
        width = register_lanes(self.real_dtype)
        return (angles, passes) if all(p.compiled.is_one_tile(width) for p in passes) else None

    def _by_curvature(self, job: _Curves, angles: NDArray, passes: list[Pass]) -> None:
        """The same from all derivatives by some shared angles, where only these move and only theirs are wanted."""
        along = job.directions.shared.take(angles, 1)
        for p in passes:
            own, moves = [a[p.samples] for a in job.cotangents], [a[:, p.samples] for a in job.moves]
            found = curvature(p, angles, own)
            job.tangents.shared[:, angles] += products(along, found.hessian)
            if any(m.any() for m in moves):
                job.tangents.shared[:, angles] += found.gradients(moves)
            if job.wanted.cotangents:
                job.total.shared[angles] += found.gradients([a[None] for a in own])[0]
            if job.wanted.results:
                for target, tangents in zip(job.results, found.results_along(along), strict=True):
                    target[:, p.samples] = tangents

    # ------------------------------------------------------------------ one group of samples

    def _forward(self, values: Values, count: int) -> Final:
        layout = self._layout(count)
        plan = self._compile(layout.tile).plan
        psi = layout.empty() if len(plan.product_bits) else initial_state(self.program, layout, values)
        coef = coefficients(plan, layout, values)
        apply_plan(plan, layout, psi, coef)
        return Final(layout, psi, coef)

    def _vjp_group(
        self,
        values: Values,
        cotangents: list[NDArray],
        needs: Needs,
        final: Final,
        into: Values,
    ) -> None:
        layout, psi = final.layout, final.psi
        compiled = self._compile(layout.tile)
        plan, request = compiled.plan, compiled.request(needs)
        lam = seed(compiled.measurements, layout, values, psi, cotangents, into, request.observables)
        if request.stop >= len(plan.operations) and not request.preparation:
            return
        g = reverse_plan(plan, layout, psi, lam, final.coef, request.want, request.stop)
        chain_rule(plan, layout, values, final.coef, g, request.want, into)
        if request.preparation:
            add_amplitude_cotangent(self.program, layout, lam, into)

    # ------------------------------------------------------------------ layout

    def direct(self, samples: int) -> SmallRun | None:
        """How so many samples are run if they leave nothing to decide."""
        try:
            return self._small[samples]
        except KeyError:
            pass
        found, amplitudes = None, samples << self.program.num_wires
        if 0 < amplitudes <= MOST_AMPLITUDES and samples * self._state_bytes <= self.options.group_bytes:
            layout = self._layout(samples)
            found = SmallRun.of(self._compile(layout.tile), layout, self.options.copied_bytes)
        if len(self._small) >= MOST_LAYOUTS:
            self._small.clear()
        self._small[samples] = found
        return found

    def _compile(self, tile: bool) -> Compiled:
        """The program for one layout."""
        compiled = self._compiled.get(tile)
        if compiled is None:
            compiled = compile_program(self.program, tile, self.options)
            self._compiled[tile] = compiled
        return compiled

    def _layout(self, count: int, shares: int = 1) -> Layout:
        """How the states of ``count`` samples lie in memory, in tiles of a share of the cache."""
        key = (count, shares, num_threads())
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            found = self._layouts[key] = self._new_layout(*key)
        return found

    def _new_layout(self, count: int, shares: int, threads: int) -> Layout:
        n, o = self.program.num_wires, self.options
        workers = threads if (count << n) * 16 > o.parallel_work else 1
        tile = n < o.sweep_wires or (n <= o.tile_wires and count >= o.tile_batch)
        if not tile:
            return Layout(n, count, count, 1, False, self.real_dtype, o.parallel_work, threads)
        width = register_lanes(self.real_dtype)
        most = max(width, o.tile_bytes // shares // ((2 * self.real_dtype.itemsize) << n) // width * width)
        chunks = -(-count // most)
        if workers > 1:
            chunks = max(chunks, min(workers * PARTS_PER_WORKER, -(-count // (o.tile_lanes * width))))
        lanes = -(-count // chunks)
        lanes += -lanes % width
        return Layout(n, count, -(-count // lanes), lanes, True, self.real_dtype, o.parallel_work, threads)

    @cached_property
    def _state_bytes(self) -> int:
        return (2 * self.real_dtype.itemsize) << self.program.num_wires

    @cached_property
    def _most_directions(self) -> int:
        """Directions along which states have their tangents at once."""
        o = self.options
        return min(max(o.directions, o.direction_bytes // self._state_bytes), o.group_bytes // self._state_bytes)

    @cached_property
    def _gate_angles(self) -> GateAngles:
        return GateAngles.of(self.program)

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
        sample = self._state_bytes
        size = max(1, self.options.group_bytes // sample)
        if 0 < count <= size and sample * count * states <= UNCHECKED_BYTES:
            return [(0, count)]
        needed = sample * min(size, count) * states
        if needed > UNCHECKED_BYTES:
            memory.require(needed, self.program.num_wires, f"{states} state{'s' if states > 1 else ''} in memory")
        return [(i, min(i + size, count)) for i in range(0, count, size)]

    def _passes(self, values: Values, directions: Directions, count: int, states: int) -> Iterator[Pass]:
        """Samples and directions in the parts whose states are in memory together.

        Args:
            values, directions: the slots of all samples and their tangents
            count: samples
            states: those of each sample that have tangents

        Raises:
            DeviceError: the states of one part do not fit
        """
        program, sample = self.program, self._state_bytes
        most = max(1, min(self._most_directions, len(directions)))
        size = max(1, self.options.group_bytes // (sample * most))
        needed = sample * min(size, count) * (1 + most) * (states + self._scratch_states)
        if needed > UNCHECKED_BYTES:
            what = f"states and their tangents along {most} direction{'s' if most > 1 else ''}"
            memory.require(needed, program.num_wires, what)
        for start, some in product(range(0, count, size), range(0, len(directions), most)):
            stop, last = min(start + size, count), min(some + most, len(directions))
            layout = self._layout(stop - start, shares=2)
            own = directions.part(program, start, stop).some(some, last)
            given = values.part(program, start, stop).contiguous(), own.contiguous()
            yield Pass(slice(start, stop), slice(some, last), self._compile(layout.tile), layout, *given)

    # ------------------------------------------------------------------ slots and results

    def _cotangents(self, total: Values | Directions, slots: Slots, needs: Needs) -> Slots:
        """The cotangents of ``slots``, or the tangents of these, as far as they are wanted."""
        wanted = needs.arrays or (False,) * len(self.program.arrays)
        return Slots(
            total.shared.astype(self.real_dtype, copy=False) if needs.shared else None,
            total.batched.astype(self.real_dtype, copy=False) if needs.batched and slots.batched is not None else None,
            tuple(a.astype(self.c_dtype, copy=False) if w else None for a, w in zip(total.arrays, wanted, strict=True)),
            slots.batch_size,
        )

    def _no_tangents(self, directions: int, count: int) -> tuple[NDArray, ...]:
        """Room for tangents of the results, directions and samples in front."""
        return tuple([np.zeros((directions, count, *shape), dtype) for shape, dtype in self._result_types])

    @cached_property
    def _result_types(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each result, without its batch."""
        states = (False, *(isinstance(t, State) for t in self.program.tensors))
        return [
            (result_shape(self.program, i, None), self.c_dtype if state else self.real_dtype)
            for i, state in enumerate(states)
        ]

    def _unbatched(self, tangents: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        """Without the axis of samples if the program has none."""
        return tangents if self.program.is_batched else tuple(t[:, 0] for t in tangents)

    def _joined(self, parts: list[tuple[NDArray, ...]], shots: int | None = None) -> tuple[NDArray, ...]:
        if not self.program.is_batched:
            return tuple(r[0] for r in parts[0])
        if len(parts) == 1:
            return parts[0]
        if parts:
            return tuple(np.concatenate(r) for r in zip(*parts, strict=True))
        kinds = {"f": self.real_dtype, "c": self.c_dtype}
        return tuple(r.astype(kinds.get(r.dtype.kind, r.dtype)) for r in self.no_results(shots))


@dataclass(frozen=True)
class _Curves:
    """Second derivatives: of what and along what, samples and directions in front, and where they are added up.

    Args:
        values, count: the slots, and how many samples they have
        cotangents: of the results
        directions, moves: tangents of the slots and of the cotangents
        needs, wanted: which derivatives
        results, total, tangents: receive tangents of the results, cotangents of the slots, and tangents of these
    """

    values: Values
    count: int
    cotangents: list[NDArray]
    directions: Directions
    moves: list[NDArray]
    needs: Needs
    wanted: Wanted
    results: tuple[NDArray, ...]
    total: Values
    tangents: Directions


def _write(tangents: tuple[NDArray, ...], p: Pass, out: tuple[NDArray, ...]) -> None:
    """Write the tangents of one pass to those of all samples and directions."""
    for own, target in zip(tangents, out, strict=True):
        target[p.some, p.samples] = own
