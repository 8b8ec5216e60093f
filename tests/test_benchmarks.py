"""The benchmarks run, compare before they time, and write what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import _timing, peers
from benchmarks.__main__ import BENCHMARKS
from tests.strict import WARNINGS

ROOT = Path(__file__).parents[1]
FILES = (
    "w1_hybrid_step",
    "w2_large_states",
    "w3_qubit_rotation",
    "overhead",
    "parameter_shift",
    "plugins",
    "natural_gradient",
    "derivatives",
    "sampling",
    "start",
    "ratio",
    "floor",
    "growth",
    "memory",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Results by name and the printed text of a quick run of everything, one half beside the other."""
    output = tmp_path_factory.mktemp("results")
    environment = {**os.environ, _timing.OUTPUT_VARIABLE: str(output), peers.VARIABLE: str(output / "no peers")}

    def run(names):
        command = [sys.executable, *WARNINGS, "-m", "benchmarks", "--quick", *names]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    names = list(BENCHMARKS)
    with ThreadPoolExecutor(2) as pool:
        printed = "".join(pool.map(run, (names[::2], names[1::2])))
    assert sorted(p.name for p in output.iterdir()) == sorted(f"{name}.json" for name in FILES)
    return {name: json.loads((output / f"{name}.json").read_text()) for name in FILES}, printed


def _numbers(tree, key):
    """All numbers below any ``key`` of nested dicts and lists."""
    if isinstance(tree, list):
        return [n for branch in tree for n in _numbers(branch, key)]
    if not isinstance(tree, dict):
        return []
    return [n for k, v in tree.items() for n in (_leaves(v) if k == key else _numbers(v, key))]


def _leaves(tree):
    if isinstance(tree, dict):
        return [n for v in tree.values() for n in _leaves(v)]
    return [tree]


@pytest.mark.parametrize(
    ("name", "key", "times"),
    [
        ("w1_hybrid_step", "gradient difference", ("milliseconds",)),
        ("w2_large_states", "gradient difference", ("milliseconds",)),
        ("w3_qubit_rotation", "angle difference", ("seconds",)),
        ("parameter_shift", "gradient difference", ("milliseconds",)),
        ("plugins", "difference", ("milliseconds",)),
        ("natural_gradient", "step difference", ("gradients", "peak MiB")),
        ("sampling", "standard deviations", ("milliseconds",)),
        ("start", "gradient difference", ("seconds",)),
        ("ratio", "gradient difference", ("milliseconds",)),
        ("growth", "gradient difference", ("milliseconds",)),
        ("memory", "gradient difference", ("states",)),
        ("overhead", "gradient difference", ("call", "in executable", "outside executable", "in kernels")),
    ],
)
def test_results_hold_check_and_times(quick, name, key, times):
    found = quick[0][name]
    assert found["quick"] is True
    assert found["environment"]["pennylane"] != "missing"
    differences = _numbers(found["check"], key)
    assert differences
    assert all(0 <= d <= (6 if name == "sampling" else 1e-5) for d in differences)
    for part in times:
        values = _numbers(found["results"], part)
        assert values
        assert all(t > 0 for t in values)


def test_float64_gradients_agree_tightly(quick):
    checks = quick[0]["w1_hybrid_step"]["check"]
    assert checks
    for check in checks:
        assert check["differences"]["qhybrid"]["tolerance"] == 1e-9
        assert check["differences"]["qhybrid"]["gradient difference"] <= 1e-9


def test_tables_are_printed(quick):
    for title in (
        "W1,",
        "W2,",
        "W3,",
        "Overhead",
        "Parameter-shift",
        "Other people's devices",
        "Natural gradient",
        "shots on 4 qubits",
        "Start",
        "Gradient",
        "Growth",
        "Peak",
    ):
        assert title in quick[1]
    assert quick[1].count("|---|") == len(FILES)


def test_without_names_all_are_run(monkeypatch, tmp_path):
    some = {name: BENCHMARKS[name] for name in ("w2", "ratio")}
    monkeypatch.setattr(command_line, "BENCHMARKS", some)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick"])
    monkeypatch.setenv(_timing.OUTPUT_VARIABLE, str(tmp_path))
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    command_line.main()
    assert sorted(p.stem for p in tmp_path.iterdir()) == sorted(some.values())


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_disagreement_is_an_error(wrong):
    with pytest.raises(_timing.ResultsDifferError, match="the gradient of X differs"):
        _timing.checked_difference("the gradient of X", [np.array([1.0, wrong])], [np.array([1.0, 0.4])], 1e-9)


@pytest.mark.parametrize("bad", ["sign", "nan"])
def test_wrong_gradient_stops_before_timing(monkeypatch, tmp_path, bad):
    from benchmarks import w1_hybrid_step as w1

    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))

    step = w1.Task.step

    def wrong(task):
        gradients = step(task)
        if getattr(task.model[1].qnode.device, "name", "") == "qhybrid.statevector":
            gradients[2] = -gradients[2] if bad == "sign" else gradients[2] * np.nan
        return gradients

    monkeypatch.setattr(w1.Task, "step", wrong)
    monkeypatch.setattr(w1, "interleaved", lambda *_: pytest.fail("timed"))
    with pytest.raises(_timing.ResultsDifferError, match="the gradient of qhybrid"):
        w1.run(quick=True)


def test_failed_write_leaves_the_old_file(monkeypatch, tmp_path):
    monkeypatch.setenv(_timing.OUTPUT_VARIABLE, str(tmp_path))
    report = _timing.Report("name", "title", ["a"], [["b"]], {}, {"milliseconds": 1.0})
    path = _timing.write(report, quick=True)
    before = path.read_text()
    broken = _timing.Report("name", "title", ["a"], [["b"]], {}, {"milliseconds": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        _timing.write(broken, quick=True)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["name.json"]


def test_missing_contender_is_named(monkeypatch, tmp_path):
    from benchmarks import w2_large_states as w2

    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    for module in (w2, _timing):
        monkeypatch.setattr(module, "has_lightning", lambda: False)
    monkeypatch.setattr(w2, "QUICK_SIZES", ((3, 4), (w2.MAX_BACKPROP + 1, 4)))
    report = w2.run(quick=True)
    assert list(report.header[2:]) == ["3 qubits, 4 layers"]
    assert "Missing: lightning.qubit" in report.markdown()
    assert "Missing: Catalyst" in report.markdown()
    assert f"{w2.MAX_BACKPROP + 1} qubits: left out" in report.markdown()
