"""Parameter-shift: the gradient of the weights of the W1 circuit, a batch of inputs fixed, in PyTorch.

What training on hardware runs, here on exact simulators: every shifted circuit of every sample is executed. Values and
gradients are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks._timing import (
    FULL,
    QUICK,
    Report,
    absences,
    checked_difference,
    interleaved,
    simulators,
    verdict,
)

#: (qubits, layers, batch)
SIZE, QUICK_SIZE = (4, 2, 32), (2, 1, 3)
GOAL = 60.0
TOLERANCE = 1e-9
REFERENCE = "default.qubit"


def build(
    library: Any, device: Any, size: tuple[int, int, int], shots: int | None = None
) -> Callable[[], list[torch.Tensor]]:
    """A function that gives the values and the gradient of their sum by the weights.

    Args:
        library: whose QNode is used
        device: of that library
        size: qubits, layers, batch
        shots: samples a measurement basis, ``None`` for exact results
    """
    qubits, layers, batch = size
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch, qubits, generator=generator, dtype=torch.float64)
    weights = torch.rand(layers, qubits, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    @library.qnode(device, diff_method="parameter-shift", shots=shots)
    def circuit(inputs, weights):
        library.AngleEmbedding(inputs, wires=range(qubits))
        library.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [library.expval(library.PauliZ(i)) for i in range(qubits)]

    def step() -> list[torch.Tensor]:
        values = torch.stack(list(circuit(inputs, weights)))
        return [values.detach(), torch.autograd.grad(values.sum(), weights)[0]]

    return step


def run(quick: bool) -> Report:
    """Check, then time.

    Args:
        quick: a small size, one call each
    """
    size = QUICK_SIZE if quick else SIZE
    cases = {
        name: build(library, library.device(device, wires=size[0]), size)
        for name, (library, device) in simulators().items()
    }
    expected = cases[REFERENCE]()
    checks = {
        "tolerance": TOLERANCE,
        "gradient difference": {
            # PennyLane hands the results of Lightning to torch in float32.
            name: checked_difference(name, case(), expected, 1e-5 if name.startswith("lightning") else TOLERANCE)
            for name, case in cases.items()
        },
    }
    seconds = interleaved(cases, QUICK if quick else FULL)
    ratios = {name: t / seconds["qhybrid"] for name, t in seconds.items()}
    rows = [[name, f"{1e3 * t:.3g}", f"{ratios[name]:.1f}x"] for name, t in seconds.items()]
    remarks = [
        f"Largest difference of a value or gradient to {REFERENCE}: {checks['gradient difference']['qhybrid']:.0e}.",
        *absences(),
        verdict(ratios[REFERENCE] >= GOAL, f"{REFERENCE} / qhybrid >= {GOAL:g}", quick),
    ]
    results = {"size": size, "milliseconds": {n: 1e3 * t for n, t in seconds.items()}, "ratio": ratios}
    title = f"Parameter-shift of the weights, {size}, forward and backward: milliseconds, medians of interleaved calls"
    return Report("parameter_shift", title, ["", "ms", "/ qhybrid"], rows, checks, results, remarks)
