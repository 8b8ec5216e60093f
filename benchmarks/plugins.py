"""Other people's devices: a gradient of the W1 circuit through qhybrid and through PennyLane's own plug-ins.

Aer: parameter-shift of the weights, inputs fixed, exact and with a noise model and shots. PennyLane's plug-in submits
circuit by circuit, so it is timed on ``PLUGIN_BATCH`` samples and scaled to the batch. Lightning: the whole step of the
hybrid classifier by the adjoint method. Gradients are compared before anything is timed, those from shots with exact
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pennylane
import torch

import qhybrid
from benchmarks import parameter_shift, w1_hybrid_step
from benchmarks._timing import (
    FULL,
    QUICK,
    Effort,
    Report,
    absences,
    checked_difference,
    elapsed,
    has_lightning,
    interleaved,
    verdict,
)

#: (qubits, layers, batch)
SIZE, QUICK_SIZE = (4, 2, 32), (2, 1, 3)
#: Samples on which PennyLane's plug-in is timed, and how often.
PLUGIN_BATCH, PLUGIN_CALLS = 2, 3
SHOTS = 1000
GOALS = {"exact": 100.0, "noise": 30.0, "lightning": 5.0}
TOLERANCE = 1e-6
#: A gradient from shots may be off by so many standard deviations.
SIGMAS = 5.0

Step = Callable[[], list[torch.Tensor]]


def noise_model() -> Any:
    """Depolarizing gates and a readout error, as small machines have them."""
    from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error

    model = NoiseModel(basis_gates=["rx", "ry", "rz", "cx"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.001, 1), ["rx", "ry", "rz"])
    model.add_all_qubit_quantum_error(depolarizing_error(0.01, 2), ["cx"])
    model.add_all_qubit_readout_error(ReadoutError([[0.98, 0.02], [0.03, 0.97]]))
    return model


def gradient(library: Any, device: Any, size: tuple[int, int, int], shots: int | None) -> Step:
    """The gradient alone of what :mod:`benchmarks.parameter_shift` runs."""
    step = parameter_shift.build(library, device, size, shots)
    return lambda: step()[1:]


def has_plugin() -> bool:
    """Whether PennyLane's plug-in for Aer can be a contender."""
    return find_spec("pennylane_qiskit") is not None


def compare_aer(size: tuple[int, int, int], noisy: bool, effort: Effort) -> dict[str, Any]:
    """Check and time the gradient on Aer; the plug-in's time is scaled from a smaller batch."""
    qubits, layers, batch = size
    options = {"noise_model": noise_model()} if noisy else {}
    shots = SHOTS if noisy else None

    def ours(samples: int, shots: int | None = shots) -> Step:
        device = qhybrid.device("qhybrid.aer", wires=qubits, seed=1, **options)
        return gradient(qhybrid, device, (qubits, layers, samples), shots)

    def reference(samples: int) -> Step:
        """The exact gradient: of the noisy circuit on our density matrix, without noise on default.qubit."""
        if noisy:
            return ours(samples, None)
        return gradient(pennylane, pennylane.device("default.qubit", wires=qubits), (qubits, layers, samples), None)

    def difference(name: str, step: Step, samples: int) -> float:
        bound = SIGMAS * np.sqrt(qubits * samples / (2 * SHOTS)) * np.sqrt(qubits) if noisy else TOLERANCE
        return checked_difference(name, step(), reference(samples)(), float(bound))

    step = ours(batch)
    found: dict[str, Any] = {"difference": {"qhybrid.aer": difference("qhybrid.aer", step, batch)}}
    seconds = interleaved({"qhybrid.aer": step}, effort)
    if has_plugin():
        few = min(PLUGIN_BATCH, batch)
        backend = {} if noisy else {"backend": "aer_simulator_statevector"}
        device = pennylane.device("qiskit.aer", wires=qubits, **backend, **options)
        plugin = gradient(pennylane, device, (qubits, layers, few), shots)
        name = "pennylane-qiskit, qiskit.aer"
        found["difference"][name] = difference(name, plugin, few)
        times = [elapsed(plugin) for _ in range(PLUGIN_CALLS if effort is FULL else 1)]
        seconds[name] = float(np.median(times)) * batch / few
        found["timed samples"] = few
    found["milliseconds"] = {n: 1e3 * t for n, t in seconds.items()}
    found["ratio"] = {n: t / seconds["qhybrid.aer"] for n, t in seconds.items()}
    return found


