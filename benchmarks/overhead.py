"""What a second call of a compiled QNode costs outside the kernels of the state-vector engine.

Every compiled kernel that Python calls is timed; what is left of a call is overhead: signature, guards, prologue, the
engine's Python, and the host's graph. A gradient pays for the host's graph (autograd's or PyTorch's own work) even
around nothing; that is not taken off. Calls 1, 2, 4, 8, ... of a QNode also audit its trace; they are rare and do not
show in a median.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from numba.core.registry import CPUDispatcher

import qhybrid as qml
from benchmarks._timing import markdown_table, verdict, write_results

#: Microseconds outside the kernels.
GOAL = 100.0
CALLS = 2000
ENGINE = "qhybrid_devices.statevector"


def rotation() -> tuple[qml.QNode, tuple[np.ndarray, ...]]:
    """One qubit, two gates, one number out."""

    @qml.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(params):
        qml.RX(params[0], wires=0)
        qml.RY(params[1], wires=0)
        return qml.expval(qml.Z(0))

    return circuit, (np.array([0.3, 0.4]),)


def layers() -> tuple[qml.QNode, tuple[np.ndarray, ...]]:
    """Four qubits, two entangling layers, 32 samples, four numbers out for each."""

    @qml.qnode(qml.device("qhybrid.statevector", wires=4))
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(4))
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        return qml.expval(qml.sum(*(qml.Z(i) for i in range(4))))

    random = np.random.default_rng(0)
    return circuit, (random.uniform(size=(32, 4)), random.uniform(size=(2, 4, 3)))


CIRCUITS = {"1 qubit, 2 gates": rotation, "4 qubits, 2 layers, batch 32": layers}


def calls_of(circuit: qml.QNode, arrays: tuple[np.ndarray, ...]) -> dict[str, Callable[[], object]]:
    """What is timed, by host and direction."""
    trained = tuple(qml.numpy.array(a, requires_grad=True) for a in arrays)
    tensors = tuple(torch.tensor(a) for a in arrays)
    leaves = tuple(torch.tensor(a, requires_grad=True) for a in arrays)
    number = circuit if circuit(*arrays).ndim == 0 else lambda *args: qml.math.sum(circuit(*args))
    gradient = qml.grad(number, argnums=tuple(range(len(arrays))))
    return {
        "numpy, forward": lambda: circuit(*arrays),
        "autograd, forward": lambda: circuit(*trained),
        "autograd, gradient": lambda: gradient(*trained),
        "torch, forward": lambda: circuit(*tensors),
        "torch, gradient": lambda: torch.autograd.grad(number(*leaves), leaves),
    }


class KernelClock:
    """Adds up the time that Python spends in calls of compiled kernels."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, kernel: Callable) -> Callable:
        """``kernel``, timed."""

        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return kernel(*args)
            finally:
                self.seconds += time.perf_counter() - start

        return call


@contextmanager
def kernel_clock() -> Iterator[KernelClock]:
    """Time the engine's kernels. To be entered when they are compiled, since a timed kernel cannot be compiled in."""
    clock = KernelClock()
    modules = [m for name, m in sys.modules.items() if name.startswith(ENGINE)]
    kernels = [(m, name, value) for m in modules for name, value in vars(m).items() if type(value) is CPUDispatcher]
    if not kernels:
        raise RuntimeError(f"found no compiled kernels in {ENGINE}")
    for module, name, kernel in kernels:
        setattr(module, name, clock.timed(kernel))
    try:
        yield clock
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)


def measure(call: Callable[[], object]) -> dict[str, float]:
    """Medians in microseconds: the whole call untouched, and its parts in and outside the kernels."""
    for _ in range(20):
        call()
    whole = [_elapsed(call) for _ in range(CALLS)]
    inside, outside = [], []
    with kernel_clock() as clock:
        for _ in range(CALLS):
            clock.seconds = 0.0
            total = _elapsed(call)
            inside.append(clock.seconds)
            outside.append(total - clock.seconds)
    if not median(inside) > 0:
        raise RuntimeError("the call ran no kernel: was the circuit compiled?")
    return {"whole": 1e6 * median(whole), "kernels": 1e6 * median(inside), "outside": 1e6 * median(outside)}


def _elapsed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Run, print, write."""
    results = {}
    for title, build in CIRCUITS.items():
        circuit, arrays = build()
        path = circuit.explain(*arrays).path
        if path != "compiled":
            raise RuntimeError(f"the circuit of {title!r} is not compiled but {path}")
        results[title] = {name: measure(call) for name, call in calls_of(circuit, arrays).items()}
    print("Overhead of a second call: microseconds, medians\n")
    rows = [
        [title, name, *(f"{t[part]:.0f}" for part in ("whole", "kernels", "outside"))]
        for title, found in results.items()
        for name, t in found.items()
    ]
    print(markdown_table(["circuit", "host", "whole call", "in kernels", "outside kernels"], rows))
    print()
    for direction in ("forward", "gradient"):
        outside = [t["outside"] for found in results.values() for name, t in found.items() if name.endswith(direction)]
        print(verdict(max(outside) <= GOAL, f"<= {GOAL:g} us outside kernels, {direction}"))
    write_results("overhead", results)


if __name__ == "__main__":
    main()
