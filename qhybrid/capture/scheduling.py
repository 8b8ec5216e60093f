"""Compiling a traced graph into a :class:`~qhybrid.capture.plan.Plan`.

Elementwise steps of equal kind and depth are merged into one call over all their numbers, every source gets its place
in a store, and gathers are compiled to views where the numbers lie side by side.

What whole arrays are made of is kept apart from the rest: as part of one tensor with an angle, an array would seem to
be differentiated as soon as the angle is, and most gradient methods have no derivative of an array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.capture.folding import Elements, Folder, Pending, arrange, constant, layout_of
from qhybrid.capture.plan import Elementwise, Gather, Leaf, Load, Piece, Plan, Replay
from qhybrid.capture.replay import CAPTURED, INPUT, references
from qhybrid.capture.tracer import Graph, Tracer
from qhybrid.gradients import Arrangement, Block


class _Scheduler:
    """Second pass: merge steps, give every source its place in a store, and compile the gathers."""

    def __init__(self, folder: Folder, dtype: np.dtype, apart: dict[int, frozenset[int]]) -> None:
        self.folder, self.dtype, self.apart = folder, dtype, apart
        self.batch_size = folder.batch_size
        self.mixed = len(set(_dtypes(folder.graph, folder.elements))) > 1
        replayed = {p.index for group in folder.pending.values() for p in group if p.name is None}
        self.own = replayed | {p.index for p in folder.leaves}
        self.in_matrix = np.zeros(folder.size, dtype=bool)
        self.address = np.zeros(folder.size, dtype=np.int64)
        self.part = np.zeros(folder.size, dtype=np.int64)
        self.parts: list[tuple[int, int]] = []
        self.vector_size = 0
        self.matrix_rows = 0
        self.constants: list[NDArray] = []

    def leaf(self, pending: Pending) -> Leaf:
        """Place a leaf."""
        node = self.folder.graph.nodes[pending.index]
        captured = node.kind == CAPTURED
        if pending.layout is not None:
            self._place([pending])
        return Leaf(
            pending.index, None if captured else node.function, node.function if captured else None, pending.layout
        )

    def steps_of(self, pending: list[Pending]) -> list[Elementwise | Replay]:
        """The steps of one depth."""
        merged: dict[tuple, list[Pending]] = {}
        steps: list[Elementwise | Replay] = []
        for p in pending:
            if p.name is not None:
                merged.setdefault((p.name, p.layout == "vector", self.apart.get(p.index)), []).append(p)
        for (name, flat, sources), group in merged.items():
            operands = []
            for k in range(len(group[0].operands)):
                parts = [[arrange(getattr(p.operands[k], f), str(p.layout)) for p in group] for f in _FIELDS]
                elements = Elements(*(np.concatenate(p) for p in parts))
                gather = self.separate if sources is not None else self.vector if flat else self.matrix
                operands.append(gather(elements))
            self._place(group)
            store, columns = ("vector", None) if flat else ("matrix", self.batch_size)
            steps.append(Elementwise(name, tuple(operands), store, columns))
        steps.extend(self._replay(p) for p in pending if p.name is None)
        return steps

    def _replay(self, pending: Pending) -> Replay:
        node = self.folder.graph.nodes[pending.index]
        loads = tuple(
            (i, load)
            for i in sorted(references(node.args) | references(node.kwargs))
            if (load := self.load(i)) is not None
        )
        if pending.layout is not None:
            self._place([pending])
        return Replay(pending.index, node, loads, pending.layout)

    def load(self, index: int) -> Load | None:
        """How a replayed node gets the value of node ``index``; ``None`` if that value is at hand."""
        node, found = self.folder.graph.nodes[index], self.folder.elements[index]
        if self.is_source(index) or not isinstance(found, Elements):
            return None
        shape = found.ids.shape
        layout = layout_of(shape, self.batch_size)
        arranged = Elements(*(arrange(getattr(found, f), layout) for f in _FIELDS))
        if index in self.apart:
            gather = self.separate(arranged)
        else:
            gather = self.vector(arranged) if layout == "vector" else self.matrix(arranged, widen=True)
        return Load(gather, shape, layout, np.asarray(node.value).dtype.name if self.mixed else None)

    def is_source(self, index: int) -> bool:
        """Whether a node is a leaf or replayed, so that its own value exists at run time."""
        return index in self.own

    def _place(self, group: list[Pending]) -> None:
        begin = self.vector_size if group[0].layout == "vector" else self.matrix_rows * (self.batch_size or 0)
        for p in group:
            node = self.folder.graph.nodes[p.index]
            size = math.prod(np.shape(node.value))
            own = slice(p.start, p.start + size)
            self.part[own] = len(self.parts)
            if p.layout == "vector":
                found = self.folder.elements[p.index]
                assert isinstance(found, Elements)
                self.address[found.ids.reshape(-1)] = self.vector_size + np.arange(size)
                self.vector_size += size
            else:
                assert self.batch_size is not None
                self.in_matrix[own] = True
                self.address[own] = self.matrix_rows * self.batch_size + np.arange(size)
                self.matrix_rows += _rows(np.shape(node.value), str(p.layout))
        end = self.vector_size if group[0].layout == "vector" else self.matrix_rows * (self.batch_size or 0)
        self.parts.append((begin, end - begin))

    # gathers

    def separate(self, elements: Elements) -> Gather:
        """A gather of numbers in any shape that touches no part of a store but those it takes numbers from."""
        ids, shape = elements.ids.reshape(-1), elements.ids.shape
        scale, offset = elements.scale.reshape(-1), elements.offset.reshape(-1)
        fixed = ids < 0
        if fixed.all():
            return replace(self.vector(Elements(ids, scale, offset)), shape=shape)
        part = np.where(fixed, self.part[ids[~fixed][0]], self.part[ids])
        pieces, order = [], []
        for k in np.unique(part):
            rows = np.flatnonzero(part == k)
            begin, size = self.parts[k]
            where = np.where(fixed[rows], 0, self.address[ids[rows]] - begin)
            pieces.append(Piece("part", self._index(where, size), None, int(k)))
            order.append(rows)
        rows = np.concatenate(order)
        positions = None if np.array_equal(rows, np.arange(rows.size)) else self._keep(np.argsort(rows))
        constants = self._affine_constants(np.where(fixed, 0.0, scale), offset)
        return Gather(tuple(pieces), positions, *constants, shape=shape)

    def vector(self, elements: Elements) -> Gather:
        """A gather of ``(n,)`` numbers."""
        ids, fixed = elements.ids, elements.ids < 0
        if fixed.all() and ids.size:
            return Gather((Piece("none", self._keep(elements.offset.astype(self.dtype))),))
        store, where = self._flat(ids)
        piece = Piece(store, self._index(where, self._store_size(store)))
        scale, offset = np.where(fixed, 0.0, elements.scale), elements.offset
        return Gather((piece,), None, *self._affine_constants(scale, offset))

    def matrix(self, elements: Elements, widen: bool = False) -> Gather:
        """A gather of ``(rows, batch)`` numbers; one column if no row depends on the sample."""
        ids, scale, offset = elements.ids, elements.scale, elements.offset
        scale = np.where(ids < 0, 0.0, scale)
        kinds = np.array([self._row_kind(row) for row in ids], dtype=int)
        pieces, order = [], []
        for kind in (0, 1, 2):
            rows = np.flatnonzero(kinds == kind)
            if rows.size:
                pieces.append(self._piece(kind, ids[rows]))
                order.append(rows)
        narrow = len(pieces) == 1 and kinds[0] == 1
        if narrow and pieces[0].store == "none":
            return Gather((Piece("none", self._keep(_narrow(offset).astype(self.dtype))),), None)
        rows = np.concatenate(order) if order else np.zeros(0, int)
        positions = None if np.array_equal(rows, np.arange(rows.size)) else self._keep(np.argsort(rows))
        constants = self._affine_constants(_narrow(scale), _narrow(offset))
        columns = self.batch_size if len(pieces) > 1 or widen else None
        return Gather(tuple(pieces), positions, *constants, columns)

    def _row_kind(self, ids: NDArray) -> int:
        """0: a row of the matrix, 1: one number for all samples, 2: anything else."""
        if ids.size == 0:
            return 2
        if (ids == ids[0]).all() and (ids[0] < 0 or not self.in_matrix[ids[0]]):
            return 1
        if (ids < 0).any() or not self.in_matrix[ids].all():
            return 2
        where = self.address[ids]
        first = where[0]
        return 0 if first % len(ids) == 0 and (where == first + np.arange(len(ids))).all() else 2

    def _piece(self, kind: int, ids: NDArray) -> Piece:
        if kind == 0:
            return Piece("matrix", self._index(self.address[ids[:, 0]] // ids.shape[1], self.matrix_rows))
        if kind == 1:
            first = ids[:, 0]
            if (first < 0).all():
                return Piece("none", self._keep(np.zeros((len(first), 1), self.dtype)))
            where = np.where(first < 0, 0, self.address[first])
            return Piece("vector", self._index(where, self.vector_size), (len(first), 1))
        store, where = self._flat(ids.reshape(-1))
        return Piece(store, self._index(where, self._store_size(store)), ids.shape)

    def _flat(self, ids: NDArray) -> tuple[str, NDArray]:
        """The store, and the addresses in it, that hold ``ids``."""
        known = ids[ids >= 0]
        if known.size and not self.in_matrix[known].any():
            return "vector", np.where(ids < 0, 0, self.address[ids])
        shift = np.where(self.in_matrix[ids], self.vector_size, 0)
        return "all", np.where(ids < 0, 0, self.address[ids] + shift)

    def _store_size(self, store: str) -> int:
        return self.vector_size + (self.matrix_rows * (self.batch_size or 0) if store == "all" else 0)

    def _index(self, where: NDArray, size: int) -> int | slice | None:
        if where.size and (np.diff(where) == 1).all():
            whole = where[0] == 0 and where.size == size
            return None if whole else slice(int(where[0]), int(where[0]) + where.size)
        return self._keep(where.astype(np.int64))

    def _affine_constants(self, scale: NDArray, offset: NDArray) -> tuple[int | None, int | None]:
        return (
            None if (scale == 1).all() else self._keep(scale.astype(self.dtype)),
            None if (offset == 0).all() else self._keep(offset.astype(self.dtype)),
        )

    def _keep(self, array: NDArray) -> int:
        self.constants.append(array)
        return len(self.constants) - 1


_FIELDS = ("ids", "scale", "offset")


def _rows(shape: tuple[int, ...], layout: str) -> int:
    return math.prod(shape[1:] if layout == "leading" else shape[:-1])


def _narrow(array: NDArray) -> NDArray:
    """One column instead of many equal ones."""
    return array[:, :1] if array.shape[1] and (array == array[:, :1]).all() else array


def _dtypes(graph: Graph, needed: Any) -> list[np.dtype]:
    """Real dtypes of the needed nodes; Python floats follow the others."""
    found = []
    for index in needed:
        value = graph.nodes[index].value
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fc":
            found.append(np.zeros(0, value.dtype).real.dtype)
    return found


def _needed(graph: Graph, roots: Sequence[int]) -> list[int]:
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        index = stack.pop()
        if index not in seen:
            seen.add(index)
            stack += references(graph.nodes[index].args) | references(graph.nodes[index].kwargs)
    return sorted(seen)


def _sources(graph: Graph, roots: Sequence[int]) -> dict[int, frozenset[int]]:
    """The leaves that each node behind ``roots`` depends on."""
    found: dict[int, frozenset[int]] = {}
    for index in _needed(graph, roots):
        node = graph.nodes[index]
        inputs = references(node.args) | references(node.kwargs)
        found[index] = frozenset([index]) if not inputs else frozenset().union(*(found[i] for i in inputs))
    return found


def compile_plan(
    graph: Graph, shared: Sequence[Any], batched: Sequence[Any], arrays: Sequence[Any], values_only: bool = False
) -> Plan:
    """Compile what the roots need of a graph.

    Args:
        graph: a finished trace
        shared, batched, arrays: tracers of the graph, or NumPy constants
        values_only: whether only values count, not derivatives; then roots may be truth values
    """
    sizes = {np.shape(_value(r))[0] for r in batched}
    batch_size = sizes.pop() if sizes else None
    folder = Folder(graph, batch_size, values_only)
    traced = [r._index for r in (*shared, *batched, *arrays) if isinstance(r, Tracer)]
    needed = _needed(graph, traced)
    for index in needed:
        folder.visit(index)
    dtype = np.result_type(*(_dtypes(graph, needed) or [np.dtype(float)]))
    apart = _sources(graph, [r._index for r in arrays if isinstance(r, Tracer)])
    scheduler = _Scheduler(folder, dtype, apart)
    described = [[_describe_root(folder, r) for r in rows] for rows in (shared, batched)]
    leaves = tuple(scheduler.leaf(_flat_if_shared(folder, p, described[1])) for p in folder.leaves)
    steps = [s for depth in sorted(folder.pending) for s in scheduler.steps_of(folder.pending[depth])]
    loads = tuple(
        (r._index, load) for r in arrays if isinstance(r, Tracer) and (load := scheduler.load(r._index)) is not None
    )
    vector = scheduler.vector(_join_rows(described[0])) if shared else None
    matrix = scheduler.matrix(_join_rows(described[1]), widen=True) if batched else None
    gathers = (vector, matrix)
    blocks, sources = ((), ()) if steps or values_only else _blocks(graph, leaves, gathers, scheduler.constants)
    return Plan(
        dtype=dtype,
        leaves=leaves,
        steps=tuple(steps),
        shared=vector,
        batched=matrix,
        arrays=tuple(r._index if isinstance(r, Tracer) else np.asarray(r) for r in arrays),
        batch_size=batch_size,
        loads=loads,
        origins=tuple(tuple(_origin(folder, r) for r in rows) for rows in described),  # type: ignore[arg-type]
        constants=tuple(scheduler.constants),
        blocks=blocks,
        sources=sources,
    )


def _flat_if_shared(folder: Folder, leaf: Pending, batched: Sequence[Elements]) -> Pending:
    """A leaf that only looks like a batch, since an axis is as long as one, apart from those that are.

    Together they would be one tensor of the host, and a gradient of one would ask for that of the others.
    """
    if leaf.layout in (None, "vector") or folder.pending:
        return leaf
    stop = leaf.start + math.prod(np.shape(folder.graph.nodes[leaf.index].value))
    if any(((r.ids >= leaf.start) & (r.ids < stop)).any() for r in batched):
        return leaf
    return replace(leaf, layout="vector")


def _blocks(
    graph: Graph, leaves: Sequence[Leaf], gathers: Sequence[Gather | None], constants: Sequence[NDArray]
) -> tuple[tuple[Block, ...], tuple[Leaf, ...]]:
    """How shared and batched angles are numbers of leaves, and of which; nothing unless all of them are."""
    blocks: list[Block] = []
    sources: list[Leaf] = []
    for store, gather in zip(("vector", "matrix"), gathers, strict=True):
        if gather is None:
            continue
        own = [f for f in leaves if f.layout is not None and (f.layout == "vector") == (store == "vector")]
        piece = gather.pieces[0]
        if len(gather.pieces) > 1 or gather.order is not None or piece != Piece(store, piece.index):
            return (), ()
        arrangements = tuple(Arrangement(np.shape(graph.nodes[f.index].value), str(f.layout)) for f in own)
        if isinstance(piece.index, slice):
            index: NDArray | None = np.arange(piece.index.start, piece.index.stop)
        else:
            index = None if piece.index is None else constants[piece.index]
        scale, offset = (None if k is None else constants[k] for k in (gather.scale, gather.offset))
        blocks.append(Block(arrangements, index, scale, offset))
        sources += own
    return tuple(blocks), tuple(sources)


def _value(root: Any) -> Any:
    return root._value if isinstance(root, Tracer) else root


def _describe_root(folder: Folder, root: Any) -> Elements:
    if not isinstance(root, Tracer):
        return constant(root)
    found = folder.elements[root._index]
    if isinstance(found, Elements):
        return found.map(lambda a: a.reshape(())) if folder.values_only else found  # type: ignore[return-value]
    raise _not_a_number(folder, root)


def _not_a_number(folder: Folder, root: Tracer) -> Exception:
    return folder.graph.refuse(f"a gate angle has dtype {root.dtype}; it must be a floating-point number")


def _join_rows(rows: list[Elements]) -> Elements:
    return Elements(*(np.stack([getattr(r, f) for r in rows]) for f in _FIELDS))


def _origin(folder: Folder, row: Elements) -> Any:
    """What a row is made of: ``None``, one element of one leaf, or the set of leaves that feed it."""
    ids = np.unique(row.ids[row.ids >= 0])
    if not ids.size:
        return None
    for p in folder.leaves:
        if p.layout is None:
            continue
        node = folder.graph.nodes[p.index]
        size = math.prod(np.shape(node.value))
        if p.start <= ids[0] and ids[-1] < p.start + size:
            return (None if node.kind == CAPTURED else node.function, _where(p, np.shape(node.value), ids))
    by_start = sorted((p.start, p.index) for g in [folder.leaves, *folder.pending.values()] for p in g if p.layout)
    starts = np.array([s for s, _ in by_start])
    feeding = {by_start[k][1] for k in np.searchsorted(starts, ids, side="right") - 1}
    leaves = [folder.graph.nodes[i] for i in _needed(folder.graph, sorted(feeding))]
    return frozenset(None if n.kind == CAPTURED else n.function for n in leaves if n.kind in (INPUT, CAPTURED))


def _where(leaf: Pending, shape: tuple[int, ...], ids: NDArray) -> str:
    """The index of ``ids`` in a leaf of that shape; an axis along which they differ is ``:``."""
    if not shape:
        return ""
    if leaf.layout == "leading":  # numbered with the batch last
        *places, batch = np.unravel_index(ids - leaf.start, (*shape[1:], shape[0]))
        places = [batch, *places]
    else:
        places = list(np.unravel_index(ids - leaf.start, shape))
    return ", ".join(str(a[0]) if (a == a[0]).all() else ":" for a in places)
