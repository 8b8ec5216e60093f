"""The graph that autograd records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy  # noqa: F401 - registers what is not to be traced
import numpy as np
from autograd.core import VJPNode
from autograd.extend import Box
from autograd.tracer import Node as TracedNode
from autograd.tracer import new_box, notrace_primitives, trace_stack
from pennylane.tape import QuantumScript

from qhybrid.bridge.autograd_function import AutogradFunction
from qhybrid.bridge.base import HostFunction
from qhybrid.drawing.circuits import quantum_node, tape_node
from qhybrid.drawing.model import Graph, Node, postorder
from qhybrid.execution import Function

#: Functions that only put values into containers or take them out.
_PLUMBING = frozenset(
    {"_array_from_scalar_or_array", "container_take", "sequence_extend_left", "sequence_extend_right", "_entry"}
)
_VIEWS = frozenset({"reshape", "ravel", "transpose", "squeeze", "expand_dims", "swapaxes", "moveaxis", "getitem"})


class _Record(TracedNode):
    """One application of a primitive function, as autograd's tracer records it."""

    __slots__ = ("argnums", "args", "fun", "parents", "value")

    def __init__(
        self, value: Any, fun: Callable, args: tuple, kwargs: dict, parent_argnums: tuple, parents: tuple
    ) -> None:
        del kwargs
        self.value, self.fun, self.args, self.argnums, self.parents = value, fun, args, parent_argnums, parents

    def initialize_root(self, value: Any) -> None:
        """An argument of what is traced."""
        self.value, self.parents = value, ()


notrace_primitives[_Record] = notrace_primitives[VJPNode]


def add_autograd(
    graph: Graph, function: Callable[..., Sequence[Any]], inputs: Sequence[Any], sources: Sequence[int | None]
) -> tuple[list[Any], list[int | None]]:
    """Trace a function and add what it does.

    Args:
        graph: to add to
        function: of arrays, which gives a sequence of them
        inputs: at which
        sources: for each input, the node that it comes from; ``None`` if nobody differentiates along it

    Returns:
        the outputs, and the node that each comes from, ``None`` if it depends on no input
    """
    with trace_stack.new_trace() as level:
        roots = [None if s is None else _Record.new_root(x) for x, s in zip(inputs, sources, strict=True)]
        boxes = [x if r is None else new_box(x, level, r) for x, r in zip(inputs, roots, strict=True)]
        outputs = list(function(*boxes))
        ends = [y._node if isinstance(y, Box) and y._trace == level else None for y in outputs]
    pairs = zip(roots, sources, strict=True)
    keys: dict[Any, list[Any]] = {r: [s] for r, s in pairs if r is not None and s is not None}
    for record in postorder([e for e in ends if e is not None], lambda r: r.parents):
        if record not in keys:
            keys[record] = _add(graph, record, keys)
    values = [y._value if e is not None else y for y, e in zip(outputs, ends, strict=True)]
    return values, [None if e is None else keys[e][0] for e in ends]


def _add(graph: Graph, record: _Record, keys: dict[Any, list[Any]]) -> list[Any]:
    """Add one application.

    Returns:
        the nodes that its outputs come from, or the entries of its sequence: one for each, or one for all
    """
    name = getattr(record.fun, "__name__", str(record.fun))
    before = [keys[p] for p in record.parents]
    if name == "make_sequence":  # of a kind that is its first argument
        of_argument = dict(zip(record.argnums, before, strict=True))
        return [of_argument.get(k, [None])[0] for k in range(1, len(record.args))]
    if name in _PLUMBING:
        several = before[0]
        if name == "container_take" and len(several) > 1:
            return [several[record.args[1]]]
        return [key for several in before for key in several]
    sources = [key for several in before for key in several if key is not None]
    shape = None if isinstance(record.value, tuple | list | dict) else np.shape(record.value)
    called = getattr(record.args[0], "function", None) if record.args else None
    if isinstance(called, Function):
        of_argument = dict(zip(record.argnums, before, strict=True))
        given = [of_argument.get(k, [None])[0] for k in range(1, len(record.args))]
        return add_function(graph, called, record.args[1:], given, shape)
    tapes = [a for a in record.args if isinstance(a, tuple | list) and a and isinstance(a[0], QuantumScript)]
    if tapes:
        return [graph.add(tape_node(tapes[0], shape), sources)]
    label = name.strip("_").removesuffix("_args").removesuffix("_from")
    return [graph.add(Node("autograd", label, shape, view=label in _VIEWS), sources)]


def add_function(
    graph: Graph,
    function: Function,
    inputs: Sequence[Any],
    sources: Sequence[int | None],
    shape: tuple[int, ...] | None,
) -> list[Any]:
    """Add what a node of a host evaluates: a circuit, or what a bridged function does inside.

    Args:
        graph: to add to
        function: what is evaluated
        inputs: arrays at which
        sources: for each input, the node that it comes from, ``None`` if nobody differentiates along it
        shape: of its value if there is one

    Returns:
        the node that each output comes from, or one node for all
    """
    if isinstance(function, AutogradFunction):
        return add_autograd(graph, function.raw, [np.asarray(x) for x in inputs], sources)[1]
    if isinstance(function, HostFunction):
        from qhybrid.drawing.torch_graph import add_bridged

        return add_bridged(graph, function, [np.asarray(x) for x in inputs], sources)
    node = quantum_node(function, shape) or Node("quantum", type(function).__name__, shape)
    return [graph.add(node, [s for s in sources if s is not None])]
