"""The picture of a graph that has been laid out, drawn by matplotlib as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from pennylane.drawer import tape_mpl

from qhybrid.drawing.circuits import drawable, summary
from qhybrid.drawing.layout import MARGIN, Layout, Size, layered
from qhybrid.drawing.model import KINDS, Graph, Node

#: Fill and edge of each kind of node.
COLORS = {
    "input": ("#fdf3d0", "#c9a227"),
    "parameter": ("#fbe3d4", "#d4763b"),
    "torch": ("#dfeaf8", "#3f72af"),
    "autograd": ("#e0f1e4", "#3c8d5a"),
    "quantum": ("#f3edfb", "#7a4fb5"),
    "output": ("#e9e9ec", "#5b5b66"),
}
INK, FAINT = "#22222a", "#6b6b76"
TITLE, SMALL = 9.0, 7.2
LINE = 1.32  # of the font size
PAD_X, PAD_Y = 9.0, 5.0
#: Points a unit of PennyLane's drawings, in which wires are 1 apart.
CELL = 27.0
LEGEND = 24.0
#: How far the last box of a pile looks out.
PILE = 5.0

_STYLE = {
    "svg.fonttype": "path",  # looks the same everywhere
    "svg.hashsalt": "qhybrid",  # the same graph gives the same text
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.usetex": False,
    "path.sketch": None,
    "lines.linewidth": 0.8,
    "lines.color": COLORS["quantum"][1],
    "patch.facecolor": "white",
    "patch.edgecolor": COLORS["quantum"][1],
    "patch.linewidth": 0.8,
    "patch.force_edgecolor": True,
    "text.color": INK,
}


@dataclass(frozen=True)
class _Line:
    """One line of text in a box."""

    text: str
    size: float
    color: str = INK
    bold: bool = False

    @property
    def width(self) -> float:
        return _text_width(self.text, self.size, self.bold)

    @property
    def height(self) -> float:
        return LINE * self.size


@dataclass(frozen=True)
class _Box:
    """What stands in a node: lines, the drawing of a circuit, and lines below it."""

    above: Sequence[_Line]
    drawing: tuple[Any, Size] | None
    below: Sequence[_Line]
    pile: bool = False

    @property
    def inner(self) -> Size:
        """Width and height of the box itself."""
        lines = [*self.above, *self.below]
        width, height = self.drawing[1] if self.drawing else (0.0, 0.0)
        inner = max([width, *(line.width for line in lines)])
        return inner + 2 * PAD_X, sum(line.height for line in lines) + height + 2 * PAD_Y

    @property
    def size(self) -> Size:
        """With the boxes that lie behind it."""
        width, height = self.inner
        return (width + 2 * PILE, height + 2 * PILE) if self.pile else (width, height)


def svg(graph: Graph) -> str:
    """The picture as the text of an SVG file.

    Args:
        graph: what is drawn
    """
    with mpl.rc_context(_STYLE):
        text = io.StringIO()
        figure(graph).savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def figure(graph: Graph) -> Figure:
    """The picture as a figure of matplotlib's, to be saved under the settings that it was made with."""
    boxes = {key: _box(node) for key, node in graph.nodes.items()}
    layout = layered(graph, {key: box.size for key, box in boxes.items()})
    kinds = [kind for kind in KINDS if any(n.kind == kind for n in graph.nodes.values())]
    width = max(layout.size[0], _legend_width(kinds))
    shift, height = (width - layout.size[0]) / 2, layout.size[1] + LEGEND
    fig = Figure(figsize=(width / 72, height / 72), facecolor="white")
    FigureCanvasAgg(fig)  # measures the texts of circuits
    axes = fig.add_axes((0, 0, 1, 1), xlim=(-shift, width - shift), ylim=(height, 0))
    axes.axis("off")
    for group, repeats in graph.repeats.items():
        _draw_group(axes, [k for k, n in graph.nodes.items() if n.group == group], boxes, layout, repeats)
    for (source, _), points in layout.paths.items():
        _draw_edge(axes, points, COLORS[graph.nodes[source].kind][1])
    for key, node in graph.nodes.items():
        x, y = layout.centers[key]
        _draw_box(axes, node, boxes[key], (x, y))
    _draw_legend(axes, kinds, (width / 2 - shift, layout.size[1] + LEGEND / 2 - MARGIN / 2))
    for key, box in boxes.items():
        if box.drawing:
            _draw_circuit(fig, box, layout.centers[key], (shift, width, height))
    return fig


