"""``python -m benchmarks.plots``: pictures of how time grows, from result files, for the documentation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks._timing import RESULTS

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
#: Colour, width and marker of contenders; what is not here has the last style.
STYLES = {
    "qhybrid": ("#0b62a4", 2.4, "o"),
    "lightning.qubit": ("#d9730d", 1.5, "s"),
    "default.qubit": ("#7a7a7a", 1.5, "^"),
}
NATURAL_STYLES = {
    "natural gradient, exact": ("#0b62a4", 2.4, "o"),
    "natural gradient, block": ("#58a6d6", 1.8, "o"),
    "QNGOptimizer": ("#d9730d", 1.5, "s"),
    "gradient descent": ("#7a7a7a", 1.5, "^"),
}
OTHER = ("#a0529c", 1.5, "D")
INK, GRID = "#333333", "#e4e4e4"
#: The same file for the same numbers: no date, no random names inside.
SETTINGS = {
    "svg.hashsalt": "qhybrid",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "xtick.color": INK,
    "ytick.color": INK,
}
#: Names of benchmarks on the command line, where they are not those of their files.
COMMANDS = {"natural_gradient": "natural"}
AXIS_LABELS = {
    "qubits": "qubits",
    "depth": "layers",
    "batch": "samples in a batch",
    "parameters": "trained parameters",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description="Draw the results of benchmarks.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the pictures")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the pictures")
    arguments = parser.parse_args()
    for path in draw(arguments.results, arguments.figures, arguments.format):
        print(f"Written to {path}.")


def draw(results: Path, figures: Path, file_format: str = "svg") -> list[Path]:
    """Draw all pictures.

    Args:
        results: folder with the result files of ``growth``, ``ratio`` and ``natural``
        figures: folder of the pictures; made if it is missing
        file_format: ``svg`` or ``png``

    Returns:
        the paths of the pictures

    Raises:
        FileNotFoundError: a result file is missing
    """
    pictures = {"growth": growth_figure, "ratio": ratio_figure, "natural_gradient": natural_figure}
    found = {}
    for name in pictures:
        path = results / f"{name}.json"
        if not path.exists():
            command = COMMANDS.get(name, name)
            raise FileNotFoundError(f"There is no {path}. Run `python -m benchmarks {command}` first.")
        found[name] = json.loads(path.read_text())["results"]
    figures.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(SETTINGS):
        for name, picture in pictures.items():
            paths.append(figures / f"{name}.{file_format}")
            metadata = {"Date": None} if file_format == "svg" else {"Software": None}
            picture(found[name]).savefig(paths[-1], dpi=160, metadata=metadata)
    return paths


# ------------------------------------------------------------------ growth


def growth_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Milliseconds against each size that grows, one panel each.

    Args:
        results: of the benchmark ``growth``
    """
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axes = list(dict.fromkeys(r["axis"] for r in results))
    panels = figure.subplots(-(-len(axes) // 2), 2, squeeze=False, sharey=True).flat
    names = list(dict.fromkeys(name for r in results for name in r["milliseconds"]))
    for panel, axis in zip(panels, axes, strict=False):
        _growth_panel(panel, axis, [r for r in results if r["axis"] == axis], names)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False, fontsize=10)
    return figure


def _growth_panel(panel: Axes, axis: str, points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    for name in names:
        line = [(p["size"], p["milliseconds"][name]) for p in points if name in p["milliseconds"]]
        _line(panel, line, name)
    sizes = [p["size"] for p in points]
    panel.set_yscale("log")
    if axis != "qubits":  # time is a power of these, and an exponential of the number of qubits
        panel.set_xscale("log")
    _plain_ticks(panel, sizes)
    columns = panel.get_subplotspec().colspan
    _frame(panel, AXIS_LABELS.get(axis, axis), "milliseconds" if columns.start == 0 else "")
    panel.set_title(axis.capitalize(), loc="left", fontweight="bold", fontsize=10)
    panel.set_title(points[0]["fixed"], loc="right", fontsize=9)


# ------------------------------------------------------------------ ratio


def ratio_figure(results: Mapping[str, Any]) -> Figure:
    """Time of a gradient in forward passes against depth, with the goal.

    Args:
        results: of the benchmark ``ratio``
    """
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    panel = figure.subplots()
    depths, goal = results["depths"], results["goal"]
    layers = [p["layers"] for p in depths]
    _line(panel, [(p["layers"], p["ratio"]["qhybrid"]) for p in depths], "qhybrid")
    panel.axhline(goal, color="#b3261e", linewidth=1.2, linestyle=(0, (5, 3)))
    panel.annotate(
        f"goal: at most {goal:g}",
        (layers[0], goal),
        xytext=(0, 4),
        textcoords="offset points",
        color="#b3261e",
        fontsize=9,
    )
    panel.set_xscale("log")
    panel.set_ylim(0, 1.25 * max(goal, *(p["ratio"]["qhybrid"] for p in depths)))
    _plain_ticks(panel, layers)
    _frame(panel, "layers", "gradient / forward")
    panel.set_title("A gradient in forward passes", loc="left", fontweight="bold", fontsize=10)
    panel.set_title(f"{depths[0]['qubits']} qubits", loc="right", fontsize=9)
    return figure


# ------------------------------------------------------------------ natural gradient


def natural_figure(results: Mapping[str, Any]) -> Figure:
    """Energy error against steps and against seconds, with the target.

    Args:
        results: of the benchmark ``natural``
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for name, path in results["paths"].items():
        color, width, _ = NATURAL_STYLES.get(next((k for k in NATURAL_STYLES if name.startswith(k)), ""), OTHER)
        along = (range(1, len(path["errors"]) + 1), [max(s, 1e-3) for s in path["seconds"]])
        for panel, x in zip(panels, along, strict=True):
            panel.plot(x, path["errors"], color=color, linewidth=width, label=name)
    for panel, label in zip(panels, ("steps", "seconds"), strict=True):
        panel.axhline(results["target"], color="#b3261e", linewidth=1.2, linestyle=(0, (5, 3)))
        panel.set_xscale("log")
        panel.set_yscale("log")
        _frame(panel, label, "energy error" if label == "steps" else "")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


# ------------------------------------------------------------------ what panels share


def _line(panel: Axes, points: Sequence[tuple[float, float]], name: str) -> None:
    color, width, marker = next((style for key, style in STYLES.items() if name.startswith(key)), OTHER)
    panel.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=color,
        linewidth=width,
        marker=marker,
        markersize=4.5,
        label=name,
        zorder=3 if name.startswith("qhybrid") else 2,
    )


def _plain_ticks(panel: Axes, sizes: Sequence[int]) -> None:
    """Ticks at the sizes that were run, written as numbers."""
    panel.xaxis.set_major_locator(mpl.ticker.FixedLocator(sizes))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _frame(panel: Axes, x_label: str, y_label: str) -> None:
    if panel.get_yscale() == "log":
        panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(x_label)
    panel.set_ylabel(y_label)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
