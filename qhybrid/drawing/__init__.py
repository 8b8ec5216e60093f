"""Pictures of the graphs through which derivatives flow."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from autograd.extend import Box

from qhybrid.bridge.base import name_of
from qhybrid.bridge.trees import flatten

if TYPE_CHECKING:
    from qhybrid.drawing.model import Graph

__all__ = ["Picture", "graph"]


@dataclass(frozen=True)
class Picture:
    """The picture of a graph; a notebook shows it."""

    _graph: Graph

    @cached_property
    def svg(self) -> str:
        """The text of an SVG file."""
        from qhybrid.drawing.figure import svg

        return svg(self._graph)

    def save(self, path: str | Path) -> Path:
        """Write the SVG file.

        Args:
            path: where to

        Returns:
            the path
        """
        path = Path(path)
        path.write_text(self.svg, encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.svg

    def __repr__(self) -> str:
        nodes = self._graph.nodes.values()
        return f"<Picture of {len(nodes)} nodes, {sum(n.kind == 'quantum' for n in nodes)} of them quantum>"


def graph(model: Callable, *args: Any, fold: bool = True, **kwargs: Any) -> Picture:
    """Draw the graph of a hybrid model, through which a reverse pass would run, from its arguments down to its results.

    The model is called once. Arguments that are PyTorch tensors, or a model that is an ``nn.Module``, give PyTorch's
    graph with the parameters that it reaches; arrays and floating-point numbers give autograd's. Circuits are drawn by
    PennyLane. Functions that come through :mod:`qhybrid.bridge` are drawn with what they do inside. What no derivative
    depends on is left out.

    Args:
        model: a QNode, an ``nn.Module``, or any function of tensors or of arrays
        args: its arguments
        fold: whether runs of views, nodes that are alike, and sequences of equal parts are drawn once, with a number
        kwargs: further arguments of the model

    Returns:
        the picture, with ``svg`` and ``save``

    Raises:
        ImportError: matplotlib is not installed
        ValueError: no result depends on an argument or parameter that can be differentiated along

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> picture = qml.graph(lambda x: qml.numpy.sin(circuit(x)), 0.5)
        >>> picture
        <Picture of 4 nodes, 1 of them quantum>
        >>> picture.save("graph.svg")  # doctest: +SKIP
    """
    _require_matplotlib()
    from qhybrid.drawing.folding import fold_parallel, fold_sequences, merge_views

    found = _graph_of(model, args, kwargs)
    if fold:
        merge_views(found)
        fold_parallel(found)
        fold_sequences(found)
    return Picture(found)


def _require_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        raise ImportError('qhybrid.graph needs matplotlib: pip install "qhybrid[drawing]"')


def _graph_of(model: Callable, args: tuple, kwargs: dict[str, Any]) -> Graph:
    """The whole graph of a call."""
    from qhybrid.drawing.model import Graph, Node

    leaves, rebuild = flatten((args, kwargs))
    names = _names(model, args, kwargs)
    if any(isinstance(x, Box) for x in leaves):
        raise TypeError("graph was called inside a function that autograd differentiates; call it outside.")
    torch = sys.modules.get("torch")
    in_torch = torch is not None and (
        isinstance(model, torch.nn.Module) or any(isinstance(x, torch.Tensor) for x in leaves)
    )
    moves = _is_tensor if in_torch else _is_array
    found = Graph()
    sources = [
        found.add(Node("input", n, tuple(np.shape(x)), identity=n)) if moves(x) else None
        for n, x in zip(names, leaves, strict=True)
    ]
    outputs, ends, titles = (_call_torch if in_torch else _call_autograd)(found, model, leaves, rebuild, sources)
    if all(end is None for end in ends):
        raise ValueError(
            f"Nothing that {name_of(model)} returns depends on an argument or parameter that can be differentiated "
            "along: give it floating-point numbers, arrays or tensors."
        )
    for title, value, end in zip(titles, outputs, ends, strict=True):
        if end is not None:
            found.add(Node("output", title, tuple(np.shape(value)), identity=title), [end])
    found.remove([s for s in sources if s is not None and not found.edges.out_degree(s)])
    return found


def _is_tensor(leaf: Any) -> bool:
    torch = sys.modules["torch"]
    return isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _is_array(leaf: Any) -> bool:
    inexact = isinstance(leaf, float | complex | np.ndarray | np.generic) and np.asarray(leaf).dtype.kind in "fc"
    return inexact and getattr(leaf, "requires_grad", True)  # PennyLane's arrays may say no


def _names(model: Callable, args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """A name for each leaf of the arguments: that of its argument, numbered if the argument has several."""
    parameters = inspect.signature(getattr(model, "forward", model)).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named += [f"args[{k}]" for k in range(len(args) - len(named))]
    found = []
    for name, value in [*zip(named, args, strict=False), *kwargs.items()]:
        number = len(flatten(value)[0])
        found += [name] if number == 1 else [f"{name}[{k}]" for k in range(number)]
    return found


def _call_torch(
    graph: Graph, model: Callable, leaves: list[Any], rebuild: Callable, sources: list[int | None]
) -> tuple[list[Any], list[int | None], list[str]]:
    """Call a function of tensors; gives its outputs, the node that each comes from, and what they are called."""
    import torch

    from qhybrid.drawing.torch_graph import add_torch, entrance, reachable_names

    with torch.enable_grad():
        pairs = [(x, None) if s is None else entrance(x) for x, s in zip(leaves, sources, strict=True)]
        args, kwargs = rebuild(iter([x for x, _ in pairs]))
        outputs, _ = flatten(model(*args, **kwargs))
    begins = {fn: s for (_, fn), s in zip(pairs, sources, strict=True) if fn is not None and s is not None}
    outputs = [y for y in outputs if isinstance(y, torch.Tensor)]
    return outputs, add_torch(graph, outputs, begins, reachable_names(model)), _titles(outputs)


def _call_autograd(
    graph: Graph, model: Callable, leaves: list[Any], rebuild: Callable, sources: list[int | None]
) -> tuple[list[Any], list[int | None], list[str]]:
    """The same for a function of arrays."""
    from qhybrid.drawing.autograd_graph import add_autograd

    def flat(*inputs: Any) -> list[Any]:
        args, kwargs = rebuild(iter(inputs))
        return flatten(model(*args, **kwargs))[0]

    outputs, ends = add_autograd(graph, flat, leaves, sources)
    return outputs, ends, _titles(outputs)


def _titles(outputs: list[Any]) -> list[str]:
    return ["result"] if len(outputs) == 1 else [f"result[{k}]" for k in range(len(outputs))]
