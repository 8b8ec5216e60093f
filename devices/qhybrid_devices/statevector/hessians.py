"""Hessians in angles that all samples share: from tangents of two states along all of them, see ``tangent.md``."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Angle, Evolution, Program
from qhybrid_devices.externals import Directions, Values
from qhybrid_devices.statevector.angle_tangents import (
    FIRST,
    LAST,
    grow_tangents,
    keep_states,
    sweep_grow_tangents,
    sweep_keep_states,
    turn_derivatives,
)
from qhybrid_devices.statevector.compiled import Compiled
from qhybrid_devices.statevector.directions import Pass
from qhybrid_devices.statevector.duals import DualState
from qhybrid_devices.statevector.engine import (
    SPREAD,
    Coefficients,
    CoefficientTangents,
    Layout,
    lane_signs,
)
from qhybrid_devices.statevector.idle_angles import idle_angles
from qhybrid_devices.statevector.measurement_tangents import result_tangents, seed_tangents
from qhybrid_devices.statevector.measurements import seed
from qhybrid_devices.statevector.observables import add_words_along
from qhybrid_devices.statevector.plan import Plan
from qhybrid_devices.statevector.preparation import initial_state
from qhybrid_devices.statevector.row_products import row_products
from qhybrid_devices.statevector.simd import register_array, register_lanes
from qhybrid_devices.statevector.tangents import coefficient_duals
from qhybrid_devices.statevector.threads import ALONE, run_kernel

#: Angles of which all second derivatives take as long as those along one direction.
ANGLES_OF_DIRECTION = 4
#: Sets of angles of a program of which it is remembered how their tangents go.
MOST_SCHEDULES = 64


@dataclass(frozen=True)
class Curvature:
    """Derivatives of some samples by ``k`` shared angles.

    Args:
        here: where
        final: the final states and their tangents along the angles
        hessian: second derivatives of the results' products with given cotangents, summed over samples, ``(k, k)``
    """

    here: Pass
    final: DualState
    hessian: NDArray

    @functools.cached_property
    def jacobian(self) -> tuple[NDArray, ...]:
        """Tangents of the results, ``(k, B, ...)`` each."""
        p = self.here
        return result_tangents(p.compiled.measurements, p.layout, p.values, p.directions, self.final)

    def gradients(self, cotangents: Sequence[NDArray]) -> NDArray:
        """Vector-Jacobian products: cotangents are ``(n, B, ...)`` each, the products ``(n, k)``."""
        given = zip(cotangents, self.jacobian, strict=True)
        pairs = ((c.astype(complex) if np.iscomplexobj(j) else c, j) for c, j in given)
        return functools.reduce(np.add, [products(_real_rows(c), _real_rows(j)) for c, j in pairs])

    def results_along(self, moves: NDArray) -> list[NDArray]:
        """Tangents of the results ``(n, B, ...)`` along directions ``(n, k)``."""
        results = []
        for j in self.jacobian:
            rows = products(moves, _real_rows(j).T)
            results.append((rows.view(complex) if np.iscomplexobj(j) else rows).reshape(len(moves), *j.shape[1:]))
        return results


def products(a: NDArray, b: NDArray) -> NDArray:
    """``a @ b.T`` of real matrices."""
    step = register_lanes(np.dtype(float))
    f, g = (np.zeros((len(x), x.shape[1] + -x.shape[1] % step)) for x in (a, b))
    f[:, : a.shape[1]], g[:, : b.shape[1]] = a, b
    out = np.zeros((1, len(a), len(b)))
    row_products(ALONE, 0, 1, f, g, False, out)
    return out[0]


def _real_rows(x: NDArray) -> NDArray:
    """One row for each entry of the first axis, complex numbers as pairs."""
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    return rows.view(rows.real.dtype).astype(float, copy=False)


@dataclass(frozen=True)
class GateAngles:
    """The shared angles of a program that :func:`curvature` may go along, and those that it may not.

    Those that no result depends on are among neither.

    Args:
        ordered: those of one gate ``exp(theta A)``, with a constant ``A``, each; in the order of the gates
        others: those of several gates, of evolutions and of observables
    """

    ordered: NDArray
    others: frozenset[int]

    @classmethod
    def of(cls, program: Program) -> GateAngles:
        """Sort the angles of a program."""
        terms = [t.coefficient for m in program.scalars for t in m.observable.terms]
        elsewhere = [g.angles for g in program.gates if isinstance(g.operator, Evolution)]
        others = {a.index for a in (*terms, *chain(*elsewhere)) if isinstance(a, Angle) and not a.batched}
        met = [a.index for g in program.gates for a in g.angles if not a.batched]
        others |= {i for i, count in Counter(met).items() if count > 1}
        left_out = others | idle_angles(program)
        return cls(np.array([i for i in met if i not in left_out], np.int64), frozenset(others))

    def angles_for(self, values: Values, directions: Directions, needs: Needs) -> NDArray | None:
        """The angles of which all second derivatives are found sooner than those along the directions.

        Args:
            values: the slots
            directions: their tangents
            needs: which cotangents are wanted

        Returns:
            those that move or whose cotangents are wanted; ``None`` to go along the directions
        """
        moves = (directions.batched, *directions.arrays)
        if (needs.batched and values.batched.size) or any(needs.arrays) or any(m.size and m.any() for m in moves):
            return None
        angles, is_among = self.ordered, bool(self.others)
        if not needs.shared or needs.constant:
            needed = np.full(directions.shared.shape[1], needs.shared)
            needed[[a.index for a in needs.constant if not a.batched]] = False
            needed |= np.any(directions.shared, 0)
            angles, is_among = angles[needed[angles]], any(needed[i] for i in self.others)
        return angles if not is_among and 0 < len(angles) <= ANGLES_OF_DIRECTION * len(directions) else None


def curvature(p: Pass, angles: NDArray, cotangents: Sequence[NDArray]) -> Curvature:
    """First and second derivatives by some shared angles.

    Args:
        p: where; its directions are as many as the angles, and zero
        angles: of :class:`GateAngles`, in their order
        cotangents: of the results, samples in front
    """
    layout, k = p.layout, len(angles)
    job = _Tangents.of(p, angles)
    psi = initial_state(p.compiled.program, layout, p.values)
    job.keep(psi, 0)
    nothing = p.directions.one(0)
    lam = seed(p.compiled.measurements, layout, p.values, psi, cotangents, nothing, want_observables=False)
    job.keep(np.negative(lam, out=lam), 1)
    # Row j is the tangent of psi along angle j, row k + j what is to meet it: the tangent of -lambda at first.
    states, overlaps, early = job.tangents(), _Overlaps.of(layout, k), job.schedule.early
    if early:
        job.grow(states, job.schedule.before)
        overlaps.add(states[:early], states[k : k + early])
        states[k : k + early] = 0
    job.grow(states, job.schedule.after)
    final, kets = DualState(psi, states[:k]), DualState(lam, states[k:])
    _add_seeds(p, final, cotangents, kets)
    overlaps.add(states[:k], states[k:])
    return Curvature(p, final, 2 * overlaps.matrix())


def _add_seeds(p: Pass, psi: DualState, cotangents: Sequence[NDArray], out: DualState) -> None:
    """Add to the tangents of ``out`` what those of ``psi`` change the seed of the reverse sweep by."""
    plan, layout, nowhere = p.compiled.measurements, p.layout, p.directions
    if plan.has_words_only and plan.means.is_constant:
        weights = plan.means.weights(p.values, np.ascontiguousarray(np.asarray(cotangents[0], float).T))
        add_words_along(plan.table, layout, psi.tangents, out.tangents, weights)
        return
    still = [np.zeros((len(nowhere), *c.shape), c.dtype) for c in cotangents]
    seed_tangents(
        plan, layout, p.values, nowhere, psi, cotangents, still, nowhere.one(0), nowhere, want_observables=False,
        out=out,
    )  # fmt: skip


@dataclass(frozen=True)
class _Stage:
    """A table of ``grow_tangents``, and about how many operations that is."""

    table: NDArray
    steps: int

    @classmethod
    def of(cls, table: NDArray) -> _Stage:
        """The rows in an order in which threads that take some of them at a time end together."""
        lengths = table[:, LAST] - table[:, FIRST]
        ordered = np.ascontiguousarray(table[np.argsort(-lengths, kind="stable")])
        return cls(ordered, int(np.sum(lengths)) + 2 * len(table))


@dataclass(frozen=True)
class _Schedule:
    """How the tangents along some angles go through a circuit.

    Those of lambda along the ``early`` angles end in the middle: what they say of pairs of early angles is seen there
    already, and what they say of an early and a later one is said by the later one's.

    Args:
        movers: the operation of each angle
        moving: of each operation whether it is one of them
        directions: tangents of the shared angles along which each operation's first angle, second one and so on move
        places: where to keep the state before each operation and after the last one, -1 not to
        num_places: how many are kept
        first: the first operation that any tangent meets
        early: number of those angles
        before, after: up to the middle, and from there on
    """

    movers: NDArray
    moving: NDArray
    directions: NDArray
    places: NDArray
    num_places: int
    first: int
    early: int
    before: _Stage
    after: _Stage

    @classmethod
    def of(cls, compiled: Compiled, angles: NDArray) -> _Schedule:
        """The schedule of ``angles``, in the order of their gates."""
        movers = np.array([compiled.movers[i] for i in angles.tolist()], np.int64)
        starts, count = compiled.commuting[movers], len(compiled.anywhere.operations)
        moving = np.zeros(count, np.bool_)
        moving[movers] = True
        met, places = np.unique(starts), np.full(count + 1, -1)
        places[met] = np.arange(len(met))
        early, middle = _split(starts, count)
        rows, numbers = np.arange(len(movers)), _numbers_among_equals(movers)
        directions = np.zeros((numbers.max() + 1, compiled.program.num_shared))
        directions[numbers, angles] = 1

        def born(rows: NDArray, state: int, last: int) -> NDArray:
            """Tangents of a state from where they begin."""
            begin = starts[rows]
            given = (rows + state * len(movers), state, places[begin], numbers[rows], movers[rows], begin, last)
            return np.stack(np.broadcast_arrays(*given), 1)

        on = np.stack(np.broadcast_arrays(rows[:early], 0, -1, -1, -1, middle, count), 1)
        before = np.concatenate([born(rows[:early], 0, middle), born(rows[:early], 1, middle)])
        after = np.concatenate([on, born(rows[early:], 0, count), born(rows[early:], 1, count)])
        stages = (_Stage.of(before), _Stage.of(after))
        return cls(movers, moving, directions, places, len(met), int(met[0]), early, *stages)


def _split(starts: NDArray, count: int) -> tuple[int, int]:
    """How many angles are early, and the operation before which that is seen.

    One operation on a tangent takes as long as four overlaps with others.
    """
    numbers, middles = np.arange(1, len(starts) + 1), np.maximum.accumulate(starts)
    gains = numbers * (4 * (count - middles) - (numbers + 1) / 2)
    best = int(np.argmax(gains))
    return (best + 1, int(middles[best])) if gains[best] > 0 else (0, 0)


def _numbers_among_equals(values: NDArray) -> NDArray:
    """How many earlier values are the same as each."""
    order, numbers = np.argsort(values, kind="stable"), np.empty(len(values), np.int64)
    numbers[order] = np.arange(len(values)) - np.searchsorted(values[order], values[order])
    return numbers


@dataclass(frozen=True)
class _Tangents:
    """Tangents of psi and of lambda on their way through the circuit, both taken from its beginning.

    Args:
        plan, layout: the operations, and where states are
        coef: coefficients
        dcoef: their derivatives along the directions of the schedule, as ``turn_derivatives`` leaves them
        schedule: what is done
        kept: states of psi and of lambda, ``(2, S, *layout.shape)``
    """

    plan: Plan
    layout: Layout
    coef: Coefficients
    dcoef: CoefficientTangents
    schedule: _Schedule
    kept: NDArray

    @classmethod
    def of(cls, p: Pass, angles: NDArray) -> _Tangents:
        """With nothing kept yet."""
        plan, key, known = p.compiled.anywhere, angles.tobytes(), p.compiled.schedules
        schedule = known.get(key)
        if schedule is None:
            if len(known) >= MOST_SCHEDULES:
                known.clear()
            schedule = known[key] = _Schedule.of(p.compiled, angles)
        still = np.zeros((len(schedule.directions), *p.values.batched.shape))
        along = Directions(schedule.directions, still, ())
        coef, dcoef = coefficient_duals(plan, p.layout, p.values, along, schedule.moving)
        turn_derivatives(plan.ops, schedule.moving, coef.shared, dcoef.shared)
        kept = register_array((2, schedule.num_places, *p.layout.shape), p.layout.dtype)
        return cls(plan, p.layout, coef, dcoef, schedule, kept)

    @property
    def _tables(self) -> tuple:
        """The operations, as kernels take them."""
        (sweep,), plan = self.plan.sweeps, self.plan
        if self.layout.tile:
            return (plan.ops, plan.bits)
        return (plan.ops, plan.bits, sweep.tiling.rows, sweep.tiling.lanes, lane_signs(self.layout.dtype))

    def _registers(self, workers: int) -> NDArray:
        return np.empty((workers, self.plan.buffer_rows * register_lanes(self.layout.dtype)), self.layout.dtype)

    def keep(self, state: NDArray, number: int) -> None:
        """Take psi (0) forward to the end, or lambda (1) back as far as operations move."""
        (sweep,), undo = self.plan.sweeps, number == 1
        order = sweep.backwards[: len(sweep.order) - self.schedule.first] if undo else sweep.order
        kernel: Callable[..., None] = keep_states if self.layout.tile else sweep_keep_states
        workers = self.layout.workers(len(order))
        run_kernel(
            kernel, self.layout.chunks, workers, state, self.kept[number], self.schedule.places, order, *self._tables,
            *self.coef, undo, self._registers(workers),
        )  # fmt: skip

    def tangents(self) -> NDArray:
        """Room for the tangents of psi and of lambda, ``(2 k, *layout.shape)``."""
        return register_array((2 * len(self.schedule.movers), *self.layout.shape), self.layout.dtype)

    def grow(self, out: NDArray, stage: _Stage) -> None:
        """Take tangents through a part of the circuit."""
        kernel: Callable[..., None] = grow_tangents if self.layout.tile else sweep_grow_tangents
        workers = self.layout.workers(SPREAD * stage.steps)
        run_kernel(
            kernel, len(stage.table) * self.layout.chunks, workers, self.kept, out, stage.table, *self._tables,
            *self.coef, *self.dcoef, self._registers(workers),
        )  # fmt: skip


@dataclass(frozen=True)
class _Overlaps:
    """Sums of ``Re <bra_a|ket_b>`` for ``a <= b``, over samples and over several sets of states.

    A thread takes a part of all states, which is less to read than all of some.

    Args:
        layout: of the states
        parts: what each part gives, ``(parts, k, k)``
    """

    layout: Layout
    parts: NDArray

    @classmethod
    def of(cls, layout: Layout, k: int) -> _Overlaps:
        """Zeros, for at most ``k`` states a set."""
        workers = cls._workers(layout, k)
        return cls(layout, np.zeros((workers, k, k)))

    @staticmethod
    def _workers(layout: Layout, k: int) -> int:
        return layout.workers(SPREAD * k**2 // 32)

    def add(self, bras: NDArray, kets: NDArray) -> None:
        """Those of two sets of states."""
        k, workers = len(bras), self._workers(self.layout, len(bras))
        rows = bras.reshape(k, -1), kets.reshape(k, -1)
        run_kernel(row_products, len(self.parts), workers, *rows, True, self.parts)

    def matrix(self) -> NDArray:
        """The symmetric matrix of the sums."""
        total = self.parts.sum(0) if len(self.parts) > 1 else self.parts[0]
        return np.where(_is_upper(len(total)), total, total.T)


@functools.lru_cache(maxsize=MOST_SCHEDULES)
def _is_upper(k: int) -> NDArray:
    """Of each entry of a square matrix whether it is on the diagonal or above."""
    return np.triu(np.ones((k, k), np.bool_))
