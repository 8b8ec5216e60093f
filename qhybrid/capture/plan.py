"""A compiled prologue: few vector operations from argument leaves to slot values.

Sources live in two stores: a vector ``(V,)`` and, if the circuit has batched angles, a matrix ``(M, batch)`` with the
batch last, so that one batched angle is one row. Values that do not fit rows of the matrix are gathered number by
number; that is slower and never wrong. :mod:`qhybrid.capture.scheduling` makes plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.capture.hosts import Host
from qhybrid.capture.replay import cast, evaluate, substitute
from qhybrid.capture.tracer import Node
from qhybrid.gradients import Block
from qhybrid.program import Angle


@dataclass(frozen=True, slots=True)
class Piece:
    """Numbers taken from one store: all of it, a slice, or by a constant index (a position in ``Plan.constants``).

    ``part`` takes them from that addition to the stores alone, flat, so that the result depends on nothing else.
    """

    store: str
    index: int | slice | None
    shape: tuple[int, ...] | None = None
    part: int | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """``scale * pieces + offset``; a vector ``(n,)`` or a matrix ``(rows, batch or 1)``.

    Several pieces are put under each other and then ordered by ``order``; ``shape`` is what the result is made to be.
    """

    pieces: tuple[Piece, ...]
    order: int | None = None
    scale: int | None = None
    offset: int | None = None
    columns: int | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Elementwise:
    """One function applied to all numbers of many nodes at once; the result joins a store."""

    name: str
    operands: tuple[Gather, ...]
    store: str
    columns: int | None


@dataclass(frozen=True, slots=True)
class Load:
    """A folded value put back into an array of the recorded shape, for a replayed node."""

    gather: Gather
    shape: tuple[int, ...]
    layout: str
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Replay:
    """A node that runs as recorded; ``layout`` says how its result joins a store, ``None`` if it does not."""

    index: int
    node: Node
    loads: tuple[tuple[int, Load], ...]
    layout: str | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """An argument or captured tensor that the plan reads."""

    index: int
    position: int | None
    tensor: Any
    layout: str | None


@dataclass(frozen=True)
class Plan:
    """A compiled prologue.

    Args:
        dtype: real dtype of the slots
        constants: index, scale and offset arrays
        leaves: what is read
        steps: what is computed, in order
        shared, batched: the rows of the slots
        arrays: whole arrays: a node, or a constant
        batch_size: number of samples
        origins: for messages, what each shared and batched row is made of
        blocks: if every angle is a number of a leaf, scaled and shifted: how the shared angles and the batched ones
            are gathered from the leaves
        sources: the leaves of all blocks in turn
    """

    dtype: np.dtype
    constants: tuple[NDArray, ...]
    leaves: tuple[Leaf, ...]
    steps: tuple[Elementwise | Replay, ...]
    shared: Gather | None
    batched: Gather | None
    arrays: tuple[int | NDArray, ...]
    batch_size: int | None
    loads: tuple[tuple[int, Load], ...]
    origins: tuple[tuple[Any, ...], tuple[Any, ...]]
    blocks: tuple[Block, ...] = ()
    sources: tuple[Leaf, ...] = ()

    def run(self, values: Sequence[Any], host: Host) -> tuple[Any, ...]:
        """Slot values for leaf ``values``: shared and batched rows if there are any, then the arrays."""
        stores = _Stores(host, self.batch_size)
        nodes: dict[int, Any] = {}
        for leaf in self.leaves:
            value = host.read(leaf.tensor) if leaf.position is None else values[leaf.position]
            nodes[leaf.index] = value
            if leaf.layout is not None:
                stores.add(host.array(value), leaf.layout)
        for step in self.steps:
            if type(step) is Elementwise:
                result = host.function(step.name)(*[stores.gather(g) for g in step.operands])
                if step.columns is not None:
                    result = stores.widen(result, step.columns)
                stores.append(result, step.store)
            else:
                self._replay(step, stores, nodes, host)
        results = []
        if self.shared is not None:
            results.append(stores.gather(self.shared))
        if self.batched is not None:
            results.append(stores.widen(stores.gather(self.batched), self.batch_size))
        for index, load in self.loads:
            nodes[index] = stores.load(load)
        results += [host.whole(nodes[a] if isinstance(a, int) else a) for a in self.arrays]
        return tuple(results)

    def _replay(self, step: Any, stores: _Stores, nodes: dict[int, Any], host: Host) -> None:
        local = {index: stores.load(load) for index, load in step.loads}
        value = {**nodes, **local}.__getitem__
        node = step.node
        args, kwargs = substitute(node.args, value), substitute(node.kwargs, value)
        result = evaluate(node.kind, node.function, args, kwargs, host.name)
        nodes[step.index] = result
        if step.layout is not None:
            stores.add(host.array(result), step.layout)

    def untouched(self, trained: frozenset[int]) -> frozenset[Angle]:
        """Angles that depend on none of the leaves ``trained``; those of captured tensors are never among them."""
        found = set()
        for batched, rows in enumerate(self.origins):
            for index, origin in enumerate(rows):
                sources = origin if isinstance(origin, frozenset) else {origin[0]} if origin is not None else set()
                if None not in sources and not trained & sources:
                    found.add(Angle(index, bool(batched)))
        return frozenset(found)

    def describe(self, batched: bool, index: int, names: Sequence[str]) -> str:
        """What feeds one row, as in ``weights[1, 2]`` or ``a function of x, w``."""
        origin = self.origins[int(batched)][index]
        if origin is None:
            return "a constant"
        if isinstance(origin, frozenset):
            labels = sorted("a captured tensor" if i is None else names[i] for i in origin)
            return f"a function of {', '.join(dict.fromkeys(labels))}"
        position, where = origin
        name = "a captured tensor" if position is None else names[position]
        return f"{name}[{where}]" if where else name


class _Stores:
    """The two stores while a plan runs."""

    __slots__ = ("additions", "batch_size", "host", "joined", "parts")

    def __init__(self, host: Host, batch_size: int | None) -> None:
        self.host, self.batch_size = host, batch_size
        self.parts: dict[str, list[Any]] = {"vector": [], "matrix": []}
        self.joined: dict[str, Any] = {}
        self.additions: list[Any] = []

    def add(self, value: Any, layout: str) -> None:
        """Append an array of any shape in its layout."""
        if layout == "vector":
            self.append(value if len(value.shape) == 1 else value.reshape(-1), "vector")
            return
        if layout == "leading" and len(value.shape) > 1:
            value = self.host.move_batch(value, 0, -1)
        if len(value.shape) != 2:
            value = value.reshape((math.prod(value.shape[:-1]), self.batch_size))
        self.append(value, "matrix")

    def append(self, value: Any, store: str) -> None:
        """Append a vector or a matrix that already has the store's form."""
        self.parts[store].append(value)
        self.additions.append(value)
        self.joined.clear()

    def whole(self, store: str) -> Any:
        """Everything in a store; ``"all"`` is both, flat."""
        found = self.joined.get(store)
        if found is None:
            if store == "all":
                parts = [self.whole(s).reshape(-1) for s in ("vector", "matrix") if self.parts[s]]
                found = parts[0] if len(parts) == 1 else self.host.concatenate(parts, 0)
            else:
                parts = self.parts[store]
                found = parts[0] if len(parts) == 1 else self.host.concatenate(parts, 0)
                self.parts[store] = [found]
            self.joined[store] = found
        return found

    def gather(self, gather: Gather) -> Any:
        """Take, order and scale."""
        constants, host = self.host.constants, self.host
        if len(gather.pieces) == 1:
            result = self._piece(gather.pieces[0])
        else:
            parts = [self.widen(self._piece(p), gather.columns) for p in gather.pieces]
            result = host.concatenate(parts, 0)
        if gather.order is not None:
            result = host.take(result, constants[gather.order])
        if gather.scale is not None:
            result = result * constants[gather.scale]
        if gather.offset is not None:
            result = result + constants[gather.offset]
        return result if gather.shape is None else result.reshape(gather.shape)

    def _piece(self, piece: Piece) -> Any:
        index = piece.index
        if piece.store == "none":
            return self.host.constants[index]  # type: ignore[index]
        result = self.whole(piece.store) if piece.part is None else self.additions[piece.part].reshape(-1)
        if type(index) is slice:
            if index != slice(0, result.shape[0]) and index != slice(0, result.shape[0], 1):
                result = result[index]
        elif index is not None:
            result = self.host.take(result, self.host.constants[index])
        return result if piece.shape is None else result.reshape(piece.shape)

    def widen(self, matrix: Any, columns: int | None) -> Any:
        """A matrix with one column repeated to ``columns``."""
        if columns is None or matrix.shape[-1] == columns:
            return matrix
        return self.host.broadcast(matrix, (matrix.shape[0], columns))

    def load(self, load: Load) -> Any:
        """A folded value as an array of its recorded shape and dtype."""
        value = self.gather(load.gather)
        if load.layout == "vector" or load.layout == "trailing":
            value = value.reshape(load.shape)
        else:
            value = self.widen(value, self.batch_size).reshape((*load.shape[1:], load.shape[0]))
            value = self.host.move_batch(value, -1, 0)
        return value if load.dtype is None else cast(value, load.dtype)