# ------------------------------------------------------------------ boxes


def _box(node: Node) -> _Box:
    shape = [] if node.shape is None else [_Line(_shape(node.shape), SMALL, FAINT)]
    if node.circuit is None:
        title = _Line(_title(node), TITLE, bold=node.kind in ("input", "output"))
        return _Box([title, *shape], None, (), node.count > 1)
    shown = drawable(node.circuit)
    drawing = None
    if shown is not None:
        circuit, layers = shown
        drawing = (circuit, (CELL * (layers + 3), CELL * (len(circuit.wires) + 0.4)))
    below = [_Line(text, SMALL, FAINT) for text in summary(node.circuit)]
    return _Box([_Line(_title(node), TITLE)], drawing, [*below, *shape], node.count > 1)


def _title(node: Node) -> str:
    title = node.label
    if node.kind == "parameter" and len(node.names) > 1:
        title = f"{node.names[0]} … {node.names[-1]}"
    return title if node.count == 1 else f"{title}  ×{node.count}"


def _shape(shape: tuple[int, ...]) -> str:
    return "scalar" if shape == () else " × ".join(map(str, shape))


def _draw_box(axes: Axes, node: Node, box: _Box, center: tuple[float, float]) -> None:
    fill, edge = COLORS[node.kind]
    (x, y), (width, height) = center, box.inner
    corner = (x - width / 2, y - height / 2)
    radius = min(height / 2, 10) if node.kind in ("input", "output", "parameter") else 3.5
    for step in (PILE, PILE / 2, 0) if box.pile else (0,):
        axes.add_patch(_rounded((corner[0] + step, corner[1] - step), box.inner, radius, fill, edge))
    top = corner[1] + PAD_Y
    for line in box.above:
        top = _write(axes, line, x, top)
    top += box.drawing[1][1] if box.drawing else 0
    for line in box.below:
        top = _write(axes, line, x, top)


def _rounded(corner: tuple[float, float], size: Size, radius: float, fill: str, edge: str) -> FancyBboxPatch:
    return FancyBboxPatch(
        corner,
        *size,
        boxstyle=f"round,pad=0,rounding_size={radius}",
        facecolor=fill,
        edgecolor=edge,
        linewidth=1,
        zorder=3,
    )


def _write(axes: Axes, line: _Line, x: float, top: float) -> float:
    """Write a line below ``top``; gives where it ends."""
    weight = "bold" if line.bold else "normal"
    axes.text(
        x, top + line.height / 2, line.text, fontsize=line.size, color=line.color, weight=weight,
        ha="center", va="center_baseline", zorder=4,
    )  # fmt: skip
    return top + line.height


@lru_cache(maxsize=1024)
def _text_width(text: str, size: float, bold: bool) -> float:
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return TextPath((0, 0), text, size=size, prop=font).get_extents().width if text.strip() else 0.0


class _Part:
    """The part of a figure that PennyLane's drawer takes for the whole."""

    def __init__(self, figure: Figure, rectangle: tuple[float, float, float, float]) -> None:
        self._figure, self._rectangle = figure, rectangle
        self.canvas = figure.canvas

    def clear(self) -> None:
        """Nothing is there yet."""

    def set_figwidth(self, width: float) -> None:
        """The part keeps its size."""

    def set_figheight(self, height: float) -> None:
        """The part keeps its size."""

    def add_axes(self, rectangle: Any, **settings: Any) -> Axes:
        """Axes that fill the part."""
        axes = self._figure.add_axes(self._rectangle, **settings)
        axes.set_zorder(5)
        axes.patch.set_visible(False)
        return axes


