"""Shots: what a million samples cost on top of the state, on 20 qubits.

All results from shots are compared with exact probabilities before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml

from benchmarks._timing import (
    FULL,
    QUICK,
    Effort,
    Report,
    ResultsDifferError,
    absences,
    interleaved,
    simulators,
    verdict,
)

QUBITS, SHOTS, QUICK_QUBITS, QUICK_SHOTS = 20, 10**6, 4, 1000
LAYERS = 4
#: Largest deviation of a frequency from its probability, in standard deviations of the worst case.
SIGMAS = 6.0
EXACT = "exact expectation value"


def measurements(library: Any) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    return {
        "expectation value": lambda: library.expval(library.PauliZ(0)),
        "probabilities of 3 wires": lambda: library.probs(wires=[0, 1, 2]),
        "counts of 3 wires": lambda: library.counts(wires=[0, 1, 2]),
        "samples of 3 wires": lambda: library.sample(wires=[0, 1, 2]),
    }


def build(library: Any, device: str, qubits: int, shots: int) -> dict[str, Callable[[], Any]]:
    """A function for each measurement, and for the exact expectation value."""
    weights = _weights(qubits)
    cases = {}
    for name, measure in {EXACT: measurements(library)["expectation value"], **measurements(library)}.items():

        @library.qnode(library.device(device, wires=qubits))
        def circuit(weights, measure=measure):
            library.StronglyEntanglingLayers(weights, wires=range(qubits))
            return measure()

        node = circuit if name == EXACT else qml.set_shots(circuit, shots=shots)
        cases[name] = lambda node=node: node(weights)
    return cases


def check(cases: dict[str, Callable[[], Any]], shots: int, exact: np.ndarray) -> float:
    """The largest deviation from exact probabilities, in standard deviations of a frequency of one half.

    Raises:
        ResultsDifferError: it is larger than chance allows
    """
    counts, samples = cases["counts of 3 wires"](), np.asarray(cases["samples of 3 wires"]())
    drawn = np.bincount(samples @ [4, 2, 1], minlength=8)
    frequencies = [
        np.asarray(cases["probabilities of 3 wires"]()),
        np.array([counts.get(f"{i:03b}", 0) for i in range(8)]) / shots,
        drawn / shots,
    ]
    value = (1 + np.asarray(cases["expectation value"]())) / 2
    deviations = [np.abs(f - exact).max() for f in frequencies] + [abs(value - exact[:4].sum())]
    worst = float(np.max(deviations) * 2 * np.sqrt(shots))
    if not worst <= SIGMAS:
        raise ResultsDifferError(f"samples deviate by {worst:.1f} standard deviations; nothing was timed")
    return worst


def run(quick: bool) -> Report:
    """Check, then time.

    Args:
        quick: few qubits and shots, one call each
    """
    qubits, shots = (QUICK_QUBITS, QUICK_SHOTS) if quick else (QUBITS, SHOTS)
    exact = _exact(qubits)
    # default.qubit needs seconds for each of them
    libraries = {name: c for name, c in simulators().items() if name != "default.qubit"}
    cases = {name: build(*c, qubits, shots) for name, c in libraries.items()}
    checks = {"standard deviations": {name: check(c, shots, exact) for name, c in cases.items()}}
    effort = QUICK if quick else Effort(rounds=FULL.rounds, seconds=FULL.seconds, warm_up=1)
    seconds = {m: interleaved({name: c[m] for name, c in cases.items()}, effort) for m in cases["qhybrid"]}
    rows = [[m, *(f"{1e3 * t:.3g}" for t in times.values())] for m, times in seconds.items()]
    extra = seconds["expectation value"]["qhybrid"] - seconds[EXACT]["qhybrid"]
    remarks = [
        f"Largest deviation from exact probabilities: {max(checks['standard deviations'].values()):.1f} sigma.",
        *absences(),
        verdict(extra <= seconds[EXACT]["qhybrid"], "sampling costs at most one forward pass", quick),
    ]
    milliseconds = {m: {n: 1e3 * t for n, t in times.items()} for m, times in seconds.items()}
    title = f"{shots:.0e} shots on {qubits} qubits, {LAYERS} layers: milliseconds, medians of interleaved calls"
    results = {"qubits": qubits, "shots": shots, "milliseconds": milliseconds}
    return Report("sampling", title, ["", *cases], rows, checks, results, remarks)


def _weights(qubits: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 2 * np.pi, (LAYERS, qubits, 3))


def _exact(qubits: int) -> np.ndarray:
    """Probabilities of the first three wires."""
    weights = _weights(qubits)

    @qml.qnode(qml.device("default.qubit", wires=qubits))
    def circuit(weights):
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return qml.probs(wires=[0, 1, 2])

    return np.asarray(circuit(weights))
