"""Running a plan on states: layouts, coefficients, threads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.externals import Values, external_cotangent, external_matrix
from qhybrid_devices.statevector.matrices import chain, compose, scratch_memory
from qhybrid_devices.statevector.memory import cache_bytes
from qhybrid_devices.statevector.plan import External, Plan, Sweep
from qhybrid_devices.statevector.simd import register_array, register_lanes
from qhybrid_devices.statevector.sweeps import backward, forward, sweep_backward, sweep_forward
from qhybrid_devices.statevector.table import FREE, LANES
from qhybrid_devices.statevector.tangent_sweeps import (
    find_births,
    is_zero,
    moved_coefficients,
    tangent_backward,
    tangent_forward,
    tangent_sweep_backward,
    tangent_sweep_forward,
)
from qhybrid_devices.statevector.threads import PARTS_PER_WORKER, num_parts, run_kernel
from qhybrid_devices.statevector.tilings import Tiling

#: Coefficients of all samples, along all directions, below which one thread computes them, or chains them, faster.
PARALLEL_COEFFICIENTS = 1 << 13
#: How much less work is worth other threads where states are in pieces anyway: nobody waits for another, and each finds
#: in its cache what it has just computed.
SPREAD = 8
#: Rows between the planes of a tile, which would otherwise all begin in one set of the first-level cache.
APART = 5
#: Part of the cache for the tiles of a group of directions.
TANGENT_CACHE = 0.75


@dataclass(frozen=True)
class Layout:
    """How the states of ``count`` samples lie in memory: ``(chunks, 2, 2**num_wires, lanes)``.

    Args:
        num_wires: bits of a state index
        count: samples; the lanes beyond it are padding
        chunks, lanes: sample ``c * lanes + t`` is lane ``t`` of chunk ``c``
        tile: whether lanes are samples (tile mode) or a sample is a chunk (sweep mode)
        dtype: float32 or float64
        parallel_work: updated amplitudes below which one thread is faster, ``SPREAD`` times as many as for words on
            several chunks
        threads: that may be used
    """

    num_wires: int
    count: int
    chunks: int
    lanes: int
    tile: bool
    dtype: np.dtype
    parallel_work: int
    threads: int

    @functools.cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array of all states."""
        return (self.chunks, 2, 1 << self.num_wires, self.lanes)

    @functools.cached_property
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
        return self.threads if (steps * self.width << self.num_wires) > self.parallel_work else 1

    def row_pieces(self, steps: int, copies: int) -> tuple[int, int, int]:
        """What ``steps`` passes over all chunks and rows can be split into, and the threads worth starting for it.

        Args:
            steps: passes over the states
            copies: states of each sample

        Returns:
            items; pieces of each chunk, more than one if there is but a single chunk; threads
        """
        workers = self.workers(steps * copies * (SPREAD if self.chunks * copies > 1 else 1))
        chunks, pieces = self.chunks * copies, 1
        if workers > 1 and chunks == 1:
            # Whole registers of rows, where lanes are amplitudes.
            most = max(1, (1 << self.num_wires) // register_lanes(self.dtype))
            while pieces < min(most, workers * PARTS_PER_WORKER):
                pieces *= 2
        return chunks * pieces, pieces, workers

    def pad(self, rows: NDArray) -> NDArray:
        """``(K, count)`` or ``(K, 1)`` to ``(K, width)``, zeros beyond the samples."""
        if rows.shape[1] == self.width:
            return np.ascontiguousarray(rows)
        out = np.zeros((rows.shape[0], self.width), rows.dtype)
        out[:, : self.count] = rows
        return out

    def to_lanes(self, rows: NDArray) -> NDArray:
        """``(K, count)`` to ``(C, K, L)``."""
        if self.chunks == 1:
            return self.pad(rows)[None]
        return self.pad(rows).reshape(rows.shape[0], self.chunks, self.lanes).transpose(1, 0, 2)


class Coefficients(NamedTuple):
    """Real coefficients of all operations: shared ``(K,)``, and of each sample ``(C, K, L)``."""

    shared: NDArray
    lanes: NDArray

    @classmethod
    def empty(cls, plan: Plan, layout: Layout) -> Coefficients:
        """Room for all; those that never change are there already."""
        lanes = np.empty((layout.chunks, plan.num_lane_coefficients, layout.lanes), layout.dtype)
        return cls(plan.shared_constants.astype(layout.dtype), lanes)


def product_workers(plan: Plan, layout: Layout, directions: int = 1) -> int:
    """Threads worth starting for the coefficients of each sample, or for their derivatives along some directions."""
    many = plan.num_lane_coefficients * layout.width * directions > PARALLEL_COEFFICIENTS
    return layout.threads if many else 1


def coefficients(plan: Plan, layout: Layout, values: Values) -> Coefficients:
    """Coefficients of the operations of a plan."""
    coef, workers = Coefficients.empty(plan, layout), product_workers(plan, layout)
    run_kernel(
        compose, layout.chunks, workers, plan.comps, plan.factors, plan.constants, values.shared, *values.rows(),
        scratch_memory(workers, plan.most_terms, plan.most_factors, 1), plan.most_terms, 1,
        coef.shared.reshape(-1, 1), coef.lanes,
    )  # fmt: skip
    add_externals(plan, layout, values, coef)
    return coef


def add_externals(plan: Plan, layout: Layout, values: Values, coef: Coefficients) -> None:
    """Write the coefficients of operations that have no angles, but matrices of the user."""
    for external in plan.externals:
        matrix = external_matrix(external.operator, values)
        size = 2 * external.dim ** (1 if external.diagonal else 2)
        flat = np.ascontiguousarray(matrix, complex).reshape(-1, size // 2).view(float)
        own = slice(external.param, external.param + size)
        if external.form == LANES:
            coef.lanes[:, own] = layout.to_lanes(flat.T)
        else:
            coef.shared[own] = flat[0]


def apply_plan(plan: Plan, layout: Layout, psi: NDArray, coef: Coefficients, reverse: bool = False) -> None:
    """All operations on ``psi`` in place, or the inverses of all in reverse order.

    Product operations overwrite ``psi``, whatever was in it.
    """
    workers = layout.workers(len(plan.operations))
    memory = _Memory.of_plan(plan, layout, workers)
    for sweep in reversed(plan.sweeps) if reverse else plan.sweeps:
        order = sweep.backwards if reverse else sweep.order
        if not len(order) and not len(plan.product_bits):
            continue
        if layout.tile:
            run_kernel(
                forward, layout.chunks, workers, psi, plan.ops, plan.product_bits, order, plan.bits, *coef, reverse,
                memory.registers,
            )  # fmt: skip
        else:
            run_kernel(
                sweep_forward, layout.items(sweep), workers, psi, plan.ops, order, plan.bits,
                *tables_of(sweep.tiling, layout.dtype), *coef, reverse, *memory.for_tiles(sweep.tiling),
            )  # fmt: skip


@functools.cache
def lane_signs(dtype: np.dtype) -> NDArray:
    """1 or -1 by the parity of ``t & z``, at ``z * lanes + t``."""
    t = np.arange(register_lanes(dtype))
    return np.where(np.bitwise_count(t & t[:, None]) & 1, -1, 1).astype(dtype).reshape(-1)


def tables_of(tiling: Tiling, dtype: np.dtype) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Where amplitudes are in tiles, as kernels take it."""
    return tiling.rows, tiling.lanes, tiling.tiles, lane_signs(dtype)


@dataclass
class _Memory:
    """The memory that threads work in: of each, four planes of a tile ``(threads, 4, R)``, and registers."""

    tiles: NDArray
    registers: NDArray

    @classmethod
    def of_plan(cls, plan: Plan, layout: Layout, workers: int) -> _Memory:
        """Enough for each sweep of a plan."""
        width, rows = register_lanes(layout.dtype), 0
        if not layout.tile:
            rows = max((len(s.tiling.rows) for s in plan.sweeps if not s.tiling.is_state(width)), default=0)
        tiles = register_array((workers, 4, (rows + APART) * width if rows else 0), layout.dtype)
        return cls(tiles, np.empty((workers, plan.buffer_rows * width), layout.dtype))

    def for_tiles(self, tiling: Tiling) -> tuple[bool, NDArray, NDArray]:
        """Whether the tile is a state, the planes, zero in lanes that a tile does not fill, and the registers."""
        width = register_lanes(self.tiles.dtype)
        if len(tiling.lanes) < width:
            self.tiles[...] = 0
        return tiling.is_state(width), self.tiles, self.registers


class MatrixCotangents(NamedTuple):
    """Matrix cotangents: shared ``(K,)``, and of each sample ``(C, K, L)``; tangents have their directions in front."""

    shared: NDArray
    lanes: NDArray


def reverse_plan(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients, want: NDArray, stop: int
) -> MatrixCotangents:
    """Un-compute both states down to operation ``stop``, in place, and collect the wanted matrix cotangents."""
    workers = layout.workers(3 * (len(plan.operations) - stop))
    memory = _Memory.of_plan(plan, layout, workers)
    run = _reverse_samples if layout.tile else _reverse_tiles
    return run(plan, layout, psi, lam, coef, want, stop, workers, memory)


def _reverse_samples(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients,
    want: NDArray, stop: int, workers: int, memory: _Memory,
) -> MatrixCotangents:  # fmt: skip
    (sweep,) = plan.sweeps
    order = sweep.undone(stop)
    product = plan.products_undone(stop)
    gs = np.zeros((num_parts(layout.chunks, workers), plan.num_shared_cotangents))
    gl = np.zeros((layout.chunks, plan.num_lane_cotangents, layout.lanes), layout.dtype)
    if len(order) or len(product):
        run_kernel(
            backward, layout.chunks, workers, psi, lam, plan.ops, product, order, want, plan.bits, *coef, gs, gl,
            memory.registers,
        )  # fmt: skip
    return MatrixCotangents(_total(gs), gl)


def _reverse_tiles(
    plan: Plan, layout: Layout, psi: NDArray, lam: NDArray, coef: Coefficients,
    want: NDArray, stop: int, workers: int, memory: _Memory,
) -> MatrixCotangents:  # fmt: skip
    parts = max(num_parts(layout.items(sweep), workers) for sweep in plan.sweeps)
    gs = np.zeros((parts, plan.num_shared_cotangents))
    gc = np.zeros((parts, layout.chunks, plan.num_lane_cotangents))
    for sweep in reversed(plan.sweeps):
        order = sweep.undone(stop)
        if len(order):
            run_kernel(
                sweep_backward, layout.items(sweep), workers, psi, lam, plan.ops, order, want, plan.bits,
                *tables_of(sweep.tiling, layout.dtype), *coef, gs, gc, *memory.for_tiles(sweep.tiling),
            )  # fmt: skip
    return MatrixCotangents(_total(gs), _total(gc)[..., None])


def _total(parts: NDArray) -> NDArray:
    """The sum over parts."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


# ------------------------------------------------------------------ tangents


class CoefficientTangents(NamedTuple):
    """Derivatives of coefficients along ``k`` directions: shared ``(k, K)``, and of each sample ``(k, C, K, L)``."""

    shared: NDArray
    lanes: NDArray


def apply_tangents(
    plan: Plan, layout: Layout, psi: NDArray, chi: NDArray, coef: Coefficients, dcoef: CoefficientTangents,
    moving: NDArray, from_zeros: bool = False, phase_free: bool = False,
) -> NDArray:  # fmt: skip
    """All operations on ``psi`` and on its tangents, in place; see ``tangent.md``.

    Product operations overwrite ``psi``, whatever was in it; its tangents ``chi`` must then be zero.

    Args:
        plan: the operations
        layout: of the states
        psi: ``layout.shape``
        chi: tangents of ``psi`` along ``k`` directions ``(k, *layout.shape)``
        coef: coefficients of all operations
        dcoef: their derivatives, of the same dtype
        moving: for each operation whether its coefficients change along any direction
        from_zeros: whether the tangents begin as zeros, whatever is in ``chi``; faster than zeros there
        phase_free: whether real multiples of ``i psi`` may be left out of the tangents, faster where lanes are samples

    Returns:
        for each direction the first operation after which its tangent is not zero: -1 if it was not zero before, the
        number of operations if it still is
    """
    moved, births, by_birth = _moved(plan, dcoef, moving), np.zeros(len(chi), np.int64), np.empty(len(chi), np.int64)
    if not from_zeros:
        births[[not is_zero(x.reshape(-1)) for x in chi]] = -1
    born = find_births(moved, births, by_birth)
    for d in by_birth[born:]:
        chi[d] = 0
    if not plan.operations:
        return births
    job, states = _TangentJob.of(plan, layout, len(chi), len(plan.operations), 1), _Swapped(psi)
    numbers = (coef.shared, coef.lanes, dcoef.shared, dcoef.lanes)
    for sweep in plan.sweeps:
        order = sweep.order
        if not len(order) and not len(plan.product_bits):
            continue
        living = born if sweep.stop == len(plan.operations) else np.count_nonzero(births < sweep.stop)
        dirs, edges = job.groups(sweep, by_birth[:living])
        (source,), (target,) = states.take(apart=len(edges) > 2)
        states_and_groups = (source, target, chi, dirs, edges, births, moved, plan.ops)
        items = layout.items(sweep) * (len(edges) - 1)
        if layout.tile:
            run_kernel(
                tangent_forward, items, job.workers, *states_and_groups, plan.product_bits, order, plan.bits, *numbers,
                phase_free, job.tiles, job.registers,
            )  # fmt: skip
        else:
            run_kernel(
                tangent_sweep_forward, items, job.workers, *states_and_groups, order, plan.bits,
                *tables_of(sweep.tiling, layout.dtype), *numbers, *job.for_tiles(sweep.tiling),
            )  # fmt: skip
    states.settle()
    return births


def reverse_tangents(
    plan: Plan, layout: Layout, psi: NDArray, chi: NDArray, lam: NDArray, dlam: NDArray, coef: Coefficients,
    dcoef: CoefficientTangents, moving: NDArray, want: NDArray, stop: int, births: NDArray,
) -> tuple[MatrixCotangents, MatrixCotangents]:  # fmt: skip
    """Un-compute both states and their tangents down to operation ``stop``, in place.

    Product operations are not undone; if ``stop`` is among them the states are used up. Of tangents, those of psi are
    not un-computed beyond their births.

    Args:
        plan, layout, coef, dcoef, moving: as for :func:`apply_tangents`
        psi: ``layout.shape``
        chi: tangents of ``psi`` ``(k, *layout.shape)``
        lam: lambda, like ``psi``
        dlam: tangents of ``lam``, like ``chi``
        want: for each operation whether its matrix cotangent is wanted
        stop: the last operation to undo
        births: from :func:`apply_tangents`

    Returns:
        the wanted matrix cotangents, and their tangents along each direction, ``(k, K)`` and ``(k, C, K, L)``
    """
    k, chunks = len(chi), layout.chunks
    product = plan.products_undone(stop)
    job, states = _TangentJob.of(plan, layout, k, 3 * (len(plan.operations) - stop), 2), _Swapped(psi, lam)
    moved, by_birth = _moved(plan, dcoef, moving), np.argsort(births, kind="stable")
    undoing = _undoing(plan, coef, dcoef, moving)
    parts = max(num_parts(layout.items(s) * job.num_groups(s, k), job.workers) for s in plan.sweeps)
    numbers = (coef.shared, coef.lanes, *dcoef, *undoing)
    gs, dgs = (np.zeros((parts, *front, plan.num_shared_cotangents)) for front in ((), (k,)))
    if layout.tile:
        lanes = (plan.num_lane_cotangents, layout.lanes)
        gl, dgl = (np.zeros((*front, chunks, *lanes), layout.dtype) for front in ((), (k,)))
    else:
        gl, dgl = (np.zeros((parts, *front, chunks, plan.num_lane_cotangents)) for front in ((), (k,)))
    for sweep in reversed(plan.sweeps):
        order = sweep.undone(stop)
        if not len(order) and not len(product):
            continue
        dirs, edges = job.groups(sweep, by_birth)
        source, target = states.take(apart=len(edges) > 2)
        last = np.maximum(births, stop)
        given = (*source, *target, chi, dlam, dirs, edges, last, moved, plan.ops)
        items, cotangents = layout.items(sweep) * (len(edges) - 1), (gs, gl, dgs, dgl)
        if layout.tile:
            run_kernel(
                tangent_backward, items, job.workers, *given, product, order, want, plan.bits, *numbers, *cotangents,
                job.tiles, job.registers,
            )  # fmt: skip
        else:
            run_kernel(
                tangent_sweep_backward, items, job.workers, *given, order, want, plan.bits,
                *tables_of(sweep.tiling, layout.dtype), *numbers, *cotangents, *job.for_tiles(sweep.tiling),
            )  # fmt: skip
    states.settle()
    if not layout.tile:
        gl, dgl = _total(gl)[..., None], _total(dgl)[..., None]
    return MatrixCotangents(_total(gs), gl), MatrixCotangents(_total(dgs), dgl)


def _moved(plan: Plan, dcoef: CoefficientTangents, moving: NDArray) -> NDArray:
    """For each direction and operation whether its coefficients change, ``(k, num operations)``."""
    moved = np.empty((len(dcoef.shared), len(plan.operations)), np.bool_)
    moved_coefficients(plan.ops, moving, dcoef.shared, dcoef.lanes, moved)
    return moved


def _undoing(plan: Plan, coef: Coefficients, dcoef: CoefficientTangents, moving: NDArray) -> CoefficientTangents:
    """What takes the place of ``dU`` where psi is un-computed: ``-U dU^dagger U``.

    That is ``dU`` itself as long as matrices stay unitary; those of the user need not.
    """
    free = [e for e in plan.externals if plan.ops[e.index, FREE] and moving[e.index]]
    if not free:
        return dcoef
    out = CoefficientTangents(dcoef.shared.copy(), dcoef.lanes.copy())
    for external in free:
        shape = (external.dim,) if external.diagonal else (external.dim, external.dim)
        part = slice(external.param, external.param + 2 * int(np.prod(shape)))
        if external.form == LANES:
            u, du, target = coef.lanes[:, part], dcoef.lanes[:, :, part], out.lanes[:, :, part]
        else:
            u, du, target = (x[..., part, None] for x in (coef.shared, dcoef.shared, out.shared))
        u, du = (_complex_last(x).reshape(*x.shape[:-2], x.shape[-1], *shape) for x in (u, du))
        found = -u * du.conj() * u if external.diagonal else -u @ np.swapaxes(du.conj(), -1, -2) @ u
        found = found.reshape(*found.shape[: -len(shape)], -1)
        target[...] = np.moveaxis(np.ascontiguousarray(found).view(target.dtype), -1, -2)
    return out


def _complex_last(x: NDArray) -> NDArray:
    """Interleaved coefficients ``(..., 2 K, L)`` as complex numbers ``(..., L, K)``."""
    x = np.ascontiguousarray(np.moveaxis(x, -2, -1))
    return x.view(np.result_type(x.dtype, np.complex64))


class _Swapped:
    """States that a sweep reads in one place and writes to another if several groups of directions begin with them."""

    def __init__(self, *states: NDArray) -> None:
        self._given = self._now = states
        self._spare: tuple[NDArray, ...] = ()

    def take(self, apart: bool) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """Where the next sweep reads, and where it writes."""
        source = self._now
        if apart:
            spare = self._spare or tuple(register_array(s.shape, s.dtype) for s in source)
            self._now, self._spare = spare, source
        return source, self._now

    def settle(self) -> None:
        """Write the states where they were at first."""
        for given, now in zip(self._given, self._now, strict=True):
            if now is not given:
                given[...] = now


@dataclass
class _TangentJob:
    """How the work on tangents is divided, and the memory that threads work in.

    Args:
        layout: of the states
        workers: threads
        most: directions that have their tiles in the cache together
        tiles: of each thread the planes of a tile of each state
        tangents: the same of their tangents, one array a state
        registers: of each thread
    """

    layout: Layout
    workers: int
    most: int
    tiles: NDArray
    tangents: list[NDArray]
    registers: NDArray

    @classmethod
    def of(cls, plan: Plan, layout: Layout, k: int, steps: int, states: int) -> _TangentJob:
        """For ``states`` states, each with ``k`` tangents, and ``steps`` passes over each."""
        dtype, width = layout.dtype, register_lanes(layout.dtype)
        workers, tilings = layout.workers(steps * (1 + k)), [] if layout.tile else [s.tiling for s in plan.sweeps]
        plane = layout.lanes << layout.num_wires if layout.tile else max(len(t.rows) * width for t in tilings)
        most = _together_in_cache(k, 2 * plane * dtype.itemsize * states) if k > 1 else 1
        of_direction = 2 * max([len(t.rows) * width for t in tilings if not t.is_state(width)], default=0)
        in_place = most >= k and not of_direction and all(layout.items(s) >= workers for s in plan.sweeps)
        apart = 0 if layout.tile else APART * width
        return cls(
            layout,
            workers,
            most,
            register_array((workers, 2 * states, 0 if in_place else plane + apart), dtype),
            [register_array((workers, most * of_direction), dtype) for _ in range(states)],
            np.empty((workers, 2 * plan.buffer_rows * width), dtype),
        )

    def for_tiles(self, tiling: Tiling) -> tuple:
        """Whether the tile is a state, and the memory, zero in lanes that a tile does not fill."""
        width = register_lanes(self.tiles.dtype)
        if len(tiling.lanes) < width:
            for memory in (self.tiles, *self.tangents):
                memory[...] = 0
        return (tiling.is_state(width), self.tiles, *self.tangents, self.registers)

    def num_groups(self, sweep: Sweep, count: int) -> int:
        """Groups of ``count`` directions, so many that all threads have work."""
        items, groups = self.layout.items(sweep), max(1, -(-count // self.most))
        if items < self.workers:
            groups += -groups % self.workers
        return max(1, min(groups, count))

    def groups(self, sweep: Sweep, by_birth: NDArray) -> tuple[NDArray, NDArray]:
        """Directions dealt out to groups, early and late births to each, and the edges of the groups."""
        groups = self.num_groups(sweep, len(by_birth))
        if groups == 1:
            return by_birth, np.array([0, len(by_birth)])
        hands = [by_birth[g::groups] for g in range(groups)]
        return np.concatenate(hands), np.cumsum([0, *map(len, hands)])


def _together_in_cache(k: int, size: int) -> int:
    """How many of ``k`` directions are in the cache together, and the states, if each takes ``size`` bytes."""
    return max(1, min(k, int(cache_bytes() * TANGENT_CACHE) // size - 1))


def chain_rule(
    plan: Plan, layout: Layout, values: Values, coef: Coefficients, g: MatrixCotangents, want: NDArray, into: Values
) -> None:
    """Add the cotangents of all angles and arrays to ``into``, given the matrix cotangents."""
    if len(plan.comps):
        workers = product_workers(plan, layout)
        parts = num_parts(layout.chunks, workers)
        by_part = into.shared[None] if parts == 1 else np.zeros((parts, len(into.shared)))
        run_kernel(
            chain, layout.chunks, workers, plan.comps, plan.factors, plan.constants, values.shared, *values.rows(),
            want, scratch_memory(workers, plan.most_terms, plan.most_factors, 2), plan.most_terms, 2,
            g.shared.reshape(-1, 1), g.lanes.astype(float, copy=False), by_part, into.rows()[0],
        )  # fmt: skip
        if parts > 1:
            into.shared[...] += by_part.sum(0)
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
