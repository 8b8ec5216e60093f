"""Running a plan on states: layouts, coefficients, threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.statevector._jit import num_threads, parallel
from qhybrid_devices.statevector.externals import Values, external_cotangent, external_matrix
from qhybrid_devices.statevector.matrices import chain, compose
from qhybrid_devices.statevector.plan import External, Plan
from qhybrid_devices.statevector.sweeps import sweep_backward, sweep_forward, tile_backward, tile_forward
from qhybrid_devices.statevector.table import LANES


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


@dataclass(frozen=True)
class Coefficients:
    """Real coefficients of all operations: shared ``(K,)``, and of each sample ``(C, K, L)``."""

    shared: NDArray
    lanes: NDArray


def coefficients(plan: Plan, layout: Layout, values: Values, inverse: bool) -> Coefficients:
    """Coefficients of the operations of a plan, or of their inverses."""
    ms = (plan.shared_inverse if inverse else plan.shared_constants).astype(layout.dtype)
    ml = np.empty((layout.chunks, plan.num_lane_coefficients, layout.lanes), layout.dtype)
    if len(plan.comps):
        compose(
            plan.comps, plan.factors, plan.constants, values.shared, values.batched, ms.reshape(-1, 1), ml, inverse
        )
    for external in plan.externals:
        matrix = external_matrix(external.operator, values)
        if inverse:
            matrix = matrix.conj() if external.diagonal else np.swapaxes(matrix, -1, -2).conj()
        size = 2 * external.dim ** (1 if external.diagonal else 2)
        flat = np.ascontiguousarray(matrix, complex).reshape(-1, size // 2).view(float)
        if external.form == LANES:
            ml[:, external.param : external.param + size] = layout.to_lanes(flat.T)
        else:
            ms[external.param : external.param + size] = flat[0]
    return Coefficients(ms, ml)


def apply_plan(plan: Plan, layout: Layout, psi: NDArray, coef: Coefficients, reverse: bool = False) -> None:
    """All operations on ``psi`` in place; in reverse order for ``coef`` of the inverses."""
    total = len(plan.operations)
    if total == 0:
        return
    workers = layout.workers(total)
    if layout.tile:
        o0, o1 = (total, 0) if reverse else (0, total)

        def task(worker: int, c0: int, c1: int) -> None:
            buffer = np.empty((plan.buffer_rows, layout.lanes), layout.dtype)
            rows = plan.sweeps[0].rows
            tile_forward(psi, c0, c1, plan.ops, o0, o1, plan.bits, rows, coef.shared, coef.lanes, buffer)

        parallel(task, layout.chunks, workers)
        return
    flat, ml = psi.reshape(psi.shape[:3]), coef.lanes.reshape(coef.lanes.shape[:2])
    for sweep in reversed(plan.sweeps) if reverse else plan.sweeps:
        o0, o1 = (sweep.stop, sweep.start) if reverse else (sweep.start, sweep.stop)
        rows, lanes, tiles = sweep.rows, sweep.lanes, sweep.tiles
        if o0 == o1:
            continue

        def sweep_task(worker: int, i0: int, i1: int, o0=o0, o1=o1, rows=rows, lanes=lanes, tiles=tiles) -> None:
            scratch = np.empty((4, len(rows), len(lanes)), layout.dtype)
            buffer = np.empty((plan.buffer_rows, len(lanes)), layout.dtype)
            sweep_forward(
                flat, i0, i1, plan.ops, o0, o1, plan.bits, rows, lanes, tiles, coef.shared, ml, scratch, buffer
            )

        parallel(sweep_task, layout.chunks * len(tiles), workers)


@dataclass(frozen=True)
class MatrixCotangents:
    """Matrix cotangents: shared ``(K,)``, and of each sample ``(C, K, L)``."""

    shared: NDArray
    lanes: NDArray


def backward(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, inverse: Coefficients, want: NDArray, stop: int
) -> MatrixCotangents:
    """Un-compute both states down to operation ``stop``, in place, and collect the wanted matrix cotangents."""
    workers = layout.workers(3 * (len(plan.operations) - stop))
    run = _backward_tile if layout.tile else _backward_sweeps
    return run(plan, layout, psi, lam, inverse, want, stop, workers)


def _backward_tile(
    plan: Plan,
    layout: Layout,
    psi: NDArray,
    lam: NDArray,
    inverse: Coefficients,
    want: NDArray,
    stop: int,
    workers: int,
) -> MatrixCotangents:
    gs = np.zeros((workers, plan.num_shared_cotangents))
    gl = np.zeros((layout.chunks, plan.num_lane_cotangents, layout.lanes), layout.dtype)

    def task(worker: int, c0: int, c1: int) -> None:
        buffer = np.empty((plan.buffer_rows, layout.lanes), layout.dtype)
        rows = plan.sweeps[0].rows
        tile_backward(
            psi, lam, c0, c1, plan.ops, stop, want, plan.bits, rows, inverse.shared, inverse.lanes,
            gs[worker], gl, buffer,
        )  # fmt: skip

    parallel(task, layout.chunks, workers)
    return MatrixCotangents(gs.sum(0), gl)


def _backward_sweeps(
    plan: Plan,
    layout: Layout,
    psi: NDArray,
    lam: NDArray,
    inverse: Coefficients,
    want: NDArray,
    stop: int,
    workers: int,
) -> MatrixCotangents:
    gs = np.zeros((workers, plan.num_shared_cotangents))
    gl = np.zeros((workers, layout.chunks, plan.num_lane_cotangents))
    flat, adjoint = psi.reshape(psi.shape[:3]), lam.reshape(lam.shape[:3])
    ml = inverse.lanes.reshape(inverse.lanes.shape[:2])
    for sweep in reversed(plan.sweeps):
        if sweep.stop <= stop or sweep.start == sweep.stop:
            continue

        def task(worker: int, i0: int, i1: int, sweep=sweep) -> None:
            rows, lanes, tiles = sweep.rows, sweep.lanes, sweep.tiles
            scratch = np.empty((4, len(rows), len(lanes)), layout.dtype)
            buffer = np.empty((plan.buffer_rows, len(lanes)), layout.dtype)
            sweep_backward(
                flat, adjoint, i0, i1, plan.ops, max(stop, sweep.start), sweep.stop, want, plan.bits,
                rows, lanes, tiles, inverse.shared, ml, gs[worker], gl[worker], scratch, buffer,
            )  # fmt: skip

        parallel(task, layout.chunks * len(sweep.tiles), workers)
    return MatrixCotangents(gs.sum(0), gl.sum(0)[..., None])


def chain_rule(
    plan: Plan, layout: Layout, values: Values, g: MatrixCotangents, want: NDArray, into: Values
) -> None:
    """Add the cotangents of all angles and arrays to ``into``, given the matrix cotangents."""
    if len(plan.comps):
        chain(
            plan.comps, plan.factors, plan.constants, values.shared, values.batched, want,
            g.shared.reshape(-1, 1), g.lanes, into.shared, into.batched,
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


def row_parallel(layout: Layout, function: Callable[[int, int, int, int], None], steps: int) -> None:
    """Call ``function(c0, c1, j0, j1)`` over all chunks and rows, on several threads if it pays."""
    workers, rows = layout.workers(steps), 1 << layout.num_wires
    if layout.chunks >= workers or layout.chunks > 1:
        parallel(lambda _, c0, c1: function(c0, c1, 0, rows), layout.chunks, workers)
    else:
        parallel(lambda _, j0, j1: function(0, 1, j0, j1), rows, workers)