def _draw_circuit(fig: Figure, box: _Box, center: tuple[float, float], frame: tuple[float, float, float]) -> None:
    """Draw the circuit of a box by PennyLane.

    Args:
        fig: to draw on
        box: of the node
        center: of the box
        frame: how far the nodes are moved to the right, and the size of the figure
    """
    shift, width, height = frame
    circuit, (w, h) = box.drawing  # type: ignore[misc]
    left = center[0] + shift - w / 2
    top = center[1] - box.inner[1] / 2 + PAD_Y + sum(line.height for line in box.above)
    part = _Part(fig, (left / width, 1 - (top + h) / height, w / width, h / height))
    _, axes = tape_mpl(circuit, style="rcParams", fig=part, fontsize=0.33 * CELL)
    num_wires, right = len(circuit.wires), axes.get_xlim()[1] - 1
    axes.set_ylim(num_wires - 0.3, -0.7)
    if not circuit.measurements:
        for wire in range(num_wires):
            axes.text(right + 0.35, wire, "···", fontsize=TITLE, ha="center", va="center_baseline")


# ------------------------------------------------------------------ edges, groups, the legend


def _draw_edge(axes: Axes, points: NDArray, color: str) -> None:
    """A line through points, curved between one pair and the next, with a head at its end."""
    end = points[-1] - (0, 5)
    vertices, codes = [points[0]], [Path.MOVETO]
    for k in range(1, len(points), 2):
        if k > 1:
            (x0, y0), (x1, y1) = vertices[-1], points[k - 1]
            middle = (y0 + y1) / 2
            vertices += [(x0, middle), (x1, middle), (x1, y1)]
            codes += [Path.CURVE4] * 3
        vertices.append(points[k])
        codes.append(Path.LINETO)
    vertices[-1] = end
    axes.add_patch(PathPatch(Path(vertices, codes), fill=False, edgecolor=color, linewidth=1.1, alpha=0.85, zorder=2))
    head = points[-1] + np.array([(0, 0), (-3, -6), (3, -6)])
    axes.add_patch(Polygon(head, closed=True, facecolor=color, edgecolor="none", linewidth=0, zorder=2.5))


def _draw_group(axes: Axes, keys: Sequence[int], boxes: Mapping[int, _Box], layout: Layout, repeats: int) -> None:
    """A frame around the nodes that are repeated."""
    half = {k: np.array(boxes[k].size) / 2 for k in keys}
    low = np.min([layout.centers[k] - half[k] for k in keys], axis=0) - 9
    high = np.max([layout.centers[k] + half[k] for k in keys], axis=0) + 9
    frame = _rounded(tuple(low), tuple(high - low), 8, "#f7f7f9", "#a9a9b5")
    frame.set(zorder=1, linestyle=(0, (4, 3)))
    axes.add_patch(frame)
    axes.text(
        high[0] + 5, low[1] + 8, f"×{repeats}", fontsize=TITLE + 2, color=FAINT, weight="bold", ha="left", va="center"
    )


def _legend_width(kinds: Sequence[str]) -> float:
    return sum(_text_width(KINDS[k], SMALL, False) + 30 for k in kinds) + 2 * MARGIN


def _draw_legend(axes: Axes, kinds: Sequence[str], center: tuple[float, float]) -> None:
    x = center[0] - (_legend_width(kinds) - 2 * MARGIN) / 2
    for kind in kinds:
        axes.add_patch(_rounded((x, center[1] - 4), (11, 8), 2.5, *COLORS[kind]))
        axes.text(x + 15, center[1], KINDS[kind], fontsize=SMALL, color=FAINT, ha="left", va="center_baseline")
        x += _text_width(KINDS[kind], SMALL, False) + 30
