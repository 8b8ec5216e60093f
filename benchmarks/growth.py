"""How the time of a value with its gradient grows: with qubits, depth, batch, and number of trained parameters.

One circuit of StronglyEntanglingLayers, of which one size grows while the others stay. Values and gradients of all
contenders are compared at all sizes before anything is timed. A contender that is slow at one size is compared there,
but neither timed there nor run at larger ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane as qml

import qhybrid
from benchmarks._timing import (
    QUICK,
    Effort,
    Report,
    absences,
    checked_difference,
    has_lightning,
    interleaved,
    pennylanes_best,
)

#: Seconds of a call from which on a contender is left out.
SLOW = 2.0
EFFORT = Effort(rounds=5, seconds=0.1, warm_up=1)
TOLERANCE = 1e-9
#: PennyLane hands the results of Lightning to torch in float32.
TORCH_TOLERANCE = {"lightning.qubit, adjoint": 1e-5}
#: What stays as it is while something else grows.
DEFAULT_LAYERS, DEPTH_QUBITS, BATCH_SIZE, PARAMETERS_SIZE = 4, 12, (8, 3), (10, 8)

#: Gives the value and all gradients of one circuit.
Case = Callable[[], Sequence[Any]]


@dataclass(frozen=True)
class Contender:
    """One way to run a circuit.

    Args:
        library: whose ``qnode``, ``device`` and operations are used
        device: name of the device
        diff_method: of the QNode
    """

    library: Any
    device: str
    diff_method: str

    def qnode(self, qubits: int) -> Callable[[Callable], Any]:
        """The decorator that makes a QNode on this many wires."""
        return self.library.qnode(self.library.device(self.device, wires=qubits), diff_method=self.diff_method)


def contenders() -> dict[str, Contender]:
    """All that are installed, the reference first."""
    found = {"default.qubit, backprop": Contender(qml, "default.qubit", "backprop")}
    if has_lightning():
        found["lightning.qubit, adjoint"] = Contender(qml, "lightning.qubit", "adjoint")
    return {**found, "qhybrid": Contender(qhybrid, "qhybrid.statevector", "best")}


# ------------------------------------------------------------------ circuits


def large_state(contender: Contender, qubits: int, layers: int) -> Case:
    """``<Z0 Z1>`` and its gradient with respect to all weights, in autograd."""
    library = contender.library

    @contender.qnode(qubits)
    def circuit(weights):
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return library.expval(library.PauliZ(0) @ library.PauliZ(1))

    weights = qml.numpy.array(_angles(layers, qubits, 3), requires_grad=True)
    gradient = library.grad(circuit)

    def value_and_gradient() -> Sequence[Any]:
        found = gradient(weights)
        return gradient.forward, found

    return value_and_gradient


def batched(contender: Contender, batch: int) -> Case:
    """Results on every wire for a batch of inputs, and gradients of inputs and weights, in torch."""
    import torch

    library, (qubits, layers) = contender.library, BATCH_SIZE

    @contender.qnode(qubits)
    def circuit(inputs, weights):
        library.AngleEmbedding(inputs, wires=range(qubits))
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [library.expval(library.PauliZ(i)) for i in range(qubits)]

    inputs, weights = (torch.tensor(_angles(*shape), requires_grad=True) for shape in ((batch, 8), (layers, qubits, 3)))

    def value_and_gradients() -> Sequence[Any]:
        value = torch.stack(circuit(inputs, weights)).mean()
        return value.detach(), *torch.autograd.grad(value, (inputs, weights))

    return value_and_gradients


def partly_trained(contender: Contender, parameters: int) -> Case:
    """``<Z0 Z1>`` and its gradient with respect to some of the weights, spread over the circuit, in autograd."""
    library, (qubits, layers) = contender.library, PARAMETERS_SIZE
    angles = _angles(layers * qubits * 3)
    places = np.argsort(np.random.default_rng(1).permutation(angles.size)).reshape(layers, qubits, 3)

    @contender.qnode(qubits)
    def circuit(trained, fixed):
        weights = qml.math.concatenate([trained, fixed])[places]
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return library.expval(library.PauliZ(0) @ library.PauliZ(1))

    trained = qml.numpy.array(angles[:parameters], requires_grad=True)
    fixed = qml.numpy.array(angles[parameters:], requires_grad=False)
    gradient = library.grad(circuit)

    def value_and_gradient() -> Sequence[Any]:
        found = gradient(trained, fixed)
        return gradient.forward, found

    return value_and_gradient


def _angles(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 2 * np.pi, shape)


# ------------------------------------------------------------------ axes


@dataclass(frozen=True)
class Axis:
    """One way for a circuit to grow.

    Args:
        name: what grows
        fixed: what stays
        sizes: of a full run
        quick_sizes: of a quick run
        build: a contender's case of one size
        tolerances: largest differences allowed, of contenders that do not compute in double precision
    """

    name: str
    fixed: str
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    build: Callable[[Contender, int], Case]
    tolerances: dict[str, float]


AXES = (
    Axis(
        "qubits",
        f"{DEFAULT_LAYERS} layers",
        tuple(range(4, 23, 2)),
        (3, 4),
        lambda contender, n: large_state(contender, n, DEFAULT_LAYERS),
        {},
    ),
    Axis(
        "depth",
        f"{DEPTH_QUBITS} qubits",
        (1, 2, 4, 8, 16, 32, 64),
        (1, 2),
        lambda contender, layers: large_state(contender, DEPTH_QUBITS, layers),
        {},
    ),
    Axis(
        "batch",
        "{} qubits, {} layers, in PyTorch".format(*BATCH_SIZE),
        (1, 4, 16, 64, 256, 1024),
        (1, 3),
        batched,
        TORCH_TOLERANCE,
    ),
    Axis(
        "parameters",
        "{} qubits, {} layers, 240 weights".format(*PARAMETERS_SIZE),
        (1, 4, 15, 60, 240),
        (1, 240),
        partly_trained,
        {},
    ),
)


@dataclass(frozen=True)
class Checked:
    """An axis whose sizes have been compared.

    Args:
        axis: which
        cases: what to time, by size and contender
        checks: what was compared
        remarks: which contenders are left out, and from where on
    """

    axis: Axis
    cases: dict[int, dict[str, Case]]
    checks: list[dict[str, Any]]
    remarks: list[str]


def check(axis: Axis, sizes: Sequence[int], slow: float = SLOW) -> Checked:
    """Compare values and gradients of all contenders with the first one's, at all sizes.

    Args:
        axis: what grows
        sizes: ascending
        slow: seconds of a call from which on a contender is left out

    Raises:
        ResultsDifferError: they differ by more than the tolerance
    """
    left, found = contenders(), Checked(axis, {}, [], [])
    for size in sizes:
        if len(left) == 1:
            alone = next(iter(left))
            found.remarks.append(f"{axis.name} {size}: left out, since {alone} has nothing to be compared with.")
            continue
        cases = {name: axis.build(c, size) for name, c in left.items()}
        timed = {name: _timed(case) for name, case in cases.items()}
        reference, *others = cases
        differences = {
            name: checked_difference(
                f"{name}, {axis.name} {size},",
                timed[name][0],
                timed[reference][0],
                axis.tolerances.get(name, TOLERANCE),
            )
            for name in others
        }
        found.checks.append(
            {"axis": axis.name, "size": size, "reference": reference, "gradient difference": differences}
        )
        for name, (_, seconds) in timed.items():
            if seconds > slow:
                del left[name], cases[name]
                found.remarks.append(f"{name} is left out from {axis.name} {size} on: {seconds:.1f} s a call.")
        found.cases[size] = cases
    return found


def _timed(case: Case) -> tuple[Sequence[Any], float]:
    start = time.perf_counter()
    return case(), time.perf_counter() - start


def measure(checked: Checked, effort: Effort) -> list[dict[str, Any]]:
    """Milliseconds of all sizes of an axis."""
    found = []
    for size, cases in checked.cases.items():
        seconds = interleaved(cases, effort)
        peers = any(not name.startswith("qhybrid") for name in seconds)
        ratio = {"ratio": {"qhybrid": pennylanes_best(seconds) / seconds["qhybrid"]}} if peers else {}
        milliseconds = {name: 1e3 * t for name, t in seconds.items()}
        axis = checked.axis
        found.append({"axis": axis.name, "fixed": axis.fixed, "size": size, "milliseconds": milliseconds, **ratio})
    return found


def run(quick: bool) -> Report:
    """Check all sizes of all axes, then time them.

    Args:
        quick: small sizes, one call each
    """
    everything = [check(axis, axis.quick_sizes if quick else axis.sizes) for axis in AXES]
    results = [point for checked in everything for point in measure(checked, QUICK if quick else EFFORT)]
    names = list(contenders())
    rows = [
        [
            f"{r['axis']} ({r['fixed']})",
            r["size"],
            *(f"{r['milliseconds'][name]:.3g}" if name in r["milliseconds"] else "" for name in names),
            f"{r['ratio']['qhybrid']:.1f}x" if "ratio" in r else "",
        ]
        for r in results
    ]
    checks = [c for checked in everything for c in checked.checks]
    worst = max(c["gradient difference"]["qhybrid"] for c in checks)
    remarks = [
        f"Largest difference of a value or gradient of qhybrid to the reference: {worst:.0e}.",
        *(line for checked in everything for line in checked.remarks),
        *absences(),
    ]
    title = "Growth of value and gradient: milliseconds, medians of interleaved calls"
    header = ["what grows", "size", *names, "PennyLane's best / qhybrid"]
    return Report("growth", title, header, rows, {"tolerance": TOLERANCE, "sizes": checks}, results, remarks)
