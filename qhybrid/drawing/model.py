"""What is drawn: nodes with their shapes, in a directed graph along which data flow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
from pennylane.tape import QuantumScript

#: Kinds of nodes, and what a legend calls them.
KINDS = {
    "input": "argument",
    "parameter": "parameter",
    "torch": "PyTorch",
    "autograd": "autograd",
    "quantum": "quantum circuit",
    "output": "result",
}


@dataclass(frozen=True)
class Node:
    """One box of the picture.

    Args:
        kind: a key of :data:`KINDS`
        label: what it is or does
        shape: of its value, ``None`` if it has no single one
        circuit: what a quantum node runs
        identity: tells nodes apart that would otherwise be drawn alike
        names: of the parameters or arguments that are folded into this one
        count: how many nodes like this one are folded into it
        view: whether it only arranges its input differently
        group: the repeated part that it belongs to
    """

    kind: str
    label: str
    shape: tuple[int, ...] | None = None
    circuit: QuantumScript | None = field(default=None, compare=False)
    identity: Hashable = None
    names: tuple[str, ...] = ()
    count: int = 1
    view: bool = False
    group: int | None = None

    @property
    def signature(self) -> Hashable:
        """Equal for nodes that look alike; parameters do, whatever their names."""
        return (self.kind, "" if self.kind == "parameter" else self.label, self.shape, self.identity)


@dataclass
class Graph:
    """Nodes by number, and edges from where a value comes to where it goes.

    Args:
        edges: a directed graph over the numbers of the nodes, in the order in which they were added
        nodes: what stands at each number
        repeats: how often each group of nodes is repeated
    """

    edges: nx.DiGraph = field(default_factory=nx.DiGraph)
    nodes: dict[int, Node] = field(default_factory=dict)
    repeats: dict[int, int] = field(default_factory=dict)

    def add(self, node: Node, sources: Iterable[int] = ()) -> int:
        """Add a node and the edges from its sources.

        Returns:
            its number
        """
        key = len(self.nodes)
        self.nodes[key] = node
        self.edges.add_node(key)
        self.edges.add_edges_from((s, key) for s in sources)
        return key

    def remove(self, keys: Iterable[int]) -> None:
        """Take nodes and their edges out; numbers stay what they are."""
        for key in list(keys):
            del self.nodes[key]
            self.edges.remove_node(key)

    def is_leaf(self, key: int) -> bool:
        """Whether nothing comes before a node."""
        return self.edges.in_degree(key) == 0


def postorder(roots: Sequence[Any], parents: Callable[[Any], Iterable[Any]]) -> list[Any]:
    """Everything that ``roots`` depend on, each after all its parents; no recursion, since graphs are deep."""
    order, done = [], set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        item, expanded = stack.pop()
        if expanded:
            order.append(item)
        elif item not in done:
            done.add(item)
            stack.append((item, True))
            stack.extend((p, False) for p in parents(item) if p not in done)
    return order
