"""How a large state is cut into tiles, and which operations share a sweep over them.

An operation moves amplitudes by some flips, masks ``x`` of an index, and it reads the parities of some masks ``z``;
CNOTs have become part of these masks (see ``Frame``). Flips add up modulo 2, so a tile that is closed under the flips
of a sweep's operations is a coset of the space that they span, whatever bits they touch. What an operation only reads
may lie outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.statevector.operations import Operation
from qhybrid_devices.statevector.table import DENSE


class Span:
    """A space of masks over addition modulo 2, by vectors with different highest bits."""

    def __init__(self, vectors: Iterable[int] = ()) -> None:
        self.by_pivot: dict[int, int] = {}
        for v in vectors:
            self.add(v)

    def reduced(self, v: int) -> int:
        """What is left of a mask outside of the space; zero if it is in it."""
        while v and (known := self.by_pivot.get(v.bit_length())):
            v ^= known
        return v

    def add(self, v: int) -> None:
        """Make the space include a mask."""
        if rest := self.reduced(v):
            self.by_pivot[rest.bit_length()] = rest

    def echelon(self) -> tuple[int, ...]:
        """A basis in which each vector's highest bit is in no other; ascending."""
        out: list[int] = []
        for pivot in sorted(self.by_pivot):
            v = self.by_pivot[pivot]
            for u in reversed(out):
                if v >> (u.bit_length() - 1) & 1:
                    v ^= u
            out.append(v)
        return tuple(out)

    def __len__(self) -> int:
        return len(self.by_pivot)


@dataclass(frozen=True)
class Tiling:
    """An index as the sum modulo 2 of a row, a lane and a tile.

    Args:
        num_wires: bits of an index
        basis: row ``j`` is the sum of those ``basis[k]`` for which bit ``k`` of ``j`` is set; in echelon form
        lane_bits: bit ``i`` of a lane is bit ``lane_bits[i]`` of the index
    """

    num_wires: int
    basis: tuple[int, ...]
    lane_bits: tuple[int, ...] = ()

    @classmethod
    def whole(cls, num_wires: int) -> Tiling:
        """All of a state in rows."""
        return cls(num_wires, tuple(1 << b for b in range(num_wires)))

    @cached_property
    def rows(self) -> NDArray:
        """Indices of the rows."""
        return sums(self.basis)

    @cached_property
    def lanes(self) -> NDArray:
        """Indices of the lanes."""
        return sums([1 << b for b in self.lane_bits])

    @cached_property
    def tiles(self) -> NDArray:
        """Indices of the tiles: all that have none of the rows' highest bits, and no lane bits."""
        taken = {b.bit_length() - 1 for b in self.basis} | set(self.lane_bits)
        return sums([1 << b for b in range(self.num_wires) if b not in taken])

    @property
    def lane_mask(self) -> int:
        """The lane bits as a mask of an index."""
        return sum(1 << b for b in self.lane_bits)

    def is_state(self, register_lanes: int) -> bool:
        """Whether there is one tile, the state as it lies in memory."""
        in_order = self.lane_bits == tuple(range(len(self.lane_bits)))
        return in_order and len(self.lanes) == register_lanes and len(self.tiles) == 1

    def row(self, x: int) -> int:
        """Which row an index is in that is a sum of rows and lanes."""
        out, x = 0, x & ~self.lane_mask
        for k, vector in reversed(list(enumerate(self.basis))):
            if x >> (vector.bit_length() - 1) & 1:
                out, x = out | 1 << k, x ^ vector
        assert not x
        return out

    def row_signs(self, z: int) -> int:
        """The bits of a row whose parity is that of the row's index under a mask."""
        return sum(((z & vector).bit_count() & 1) << k for k, vector in enumerate(self.basis))

    def lane(self, mask: int) -> int:
        """The bits of a mask that are lane bits, as bits of a lane."""
        return sum((mask >> b & 1) << i for i, b in enumerate(self.lane_bits))


def sums(vectors: Sequence[int]) -> NDArray:
    """All sums modulo 2 of some masks: entry ``j`` adds those for which a bit of ``j`` is set."""
    out = np.zeros(1, np.int64)
    for v in vectors:
        out = np.concatenate([out, out ^ v])
    return out


# ------------------------------------------------------------------ sweeps


def schedule(
    operations: Sequence[Operation], num_wires: int, row_bits: int, register_bits: int
) -> list[tuple[Tiling, list[Operation]]]:
    """Greedy: a sweep takes each operation that commutes with those left behind and whose flips fit in a tile.

    Args:
        operations: in the order of application
        num_wires: bits of an index
        row_bits: dimension of the rows of a tile
        register_bits: lane bits of a tile

    Returns:
        the sweeps: for each its tiling, and its operations
    """
    pending = list(operations)
    sweeps: list[tuple[Tiling, list[Operation]]] = []
    while pending or not sweeps:
        lane_bits = _lanes(pending[:1], num_wires, register_bits)
        lanes = sum(1 << b for b in lane_bits)
        rows, behind = Span(), Span()
        taken: list[Operation] = []
        rest: list[Operation] = []
        for op in pending:
            wider = _with_flips(rows, op, lanes) if _commutes(op, behind, num_wires) else None
            if wider is not None and (len(wider) <= row_bits or not taken):
                rows = wider
                taken.append(op)
            else:
                for x, z in op.generators:
                    behind.add(x << num_wires | z)
                rest.append(op)
        for b in range(num_wires):
            if len(rows) < row_bits and b not in lane_bits:
                rows.add(1 << b)
        sweeps.append((Tiling(num_wires, rows.echelon(), lane_bits), taken))
        pending = rest
    return sweeps


def _lanes(first: Sequence[Operation], num_wires: int, register_bits: int) -> tuple[int, ...]:
    """The lowest bits, but for those of a dense matrix that comes first: its kernel wants its bits in rows."""
    dense = {b for op in first if op.kind == DENSE for b in op.targets}
    return tuple([b for b in range(num_wires) if b not in dense][:register_bits])


def _with_flips(rows: Span, op: Operation, lanes: int) -> Span | None:
    """The rows and an operation's flips; ``None`` if lanes are in its way."""
    if op.kind == DENSE and any(lanes >> b & 1 for b in op.targets):
        return None
    wider = Span()
    wider.by_pivot = dict(rows.by_pivot)
    for x in op.flips:
        wider.add(x & ~lanes)
    return wider


def _commutes(op: Operation, behind: Span, num_wires: int) -> bool:
    """Whether all that an operation may do commutes with all that is left behind: ``|x1 & z2| + |z1 & x2|`` is even."""
    swapped = [z << num_wires | x for x, z in op.generators]
    return not any((v & w).bit_count() & 1 for v in behind.by_pivot.values() for w in swapped)
