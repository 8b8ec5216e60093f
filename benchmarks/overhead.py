"""What a second call of a compiled QNode costs outside the kernels of the state-vector engine.

Two boundaries are measured, each in a pass of its own so that neither clock disturbs the other:

* outside the executable: a call less the time in ``run``, or in ``run_with_residual`` and ``vjp``, of the executable.
  What is left is signature, guards, prologue and the host's graph.
* outside compiled kernels: a call less the time in compiled functions that Python calls. The engine's own Python,
  which prepares the kernels, counts as overhead too, so this is the larger one.

A gradient pays for the host's graph (autograd's or PyTorch's own work) even around nothing; that is not taken off.
Calls 1, 2, 4, 8, ... of a QNode also audit its trace; they are rare and do not show in a median.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from statistics import median
from typing import Any

import numpy as np
import pennylane
import torch
from numba.core.registry import CPUDispatcher

import qhybrid as qml
from benchmarks._timing import Report, checked_difference, elapsed, verdict
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.small import SmallRun

#: Microseconds outside, forward.
GOAL = 100.0
CALLS, QUICK_CALLS = 1000, 5
#: Enough for every kernel to be compiled: a timed one cannot be compiled into another.
WARM_UP = 20
TOLERANCE = 1e-9
ENGINE = "qhybrid_devices.statevector"
METHODS = ("run", "run_with_residual", "vjp")


@dataclass(frozen=True)
class Case:
    """A circuit with its arguments.

    Args:
        build: gives the quantum function's QNode for a library and a device
        arrays: the arguments
    """

    build: Callable[[Any, str], Callable]
    arrays: tuple[np.ndarray, ...]


def rotation() -> Case:
    """One qubit, two gates, one number out."""

    def build(library: Any, device: str) -> Callable:
        @library.qnode(library.device(device, wires=1))
        def circuit(params):
            library.RX(params[0], wires=0)
            library.RY(params[1], wires=0)
            return library.expval(library.Z(0))

        return circuit

    return Case(build, (np.array([0.3, 0.4]),))


def layers(qubits: int, batch: int | None = None) -> Case:
    """AngleEmbedding and four entangling layers; one number out for each sample."""

    def build(library: Any, device: str) -> Callable:
        @library.qnode(library.device(device, wires=qubits))
        def circuit(inputs, weights):
            library.AngleEmbedding(inputs, wires=range(qubits))
            library.StronglyEntanglingLayers(weights, wires=range(qubits))
            return library.expval(library.sum(*(library.Z(i) for i in range(qubits))))

        return circuit

    random = np.random.default_rng(0)
    inputs = random.uniform(size=(qubits,) if batch is None else (batch, qubits))
    return Case(build, (inputs, random.uniform(size=(4, qubits, 3))))


CASES = {
    "1 qubit, 2 gates": rotation,
    "4 qubits, 4 layers": partial(layers, 4),
    "10 qubits, 4 layers": partial(layers, 10),
    "4 qubits, 4 layers, batch 32": partial(layers, 4, 32),
}


def calls_of(circuit: Callable, arrays: tuple[np.ndarray, ...]) -> dict[str, Callable[[], Any]]:
    """What is timed, by host and direction."""
    trained = tuple(qml.numpy.array(a, requires_grad=True) for a in arrays)
    tensors = tuple(torch.tensor(a) for a in arrays)
    leaves = tuple(torch.tensor(a, requires_grad=True) for a in arrays)
    number = circuit if np.ndim(circuit(*arrays)) == 0 else lambda *args: qml.math.sum(circuit(*args))
    gradient = qml.grad(number, argnums=tuple(range(len(arrays))))
    return {
        "numpy, forward": lambda: circuit(*arrays),
        "autograd, forward": lambda: circuit(*trained),
        "autograd, gradient": lambda: gradient(*trained),
        "torch, forward": lambda: circuit(*tensors),
        "torch, gradient": lambda: torch.autograd.grad(number(*leaves), leaves),
    }


def check(title: str, case: Case, circuit: qml.QNode) -> dict[str, Any]:
    """The circuit is compiled, and every timed call gives what default.qubit gives.

    Raises:
        RuntimeError: the circuit is not compiled
        ResultsDifferError: a result differs
    """
    path = circuit.explain(*case.arrays).path
    if path != "compiled":
        raise RuntimeError(f"the circuit of {title!r} is not compiled but {path}")
    expected = calls_of(case.build(pennylane, "default.qubit"), case.arrays)
    found = calls_of(circuit, case.arrays)
    differences = {
        name: checked_difference(f"{title}: {name}", _arrays(found[name]()), _arrays(expected[name]()), TOLERANCE)
        for name in found
    }
    gradient = max(d for name, d in differences.items() if name.endswith("gradient"))
    return {"circuit": title, "tolerance": TOLERANCE, "gradient difference": gradient, "differences": differences}


def _arrays(result: Any) -> list[np.ndarray]:
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,))]


class Clock:
    """Adds up the time inside functions; a timed function that calls another counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def timed(self, function: Callable) -> Callable:
        """``function``, timed."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self._inside = False

        return call


def named(owner: Any, *names: str) -> list[tuple[Any, str, Callable]]:
    """Functions of a module or a class: owner, name, function."""
    return [(owner, name, getattr(owner, name)) for name in names]


def executable_methods() -> list[tuple[Any, str, Callable]]:
    """What the gradient methods call, and what functions of circuits call without them: owner, name, function."""
    return named(StateVectorExecutable, *METHODS) + named(SmallRun, "run", "vjp")


def compiled_kernels() -> list[tuple[Any, str, Callable]]:
    """Every compiled function that a module of the engine knows: owner, name, function."""
    modules = [m for name, m in sys.modules.items() if name.startswith(ENGINE)]
    return [(m, name, value) for m in modules for name, value in vars(m).items() if type(value) is CPUDispatcher]


BOUNDARIES = {"executable": executable_methods, "kernels": compiled_kernels}


@contextmanager
def clock_in(functions: list[tuple[Any, str, Callable]]) -> Iterator[Clock]:
    """Time functions where they are looked up. To be entered when all kernels are compiled."""
    clock = Clock()
    for owner, name, function in functions:
        setattr(owner, name, clock.timed(function))
    try:
        yield clock
    finally:
        for owner, name, function in functions:
            setattr(owner, name, function)


def measure(call: Callable[[], object], calls: int) -> dict[str, float]:
    """Medians in microseconds: the call untouched, and its time in and outside each boundary.

    Raises:
        RuntimeError: nothing was timed inside a boundary
    """
    for _ in range(WARM_UP):
        call()
    found = {"call": 1e6 * median(elapsed(call) for _ in range(calls))}
    for boundary, functions in BOUNDARIES.items():
        inside, outside = [], []
        with clock_in(functions()) as clock:
            for _ in range(calls):
                clock.seconds = 0.0
                total = elapsed(call)
                inside.append(clock.seconds)
                outside.append(total - clock.seconds)
        if not min(inside) > 0:
            raise RuntimeError(f"a call spent no time in the {boundary}: was the circuit compiled?")
        found[f"in {boundary}"], found[f"outside {boundary}"] = 1e6 * median(inside), 1e6 * median(outside)
    return found


def run(quick: bool) -> Report:
    """Check, then time.

    Args:
        quick: a few calls each
    """
    cases = {title: make() for title, make in CASES.items()}
    circuits = {title: case.build(qml, "qhybrid.statevector") for title, case in cases.items()}
    checks = [check(title, case, circuits[title]) for title, case in cases.items()]
    count = QUICK_CALLS if quick else CALLS
    results = {
        title: {name: measure(call, count) for name, call in calls_of(circuits[title], case.arrays).items()}
        for title, case in cases.items()
    }
    parts = ["call", *(f"{side} {boundary}" for boundary in BOUNDARIES for side in ("in", "outside"))]
    rows = [
        [title, name, *(f"{times[part]:.0f}" for part in parts)]
        for title, found in results.items()
        for name, times in found.items()
    ]
    worst = {
        boundary: max(
            times[f"outside {boundary}"]
            for found in results.values()
            for name, times in found.items()
            if name.endswith("forward")
        )
        for boundary in BOUNDARIES
    }
    remarks = [
        verdict(t <= GOAL, f"forward, outside {boundary} <= {GOAL:g} us (largest: {t:.0f} us)", quick)
        for boundary, t in worst.items()
    ]
    title = "Overhead of a second call of a compiled QNode: microseconds, medians"
    return Report("overhead", title, ["circuit", "host", *parts], rows, checks, results, remarks)
