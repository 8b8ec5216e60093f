"""Names for nodes, by which a graph that holds only tensors and text can refer to them."""

from __future__ import annotations

import itertools
from typing import Any, Protocol
from weakref import WeakValueDictionary

_numbers = itertools.count()
_nodes: WeakValueDictionary[str, Any] = WeakValueDictionary()


class Node(Protocol):
    """What a name can stand for."""

    def call_outside_of_graphs(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call with tensors, whether or not a graph is being made."""


def name_node(node: Node) -> str:
    """A name of its own for a node, for as long as that lives."""
    name = f"node{next(_numbers)}"
    _nodes[name] = node
    return name


def node_named(name: str) -> Node:
    """The node of that name.

    Raises:
        RuntimeError: it is no more
    """
    found = _nodes.get(name)
    if found is None:
        raise RuntimeError(f"A graph calls the QNode {name}, which was deleted; keep it while the graph lives.")
    return found
