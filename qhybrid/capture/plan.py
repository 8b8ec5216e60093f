"""Compiling a traced graph into vector operations.

Every number of the graph is described as ``scale * source[id] + offset``: moving data and arithmetic with constants are
folded into that description and cost nothing at run time. Elementwise functions of equal kind and depth are merged into
one call over all their numbers; any other step is replayed as it was recorded.

Sources live in two stores: a vector ``(V,)`` and, if the circuit has batched angles, a matrix ``(M, batch)`` with the
batch last, so that one batched angle is one row. A description that does not fit rows of the matrix is gathered number
by number; that is slower and never wrong.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.capture.hosts import Host
from qhybrid.capture.replay import (
    CALL,
    CAPTURED,
    INPUT,
    NUMPY,
    PACK,
    TORCH,
    Ref,
    cast,
    evaluate,
    numpy_function,
    references,
    substitute,
)
from qhybrid.capture.tracer import Graph, Node, Tracer

# ------------------------------------------------------------------ what a plan is made of


@dataclass(frozen=True, slots=True)
class Piece:
    """Numbers taken from one store: all of it, a slice, or by a constant index (a position in ``Plan.constants``)."""

    store: str
    index: int | slice | None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """``scale * pieces + offset``; a vector ``(n,)`` or a matrix ``(rows, batch or 1)``.

    Several pieces are put under each other and then ordered by ``order``.
    """

    pieces: tuple[Piece, ...]
    order: int | None = None
    scale: int | None = None
    offset: int | None = None
    columns: int | None = None


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
        value = lambda i: local[i] if i in local else nodes[i]  # noqa: E731
        node = step.node
        args, kwargs = substitute(node.args, value), substitute(node.kwargs, value)
        result = evaluate(node.kind, node.function, args, kwargs, host.name)
        nodes[step.index] = result
        if step.layout is not None:
            stores.add(host.array(result), step.layout)

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

    __slots__ = ("batch_size", "host", "joined", "parts")

    def __init__(self, host: Host, batch_size: int | None) -> None:
        self.host, self.batch_size = host, batch_size
        self.parts: dict[str, list[Any]] = {"vector": [], "matrix": []}
        self.joined: dict[str, Any] = {}

    def add(self, value: Any, layout: str) -> None:
        """Append an array of any shape in its layout."""
        if layout == "vector":
            self.append(value.reshape(-1) if value.shape != () else value.reshape(1), "vector")
            return
        if layout == "leading" and len(value.shape) > 1:
            value = self.host.move_batch(value, 0, -1)
        self.append(value.reshape((_size(value.shape[:-1]), self.batch_size)), "matrix")

    def append(self, value: Any, store: str) -> None:
        """Append a vector or a matrix that already has the store's form."""
        self.parts[store].append(value)
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
        return result

    def _piece(self, piece: Piece) -> Any:
        index = piece.index
        if piece.store == "none":
            return self.host.constants[index]  # type: ignore[index]
        result = self.whole(piece.store)
        if type(index) is slice:
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


