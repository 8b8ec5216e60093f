"""Hessians in angles that all samples share: from tangents of two states along all of them, see ``tangent.md``."""

from __future__ import annotations

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
    grow_tangents,
    keep_states,
    sweep_grow_tangents,
    sweep_keep_states,
)
from qhybrid_devices.statevector.directions import Pass
from qhybrid_devices.statevector.duals import DualState
from qhybrid_devices.statevector.engine import Coefficients, CoefficientTangents, Layout, coefficients, lane_signs
from qhybrid_devices.statevector.idle_angles import idle_angles
from qhybrid_devices.statevector.measurement_tangents import result_tangents, seed_tangents
from qhybrid_devices.statevector.measurements import seed
from qhybrid_devices.statevector.plan import Plan
from qhybrid_devices.statevector.preparation import initial_state
from qhybrid_devices.statevector.row_products import row_products
from qhybrid_devices.statevector.simd import register_array, register_lanes
from qhybrid_devices.statevector.tangents import coefficient_tangents
from qhybrid_devices.statevector.threads import Part, parallel

#: Angles of which all second derivatives take as long as those along one direction.
ANGLES_OF_DIRECTION = 4


@dataclass(frozen=True)
class Curvature:
    """Derivatives of some samples by ``k`` shared angles.

    Args:
        jacobian: tangents of the results, ``(k, B, ...)`` each
        hessian: second derivatives of the results' products with given cotangents, summed over samples, ``(k, k)``
    """

    jacobian: tuple[NDArray, ...]
    hessian: NDArray

    def gradients(self, cotangents: Sequence[NDArray]) -> NDArray:
        """Vector-Jacobian products: cotangents are ``(n, B, ...)`` each, the products ``(n, k)``."""
        given = zip(cotangents, self.jacobian, strict=True)
        pairs = ((c.astype(complex) if np.iscomplexobj(j) else c, j) for c, j in given)
        return np.sum([products(_real_rows(c), _real_rows(j)) for c, j in pairs], 0)

    def along(self, moves: NDArray) -> tuple[list[NDArray], NDArray]:
        """Tangents of the results ``(n, B, ...)`` and of the gradient ``(n, k)`` along directions ``(n, k)``."""
        results = []
        for j in self.jacobian:
            rows = products(moves, _real_rows(j).T)
            results.append((rows.view(complex) if np.iscomplexobj(j) else rows).reshape(len(moves), *j.shape[1:]))
        return results, products(moves, self.hessian)


