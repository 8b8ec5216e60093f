"""The graph that PyTorch records."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qhybrid.bridge.base import HostFunction
from qhybrid.drawing.autograd_graph import add_function
from qhybrid.drawing.circuits import tape_node
from qhybrid.drawing.model import Graph, Node, postorder
from qhybrid.execution import Function

_VIEWS = frozenset(
    {
        "alias", "as_strided", "diagonal", "expand", "movedim", "permute", "reshape", "reshape_alias", "select",
        "slice", "split", "squeeze", "t", "transpose", "unbind", "unsafe_view", "unsqueeze", "view", "view_as_complex",
        "view_as_real",
    }
)  # fmt: skip


def add_torch(
    graph: Graph, outputs: Sequence[Tensor], sources: Mapping[Any, int], names: Mapping[Any, str]
) -> list[int | None]:
    """Add the graph behind tensors.

    Args:
        graph: to add to
        outputs: where it ends
        sources: where it begins: the node for each ``grad_fn`` of an input
        names: of tensors that are leaves

    Returns:
        the node that each output comes from, ``None`` if it depends on nothing
    """
    keys: dict[Any, list[Any]] = {fn: [key] for fn, key in sources.items()}
    ends = [_end(y) for y in outputs]
    for fn in postorder([e[0] for e in ends if e[0] is not None], lambda f: _parents(f, sources)):
        if fn not in keys:
            keys[fn] = _add(graph, fn, keys, names)
    return [None if fn is None else _picked(keys[fn], number) for fn, number in ends]


def add_bridged(
    graph: Graph, function: HostFunction, inputs: Sequence[NDArray], sources: Sequence[int | None]
) -> list[int | None]:
    """Add what a function of tensors does inside a graph of autograd's.

    Args:
        graph: to add to
        function: written for PyTorch
        inputs: arrays at which
        sources: for each input, the node that it comes from, ``None`` if nobody differentiates along it

    Returns:
        the node that each output comes from, ``None`` if it depends on nothing
    """
    pairs = [
        (tensor, None) if s is None else entrance(tensor)
        for tensor, s in zip(function._from_numpy(inputs), sources, strict=True)
    ]
    outputs = function.raw(*(t for t, _ in pairs))
    begins = {fn: s for (_, fn), s in zip(pairs, sources, strict=True) if fn is not None and s is not None}
    return add_torch(graph, outputs, begins, parameter_names(function.origin))


def entrance(tensor: Tensor) -> tuple[Tensor, Any]:
    """A tensor with the same values in a graph of its own, and the function with which this graph begins."""
    copied = tensor.detach().requires_grad_().clone()
    return copied, copied.grad_fn


def parameter_names(model: Any) -> dict[Any, str]:
    """The parameters of a module by name; nothing for anything else."""
    return {p: name for name, p in model.named_parameters()} if isinstance(model, nn.Module) else {}


def reachable_names(model: Any) -> dict[Any, str]:
    """Names of the parameters of a module, or of the modules and tensors that a function refers to."""
    if isinstance(model, nn.Module) or not inspect.isfunction(inspect.unwrap(model)):
        return parameter_names(model)
    outside = inspect.getclosurevars(inspect.unwrap(model))
    found: dict[Any, str] = {}
    for name, value in {**outside.globals, **outside.nonlocals}.items():
        if isinstance(value, Tensor):
            found[value] = name
        found |= {p: f"{name}.{inner}" for p, inner in parameter_names(value).items()}
    return found


def _end(tensor: Tensor) -> tuple[Any, int]:
    """The function that a tensor comes from, and which of its outputs it is."""
    edge = torch.autograd.graph.get_gradient_edge(tensor) if tensor.requires_grad else None
    return (None, 0) if edge is None else (edge.node, edge.output_nr)


def _parents(fn: Any, sources: Mapping[Any, int]) -> list[Any]:
    return [] if fn in sources else [p for p, _ in fn.next_functions if p is not None]


def _picked(several: Sequence[Any], number: int) -> Any:
    return several[number] if len(several) > 1 else several[0]


def _add(graph: Graph, fn: Any, keys: Mapping[Any, list[Any]], names: Mapping[Any, str]) -> list[Any]:
    """Add one function of the graph; gives the node of each output, or one for all."""
    variable = getattr(fn, "variable", None)
    if variable is not None:
        name = names.get(variable, "tensor")
        return [graph.add(Node("parameter", name, tuple(variable.shape), names=(name,)))]
    before = [None if p is None else _picked(keys[p], number) for p, number in fn.next_functions]
    sources = [s for s in before if s is not None]
    shapes = [tuple(m.shape) for m in fn._input_metadata]
    shape = shapes[0] if len(shapes) == 1 else None
    called = getattr(getattr(fn, "call", None), "function", None)
    if isinstance(called, Function):
        return add_function(graph, called, [t.numpy(force=True) for t in fn.saved_tensors], before, shape)
    if hasattr(fn, "tapes"):
        return [graph.add(tape_node(fn.tapes, shape), sources)]
    label = _label(fn.name())
    return [graph.add(Node("torch", label, shape, view=label in _VIEWS), sources)]


def _label(name: str) -> str:
    """The name of an operation as PyTorch's functions are called."""
    words = re.sub(r"Backward\d*$", "", name.rsplit("::", 1)[-1])
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", words).lower() or words
