"""Where things are: layers from top to bottom, few crossings, no overlaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from qhybrid.drawing.model import Graph

#: A node, or a place in a layer that an edge passes: the edge and the number of the layer.
Place: TypeAlias = int | tuple[int, int, int]
Size: TypeAlias = tuple[float, float]

GAP_X, GAP_Y, MARGIN = 18.0, 30.0, 14.0
SWEEPS = 12
#: How much a leaf counts against a node in the middle when both want to be straight.
LEAF = 0.01


@dataclass(frozen=True)
class Layout:
    """Positions in points, y downwards.

    Args:
        centers: of each node
        paths: for each edge, the points ``(n, 2)`` that it goes through; from each odd one to the next it is straight
        size: of everything
    """

    centers: Mapping[int, tuple[float, float]]
    paths: Mapping[tuple[int, int], NDArray]
    size: Size


def layered(graph: Graph, sizes: Mapping[int, Size]) -> Layout:
    """Place nodes of given sizes.

    Args:
        graph: what is placed
        sizes: width and height of each node
    """
    layers, chains = _layers(graph)
    neighbours = nx.DiGraph([pair for chain in chains.values() for pair in pairwise(chain)])
    neighbours.add_nodes_from(graph.nodes)
    widths = {place: sizes[place][0] if isinstance(place, int) else 0.0 for layer in layers for place in layer}
    _order(layers, neighbours)
    x = _horizontal(layers, neighbours, widths, {key for key in graph.nodes if graph.is_leaf(key)})
    left = min(x[p] - widths[p] / 2 for p in x) - MARGIN
    x = {place: value - left for place, value in x.items()}
    width = max(x[p] + widths[p] / 2 for p in x) + MARGIN
    heights = [max((sizes[p][1] for p in layer if isinstance(p, int)), default=0.0) for layer in layers]
    gaps = [GAP_Y if height else GAP_Y / 3 for height in heights]
    tops = MARGIN + np.concatenate([[0.0], np.cumsum(np.add(heights, gaps))])
    level = {place: i for i, layer in enumerate(layers) for place in layer}
    centers = {}
    for key in graph.nodes:
        i, height = level[key], sizes[key][1]
        low = graph.is_leaf(key)  # close to what uses it
        centers[key] = (x[key], tops[i] + heights[i] - height / 2 if low else tops[i] + heights[i] / 2)
    paths = _paths(chains, x, centers, sizes, level, tops, heights)
    return Layout(centers, paths, (width, tops[-1] - GAP_Y + MARGIN))


def _layers(graph: Graph) -> tuple[list[list[Place]], dict[tuple[int, int], list[Place]]]:
    """Layers of places, and for each edge the places that it goes through, its ends included."""
    level: dict[int, int] = {}
    for key in nx.topological_sort(graph.edges):
        level[key] = max((level[p] + _steps(graph, p, key) for p in graph.edges.predecessors(key)), default=0)
    for key in graph.nodes:
        users = [level[s] for s in graph.edges.successors(key)]
        if graph.is_leaf(key) and users:
            level[key] = min(users) - 1
    layers: list[list[Place]] = [[] for _ in range(1 + max(level.values()))]
    for key in sorted(level):
        layers[level[key]].append(key)
    chains: dict[tuple[int, int], list[Place]] = {}
    for a, b in graph.edges.edges:
        passed: list[Place] = [(a, b, i) for i in range(level[a] + 1, level[b])]
        for place, i in zip(passed, range(level[a] + 1, level[b]), strict=True):
            layers[i].append(place)
        chains[a, b] = [a, *passed, b]
    return layers, chains


def _steps(graph: Graph, source: int, target: int) -> int:
    """Layers from a node to the next: one more where a repeated part begins or ends, whose frame has only its own."""
    return 1 if graph.is_leaf(source) or graph.nodes[source].group == graph.nodes[target].group else 2


def _order(layers: list[list[Place]], neighbours: nx.DiGraph) -> None:
    """Sort each layer by the mean position of what its places are joined to, down and up several times."""
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = neighbours.predecessors if downwards else neighbours.successors
        for fixed, layer in _pairs(layers, downwards):
            position = {p: i / max(len(fixed) - 1, 1) for i, p in enumerate(fixed)}
            own = {p: i / max(len(layer) - 1, 1) for i, p in enumerate(layer)}
            layer.sort(key=lambda p: np.mean([position[n] for n in near(p)] or [own[p]]))


def _pairs(layers: list[list[Place]], downwards: bool) -> list[tuple[list[Place], list[Place]]]:
    """Neighbouring layers, the one that stays first."""
    ordered = layers if downwards else layers[::-1]
    return list(pairwise(ordered))


def _horizontal(
    layers: Sequence[Sequence[Place]], neighbours: nx.DiGraph, widths: Mapping[Place, float], leaves: Set[Place]
) -> dict[Place, float]:
    """The x of each place: near its neighbours, in the order of its layer, without overlaps. Leaves give way."""
    x: dict[Place, float] = {}
    for layer in layers:
        offsets = _offsets(layer, widths)
        x.update(zip(layer, offsets - offsets[-1] / 2, strict=True))
    weight = {p: LEAF if p in leaves else 1.0 if isinstance(p, int) else 2.0 for p in neighbours}
    for sweep in range(3 * SWEEPS):
        near = (neighbours.predecessors, neighbours.successors, lambda p: nx.all_neighbors(neighbours, p))[sweep % 3]
        for layer in layers if sweep % 3 != 1 else layers[::-1]:
            joined = [list(near(p)) for p in layer]
            wanted = np.array(
                [
                    np.average([x[n] for n in ns], weights=[weight[n] for n in ns]) if ns else x[p]
                    for p, ns in zip(layer, joined, strict=True)
                ]
            )
            offsets = _offsets(layer, widths)
            fitted = isotonic_regression(wanted - offsets, weights=[weight[p] for p in layer])
            x.update(zip(layer, fitted.x + offsets, strict=True))
    return x


def _offsets(layer: Sequence[Place], widths: Mapping[Place, float]) -> NDArray:
    """How far each place is at least from the first."""
    half = np.array([widths[p] / 2 for p in layer])
    return np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:] + GAP_X)])


def _paths(
    chains: Mapping[tuple[int, int], Sequence[Place]],
    x: Mapping[Place, float],
    centers: Mapping[int, tuple[float, float]],
    sizes: Mapping[int, Size],
    level: Mapping[Place, int],
    tops: NDArray,
    heights: Sequence[float],
) -> dict[tuple[int, int], NDArray]:
    """The points of each edge: straight through layers, curved between them."""
    leaving = _ports(chains, x, sizes, 0)
    arriving = _ports(chains, x, sizes, 1)
    paths = {}
    for (a, b), chain in chains.items():
        points = [(leaving[a, b], centers[a][1]), (leaving[a, b], tops[level[a]] + heights[level[a]])]
        for place in chain[1:-1]:
            i = level[place]
            points += [(x[place], tops[i]), (x[place], tops[i] + heights[i])]
        points += [(arriving[a, b], tops[level[b]]), (arriving[a, b], centers[b][1] - sizes[b][1] / 2)]
        paths[a, b] = np.array(points)
    return paths


def _ports(
    chains: Mapping[tuple[int, int], Sequence[Place]], x: Mapping[Place, float], sizes: Mapping[int, Size], end: int
) -> dict[tuple[int, int], float]:
    """The x at which each edge leaves (``end`` 0) or enters (1) its node: side by side, as the other ends are."""
    of_node: dict[int, list[tuple[int, int]]] = {}
    for edge in chains:
        of_node.setdefault(edge[end], []).append(edge)
    ports = {}
    for key, edges in of_node.items():
        edges.sort(key=lambda e: x[chains[e][1 if end == 0 else -2]])
        step = min(16.0, 0.7 * sizes[key][0] / len(edges))
        for i, edge in enumerate(edges):
            ports[edge] = x[key] + step * (i - (len(edges) - 1) / 2)
    return ports
