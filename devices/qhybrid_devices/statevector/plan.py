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
    FLIP,
    LANES,
    OP_COLUMNS,
    PAULI,
    SHARED,
    SPECTRUM,
    U2,
)
from qhybrid_devices.statevector.tilings import Tiling, schedule

#: Row bits of a tile: fewer make too many sweeps whatever the cache, more gain nothing.
MIN_ROW_BITS, MAX_ROW_BITS = 7, 11
#: Smallest tile in tile mode, in bytes.
MIN_TILE = 1 << 16


@dataclass(frozen=True)
class PlanOptions:
    """Sizes that decide how a program is laid out.

    Args:
        tile_wires: largest number of wires for which lanes are samples
        tile_batch: smallest batch for which lanes are samples
        sweep_wires: smallest number of wires for which lanes are qubits
        row_bits: row bits of a sweep's tile
        register_bits: lane bits of a sweep's tile, those that fill a register
        tile_lanes: fewest registers of lanes, when samples are spread over threads
        tile_bytes: target size of one state's tile in tile mode
        group_bytes: largest size of the states of the samples that are in memory together, or of their tangents
        directions, direction_bytes: most directions along which states have their tangents at once; more if the
            tangents of a sample take less
        residual_bytes: largest final state that ``run_with_residual`` keeps
        copied_bytes: largest final state that further derivatives of a run copy; a larger one they compute anew
        parallel_work: updated amplitudes below which one thread is faster, a part of it where states are in pieces
    """

    tile_wires: int = 12
    tile_batch: int = 4
    sweep_wires: int = 6
    row_bits: int = 11
    register_bits: int = 3
    tile_lanes: int = 2
    tile_bytes: int = 1 << 19
    group_bytes: int = 1 << 28
    directions: int = 32
    direction_bytes: int = 1 << 24
    residual_bytes: int = 1 << 28
    copied_bytes: int = 1 << 22
    parallel_work: int = 1 << 17

    @classmethod
    def of_machine(cls, dtype: np.dtype) -> PlanOptions:
        """Sizes for planes of that dtype and the cache of this machine.

        A tile takes an eighth of it where lanes are amplitudes, and a quarter where they are samples; lambda's as much.
        """
        cache = memory.cache_bytes()
        rows = cache // 8 // (2 * REGISTER_BYTES)
        row_bits = min(max(rows.bit_length() - 1, MIN_ROW_BITS), MAX_ROW_BITS)
        register_bits = (REGISTER_BYTES // dtype.itemsize).bit_length() - 1
        return cls(row_bits=row_bits, register_bits=register_bits, tile_bytes=max(cache // 4, MIN_TILE))


@dataclass(frozen=True)
class Sweep:
    """Operations ``start .. stop - 1`` on tiles; ``order`` lists them and ``backwards`` the same, last one first."""

    start: int
    stop: int
    tiling: Tiling
    order: NDArray
    backwards: NDArray

    @classmethod
    def of(cls, start: int, stop: int, tiling: Tiling) -> Sweep:
        """A sweep over a range of operations."""
        order = np.arange(start, stop)
        return cls(start, stop, tiling, order, order[::-1].copy())

    def undone(self, stop: int) -> NDArray:
        """The operations from the last one back to ``stop``."""
        return self.backwards[: max(0, self.stop - max(stop, self.start))]


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
    num_lane_coefficients: int
    num_shared_cotangents: int
    num_lane_cotangents: int
    externals: tuple[External, ...]
    sweeps: tuple[Sweep, ...]
    buffer_rows: int
    product_bits: NDArray
    most_terms: int
    most_factors: int

    def products_undone(self, stop: int) -> NDArray:
        """The bits of all product operations if the reverse pass down to ``stop`` meets one, else of none."""
        return self.product_bits if stop < len(self.product_bits) else self.product_bits[:0]


def build_plan(
    operations: Sequence[Operation], num_wires: int, options: PlanOptions | None, from_zeros: bool = False
) -> Plan:
    """Schedule operations and tabulate them.

    Args:
        operations: in the order of application
        num_wires: bits of a state index
        options: sizes of tiles of amplitudes; ``None`` where lanes are samples
        from_zeros: whether the state before is zero on every wire
    """
    if options is not None:
        parts = schedule(operations, num_wires, options.row_bits, options.register_bits)
        return _tabulate(parts, 0)
    product, rest = split_product(operations) if from_zeros else ([], list(operations))
    return _tabulate([(Tiling.whole(num_wires), [*product, *rest])], len(product))


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
        self.coefficients = [0, 0]
        self.cotangents = [0, 0]
        self.externals: list[External] = []

    def add(self, op: Operation, tiling: Tiling) -> None:
        form = LANES if op.lanes else SHARED
        param, cotangent = self.coefficients[form], self.cotangents[form]
        size = op.num_coefficients
        self.coefficients[form] += 2 * size
        parametric = op.composition is not None or op.external is not None
        self.cotangents[form] += (1 if op.kind == PAULI else 2 * size) if parametric else 0
        if form == SHARED:
            value = np.zeros(size, complex)
            if op.constant is not None:
                value[:] = np.reshape(op.constant, -1)
            self.values.append(value.view(float))
        target = len(self.bits)
        if op.kind == DIAGONAL:
            self.bits += op.targets
        elif op.kind == DENSE:
            self.bits += [tiling.row(1 << b).bit_length() - 1 for b in op.targets]
        x, z = (tiling.row(op.xmask), tiling.row_signs(op.zmask)) if op.kind in (U2, FLIP, PAULI) else (0, 0)
        self.ops.append(
            [
                op.kind, form, len(op.targets), target,
                op.cmask & ~tiling.lane_mask, op.cval & ~tiling.lane_mask, x, z, op.num_y,
                op.support & -op.support or 1 << len(tiling.basis), param, cotangent,
                op.zmask, tiling.lane(op.xmask), tiling.lane(op.zmask), tiling.lane(op.cmask), tiling.lane(op.cval),
                *_pairs(x, z, len(tiling.basis)), op.is_free,
            ]
        )  # fmt: skip
        index = len(self.ops) - 1
        if op.composition is not None:
            self._composition(op, form, param, cotangent, size, index)
        elif op.external is not None:
            diagonal, dim = isinstance(op.external, Diagonal), 2 ** len(op.targets)
            self.externals.append(External(index, op.external, form, param, cotangent, diagonal, dim))

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


def _pairs(x: int, z: int, row_bits: int) -> tuple[int, int, int, int]:
    """How to count the rows that stand for a pair: FIRST, SECOND, FIX and COUNT, see ``paired_row``."""
    kept = [x.bit_length() - 1] if x else []
    fix = 0
    if (x & z).bit_count() & 1:
        fix = x
    elif z:
        made = (z & ~(1 << kept[0]) if kept else z).bit_length() - 1
        kept.append(made)
        fix = 1 << made
    below = [(1 << b) - 1 for b in sorted(kept)]
    first, second = [*below, -1, -1][:2]
    return first, second, fix, 1 << row_bits - len(kept)


def _tabulate(parts: Sequence[tuple[Tiling, list[Operation]]], num_product: int) -> Plan:
    tables = _Tables()
    operations: list[Operation] = []
    sweeps: list[Sweep] = []
    buffer_rows = 1
    for tiling, own in parts:
        sweeps.append(Sweep.of(len(operations) + (0 if sweeps else num_product), len(operations) + len(own), tiling))
        operations += own
        for op in own:
            tables.add(op, tiling)
            buffer_rows = max(buffer_rows, _buffer_rows(op, len(tiling.basis)))

    def table(rows: list[list[int]], columns: int) -> NDArray:
        return np.array(rows, np.int64).reshape(-1, columns)

    return Plan(
        operations=tuple(operations),
        ops=table(tables.ops, OP_COLUMNS),
        bits=np.array([*tables.bits, 0], np.int64),
        comps=table(tables.comps, COMP_COLUMNS),
        factors=table(tables.factors, FACTOR_COLUMNS),
        constants=np.array(tables.constants, complex),
        shared_constants=np.concatenate([np.zeros(0), *tables.values]),
        num_lane_coefficients=tables.coefficients[LANES],
        num_shared_cotangents=tables.cotangents[SHARED],
        num_lane_cotangents=tables.cotangents[LANES],
        externals=tuple(tables.externals),
        sweeps=tuple(sweeps),
        buffer_rows=buffer_rows,
        product_bits=np.array([op.support.bit_length() - 1 for op in operations[:num_product]], np.int64),
        most_terms=max((terms for *_, terms in tables.factors), default=0),
        most_factors=max((len(op.factors) for op in operations), default=0),
    )


def _buffer_rows(op: Operation, row_bits: int) -> int:
    """Registers that a kernel needs to work in."""
    if op.kind == DENSE:
        return 2 << len(op.targets)
    return 4 << min(len(op.targets), row_bits) if op.kind == DIAGONAL else 1
