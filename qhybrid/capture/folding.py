"""Describing every number of a traced graph as ``scale * source[id] + offset``.

Moving data and arithmetic with constants are folded into that description and cost nothing at run time. What remains
are leaves, elementwise steps that can be merged, and steps that are replayed as they were recorded.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.capture.replay import (
    CALL,
    CAPTURED,
    INPUT,
    NUMPY,
    PACK,
    TORCH,
    Ref,
    numpy_function,
    plain_torch,
    references,
)
from qhybrid.capture.tracer import Graph, Node
from qhybrid.gradients import Arrangement


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


def constant(value: Any) -> Elements:
    """Numbers that never change."""
    offset = np.asarray(value, dtype=float)
    return Elements(np.full(offset.shape, -1), np.zeros(offset.shape), offset)


_MOVES = {
    "reshape", "transpose", "squeeze", "expand_dims", "moveaxis", "swapaxes", "flip", "fliplr", "flipud", "roll",
    "take", "diagonal", "repeat", "tile", "broadcast_to", "atleast_1d", "atleast_2d", "atleast_3d", "split",
    "array_split", "ravel", "hsplit", "vsplit", "rollaxis", "rot90", "copy", "ascontiguousarray",
}  # fmt: skip
_JOINS = {"stack", "concatenate", "hstack", "vstack", "column_stack", "dstack"}
_TORCH_MOVES = {
    "__getitem__", "broadcast_to", "chunk", "clone", "contiguous", "diagonal", "expand", "flatten", "flip",
    "index_select", "moveaxis", "movedim", "narrow", "permute", "ravel", "repeat", "repeat_interleave", "reshape",
    "roll", "select", "split", "squeeze", "swapaxes", "t", "tile", "transpose", "unbind", "unflatten", "unsqueeze",
    "view", "view_as",
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


def layout_of(shape: tuple[int, ...], batch_size: int | None) -> str:
    """How an array joins a store: flat, or with its first or last axis as the batch."""
    if batch_size is None or not shape or batch_size not in (shape[0], shape[-1]):
        return "vector"
    return "leading" if shape[0] == batch_size else "trailing"


def arrange(array: NDArray, layout: str) -> NDArray:
    """An array in the order of its layout: a vector, or a matrix with the batch last."""
    return Arrangement(array.shape, layout).arrange(array)


@dataclass(frozen=True, slots=True)
class Pending:
    """A step before steps of a kind are merged: its node, first id, layout, and operands if it is elementwise."""

    index: int
    start: int
    layout: str | None
    name: str | None
    operands: tuple[Elements, ...]


class Folder:
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
        self.leaves: list[Pending] = []
        self.pending: dict[int, list[Pending]] = {}
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

    def _source(self, index: int, name: str | None, operands: tuple[Elements, ...]) -> Pending:
        value = self.graph.nodes[index].value
        start, kinds = self.size, "fb" if self.values_only else "f"
        if isinstance(value, list | tuple) or np.asarray(value).dtype.kind not in kinds:
            self.elements[index] = None
            return Pending(index, start, None, name, operands)
        shape = np.shape(value)
        layout = layout_of(shape, self.batch_size)
        ids = np.arange(start, start + math.prod(shape))
        self.size += math.prod(shape)
        if layout == "leading":
            ids = np.moveaxis(ids.reshape(*shape[1:], shape[0]), -1, 0)
        self.elements[index] = Elements(ids.reshape(shape), np.ones(shape), np.zeros(shape))
        return Pending(index, start, layout, name, operands)

    def _operand(self, argument: Any) -> Elements:
        found = self.elements[argument.index] if type(argument) is Ref else constant(argument)
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
            with plain_torch():
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

        def join(parts: list[NDArray]) -> NDArray:
            with plain_torch():
                return node.function([torch.as_tensor(np.array(p)) for p in parts], *rest, **options).numpy()

        return join
    return None
