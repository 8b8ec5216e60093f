"""Running a plan on states: layouts, coefficients, threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.statevector.externals import Values, external_cotangent, external_matrix
from qhybrid_devices.statevector.matrices import chain, compose, invert
from qhybrid_devices.statevector.plan import External, Plan, Sweep
from qhybrid_devices.statevector.product import product_cotangents, product_state
from qhybrid_devices.statevector.simd import register_lanes
from qhybrid_devices.statevector.sweeps import backward, forward
from qhybrid_devices.statevector.table import LANES
from qhybrid_devices.statevector.threads import Part, num_parts, num_threads, parallel

#: Operations times lanes below which one thread composes coefficients faster.
PARALLEL_PRODUCTS = 1 << 12


@dataclass(frozen=True)
class Layout:
    """How the states of ``count`` samples lie in memory: ``(chunks, 2, 2**num_wires, lanes)``.

    Args:
        num_wires: bits of a state index
        count: samples; the lanes beyond it are padding
        chunks, lanes: sample ``c * lanes + t`` is lane ``t`` of chunk ``c``
        tile: whether lanes are samples (tile mode) or a sample is a chunk (sweep mode)
        dtype: float32 or float64
        parallel_work: updated amplitudes below which one thread is faster
    """

    num_wires: int
    count: int
    chunks: int
    lanes: int
    tile: bool
    dtype: np.dtype
    parallel_work: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array of all states."""
        return (self.chunks, 2, 1 << self.num_wires, self.lanes)

    @property
    def width(self) -> int:
        """Lanes of all chunks together."""
        return self.chunks * self.lanes

    def empty(self) -> NDArray:
        """A new state, not initialised."""
        return np.empty(self.shape, self.dtype)

    def workers(self, steps: int) -> int:
        """Threads worth starting for ``steps`` passes over the states."""
        return num_threads() if (steps * self.width << self.num_wires) > self.parallel_work else 1

    def pad(self, rows: NDArray) -> NDArray:
        """``(K, count)`` or ``(K, 1)`` to ``(K, width)``, zeros beyond the samples."""
        if rows.shape[1] == self.width:
            return np.ascontiguousarray(rows)
        out = np.zeros((rows.shape[0], self.width), rows.dtype)
        out[:, : self.count] = rows
        return out

    def to_lanes(self, rows: NDArray) -> NDArray:
        """``(K, count)`` to ``(C, K, L)``."""
        return self.pad(rows).reshape(rows.shape[0], self.chunks, self.lanes).transpose(1, 0, 2)


class Coefficients(NamedTuple):
    """Real coefficients of all operations: shared ``(K,)``, and of each sample ``(C, K, L)``.

    ``factors`` holds the values and derivatives of the shared 2x2 factors, ``(F, 8)``.
    """

    shared: NDArray
    lanes: NDArray
    factors: NDArray


