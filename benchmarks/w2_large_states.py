"""W2: value and gradient of ``<Z0 Z1>`` after four StronglyEntanglingLayers on 10, 16 and 20 qubits, two on 24.

PennyLane and qhybrid run ``qml.grad`` in autograd, which evaluates the circuit on its way to the gradient; peers run
what they have for it. Values and gradients are compared, at all sizes, before anything is timed. ``default.qubit``
keeps every intermediate state and is left out above 16 qubits, where the reference is the next contender.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pennylane as qml

import qhybrid
from benchmarks import peers
from benchmarks._timing import (
    FULL,
    QUICK,
    TOLERANCES,
    Effort,
    Report,
    absences,
    cell,
    checked_difference,
    has_lightning,
    interleaved,
    verdict,
)

#: (qubits, layers)
SIZES = ((10, 4), (16, 4), (20, 4), (24, 2))
QUICK_SIZES = ((3, 4), (6, 2))
#: By how much the best contender's time is to exceed qhybrid's, by qubits.
GOALS = {10: 3.0, 16: 4.0, 20: 5.0, 24: 4.0}
#: Qubits above which default.qubit is left out.
MAX_BACKPROP = 16
#: Qubits from which a contender has fewer turns and no warm-up but its check, since one takes half a minute.
LONG, LONG_EFFORT = 24, Effort(rounds=2, warm_up=0)
#: What a peer in single precision may differ by from there on: a sum of 2^24 probabilities in float32 is no better.
LONG_TOLERANCE = 1e-4

Case = Callable[[], Sequence[Any]]


def own_cases(qubits: int, weights: np.ndarray) -> dict[str, Case]:
    """PennyLane and qhybrid: all that are installed and suit the size."""
    found: dict[str, Case] = {}
    if qubits <= MAX_BACKPROP:
        found["default.qubit, backprop"] = build(qml, "default.qubit", "backprop", weights)
    if has_lightning():
        found["lightning.qubit, adjoint"] = build(qml, "lightning.qubit", "adjoint", weights)
    found["qhybrid"] = build(qhybrid, "qhybrid.statevector", "best", weights)
    found["qhybrid, complex64"] = build(qhybrid, "qhybrid.statevector", "best", weights, c_dtype=np.complex64)
    return found


def build(library: Any, device: str, diff_method: str, weights: np.ndarray, **options: Any) -> Case:
    """A function that gives value and gradient at fixed weights."""
    _, qubits, _ = weights.shape

    @library.qnode(library.device(device, wires=qubits, **options), diff_method=diff_method)
    def circuit(weights):
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return library.expval(library.PauliZ(0) @ library.PauliZ(1))

    trainable = qml.numpy.array(weights, requires_grad=True)
    gradient = library.grad(circuit)

    def value_and_gradient() -> tuple[float, np.ndarray]:
        found = gradient(trainable)
        return gradient.forward, found

    return value_and_gradient


def build_cases(qubits: int, layers: int, remotes: Mapping[str, peers.Remote]) -> dict[str, Case]:
    """What each contender that suits the size is timed on, by its name."""
    weights = np.random.default_rng(qubits).uniform(0, 2 * np.pi, (layers, qubits, 3))
    fitting = {name: remote for name, remote in remotes.items() if qubits <= remote.peer.most_qubits}
    found = {name: remote.build({"weights": weights})["gradient"] for name, remote in fitting.items()}
    return {**own_cases(qubits, weights), **found}


def check(qubits: int, cases: Mapping[str, Case]) -> dict[str, Any]:
    """Compare values and gradients with the reference's: the first contender's in double precision, not qhybrid.

    Raises:
        ResultsDifferError: they differ by more than the tolerance
    """
    reference = next(name for name in cases if not _is_own(name) and precision(name) == "double")
    expected = cases[reference]()
    found = {}
    for name in cases:
        if name != reference:
            long = qubits >= LONG and precision(name) == "single" and not _is_own(name)
            tolerance = LONG_TOLERANCE if long else TOLERANCES[precision(name)]
            difference = checked_difference(f"value or gradient of {name}", cases[name](), expected, tolerance)
            found[name] = {"tolerance": tolerance, "gradient difference": difference}
    return {"qubits": qubits, "reference": reference, "differences": found}


def measure(qubits: int, layers: int, cases: Mapping[str, Case], effort: Effort) -> dict[str, Any]:
    """Milliseconds, and how many times qhybrid's each contender's are."""
    seconds = interleaved(cases, effort)
    best = min((name for name in seconds if not _is_own(name)), key=seconds.__getitem__)
    return {
        "qubits": qubits,
        "layers": layers,
        "milliseconds": {name: 1e3 * t for name, t in seconds.items()},
        "ratio": {name: t / seconds["qhybrid"] for name, t in seconds.items()},
        "best": best,
    }


def run(quick: bool) -> Report:
    """Check all sizes, then time them.

    Args:
        quick: small sizes, one call each
    """
    with peers.started("w2") as remotes:
        found = {size: build_cases(*size, remotes) for size in (QUICK_SIZES if quick else SIZES)}
        alone = [n for (n, _), cases in found.items() if all(map(_is_own, cases))]
        cases = {size: found[size] for size in found if size[0] not in alone}
        checks = [check(n, c) for (n, _), c in cases.items()]
        results = [
            measure(n, layers, c, QUICK if quick else LONG_EFFORT if n >= LONG else FULL)
            for (n, layers), c in cases.items()
        ]
    names = list(dict.fromkeys(name for r in results for name in r["milliseconds"]))
    rows = [[name, precision(name), *(cell(r, name) for r in results)] for name in names]
    worst = max(c["differences"]["qhybrid"]["gradient difference"] for c in checks)
    remarks = [
        "In brackets: how many times as long as qhybrid.",
        f"Largest difference of a value or gradient of qhybrid to the reference: {worst:.0e}.",
        *absences(),
        *peers.absences("w2"),
        *(f"{n} qubits: left out, since qhybrid has nothing to be compared with." for n in alone),
        *(_verdict(r, quick) for r in results if r["qubits"] in GOALS),
    ]
    header = ["contender", "precision", *(f"{r['qubits']} qubits, {r['layers']} layers" for r in results)]
    title = "W2, value and gradient of <Z0 Z1>: milliseconds, medians of interleaved calls"
    return Report("w2_large_states", title, header, rows, checks, results, remarks)


def precision(name: str) -> str:
    """Single or double, by the name of a contender."""
    return "single" if name.endswith("complex64") else "double"


def _is_own(name: str) -> bool:
    return name.startswith("qhybrid")


def _verdict(found: dict[str, Any], quick: bool) -> str:
    goal, ratio = GOALS[found["qubits"]], found["ratio"][found["best"]]
    text = f"{found['qubits']} qubits, best contender ({found['best']}) / qhybrid >= {goal:g} (found: {ratio:.1f})"
    return verdict(ratio >= goal, text, quick)