def compare_lightning(size: tuple[int, int, int], effort: Effort) -> dict[str, Any]:
    """Check and time the step of the hybrid classifier on lightning.qubit."""
    contenders = {
        "lightning.qubit in a QNode of qhybrid": w1_hybrid_step.Contender(qhybrid, "lightning.qubit", "adjoint"),
        "lightning.qubit in a QNode of PennyLane": w1_hybrid_step.Contender(pennylane, "lightning.qubit", "adjoint"),
    }
    tasks = w1_hybrid_step.build_tasks(*size, contenders)
    ours, theirs = contenders
    differences = {}
    for name, task in tasks.items():
        # PennyLane hands the results of Lightning to torch in float32
        tolerance = 1e-5 if name == theirs else 1e-9
        expected = w1_hybrid_step.build_tasks(*size)[w1_hybrid_step.REFERENCE].step()
        differences[name] = checked_difference(name, task.step(), expected, tolerance)
    seconds = interleaved({name: task.step for name, task in tasks.items()}, effort)
    return {
        "difference": differences,
        "milliseconds": {n: 1e3 * t for n, t in seconds.items()},
        "ratio": {n: t / seconds[ours] for n, t in seconds.items()},
    }


def run(quick: bool) -> Report:
    """Check, then time.

    Args:
        quick: a small size, one call each
    """
    size, effort = (QUICK_SIZE, QUICK) if quick else (SIZE, FULL)
    results: dict[str, Any] = {"size": size}
    if has_lightning():  # first: the threads that Aer leaves behind would slow PennyLane's Lightning down
        results["lightning"] = compare_lightning(size, effort)
    if find_spec("qiskit_aer") is not None:
        results["exact"] = compare_aer(size, False, effort)
        results["noise"] = compare_aer(size, True, effort)
    titles = {
        "exact": "Aer, parameter-shift, exact",
        "noise": f"Aer, parameter-shift, noise model, {SHOTS} shots",
        "lightning": "Lightning, hybrid step, adjoint",
    }
    rows = [
        [titles[what], name, f"{ms:.4g}", f"{results[what]['ratio'][name]:.1f}x"]
        for what in titles
        if what in results
        for name, ms in results[what]["milliseconds"].items()
    ]
    title = f"Other people's devices, (qubits, layers, batch) = {size}: milliseconds a gradient, medians"
    return Report(
        "plugins",
        title,
        ["work", "contender", "ms", "/ qhybrid"],
        rows,
        {
            "difference": {what: results[what]["difference"] for what in ("exact", "lightning") if what in results},
            "difference from shots": results.get("noise", {}).get("difference", {}),
        },
        results,
        _remarks(results, quick),
    )


def _remarks(results: dict[str, Any], quick: bool) -> Sequence[str]:
    remarks = []
    scaled = results.get("exact", {}).get("timed samples")
    if scaled is not None:
        batch = results["size"][2]
        remarks.append(f"The plug-in was timed on {scaled} samples, and its time multiplied by {batch} / {scaled}.")
    if "exact" not in results:
        remarks.append("Missing: qhybrid.aer (qiskit-aer is not installed).")
    elif not has_plugin():
        remarks.append("Missing: qiskit.aer (pennylane-qiskit is not installed).")
    remarks += absences()
    for what, goal in GOALS.items():
        ratios = results.get(what, {}).get("ratio", {})
        if len(ratios) > 1:
            best = max(ratios.values())
            remarks.append(
                verdict(best >= goal, f"{what}: PennyLane's / qhybrid >= {goal:g} (found: {best:.3g})", quick)
            )
    return remarks
