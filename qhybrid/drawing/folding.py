"""Making graphs smaller: runs of views become one, what is repeated is drawn once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

import networkx as nx

from qhybrid.drawing.model import Graph

#: What is repeated at least so often is drawn once.
MIN_REPEATS = 3
#: What becomes of a circuit's scalars, of several and of one.
_TAKES_APART = frozenset({"unbind", "squeeze"})


def merge_views(graph: Graph) -> None:
    """Drop views of parameters and what takes results of circuits apart; leave only the last of a run of views."""
    for key in list(nx.topological_sort(graph.edges)):
        before = list(graph.edges.predecessors(key))
        if not graph.nodes[key].view or len(before) != 1:
            continue
        (source,) = before
        after = list(graph.edges.successors(key))
        kind = graph.nodes[source].kind
        if kind == "parameter" or (kind == "quantum" and graph.nodes[key].label in _TAKES_APART):
            graph.edges.add_edges_from((source, k) for k in after)
            graph.remove([key])
        elif graph.nodes[source].view and graph.edges.out_degree(source) == 1:
            graph.edges.add_edges_from((k, key) for k in graph.edges.predecessors(source))
            graph.nodes[key] = replace(graph.nodes[key], label="view")
            graph.remove([source])


def fold_parallel(graph: Graph) -> None:
    """Merge nodes that look alike, come from alike and go to alike, if there are several of them."""
    order = list(nx.topological_sort(graph.edges))
    down = _hashes(graph, order, graph.edges.predecessors)
    up = _hashes(graph, order[::-1], graph.edges.successors)
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for key in order:
        alike[down[key], up[key]].append(key)
    for keys in alike.values():
        if len(keys) >= MIN_REPEATS:
            first, *others = sorted(keys)
            names = tuple(name for key in (first, *others) for name in graph.nodes[key].names)
            graph.nodes[first] = replace(graph.nodes[first], count=len(keys), names=names)
            for key in others:
                graph.edges.add_edges_from([(p, first) for p in graph.edges.predecessors(key)])
                graph.edges.add_edges_from([(first, s) for s in graph.edges.successors(key)])
            graph.remove(others)


def _hashes(graph: Graph, order: Iterable[int], neighbours: Callable[[int], Iterable[int]]) -> dict[int, int]:
    """A hash of each node and all that is reached along ``neighbours``, which come first in ``order``."""
    found: dict[int, int] = {}
    for key in order:
        found[key] = hash((graph.nodes[key].signature, tuple(sorted(found[n] for n in neighbours(key)))))
    return found


def fold_sequences(graph: Graph) -> None:
    """Draw one of a sequence of equal parts, such as the layers of a deep network, with how often it is repeated."""
    blocks = _blocks(graph)
    signatures = [_signature(graph, block) for block in blocks]
    start = 0
    while start < len(blocks):
        period, repeats = _repetition(signatures, start)
        if repeats >= MIN_REPEATS:
            end = start + period * repeats
            _fold(graph, blocks[start:end], period)
            start = end
        else:
            start += 1


def _blocks(graph: Graph) -> list[list[int]]:
    """The graph cut behind each node that no edge passes by; a parameter goes with its only user."""
    order = [k for k in nx.lexicographical_topological_sort(graph.edges) if not graph.is_leaf(k)]
    position = {key: i for i, key in enumerate(order)}
    blocks: list[list[int]] = []
    block: list[int] = []
    reach = 0
    for i, key in enumerate(order):
        block += [p for p in graph.edges.predecessors(key) if _is_private(graph, p)]
        block.append(key)
        if reach <= i:
            blocks.append(block)
            block = []
        reach = max([reach, *(position[k] for k in graph.edges.successors(key))])
    return blocks


def _is_private(graph: Graph, key: int) -> bool:
    return graph.nodes[key].kind == "parameter" and graph.edges.out_degree(key) == 1


def _signature(graph: Graph, block: Sequence[int]) -> tuple[int, ...]:
    """Equal for blocks that look alike inside and share what they have from outside."""
    found: dict[int, int] = {}
    inside = set(block)
    for key in block:
        shared = {
            p for p in graph.edges.predecessors(key) if graph.is_leaf(p) and not inside.issuperset(graph.edges[p])
        }
        sources = [found.get(p, p if p in shared else -1) for p in graph.edges.predecessors(key)]
        found[key] = hash((graph.nodes[key].signature, tuple(sorted(sources))))
    return tuple(sorted(found.values()))


def _repetition(signatures: Sequence[Hashable], start: int) -> tuple[int, int]:
    """The period with which most blocks are repeated from ``start`` on, and how often."""
    best = (1, 1)
    for period in range(1, (len(signatures) - start) // MIN_REPEATS + 1):
        first, repeats = signatures[start : start + period], 1
        while signatures[start + repeats * period : start + (repeats + 1) * period] == first:
            repeats += 1
        if repeats >= MIN_REPEATS and period * repeats > best[0] * best[1]:
            best = (period, repeats)
    return best


def _fold(graph: Graph, blocks: Sequence[Sequence[int]], period: int) -> None:
    """Keep the first ``period`` blocks of a repetition."""
    group, last = len(graph.repeats), blocks[-1][-1]
    graph.repeats[group] = len(blocks) // period
    kept, folded = blocks[:period], blocks[period:]
    graph.edges.add_edges_from([(kept[-1][-1], s) for s in graph.edges.successors(last)])
    for i, block in enumerate(kept):
        for k, key in enumerate(block):
            names = [name for other in folded[i::period] for name in graph.nodes[other[k]].names]
            node = graph.nodes[key]
            graph.nodes[key] = replace(node, group=group, names=(*node.names, *names))
    graph.remove(key for block in folded for key in block)