def coefficients(plan: Plan, layout: Layout, values: Values) -> Coefficients:
    """Coefficients of the operations of a plan."""
    ms = plan.shared_constants.astype(layout.dtype)
    ml = np.empty((layout.chunks, plan.num_lane_coefficients, layout.lanes), layout.dtype)
    inputs = (plan.comps, plan.factors, plan.constants, values.shared, values.batched)
    column = ms.reshape(-1, 1)
    if plan.num_lane_coefficients and len(plan.comps) * layout.width > PARALLEL_PRODUCTS:
        workers = num_threads()
        tables = np.empty((num_parts(layout.chunks, workers), len(plan.factors), 8), complex)

        def task(part: Part) -> None:
            compose(*inputs, part.start, part.stop, tables[part.index], column, ml)

        parallel(task, layout.chunks, workers)
        factors = tables[0]
    else:
        factors = np.empty((len(plan.factors), 8), complex)
        compose(*inputs, 0, layout.chunks, factors, column, ml)
    for external in plan.externals:
        matrix = external_matrix(external.operator, values)
        size = 2 * external.dim ** (1 if external.diagonal else 2)
        flat = np.ascontiguousarray(matrix, complex).reshape(-1, size // 2).view(float)
        if external.form == LANES:
            ml[:, external.param : external.param + size] = layout.to_lanes(flat.T)
        else:
            ms[external.param : external.param + size] = flat[0]
    return Coefficients(ms, ml, factors)


def inverted(plan: Plan, coef: Coefficients) -> Coefficients:
    """Coefficients of the inverse operations."""
    shared, lanes = plan.shared_inversion, plan.lane_inversion
    ms, ml = np.empty_like(coef.shared), np.empty_like(coef.lanes)
    invert(coef.shared, shared.source, shared.sign, coef.lanes, lanes.source, lanes.sign, ms, ml)
    return Coefficients(ms, ml, coef.factors)


def apply_plan(plan: Plan, layout: Layout, psi: NDArray, coef: Coefficients, reverse: bool = False) -> None:
    """All operations on ``psi`` in place; in reverse order for ``coef`` of the inverses.

    Product operations overwrite ``psi``, whatever was in it.
    """
    workers = layout.workers(len(plan.operations))
    scratch = [_Scratch.of(plan, layout) for _ in range(workers)]
    product = len(plan.product_bits) > 0
    for sweep in reversed(plan.sweeps) if reverse else plan.sweeps:
        order = sweep.backwards if reverse else sweep.order
        if not len(order) and not product:
            continue

        def task(part: Part, sweep: Sweep = sweep, order: NDArray = order) -> None:
            if product:
                product_state(psi, part.start, part.stop, plan.ops, plan.product_bits, coef.shared, coef.lanes)
            if len(order):
                own = scratch[part.worker]
                forward(
                    psi, part.start, part.stop, plan.ops, order, plan.bits, sweep.rows, sweep.lanes, sweep.tiles,
                    coef.shared, coef.lanes, layout.tile, own.of_sweep(sweep), own.registers,
                )  # fmt: skip

        parallel(task, layout.chunks * len(sweep.tiles), workers)


class _Scratch(NamedTuple):
    """The memory that one thread works in: room for four tiles, and registers."""

    tiles: NDArray
    registers: NDArray

    @classmethod
    def of(cls, plan: Plan, layout: Layout) -> _Scratch:
        width = register_lanes(layout.dtype)
        room = 0 if layout.tile else plan.room(width)
        return cls(np.empty(4 * room, layout.dtype), np.empty(plan.buffer_rows * width, layout.dtype))

    def of_sweep(self, sweep: Sweep) -> NDArray:
        """Four tiles ``(4, rows, lanes)`` with whole registers of lanes."""
        if len(self.tiles) == 0:
            return self.tiles.reshape(4, 0, 0)
        rows, lanes = len(sweep.rows), max(register_lanes(self.tiles.dtype), len(sweep.lanes))
        tiles = self.tiles[: 4 * rows * lanes].reshape(4, rows, lanes)
        if lanes > len(sweep.lanes):
            tiles[:] = 0
        return tiles


class MatrixCotangents(NamedTuple):
    """Matrix cotangents: shared ``(K,)``, and of each sample ``(C, K, L)``."""

    shared: NDArray
    lanes: NDArray


def reverse_plan(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients, want: NDArray, stop: int
) -> MatrixCotangents:
    """Un-compute both states down to operation ``stop``, in place, and collect the wanted matrix cotangents."""
    inverse = inverted(plan, coef) if plan.sweeps[-1].stop > len(plan.product_bits) else coef
    product = stop < len(plan.product_bits)
    workers = layout.workers(3 * (len(plan.operations) - stop))
    parts = max(num_parts(layout.chunks * len(sweep.tiles), workers) for sweep in plan.sweeps)
    gs = np.zeros((parts, plan.num_shared_cotangents))
    gc = np.zeros((parts, layout.chunks, 0 if layout.tile else plan.num_lane_cotangents))
    gl = np.zeros((layout.chunks, plan.num_lane_cotangents if layout.tile else 0, layout.lanes), layout.dtype)
    scratch = [_Scratch.of(plan, layout) for _ in range(workers)]
    for sweep in reversed(plan.sweeps):
        order = sweep.backwards[: sweep.stop - max(stop, sweep.start)] if stop < sweep.stop else sweep.backwards[:0]
        if not len(order) and not product:
            continue

        def task(part: Part, sweep: Sweep = sweep, order: NDArray = order) -> None:
            if len(order):
                own = scratch[part.worker]
                backward(
                    psi, lam, part.start, part.stop, plan.ops, order, want, plan.bits,
                    sweep.rows, sweep.lanes, sweep.tiles, inverse.shared, inverse.lanes,
                    gs[part.index], gc[part.index], gl, layout.tile, own.of_sweep(sweep), own.registers,
                )  # fmt: skip
            if product:
                product_cotangents(
                    psi, lam, part.start, part.stop, plan.ops, plan.product_bits, want,
                    coef.shared, coef.lanes, gs[part.index], gl,
                )  # fmt: skip

        parallel(task, layout.chunks * len(sweep.tiles), workers)
    own = gl if layout.tile else _total(gc)[..., None]
    return MatrixCotangents(_total(gs), own)


def _total(parts: NDArray) -> NDArray:
    """The sum over parts."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


def chain_rule(
    plan: Plan, layout: Layout, values: Values, coef: Coefficients, g: MatrixCotangents, want: NDArray, into: Values
) -> None:
    """Add the cotangents of all angles and arrays to ``into``, given the matrix cotangents."""
    if len(plan.comps):
        chain(
            plan.comps, plan.factors, plan.constants, values.shared, values.batched, want, coef.factors.copy(),
            g.shared.reshape(-1, 1), g.lanes.astype(float, copy=False), into.shared, into.batched,
        )  # fmt: skip
    for external in plan.externals:
        if want[external.index]:
            external_cotangent(external.operator, values, external_g(external, layout, g), into)


def external_g(external: External, layout: Layout, g: MatrixCotangents) -> NDArray:
    """The matrix cotangent of one external operation, with the batch axis in front if it has one."""
    shape = (external.dim,) if external.diagonal else (external.dim, external.dim)
    part = slice(external.cotangent, external.cotangent + 2 * int(np.prod(shape)))
    if external.form != LANES:
        return g.shared[part].view(complex).reshape(shape)
    rows = g.lanes[:, part].transpose(0, 2, 1).reshape(layout.width, -1)[: layout.count]
    return np.ascontiguousarray(rows, float).view(complex).reshape(layout.count, *shape)


def row_parallel(layout: Layout, function: Callable[[int, int, int, int, int], None], steps: int) -> None:
    """Call ``function(part, c0, c1, j0, j1)`` over all chunks and rows, on several threads if it pays."""
    workers, rows = layout.workers(steps), 1 << layout.num_wires
    if layout.chunks >= workers or layout.chunks > 1:
        parallel(lambda p: function(p.index, p.start, p.stop, 0, rows), layout.chunks, workers)
    else:
        parallel(lambda p: function(p.index, 0, 1, p.start, p.stop), rows, workers)