def _size(shape: Sequence[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


# ------------------------------------------------------------------ folding


@dataclass(frozen=True, slots=True)
class Elements:
    """Numbers ``scale * source[ids] + offset``; an id of -1 is the constant ``offset`` alone."""

    ids: NDArray
    scale: NDArray
    offset: NDArray

    def map(self, function: Callable[[NDArray], Any]) -> Elements | list[Elements]:
        """Apply a function that only moves numbers; one that splits gives a list."""
        parts = [function(a) for a in (self.ids, self.scale, self.offset)]
        if isinstance(parts[0], list | tuple):
            return [Elements(*map(np.asarray, p)) for p in zip(*parts, strict=True)]
        return Elements(*map(np.asarray, parts))

    def broadcast(self, shape: tuple[int, ...]) -> Elements:
        """Repeated to ``shape``."""
        return Elements(*(np.broadcast_to(a, shape) for a in (self.ids, self.scale, self.offset)))


def _constant(value: Any) -> Elements:
    offset = np.asarray(value, dtype=float)
    return Elements(np.full(offset.shape, -1), np.zeros(offset.shape), offset)


_MOVES = {
    "reshape", "transpose", "squeeze", "expand_dims", "moveaxis", "swapaxes", "flip", "fliplr", "flipud", "roll",
    "take", "diagonal", "repeat", "tile", "broadcast_to", "atleast_1d", "atleast_2d", "atleast_3d", "split",
    "array_split", "ravel", "hsplit", "vsplit", "rollaxis", "rot90", "copy", "ascontiguousarray",
}  # fmt: skip
_JOINS = {"stack", "concatenate", "hstack", "vstack", "column_stack", "dstack"}
_TORCH_MOVES = {
    "reshape", "view", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "swapaxes", "movedim", "moveaxis",
    "flip", "roll", "narrow", "select", "index_select", "expand", "broadcast_to", "repeat", "tile", "repeat_interleave",
    "__getitem__", "unbind", "split", "chunk", "ravel", "diagonal", "clone", "contiguous", "view_as", "unflatten",
}  # fmt: skip
_TORCH_JOINS = {"stack", "cat", "concat", "concatenate", "hstack", "vstack", "column_stack"}
_ONE = {
    "sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "arcsin", "arccos", "arctan", "sinh", "cosh", "absolute",
    "square", "arcsinh", "arccosh", "arctanh", "log2", "log10", "log1p", "expm1", "sign", "floor", "ceil", "negative",
}  # fmt: skip
_TWO = {"add", "subtract", "multiply", "divide", "power", "arctan2", "maximum", "minimum", "hypot"}
_COMPARE = {"less", "less_equal", "greater", "greater_equal", "equal", "not_equal"}
_OPERATORS = {
    operator.add: "add", operator.sub: "subtract", operator.mul: "multiply", operator.truediv: "divide",
    operator.pow: "power", operator.neg: "negative", operator.lt: "less", operator.le: "less_equal",
    operator.gt: "greater", operator.ge: "greater_equal", operator.eq: "equal", operator.ne: "not_equal",
}  # fmt: skip
_TORCH_ELEMENTWISE = {
    "add": "add", "sub": "subtract", "subtract": "subtract", "mul": "multiply", "multiply": "multiply", "div": "divide",
    "divide": "divide", "true_divide": "divide", "pow": "power", "neg": "negative", "negative": "negative",
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh",
    "abs": "absolute", "atan2": "arctan2", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "eq": "equal", "ne": "not_equal", **{n: n for n in (_ONE | _TWO | _COMPARE)},
}  # fmt: skip


def elementwise_name(node: Node) -> str | None:
    """NumPy's name of an elementwise step, ``None`` for another step."""
    if node.kwargs:
        return None
    if node.kind == CALL:
        return _OPERATORS.get(node.function)
    if node.kind == TORCH:
        name = getattr(node.function, "__name__", "")
        return _TORCH_ELEMENTWISE.get(name.strip("_") if name.startswith("__") else name)
    if node.kind == NUMPY:
        name = {"true_divide": "divide", "abs": "absolute"}.get(node.function, node.function)
        return name if name in _ONE | _TWO | _COMPARE else None
    return None


def _is_real(value: Any) -> bool:
    return not isinstance(value, list | tuple) and np.asarray(value).dtype.kind == "f"


def _layout(shape: tuple[int, ...], batch_size: int | None) -> str:
    """How an array joins a store: flat, or with its first or last axis as the batch."""
    if batch_size is None or not shape or batch_size not in (shape[0], shape[-1]):
        return "vector"
    return "leading" if shape[0] == batch_size else "trailing"


def _arrange(array: NDArray, layout: str) -> NDArray:
    """An array in the order of its layout: a vector, or a matrix with the batch last."""
    if layout == "vector":
        return array.reshape(-1)
    if layout == "leading":
        array = np.moveaxis(array, 0, -1)
    return array.reshape(_size(array.shape[:-1]), array.shape[-1])


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step before steps of a kind are merged: its node, first id, layout, and operands if it is elementwise."""

    index: int
    start: int
    layout: str | None
    name: str | None
    operands: tuple[Elements, ...]


class _Folder:
    """First pass: describe every needed node, and list the steps that remain, by depth.

    Args:
        graph: the trace
        batch_size: of the batched roots
        values_only: whether only values count, so that comparisons may be merged too
    """

    def __init__(self, graph: Graph, batch_size: int | None, values_only: bool) -> None:
        self.graph, self.batch_size, self.values_only = graph, batch_size, values_only
        self.elements: dict[int, Elements | list[Elements] | None] = {}
        self.depth: dict[int, int] = {}
        self.size = 0
        self.leaves: list[_Pending] = []
        self.pending: dict[int, list[_Pending]] = {}
        self.origin: list[tuple[int, Any]] = []

    def visit(self, index: int) -> None:
        """Describe one node; its inputs have been described."""
        node = self.graph.nodes[index]
        if node.kind in (INPUT, CAPTURED):
            self.depth[index] = 0
            self.leaves.append(self._source(index, None, ()))
            return
        inputs = references(node.args) | references(node.kwargs)
        self.depth[index] = max((self.depth[i] for i in inputs), default=0)
        folded = self._fold(node, inputs)
        if folded is not None:
            self.elements[index] = folded
            return
        depth = self.depth[index]
        self.depth[index] = depth + 1
        name = self._mergeable(node, inputs)
        operands: tuple[Elements, ...] = ()
        if name is not None:
            operands = tuple(self._operand(a).broadcast(np.shape(node.value)) for a in node.args)
        self.pending.setdefault(depth, []).append(self._source(index, name, operands))

    def _source(self, index: int, name: str | None, operands: tuple[Elements, ...]) -> _Pending:
        value = self.graph.nodes[index].value
        start, shape = self.size, np.shape(value) if not isinstance(value, list | tuple) else ()
        real = not isinstance(value, list | tuple) and np.asarray(value).dtype.kind in (
            "fb" if self.values_only else "f"
        )
        if not real:
            self.elements[index] = None
            return _Pending(index, start, None, name, operands)
        layout = _layout(shape, self.batch_size)
        ids = np.arange(start, start + _size(shape))
        self.size += _size(shape)
        if layout == "leading":
            ids = np.moveaxis(ids.reshape(*shape[1:], shape[0]), -1, 0)
        self.elements[index] = Elements(ids.reshape(shape), np.ones(shape), np.zeros(shape))
        return _Pending(index, start, layout, name, operands)

    def _operand(self, argument: Any) -> Elements:
        found = self.elements[argument.index] if type(argument) is Ref else _constant(argument)
        assert isinstance(found, Elements)
        return found

    def _known(self, argument: Any) -> bool:
        """Whether an argument is described number by number, or is a real constant."""
        if type(argument) is Ref:
            return isinstance(self.elements[argument.index], Elements)
        return isinstance(argument, float | int | np.ndarray | np.generic) and np.asarray(argument).dtype.kind in "fiub"

    def _mergeable(self, node: Node, inputs: set[int]) -> str | None:
        name = elementwise_name(node)
        if name is None or not all(self._known(a) for a in node.args):
            return None
        if name in _COMPARE:
            return name if self.values_only else None
        if not _is_real(node.value) or not all(_is_real(self.graph.nodes[i].value) for i in inputs):
            return None
        return name if len(node.args) == (1 if name in _ONE else 2) else None

    def _fold(self, node: Node, inputs: set[int]) -> Elements | list[Elements] | None:
        """The description of a node that only moves numbers or combines them with constants, else ``None``."""
        if len(inputs) == 1 and node.args and type(node.args[0]) is Ref:
            found = self.elements[node.args[0].index]
            move = _move(node)
            if isinstance(found, list) and node.function is operator.getitem:
                return found[node.args[1]]
            if isinstance(found, Elements) and move is not None:
                return found.map(move)
        join = _join(node)
        if join is not None and all(self._known(a) for a in node.args[0]):
            parts = [self._operand(a) for a in node.args[0]]
            return Elements(*(join([getattr(p, f) for p in parts]) for f in ("ids", "scale", "offset")))
        return self._affine(node)

    def _affine(self, node: Node) -> Elements | None:
        name = elementwise_name(node)
        if name not in ("add", "subtract", "multiply", "divide", "negative") or not _is_real(node.value):
            return None
        if not all(self._known(a) for a in node.args):
            return None
        traced = [type(a) is Ref for a in node.args]
        if not all(_is_real(self.graph.nodes[a.index].value) for a in node.args if type(a) is Ref):
            return None
        if name == "negative":
            found = self._operand(node.args[0])
            return Elements(found.ids, -found.scale, -found.offset)
        if sum(traced) != 1 or (name == "divide" and traced[1]):
            return None
        found = self._operand(node.args[traced.index(True)]).broadcast(np.shape(node.value))
        number = np.asarray(node.args[traced.index(False)], dtype=float)
        if name == "add":
            return Elements(found.ids, found.scale, found.offset + number)
        if name == "subtract":
            sign = 1.0 if traced[0] else -1.0
            return Elements(found.ids, sign * found.scale, sign * (found.offset - number))
        factor = number if name == "multiply" else 1.0 / number if np.all(number) else None
        return None if factor is None else Elements(found.ids, found.scale * factor, found.offset * factor)


def _move(node: Node) -> Callable[[NDArray], Any] | None:
    """The function that moves numbers as ``node`` does, if it only moves them."""
    rest, options = node.args[1:], node.kwargs
    if node.kind == CALL and node.function is operator.getitem:
        return lambda array: array[rest[0]]
    if node.kind == NUMPY and node.function in _MOVES:
        return lambda array: numpy_function(node.function)(array, *rest, **options)
    if node.kind == TORCH and getattr(node.function, "__name__", "") in _TORCH_MOVES:
        torch = sys.modules["torch"]
        if any(isinstance(a, torch.dtype | np.dtype) for a in (*rest, *options.values())):
            return None

        def move(array: NDArray) -> Any:
            args = [torch.as_tensor(a) if isinstance(a, np.ndarray) else a for a in rest]
            result = node.function(torch.as_tensor(np.array(array)), *args, **options)
            return [r.numpy() for r in result] if isinstance(result, list | tuple) else result.numpy()

        return move
    return None


def _join(node: Node) -> Callable[[list[NDArray]], NDArray] | None:
    """The function that joins arrays as ``node`` does, if that is all it does."""
    if not node.args or not isinstance(node.args[0], list | tuple):
        return None
    rest, options = node.args[1:], node.kwargs
    if node.kind == PACK:
        return lambda parts: np.array(parts).reshape(node.function)
    if node.kind == NUMPY and node.function in _JOINS:
        return lambda parts: numpy_function(node.function)(parts, *rest, **options)
    if node.kind == TORCH and getattr(node.function, "__name__", "") in _TORCH_JOINS:
        torch = sys.modules["torch"]
        return lambda parts: node.function([torch.as_tensor(np.array(p)) for p in parts], *rest, **options).numpy()
    return None


# ------------------------------------------------------------------ scheduling


class _Scheduler:
    """Second pass: merge steps, give every source its place in a store, and compile the gathers."""

    def __init__(self, folder: _Folder, dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        self.batch_size = folder.batch_size
        self.mixed = len(set(_dtypes(folder.graph, folder.elements))) > 1
        replayed = {p.index for group in folder.pending.values() for p in group if p.name is None}
        self.own = replayed | {p.index for p in folder.leaves}
        self.in_matrix = np.zeros(folder.size, dtype=bool)
        self.address = np.zeros(folder.size, dtype=np.int64)
        self.vector_size = 0
        self.matrix_rows = 0
        self.constants: list[NDArray] = []

    def leaf(self, pending: _Pending) -> Leaf:
        """Place a leaf."""
        node = self.folder.graph.nodes[pending.index]
        captured = node.kind == CAPTURED
        if pending.layout is not None:
            self._place([pending])
        return Leaf(
            pending.index, None if captured else node.function, node.function if captured else None, pending.layout
        )

    def steps_of(self, pending: list[_Pending]) -> list[Elementwise | Replay]:
        """The steps of one depth."""
        merged: dict[tuple, list[_Pending]] = {}
        steps: list[Elementwise | Replay] = []
        for p in pending:
            if p.name is not None:
                merged.setdefault((p.name, p.layout == "vector"), []).append(p)
        for (name, flat), group in merged.items():
            operands = []
            for k in range(len(group[0].operands)):
                parts = [[_arrange(getattr(p.operands[k], f), str(p.layout)) for p in group] for f in _FIELDS]
                elements = Elements(*(np.concatenate(p) for p in parts))
                operands.append(self.vector(elements) if flat else self.matrix(elements))
            self._place(group)
            store, columns = ("vector", None) if flat else ("matrix", self.batch_size)
            steps.append(Elementwise(name, tuple(operands), store, columns))
        for p in pending:
            if p.name is None:
                steps.append(self._replay(p))
        return steps

    def _replay(self, pending: _Pending) -> Replay:
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
        layout = _layout(shape, self.batch_size)
        arranged = Elements(*(_arrange(getattr(found, f), layout) for f in _FIELDS))
        gather = self.vector(arranged) if layout == "vector" else self.matrix(arranged, widen=True)
        return Load(gather, shape, layout, np.asarray(node.value).dtype.name if self.mixed else None)

    def is_source(self, index: int) -> bool:
        """Whether a node is a leaf or replayed, so that its own value exists at run time."""
        return index in self.own

    def _place(self, group: list[_Pending]) -> None:
        for p in group:
            node = self.folder.graph.nodes[p.index]
            size = _size(np.shape(node.value))
            own = slice(p.start, p.start + size)
            if p.layout == "vector":
                self.address[own] = self.vector_size + np.arange(size)
                self.vector_size += size
            else:
                assert self.batch_size is not None
                self.in_matrix[own] = True
                self.address[own] = self.matrix_rows * self.batch_size + np.arange(size)
                self.matrix_rows += _rows(np.shape(node.value), str(p.layout))

    # gathers

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
    return _size(shape[1:] if layout == "leading" else shape[:-1])


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
    folder = _Folder(graph, batch_size, values_only)
    traced = [r._index for r in (*shared, *batched, *arrays) if isinstance(r, Tracer)]
    needed = _needed(graph, traced)
    for index in needed:
        folder.visit(index)
    dtype = np.result_type(*(_dtypes(graph, needed) or [np.dtype(float)]))
    scheduler = _Scheduler(folder, dtype)
    leaves = tuple(scheduler.leaf(p) for p in folder.leaves)
    steps = [s for depth in sorted(folder.pending) for s in scheduler.steps_of(folder.pending[depth])]
    described = [[_describe_root(folder, r) for r in rows] for rows in (shared, batched)]
    loads = tuple(
        (r._index, load) for r in arrays if isinstance(r, Tracer) and (load := scheduler.load(r._index)) is not None
    )
    return Plan(
        dtype=dtype,
        leaves=leaves,
        steps=tuple(steps),
        shared=scheduler.vector(_join_rows(described[0])) if shared else None,
        batched=scheduler.matrix(_join_rows(described[1]), widen=True) if batched else None,
        arrays=tuple(r._index if isinstance(r, Tracer) else np.asarray(r) for r in arrays),
        batch_size=batch_size,
        loads=loads,
        origins=tuple(tuple(_origin(folder, r) for r in rows) for rows in described),  # type: ignore[arg-type]
        constants=tuple(scheduler.constants),
    )


def _value(root: Any) -> Any:
    return root._value if isinstance(root, Tracer) else root


def _describe_root(folder: _Folder, root: Any) -> Elements:
    if not isinstance(root, Tracer):
        return _constant(root)
    found = folder.elements[root._index]
    if isinstance(found, Elements):
        return found.map(lambda a: a.reshape(())) if folder.values_only else found  # type: ignore[return-value]
    raise _not_a_number(folder, root)


def _not_a_number(folder: _Folder, root: Tracer) -> Exception:
    return folder.graph.refuse(f"a gate angle has dtype {root.dtype}; it must be a floating-point number")


def _join_rows(rows: list[Elements]) -> Elements:
    return Elements(*(np.stack([getattr(r, f) for r in rows]) for f in _FIELDS))


def _origin(folder: _Folder, row: Elements) -> Any:
    """What a row is made of: ``None``, one element of one leaf, or the set of leaves that feed it."""
    ids = np.unique(row.ids[row.ids >= 0])
    if not ids.size:
        return None
    sources = {p.index: p for p in folder.leaves if p.layout is not None}
    for p in sources.values():
        node = folder.graph.nodes[p.index]
        size = _size(np.shape(node.value))
        if p.start <= ids[0] and ids[-1] < p.start + size:
            return (None if node.kind == CAPTURED else node.function, _where(folder.elements[p.index], row))
    by_start = sorted((p.start, p.index) for g in [folder.leaves, *folder.pending.values()] for p in g if p.layout)
    starts = np.array([s for s, _ in by_start])
    feeding = {by_start[k][1] for k in np.searchsorted(starts, ids, side="right") - 1}
    leaves = [folder.graph.nodes[i] for i in _needed(folder.graph, sorted(feeding))]
    return frozenset(None if n.kind == CAPTURED else n.function for n in leaves if n.kind in (INPUT, CAPTURED))


def _where(leaf: Any, row: Elements) -> str:
    """The index of a row in its leaf; an axis along which it takes everything is ``:``."""
    places = np.argwhere(np.isin(leaf.ids, row.ids))
    if leaf.ids.ndim == 0:
        return ""
    return ", ".join(str(a[0]) if (a == a[0]).all() else ":" for a in places.T)