def products(a: NDArray, b: NDArray) -> NDArray:
    """``a @ b.T`` of real matrices."""
    step = register_lanes(np.dtype(float))
    f, g = (np.zeros((len(x), x.shape[1] + -x.shape[1] % step)) for x in (a, b))
    f[:, : a.shape[1]], g[:, : b.shape[1]] = a, b
    out = np.zeros((len(a), len(b)))
    row_products(f, g, 0, -(-len(a) // 4), False, out)
    return out


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
        still = not (directions.batched.any() or any(a.any() for a in directions.arrays))
        if not still or (needs.batched and values.batched.size) or any(needs.arrays):
            return None
        needed = np.full(directions.shared.shape[1], needs.shared)
        needed[[a.index for a in needs.constant if not a.batched]] = False
        needed |= np.any(directions.shared, 0)
        angles = self.ordered[needed[self.ordered]]
        if any(needed[i] for i in self.others) or not 0 < len(angles) <= ANGLES_OF_DIRECTION * len(directions):
            return None
        return angles


def along_each(angles: NDArray, values: Values) -> Directions:
    """One direction for each of some shared angles."""
    directions = Directions.zeros(len(angles), values)
    directions.shared[np.arange(len(angles)), angles] = 1
    return directions


def curvature(p: Pass, angles: NDArray, cotangents: Sequence[NDArray]) -> Curvature:
    """First and second derivatives by some shared angles.

    Args:
        p: where; its directions are from :func:`along_each`
        angles: of :class:`GateAngles`, in their order
        cotangents: of the results, samples in front
    """
    layout, k = p.layout, len(angles)
    job = _Tangents.of(p, angles)
    psi = initial_state(p.compiled.program, layout, p.values)
    job.keep(psi, 0)
    nowhere, still = Directions.zeros(k, p.values), [np.zeros((k, *c.shape), c.dtype) for c in cotangents]
    lam = seed(p.compiled.measurements, layout, p.values, psi, cotangents, nowhere.one(0), want_observables=False)
    job.keep(np.negative(lam, out=lam), 1)
    moved, negative = job.grown()
    given = (p.compiled.measurements, layout, p.values, p.directions, DualState(psi, moved))
    kets = DualState(lam, negative)
    seed_tangents(*given, cotangents, still, nowhere.one(0), nowhere, want_observables=False, out=kets)
    return Curvature(result_tangents(*given), 2 * _overlaps(layout, moved, kets.tangents))


@dataclass(frozen=True)
class _Tangents:
    """Tangents of psi and of lambda at the end of the circuit, both taken from its beginning.

    Args:
        plan, layout: the operations, and where states are
        coef, dcoef: coefficients, and their derivatives along the angles
        movers: the operation of each angle
        starts: where each tangent begins, as for ``grow_tangents``
        places: where in ``kept`` the states are before each operation and after the last one, -1 if nowhere
        kept: of psi and of lambda, ``(2, S, *layout.shape)``
    """

    plan: Plan
    layout: Layout
    coef: Coefficients
    dcoef: CoefficientTangents
    movers: NDArray
    starts: NDArray
    places: NDArray
    kept: NDArray

    @classmethod
    def of(cls, p: Pass, angles: NDArray) -> _Tangents:
        """With nothing kept yet."""
        plan, movers = p.compiled.anywhere, np.array([p.compiled.movers[i] for i in angles.tolist()], np.int64)
        starts, moving = p.compiled.commuting[movers], np.zeros(len(plan.operations), np.bool_)
        moving[movers] = True
        met, places = np.unique(starts), np.full(len(moving) + 1, -1)
        places[met] = np.arange(len(met))
        dcoef = coefficient_tangents(plan, p.layout, p.values, p.directions, moving)
        kept = register_array((2, len(met), *p.layout.shape), p.layout.dtype)
        return cls(plan, p.layout, coefficients(plan, p.layout, p.values), dcoef, movers, starts, places, kept)

    @property
    def _tables(self) -> tuple:
        """The operations, as kernels take them."""
        (sweep,), plan = self.plan.sweeps, self.plan
        if self.layout.tile:
            return (plan.ops, plan.bits)
        return (plan.ops, plan.bits, sweep.tiling.rows, sweep.tiling.lanes, lane_signs(self.layout.dtype))

    def _registers(self) -> NDArray:
        return np.empty(self.plan.buffer_rows * register_lanes(self.layout.dtype), self.layout.dtype)

    def keep(self, state: NDArray, number: int) -> None:
        """Take psi (0) forward to the end, or lambda (1) back as far as operations move."""
        (sweep,), undo = self.plan.sweeps, number == 1
        order = sweep.backwards[: len(sweep.order) - int(self.starts.min())] if undo else sweep.order
        kernel: Callable[..., None] = keep_states if self.layout.tile else sweep_keep_states

        def task(part: Part) -> None:
            kernel(
                state, self.kept[number], self.places, part.start, part.stop, order, *self._tables, *self.coef, undo,
                self._registers(),
            )  # fmt: skip

        parallel(task, self.layout.chunks, self.layout.workers(len(order)))

    def grown(self) -> NDArray:
        """The tangents of psi and of lambda, ``(2, k, *layout.shape)``."""
        out = register_array((2, len(self.movers), *self.layout.shape), self.layout.dtype)
        kernel: Callable[..., None] = grow_tangents if self.layout.tile else sweep_grow_tangents

        def task(part: Part) -> None:
            kernel(
                self.kept, self.places, self.movers, self.starts, out, part.start, part.stop, *self._tables, *self.coef,
                *self.dcoef, self._registers(),
            )  # fmt: skip

        steps = 2 * int(np.sum(len(self.places) + 1 - self.starts))
        parallel(task, 2 * len(self.movers) * self.layout.chunks, self.layout.workers(steps))
        return out


def _overlaps(layout: Layout, bras: NDArray, kets: NDArray) -> NDArray:
    """The symmetric matrix of ``Re <bra_a|ket_b>`` for ``a <= b``, summed over samples."""
    k = len(bras)
    f, g, out = bras.reshape(k, -1), kets.reshape(k, -1), np.zeros((k, k))

    def task(part: Part) -> None:
        row_products(f, g, part.start, part.stop, True, out)

    parallel(task, -(-k // 4), layout.workers(k * k // 32))
    numbers = np.arange(k)
    return np.where(numbers[:, None] <= numbers, out, out.T)
