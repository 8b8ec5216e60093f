"""The tutorials run, reach what they promise, survive Ctrl-C, and match their notebooks."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jupytext
import numpy as np
import pytest
import torch

from tests.strict import WARNINGS

TUTORIALS = Path(__file__).parents[1] / "tutorials"
#: The one that takes longest stands first; see :func:`runs`.
NAMES = (
    "physics_aware",
    "plugins",
    "hybrid_classifier",
    "derivatives_four_ways",
    "natural_gradient",
    "differentiable_ground_state",
    "qubit_rotation",
)
MAX_NOTEBOOK_BYTES = 1_500_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _interrupts_are_heard():
    """A shell makes jobs in its background ignore Ctrl-C, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _start(name: str, output: Path) -> subprocess.Popen:
    environment = {**os.environ, "QHYBRID_TUTORIAL_OUTPUT": str(output), "MPLBACKEND": "Agg"}
    script = TUTORIALS / f"{name}.py"
    return subprocess.Popen(
        [sys.executable, *WARNINGS, str(script)],
        env=environment,
        cwd=output,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen, expected_code: int = 0) -> str:
    try:
        printed, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == expected_code, errors[-3000:]
    assert "Traceback" not in errors, errors[-3000:]
    return printed


class Run(NamedTuple):
    """A tutorial that nobody disturbed: its folder, the result that it wrote there, and what it printed."""

    output: Path
    result: dict
    printed: str


def _result(name: str, output: Path) -> dict:
    return json.loads((output / f"{name}.json").read_text())


def _run(name: str, output: Path) -> Run:
    printed = _finish(_start(name, output))
    return Run(output, _result(name, output), printed)


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """The runs of all tutorials that the chosen tests ask for; two at a time, since each keeps one core busy."""
    asked = {fixture for item in request.session.items for fixture in getattr(item, "fixturenames", ())}
    outputs = {name: tmp_path_factory.mktemp(name) for name in NAMES if name in asked}
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(_run, name, output) for name, output in outputs.items()}
        pool.shutdown(cancel_futures=True)


def _waiting_for(name: str):
    """A fixture, called like a tutorial, that gives its run."""

    @pytest.fixture(scope="module", name=name)
    def finished(runs: dict[str, Future[Run]]) -> Run:
        return runs[name].result()

    return finished


physics_aware = _waiting_for("physics_aware")
plugins = _waiting_for("plugins")
hybrid_classifier = _waiting_for("hybrid_classifier")
derivatives_four_ways = _waiting_for("derivatives_four_ways")
natural_gradient = _waiting_for("natural_gradient")
differentiable_ground_state = _waiting_for("differentiable_ground_state")
qubit_rotation = _waiting_for("qubit_rotation")


def test_rotation_reaches_the_south_pole(qubit_rotation):
    output, result, printed = qubit_rotation
    assert result["gradient_error"] < 1e-12
    for optimizer in ("gradient_descent", "adagrad"):
        assert result[optimizer]["cost"] < -0.9999
        np.testing.assert_allclose(result[optimizer]["angles"], [0, np.pi], atol=1e-4)
    for figure in ("loss", "bloch"):
        path = output / f"qubit_rotation_{figure}.png"
        assert path.stat().st_size > 10_000
        assert str(path) in printed


def test_classifier_reads_digits(hybrid_classifier):
    output, result, printed = hybrid_classifier
    assert result["quantum"]["test_accuracy"] >= 0.92
    assert f"test accuracy {result['quantum']['test_accuracy']:.3f}" in printed
    assert f"test accuracy {result['identity']['test_accuracy']:.3f}" in printed
    for figure in ("digits", "curves", "confusion"):
        path = output / f"hybrid_classifier_{figure}.png"
        assert path.stat().st_size > 5_000
        assert str(path) in printed


def test_finished_classifier_leaves_the_best_weights_and_starts_afresh(hybrid_classifier):
    output, _, printed = hybrid_classifier
    assert "resumed" not in printed
    assert not list(output.glob("*checkpoint*"))
    assert not list(output.glob("*.tmp"))
    weights = torch.load(output / "hybrid_classifier_quantum_best.pt")
    assert {tuple(w.shape) for w in weights.values()} >= {(16, 64), (10, 16)}


