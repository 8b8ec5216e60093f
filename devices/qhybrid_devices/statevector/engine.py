"""Running a plan on states: layouts, coefficients, threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.externals import Values, external_cotangent, external_matrix
from qhybrid_devices.statevector.matrices import chain, compose
from qhybrid_devices.statevector.plan import External, Plan, Sweep
from qhybrid_devices.statevector.simd import register_array, register_lanes
from qhybrid_devices.statevector.sweeps import backward, forward, sweep_backward, sweep_forward
from qhybrid_devices.statevector.table import LANES
from qhybrid_devices.statevector.threads import Part, num_parts, num_threads, parallel
from qhybrid_devices.statevector.tilings import Tiling

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

    def items(self, sweep: Sweep) -> int:
        """What a sweep can be split into: chunks of samples, or tiles."""
        return self.chunks if self.tile else self.chunks * len(sweep.tiling.tiles)

    def empty(self) -> NDArray:
        """A new state, not initialised."""
        return register_array(self.shape, self.dtype)

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


def apply_plan(plan: Plan, layout: Layout, psi: NDArray, coef: Coefficients, reverse: bool = False) -> None:
    """All operations on ``psi`` in place, or the inverses of all in reverse order.

    Product operations overwrite ``psi``, whatever was in it.
    """
    workers = layout.workers(len(plan.operations))
    scratch = [_Scratch.of_plan(plan, layout) for _ in range(workers)]
    for sweep in reversed(plan.sweeps) if reverse else plan.sweeps:
        order = sweep.backwards if reverse else sweep.order
        if len(order) or len(plan.product_bits):
            step = _on_samples if layout.tile else _on_tiles
            task = step(plan, sweep, order, psi, coef, reverse, scratch)
            parallel(task, layout.items(sweep), workers)


def _on_samples(
    plan: Plan, _sweep: Sweep, order: NDArray, psi: NDArray, coef: Coefficients, undo: bool, scratch: list[_Scratch]
) -> Callable[[Part], None]:
    def task(part: Part) -> None:
        forward(
            psi, part.start, part.stop, plan.ops, plan.product_bits, order, plan.bits, coef.shared, coef.lanes, undo,
            scratch[part.worker].registers,
        )  # fmt: skip

    return task


def _on_tiles(
    plan: Plan, sweep: Sweep, order: NDArray, psi: NDArray, coef: Coefficients, undo: bool, scratch: list[_Scratch]
) -> Callable[[Part], None]:
    tiling, signs, width = sweep.tiling, lane_signs(psi.dtype), register_lanes(psi.dtype)

    def task(part: Part) -> None:
        own = scratch[part.worker]
        sweep_forward(
            psi, part.start, part.stop, plan.ops, order, plan.bits, tiling.rows, tiling.lanes, tiling.tiles, signs,
            coef.shared, coef.lanes, undo, tiling.is_state(width), own.for_tiles(tiling), own.registers,
        )  # fmt: skip

    return task


@functools.cache
def lane_signs(dtype: np.dtype) -> NDArray:
    """1 or -1 by the parity of ``t & z``, at ``z * lanes + t``."""
    t = np.arange(register_lanes(dtype))
    return np.where(np.bitwise_count(t & t[:, None]) & 1, -1, 1).astype(dtype).reshape(-1)


@dataclass
class _Scratch:
    """The memory that one thread works in: four planes of a tile, and registers."""

    tiles: NDArray
    registers: NDArray

    @classmethod
    def of_plan(cls, plan: Plan, layout: Layout) -> _Scratch:
        """Enough for each sweep of a plan."""
        width = register_lanes(layout.dtype)
        copied = [] if layout.tile else [s.tiling for s in plan.sweeps if not s.tiling.is_state(width)]
        rows = max((len(tiling.rows) for tiling in copied), default=0)
        tiles = register_array((4, rows * width), layout.dtype) if rows else np.empty((4, 0), layout.dtype)
        return cls(tiles, np.empty(plan.buffer_rows * width, layout.dtype))

    def for_tiles(self, tiling: Tiling) -> NDArray:
        """The planes, zero in lanes that a tile does not fill."""
        if len(tiling.lanes) < register_lanes(self.tiles.dtype):
            self.tiles[:] = 0
        return self.tiles


class MatrixCotangents(NamedTuple):
    """Matrix cotangents: shared ``(K,)``, and of each sample ``(C, K, L)``."""

    shared: NDArray
    lanes: NDArray


def reverse_plan(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients, want: NDArray, stop: int
) -> MatrixCotangents:
    """Un-compute both states down to operation ``stop``, in place, and collect the wanted matrix cotangents."""
    workers = layout.workers(3 * (len(plan.operations) - stop))
    scratch = [_Scratch.of_plan(plan, layout) for _ in range(workers)]
    run = _reverse_samples if layout.tile else _reverse_tiles
    return run(plan, layout, psi, lam, coef, want, stop, workers, scratch)


def _reverse_samples(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients,
    want: NDArray, stop: int, workers: int, scratch: list[_Scratch],
) -> MatrixCotangents:  # fmt: skip
    (sweep,) = plan.sweeps
    order = _undone(sweep, stop)
    product = plan.product_bits if stop < len(plan.product_bits) else plan.product_bits[:0]
    gs = np.zeros((num_parts(layout.chunks, workers), plan.num_shared_cotangents))
    gl = np.zeros((layout.chunks, plan.num_lane_cotangents, layout.lanes), layout.dtype)

    def task(part: Part) -> None:
        backward(
            psi, lam, part.start, part.stop, plan.ops, product, order, want, plan.bits, coef.shared, coef.lanes,
            gs[part.index], gl, scratch[part.worker].registers,
        )  # fmt: skip

    if len(order) or len(product):
        parallel(task, layout.chunks, workers)
    return MatrixCotangents(_total(gs), gl)


def _reverse_tiles(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients,
    want: NDArray, stop: int, workers: int, scratch: list[_Scratch],
) -> MatrixCotangents:  # fmt: skip
    parts = max(num_parts(layout.items(sweep), workers) for sweep in plan.sweeps)
    gs = np.zeros((parts, plan.num_shared_cotangents))
    gc = np.zeros((parts, layout.chunks, plan.num_lane_cotangents))
    signs, width = lane_signs(layout.dtype), register_lanes(layout.dtype)
    for sweep in reversed(plan.sweeps):
        order, tiling = _undone(sweep, stop), sweep.tiling
        if not len(order):
            continue

        def task(part: Part, order: NDArray = order, tiling: Tiling = tiling) -> None:
            own = scratch[part.worker]
            sweep_backward(
                psi, lam, part.start, part.stop, plan.ops, order, want, plan.bits,
                tiling.rows, tiling.lanes, tiling.tiles, signs, coef.shared, coef.lanes,
                gs[part.index], gc[part.index], tiling.is_state(width), own.for_tiles(tiling), own.registers,
            )  # fmt: skip

        parallel(task, layout.items(sweep), workers)
    return MatrixCotangents(_total(gs), _total(gc)[..., None])


def _undone(sweep: Sweep, stop: int) -> NDArray:
    """The operations of a sweep from the last one back to ``stop``."""
    return sweep.backwards[: max(0, sweep.stop - max(stop, sweep.start))]


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
