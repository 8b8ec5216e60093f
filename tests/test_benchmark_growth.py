"""How cost grows: contenders that are slow are left out, memory is measured, pictures are drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth, memory, plots, ratio
from benchmarks._timing import QUICK, ResultsDifferError
from tests.strict import WARNINGS

ROOT = Path(__file__).parents[1]
SIZES = (1, 2, 3)


def results_of_growth():
    """Two points on each axis; one contender is left out at the second."""
    return [
        {"axis": axis.name, "fixed": axis.fixed, "size": size, "milliseconds": times}
        for axis in growth.AXES
        for size, times in ((2, {"default.qubit, backprop": 9.0, "qhybrid": 0.5}), (8, {"qhybrid": 0.7}))
    ]


def results_of_ratio():
    return {"goal": 4.5, "depths": [{"qubits": 4, "layers": k, "ratio": {"qhybrid": 3.0 + k / 8}} for k in (1, 2, 4)]}


def results_of_natural_gradient():
    paths = {
        "gradient descent": ([3.0, 2.0, 0.5], [0.0, 0.1, 0.2]),
        "natural gradient, exact metric": ([3.0, 0.4], [0.0, 0.1]),
    }
    return {"target": 0.5, "paths": {n: {"errors": e, "seconds": s} for n, (e, s) in paths.items()}}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    everything = {
        "growth": results_of_growth(),
        "ratio": results_of_ratio(),
        "natural_gradient": results_of_natural_gradient(),
    }
    for name, found in everything.items():
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "results": found}))
    return folder


# ------------------------------------------------------------------ growth


def depth_axis(slow: str = "", size: int = 0) -> growth.Axis:
    """One layer more with each size; a contender may be marked as slow from a size on."""

    def build(contender, layers):
        case = growth.large_state(contender, 2, layers)
        if contender.device == slow and layers >= size:
            slow_cases.add(case)
        return case

    slow_cases.clear()
    return growth.Axis("depth", "2 qubits", SIZES, (1, 2), build, {})


slow_cases: set = set()


@pytest.fixture
def clock(monkeypatch):
    """Calls of slow cases take ten seconds, others none."""
    monkeypatch.setattr(growth, "_timed", lambda case: (case(), 10.0 if case in slow_cases else 0.0))


@pytest.mark.usefixtures("clock")
def test_slow_contender_is_compared_where_it_becomes_slow_and_left_out_from_there():
    checked = growth.check(depth_axis("default.qubit", 2), SIZES)
    assert [list(c["gradient difference"]) for c in checked.checks][1][-1] == "qhybrid"
    assert checked.checks[1]["reference"] == "default.qubit, backprop"
    assert checked.remarks[0] == "default.qubit, backprop is left out from depth 2 on: 10.0 s a call."
    assert "default.qubit, backprop" in checked.cases[1]
    assert "default.qubit, backprop" not in checked.cases[2] | checked.cases.get(3, {})


@pytest.mark.usefixtures("clock")
def test_nothing_is_timed_where_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(growth, "has_lightning", lambda: False)
    checked = growth.check(depth_axis("default.qubit", 2), SIZES)
    assert list(checked.cases) == [1, 2]
    assert list(checked.cases[2]) == ["qhybrid"]
    assert checked.remarks[-1] == "depth 3: left out, since qhybrid has nothing to be compared with."
    points = growth.measure(checked, QUICK)
    assert ["ratio" in p for p in points] == [True, False]


def test_wrong_gradient_stops_before_timing(monkeypatch):
    def build(contender, layers):
        case = growth.large_state(contender, 2, layers)
        wrong = contender.device == "qhybrid.statevector" and layers == 2
        return (lambda: [1.001 * np.asarray(a) for a in case()]) if wrong else case

    axis = growth.Axis("depth", "2 qubits", SIZES, SIZES, build, {})
    monkeypatch.setattr(growth, "AXES", (axis,))
    monkeypatch.setattr(growth, "interleaved", lambda *_: pytest.fail("timed"))
    with pytest.raises(ResultsDifferError, match="qhybrid, depth 2, differs"):
        growth.run(quick=True)


# ------------------------------------------------------------------ ratio


def test_ratio_checks_the_forward_pass_too():
    right = {name: ratio.build(*c, 2, 1) for name, c in ratio.contenders().items()}
    wrong = ratio.Circuit(lambda weights: 0.123, right["qhybrid"].gradient, right["qhybrid"].weights)
    with pytest.raises(ResultsDifferError, match="value or gradient of qhybrid"):
        ratio.check({**right, "qhybrid": wrong})


# ------------------------------------------------------------------ memory


linux = pytest.mark.skipif(not memory.CLEAR_PEAK.exists(), reason="reads /proc")


@linux
@pytest.mark.slow
def test_memory_of_a_gradient_is_a_few_states():
    peak, gradients = memory.in_process("qhybrid", memory.Case(20, 1))
    assert [g.shape for g in gradients] == [(1, 20, 3)]
    assert 1.5 <= peak / memory.Case(20, 1).state <= 5


@linux
@pytest.mark.slow
def test_a_process_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="the process for unknown, 3 qubits, 1 layer, 2 outputs failed"):
        memory.in_process("unknown", memory.Case(3, 1, outputs=2))


def test_size_of_states():
    assert memory.Case(22, 1).state == memory.Case(22, 1).together == 64
    case = memory.Case(16, 1, batch=1024)
    assert (case.state, case.together) == (1024, 256)
    assert case.label == "16 qubits, 1 layer, 1 output, batch of 1024"


def test_memory_says_that_it_needs_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_PEAK", tmp_path / "missing")
    with pytest.raises(RuntimeError, match="which only Linux has"):
        memory.run(quick=True)


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("file_format", ["svg", "png"])
def test_pictures_are_drawn_and_repeat(results, tmp_path, file_format):
    first = plots.draw(results, tmp_path / "a", file_format)
    second = plots.draw(results, tmp_path / "b", file_format)
    assert [p.name for p in first] == [f"{n}.{file_format}" for n in ("growth", "ratio", "natural_gradient")]
    for a, b in zip(first, second, strict=True):
        assert a.stat().st_size > 5000
        assert a.read_bytes() == b.read_bytes()


def test_picture_of_growth_shows_every_number():
    figure = plots.growth_figure(results_of_growth())
    assert [panel.get_title("left") for panel in figure.axes] == ["Qubits", "Depth", "Batch", "Parameters"]
    for panel in figure.axes:
        lines = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
        assert lines == {"default.qubit, backprop": [[2, 9]], "qhybrid": [[2, 0.5], [8, 0.7]]}
        assert panel.get_yscale() == "log"


def test_picture_of_ratios_shows_the_goal():
    panel = plots.ratio_figure(results_of_ratio()).axes[0]
    numbers, goal = panel.lines
    assert numbers.get_xydata().tolist() == [[1, 3.125], [2, 3.25], [4, 3.5]]
    assert goal.get_ydata() == [4.5, 4.5]


def test_picture_of_natural_gradients_shows_every_step():
    steps, seconds = plots.natural_figure(results_of_natural_gradient()).axes
    assert [line.get_xydata().tolist() for line in steps.lines[:2]] == [[[1, 3], [2, 2], [3, 0.5]], [[1, 3], [2, 0.4]]]
    assert seconds.lines[1].get_xydata().tolist() == [[1e-3, 3], [0.1, 0.4]]
    assert steps.lines[2].get_ydata() == [0.5, 0.5]


def test_missing_results_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m benchmarks growth"):
        plots.draw(tmp_path, tmp_path)


@pytest.mark.slow
def test_pictures_from_the_command_line(results, tmp_path):
    command = [sys.executable, *WARNINGS, "-m", "benchmarks.plots", "--results", results, "--figures", tmp_path / "new"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["growth.svg", "natural_gradient.svg", "ratio.svg"]