def _epoch_when_at_least(checkpoint: Path, epoch: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the tutorial ended before it could be interrupted"
        if checkpoint.exists() and torch.load(checkpoint)["epoch"] >= epoch:
            return
        time.sleep(0.02)
    raise TimeoutError(f"no checkpoint of epoch {epoch}")


def test_interrupted_classifier_resumes(tmp_path, hybrid_classifier):
    checkpoint = tmp_path / "hybrid_classifier_quantum_checkpoint.pt"
    process = _start("hybrid_classifier", tmp_path)
    try:
        _epoch_when_at_least(checkpoint, 3, process)
        process.send_signal(signal.SIGINT)
        printed = _finish(process, expected_code=130)
    finally:
        process.kill()
    assert "start again to go on from there" in printed
    assert not (tmp_path / "hybrid_classifier.json").exists()
    epoch = torch.load(checkpoint)["epoch"]
    assert epoch >= 3

    printed = _finish(_start("hybrid_classifier", tmp_path))
    assert f"quantum: resumed after epoch {epoch} of 40" in printed
    resumed, undisturbed = _result("hybrid_classifier", tmp_path), hybrid_classifier.result
    for name in ("quantum", "identity"):
        assert resumed[name]["best_epoch"] == undisturbed[name]["best_epoch"]
        for curve, values in undisturbed[name]["curves"].items():
            np.testing.assert_allclose(resumed[name]["curves"][curve], values, rtol=1e-6)


def test_exact_devices_agree_and_the_noisy_one_ends_at_its_floor(plugins):
    _, result, _ = plugins
    rotation = result["rotation"]
    for name in ("state vector", "Aer", "Lightning"):
        assert rotation["gradient_error"][name] < 1e-10
        np.testing.assert_allclose(rotation["costs"][name], rotation["costs"]["state vector"], atol=1e-9)
        assert rotation["costs"][name][-1] < -0.9999
    # a maximally mixed state with probability 1 - 0.95**2 reads 0.04 on average, |1> reads -0.88
    np.testing.assert_allclose(rotation["floor"], 0.95**2 * -0.88 + (1 - 0.95**2) * 0.04, atol=1e-12)
    assert abs(rotation["plateau"] - rotation["floor"]) < 4 * rotation["scatter"] / np.sqrt(20)
    noisy = np.array(rotation["costs"]["Aer with noise"][-20:])
    assert 0.5 * rotation["scatter"] < noisy.std() < 2 * rotation["scatter"]
    values, gradients = 51 + 2, 50 + 1  # of the walk and at the trial point
    assert rotation["circuits"]["Aer with noise"] == values + 4 * gradients


def test_classifier_learns_on_a_noisy_chip(plugins):
    _, result, printed = plugins
    accuracy = result["classifier"]["test_accuracy"]
    assert accuracy["on the noisy chip"] >= 0.94
    assert accuracy["same weights, exact"] >= 0.94
    assert f"test accuracy {accuracy['on the noisy chip']:.3f}" in printed
    steps, batch, angles, tests = 3 * 120 // 15, 15, 8, 4 * 241
    assert result["classifier"]["circuits"] == steps * batch * (1 + 2 * angles) + tests


def test_light_is_redirected(plugins):
    _, result, _ = plugins
    np.testing.assert_allclose(result["light"]["theta"], np.pi / 2, atol=1e-4)
    np.testing.assert_allclose(result["light"]["photons"], [0, 1], atol=1e-6)


def test_light_and_qubit_learn_from_each_other(plugins):
    _, result, _ = plugins
    hybrid = result["hybrid"]
    assert hybrid["gradient_error"] < 1e-12
    for pupil, answer in (("qubit", [2, 0, 0]), ("optical", [1.5, 0.3, 1])):
        assert hybrid[pupil]["mismatch"] < 1e-5
        np.testing.assert_allclose(hybrid[pupil]["params"], answer, atol=0.05)


def test_budget_refuses_the_gradient(plugins):
    _, result, printed = plugins
    assert "max_circuits" in result["budget"]["refusal"]
    assert result["budget"]["refusal"] in printed
    assert result["budget"]["circuits_after"] == 2


def test_plugins_saves_its_figures(plugins):
    output, _, printed = plugins
    for figure in ("rotation", "classifier", "light", "hybrid"):
        path = output / f"plugins_{figure}.png"
        assert path.stat().st_size > 10_000
        assert str(path) in printed


def test_physics_aware_training_beats_training_in_silico(physics_aware):
    _, result, _ = physics_aware
    accuracy = result["accuracy"]
    assert min(result["on_the_simulator"]) >= 0.95
    assert accuracy["physics-aware"] >= 0.93
    assert accuracy["physics-aware"] > accuracy["in silico, at best"] + 0.03
    assert accuracy["physics-aware"] > accuracy["in silico"] + 0.05
    for found, simulator in zip(result["cosines"]["physics-aware"], result["cosines"]["in silico"], strict=True):
        assert found > max(0.3, simulator)


def test_physics_aware_training_takes_a_tenth_of_the_circuits(physics_aware):
    _, result, printed = physics_aware
    needed = result["circuits_until_goal"]
    assert 10 * needed["physics-aware"] <= needed["in situ"]
    batch, angles = 16, 5 * 3 * 2
    assert result["circuits"] == {"in situ": 21 * batch * (1 + 2 * angles), "physics-aware": 120 * batch}
    assert "forward on qhybrid.aer, backward on the twin qhybrid.statevector by adjoint" in printed


def test_physics_aware_saves_its_figures(physics_aware):
    output, _, printed = physics_aware
    for figure in ("chip", "costs", "regions"):
        path = output / f"physics_aware_{figure}.png"
        assert path.stat().st_size > 10_000
        assert str(path) in printed


def test_four_ways_agree(derivatives_four_ways):
    _, result, _ = derivatives_four_ways
    assert list(result["error"]) == ["finite differences", "symbolic", "forward", "reverse"]
    for name, errors in result["error"].items():
        assert max(errors.values()) < (1e-9 if name == "finite differences" else 1e-14)
    assert result["hybrid_error"] < 1e-9
    for name, step in result["best_step"].items():
        assert 1e-6 < step < 1e-4 if "symmetric" in name else 1e-11 < step < 1e-6


def test_costs_of_the_four_ways_grow_as_said(derivatives_four_ways):
    _, result, _ = derivatives_four_ways
    cost, swell = result["cost"], result["swell"]
    assert cost["angles"] == [8, 16, 32, 64, 128, 256]
    assert cost["reverse"][-1] < 0.1 * min(cost["finite differences"][-1], cost["forward"][-1])
    for smaller, larger in itertools.pairwise(swell["value"]):
        assert larger > 3 * smaller


def test_derivatives_saves_its_figures(derivatives_four_ways):
    output, _, printed = derivatives_four_ways
    for figure in ("error.png", "cost.png", "f.svg", "hybrid.svg"):
        path = output / f"derivatives_four_ways_{figure}"
        assert path.stat().st_size > 10_000
        assert str(path) in printed
    for text in ("<!-- log -->", "<!-- encoder.weight -->", "<!-- RY -->"):
        assert text in (output / f"derivatives_four_ways_{'f' if 'log' in text else 'hybrid'}.svg").read_text()


def test_natural_gradient_goes_straight_and_cools(natural_gradient):
    output, result, printed = natural_gradient
    assert result["metric_error"] < 1e-12
    assert result["operator_error"] < 1e-12
    assert result["off_course"]["natural gradient"] < 0.02
    assert result["off_course"]["gradient descent"] > 0.2
    errors = result["energy_errors"]
    assert errors["natural gradient"] < 2e-3
    assert errors["gradient descent"] > 10 * errors["natural gradient"]
    assert result["torch_error"] == pytest.approx(errors["natural gradient"], rel=0.05)
    assert result["time_difference"] < 0.1
    for figure in ("map", "energy"):
        path = output / f"natural_gradient_{figure}.png"
        assert path.stat().st_size > 10_000
        assert str(path) in printed


def test_ground_state_is_differentiated_alike_in_two_ways(differentiable_ground_state):
    output, result, printed = differentiable_ground_state
    for name, tolerance in (("energy", 1e-7), ("slope", 1e-4), ("curvature", 1e-4)):
        circuit, diagonalisation = result[name]
        assert circuit == pytest.approx(diagonalisation, abs=tolerance)
    assert result["energy_difference"] < 1e-6
    assert result["slope_difference"] < 1e-4
    for figure in ("training", "slopes"):
        path = output / f"differentiable_ground_state_{figure}.png"
        assert path.stat().st_size > 10_000
        assert str(path) in printed


@pytest.mark.parametrize("name", NAMES)
def test_notebook_matches_its_script(name):
    path = TUTORIALS / f"{name}.ipynb"
    script = jupytext.reads((TUTORIALS / f"{name}.py").read_text(), fmt="py:percent")
    notebook = jupytext.reads(path.read_text(), fmt="ipynb")
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_holds_its_outputs(name):
    path = TUTORIALS / f"{name}.ipynb"
    assert path.stat().st_size < MAX_NOTEBOOK_BYTES
    code = [c for c in jupytext.reads(path.read_text(), fmt="ipynb").cells if c.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert all(cell.execution_count for cell in code)
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    for place in (str(TUTORIALS.parent), "site-packages", "/tmp/"):
        assert place not in path.read_text(), "the notebook shows a path of the machine it ran on"
