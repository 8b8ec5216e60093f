"""A schedule of operations in sweeps, as the tables that the kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Diagonal, Evolution, Matrix
from qhybrid_devices.statevector import memory
from qhybrid_devices.statevector.operations import Operation
from qhybrid_devices.statevector.simd import REGISTER_BYTES
from qhybrid_devices.statevector.table import (
    COMP_COLUMNS,
    DENSE,
    DIAGONAL,
    FACTOR_COLUMNS,
    LANES,
    OP_COLUMNS,
    PAULI,
    SHARED,
    SPECTRUM,
    U2,
)

#: Row bits of a tile: fewer make too many sweeps whatever the cache, more gain nothing.
MIN_ACTIVE, MAX_ACTIVE = 7, 11
#: Smallest tile in tile mode, in bytes.
MIN_TILE = 1 << 16


@dataclass(frozen=True)
class PlanOptions:
    """Sizes that decide how a program is laid out.

    Args:
        tile_wires: largest number of wires for which lanes are samples
        tile_batch: smallest batch for which lanes are samples
        sweep_wires: smallest number of wires for which lanes are qubits
        active: row bits of a sweep's tile
        lane_bits: most lane bits of a sweep's tile; fewer if that saves sweeps
        register_bits: fewest lane bits, those that fill a register
        tile_lanes: fewest registers of lanes, when samples are spread over threads
        tile_bytes: target size of one state's tile in tile mode
        group_bytes: largest size of the states of the samples that are in memory together
        residual_bytes: largest final state that ``run_with_residual`` keeps
        copied_bytes: largest kept state that each derivative copies; a larger one is used up by the first
        parallel_work: updated amplitudes below which one thread is faster
    """

    tile_wires: int = 12
    tile_batch: int = 4
    sweep_wires: int = 6
    active: int = 10
    lane_bits: int = 4
    register_bits: int = 3
    tile_lanes: int = 2
    tile_bytes: int = 1 << 19
    group_bytes: int = 1 << 28
    residual_bytes: int = 1 << 28
    copied_bytes: int = 1 << 22
    parallel_work: int = 1 << 17

    @classmethod
    def of_machine(cls, dtype: np.dtype) -> PlanOptions:
        """Sizes for planes of that dtype and the cache of this machine.

        A tile of psi that a sweep copies takes an eighth of it, one where the state lies a quarter; lambda's as much.
        """
        cache = memory.cache_bytes()
        rows = cache // 8 // ((2 * dtype.itemsize) << cls.lane_bits)
        active = min(max(rows.bit_length() - 1, MIN_ACTIVE), MAX_ACTIVE)
        register_bits = (REGISTER_BYTES // dtype.itemsize).bit_length() - 1
        return cls(active=active, register_bits=register_bits, tile_bytes=max(cache // 4, MIN_TILE))


@dataclass(frozen=True)
class Sweep:
    """Operations ``start .. stop - 1`` on tiles.

    ``rows``, ``lanes`` and ``tiles`` are index offsets of the row bits, the lane bits and all others; ``order`` lists
    the operations and ``backwards`` the same, last one first.
    """

    start: int
    stop: int
    rows: NDArray
    lanes: NDArray
    tiles: NDArray
    order: NDArray
    backwards: NDArray

    @classmethod
    def of(cls, start: int, stop: int, rows: NDArray, lanes: NDArray, tiles: NDArray) -> Sweep:
        """A sweep over a range of operations."""
        order = np.arange(start, stop)
        return cls(start, stop, rows, lanes, tiles, order, order[::-1].copy())


@dataclass(frozen=True)
class External:
    """An operation whose coefficients NumPy fills in."""

    index: int
    operator: Matrix | Diagonal | Evolution
    form: int
    param: int
    cotangent: int
    diagonal: bool
    dim: int


@dataclass(frozen=True)
class Inversion:
    """How coefficients become those of the inverse gates: ``coefficients[source] * sign``."""

    source: NDArray
    sign: NDArray


@dataclass(frozen=True)
class Plan:
    """All tables of one program in one mode; see ``table.py`` for the columns.

    ``shared_constants`` holds the coefficients of constant gates, zero for all others. The first operations make a
    product state from zeros if there are ``product_bits``, the bit of each of them; see ``product.py``.
    """

    operations: tuple[Operation, ...]
    ops: NDArray
    bits: NDArray
    comps: NDArray
    factors: NDArray
    constants: NDArray
    shared_constants: NDArray
    shared_inversion: Inversion
    lane_inversion: Inversion
    num_lane_coefficients: int
    num_shared_cotangents: int
    num_lane_cotangents: int
    externals: tuple[External, ...]
    sweeps: tuple[Sweep, ...]
    buffer_rows: int
    product_bits: NDArray

    def room(self, width: int) -> int:
        """Numbers in the largest tile of all sweeps, of at least ``width`` lanes."""
        return max(len(s.rows) * max(width, len(s.lanes)) for s in self.sweeps)


def build_plan(
    operations: Sequence[Operation], num_wires: int, options: PlanOptions | None, from_zeros: bool = False
) -> Plan:
    """Schedule operations and tabulate them.

    Args:
        operations: in the order of application
        num_wires: bits of a state index
        options: sizes of sweep mode; ``None`` for one tile that is the whole state
        from_zeros: whether the state before is zero on every wire
    """
    product: list[Operation] = []
    if options is None:
        one = np.zeros(1, np.int64)
        rest = list(operations)
        if from_zeros:
            product, rest = split_product(operations)
        ordered = [*product, *rest]
        sweeps = [Sweep.of(len(product), len(ordered), np.arange(1 << num_wires), one, one)]
    else:
        choices = range(options.lane_bits, min(options.lane_bits, options.register_bits) - 1, -1)
        schedules = [schedule(operations, num_wires, options.active, lane_bits) for lane_bits in choices]
        ordered, sweeps = min(schedules, key=lambda s: len(s[1]))
    return _tabulate(ordered, sweeps, len(product))


def split_product(operations: Sequence[Operation]) -> tuple[list[Operation], list[Operation]]:
    """The operations on one bit each that come before anything else on that bit, and the others."""
    product: list[Operation] = []
    rest: list[Operation] = []
    met = 0
    for op in operations:
        if len(op.targets) == op.support.bit_count() == 1 and not (op.cmask or op.support & met):
            product.append(op)
        else:
            met |= op.support
            rest.append(op)
    return product, rest


def offsets(mask: int) -> NDArray:
    """All indices made of the bits of ``mask``, ascending, shape ``(2**popcount,)``."""
    out = np.zeros(1, np.int64)
    for b in range(mask.bit_length()):
        if mask >> b & 1:
            out = np.concatenate([out, out | 1 << b])
    return out


def schedule(
    operations: Sequence[Operation], num_wires: int, active_limit: int, lane_bits: int
) -> tuple[list[Operation], list[Sweep]]:
    """Greedy: a sweep takes each operation that commutes with those left behind and whose bits fit.

    Args:
        operations: in the order of application
        num_wires: bits of a state index
        active_limit: row bits of a tile
        lane_bits: bits of a tile that no operation of the sweep touches

    Returns:
        the operations in their new order, and the sweeps
    """
    everything = (1 << num_wires) - 1
    free_bits = max(num_wires - lane_bits, 1)
    active_limit = min(active_limit, free_bits)
    pending = list(operations)
    ordered: list[Operation] = []
    sweeps: list[Sweep] = []
    while pending or not sweeps:
        active = used = blocked_active = blocked_diagonal = 0
        taken: list[Operation] = []
        rest: list[Operation] = []
        for op in pending:
            free = not (op.active & (blocked_active | blocked_diagonal) or op.diagonal & blocked_active)
            touched = used | op.active | op.diagonal
            fits = (active | op.active).bit_count() <= active_limit and touched.bit_count() <= free_bits
            if free and (fits or not taken):  # an operation too wide for any sweep gets one with fewer lanes
                active |= op.active
                used = touched
                taken.append(op)
            else:
                blocked_active |= op.active
                blocked_diagonal |= op.diagonal
                rest.append(op)
        lanes = _lowest(everything & ~used, lane_bits)
        active |= _lowest(everything & ~(active | lanes), active_limit - active.bit_count())
        start = len(ordered)
        ordered += taken
        tiles = everything & ~(active | lanes)
        sweeps.append(Sweep.of(start, len(ordered), offsets(active), offsets(lanes), offsets(tiles)))
        pending = rest
    return ordered, sweeps


def _lowest(mask: int, count: int) -> int:
    """The lowest ``count`` bits of ``mask``, or all if there are fewer."""
    out = 0
    while mask and count > 0:
        bit = mask & -mask
        out |= bit
        mask ^= bit
        count -= 1
    return out


# ------------------------------------------------------------------ tables


class _Tables:
    """The tables under construction."""

    def __init__(self) -> None:
        self.ops: list[list[int]] = []
        self.bits: list[int] = []
        self.comps: list[list[int]] = []
        self.factors: list[list[int]] = []
        self.constants: list[complex] = []
        self.values: list[NDArray] = []
        self.sources: tuple[list[NDArray], list[NDArray]] = ([], [])
        self.signs: tuple[list[NDArray], list[NDArray]] = ([], [])
        self.coefficients = [0, 0]
        self.cotangents = [0, 0]
        self.externals: list[External] = []

    def add(self, op: Operation, rows_mask: int) -> None:
        form = LANES if op.lanes else SHARED
        param, cotangent = self.coefficients[form], self.cotangents[form]
        size = op.num_coefficients
        self.coefficients[form] += 2 * size
        parametric = op.composition is not None or op.external is not None
        self.cotangents[form] += (1 if op.kind == PAULI else 2 * size) if parametric else 0
        self._coefficients(op, form, param, size)
        local = {b: i for i, b in enumerate(b for b in range(rows_mask.bit_length()) if rows_mask >> b & 1)}

        def rows(mask: int) -> int:
            return sum(1 << i for b, i in local.items() if mask >> b & 1)

        outside, target = ~rows_mask, 0
        if op.kind in (DENSE, DIAGONAL):
            target = len(self.bits)
            self.bits += [local[b] for b in op.targets] if op.kind == DENSE else list(op.targets)
        distinct = rows(op.support)
        self.ops.append(
            [
                op.kind, form, len(op.targets), target, rows(op.cmask), rows(op.cval), rows(op.xmask), rows(op.zmask),
                op.num_y, op.cmask & outside, op.cval & outside, op.zmask & outside,
                distinct & -distinct or 1 << len(local), param, cotangent,
            ]
        )  # fmt: skip
        index = len(self.ops) - 1
        if op.composition is not None:
            self._composition(op, form, param, cotangent, size, index)
        elif op.external is not None:
            diagonal, dim = isinstance(op.external, Diagonal), 2 ** len(op.targets)
            self.externals.append(External(index, op.external, form, param, cotangent, diagonal, dim))

    def _coefficients(self, op: Operation, form: int, param: int, size: int) -> None:
        """Constants, and how the coefficients are inverted: transposed where there is a matrix, and conjugated."""
        if form == SHARED:
            value = np.zeros(size, complex)
            if op.constant is not None:
                value[:] = np.reshape(op.constant, -1)
            self.values.append(value.view(float))
        entries = np.arange(size)
        if op.kind in (U2, DENSE):
            dim = 2 ** len(op.targets)
            entries = entries.reshape(dim, dim).T.reshape(-1)
        self.sources[form].append((param + 2 * entries[:, None] + np.array([0, 1])).reshape(-1))
        self.signs[form].append(np.tile([1.0, -1.0], size))

    def _composition(self, op: Operation, form: int, param: int, cotangent: int, size: int, index: int) -> None:
        first = len(self.factors)
        for f in op.factors:
            assert f.angle is not None
            entries = f.terms
            if op.composition == SPECTRUM and op.kind == DIAGONAL:
                entries = np.diagonal(f.terms, axis1=1, axis2=2)
            self.factors.append([f.angle.index, f.angle.batched, len(self.constants), len(f.eigenvalues)])
            self.constants += [*f.eigenvalues, *np.asarray(entries, complex).reshape(-1)]
        assert op.composition is not None
        self.comps.append([op.composition, form, first, len(self.factors), param, cotangent, size, index])

    def inversion(self, form: int) -> Inversion:
        source = np.concatenate([np.zeros(0, np.int64), *self.sources[form]])
        return Inversion(source, np.concatenate([np.zeros(0), *self.signs[form]]))


def _tabulate(operations: list[Operation], sweeps: list[Sweep], num_product: int) -> Plan:
    tables = _Tables()
    for sweep in sweeps:
        mask = int(np.bitwise_or.reduce(sweep.rows))
        for op in operations[0 if sweep is sweeps[0] else sweep.start : sweep.stop]:
            tables.add(op, mask)

    def table(rows: list[list[int]], columns: int) -> NDArray:
        return np.array(rows, np.int64).reshape(-1, columns)

    widest = max((2 ** len(op.targets) for op in operations if op.kind == DENSE), default=1)
    return Plan(
        operations=tuple(operations),
        ops=table(tables.ops, OP_COLUMNS),
        bits=np.array([*tables.bits, 0], np.int64),
        comps=table(tables.comps, COMP_COLUMNS),
        factors=table(tables.factors, FACTOR_COLUMNS),
        constants=np.array(tables.constants, complex),
        shared_constants=np.concatenate([np.zeros(0), *tables.values]),
        shared_inversion=tables.inversion(SHARED),
        lane_inversion=tables.inversion(LANES),
        num_lane_coefficients=tables.coefficients[LANES],
        num_shared_cotangents=tables.cotangents[SHARED],
        num_lane_cotangents=tables.cotangents[LANES],
        externals=tuple(tables.externals),
        sweeps=tuple(sweeps),
        buffer_rows=2 * widest,
        product_bits=np.array([op.support.bit_length() - 1 for op in operations[:num_product]], np.int64),
    )
