"""W1: one training step of a hybrid classifier in PyTorch, qhybrid beside PennyLane.

``Linear(8, n) -> AngleEmbedding (RX) -> StronglyEntanglingLayers(L) -> <Z_i> on every wire -> Linear(n, 2) -> cross
entropy -> backward``. All models hold the same weights and see the same batch; their gradients are compared before
anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import qhybrid
from benchmarks._timing import interleaved, markdown_table, verdict, write_results

#: (qubits, layers, batch)
SIZES = ((4, 2, 32), (8, 3, 32), (10, 4, 64))
GOAL = 15.0
#: Largest difference of a gradient to that of default.qubit, by the precision in which a model computes.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
REFERENCE = "default.qubit, backprop"


@dataclass(frozen=True)
class Contender:
    """One way to run the circuit.

    Args:
        library: whose ``qnode`` and ``TorchLayer`` are used
        device: name of the device
        diff_method: of the QNode
        single: whether results have single precision whatever the model has
        options: further arguments of the device
    """

    library: Any
    device: str
    diff_method: str
    single: bool = False
    options: tuple[tuple[str, Any], ...] = ()


CONTENDERS = {
    REFERENCE: Contender(pennylane, "default.qubit", "backprop"),
    # PennyLane hands the results of Lightning to torch in float32, whatever the model is in.
    "lightning.qubit, adjoint": Contender(pennylane, "lightning.qubit", "adjoint", single=True),
    "qhybrid": Contender(qhybrid, "qhybrid.statevector", "best"),
    "qhybrid, complex64": Contender(
        qhybrid, "qhybrid.statevector", "best", single=True, options=(("c_dtype", np.complex64),)
    ),
}


def build_model(contender: Contender, qubits: int, layers: int, dtype: torch.dtype) -> nn.Module:
    """The hybrid model; the same weights for each contender."""
    qml = contender.library

    @qml.qnode(qml.device(contender.device, wires=qubits, **dict(contender.options)), diff_method=contender.diff_method)
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(qubits))
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(i)) for i in range(qubits)]

    torch.manual_seed(0)
    first, last = nn.Linear(8, qubits), nn.Linear(qubits, 2)
    return nn.Sequential(first, qml.qnn.TorchLayer(circuit, {"weights": (layers, qubits, 3)}), last).to(dtype)


def build_step(model: nn.Module, batch: int, dtype: torch.dtype) -> Callable[[], list[torch.Tensor]]:
    """One training step up to the gradients, which it returns."""
    random = torch.Generator().manual_seed(1)
    features = torch.rand(batch, 8, generator=random, dtype=dtype)
    labels = torch.randint(2, (batch,), generator=random)
    parameters = list(model.parameters())

    def step() -> list[torch.Tensor]:
        for parameter in parameters:
            parameter.grad = None
        cross_entropy(model(features), labels).backward()
        return [parameter.grad for parameter in parameters]

    return step


def build_steps(qubits: int, layers: int, batch: int, dtype: torch.dtype) -> dict[str, Callable]:
    """A step for each contender."""
    models = {name: build_model(c, qubits, layers, dtype) for name, c in CONTENDERS.items()}
    return {name: build_step(model, batch, dtype) for name, model in models.items()}


def check_gradients(steps: dict[str, Callable], dtype: torch.dtype) -> float:
    """Compare all gradients with the reference's.

    Returns:
        the largest difference between qhybrid and the reference

    Raises:
        AssertionError: a gradient differs by more than its precision allows
    """
    gradients = {name: step() for name, step in steps.items()}
    worst = {}
    for name, contender in CONTENDERS.items():
        pairs = zip(gradients[name], gradients[REFERENCE], strict=True)
        worst[name] = max((a - b).abs().max().item() for a, b in pairs)
        allowed = TOLERANCE[torch.float32 if contender.single else dtype]
        if not worst[name] <= allowed:
            raise AssertionError(f"the gradient of {name} differs from {REFERENCE} by {worst[name]:.1e} > {allowed}")
    return worst["qhybrid"]


def measure(qubits: int, layers: int, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """Check and time one size in one precision."""
    steps = build_steps(qubits, layers, batch, dtype)
    difference = check_gradients(steps, dtype)
    seconds = interleaved(steps)
    best = min(t for name, t in seconds.items() if not name.startswith("qhybrid"))
    return {
        "size": (qubits, layers, batch),
        "dtype": str(dtype).removeprefix("torch."),
        "milliseconds": {name: 1e3 * t for name, t in seconds.items()},
        "ratio": {name: best / t for name, t in seconds.items() if name.startswith("qhybrid")},
        "gradient_difference": difference,
    }


def main() -> None:
    """Run, print, write."""
    results = [measure(*size, dtype) for dtype in (torch.float32, torch.float64) for size in SIZES]
    rows = []
    for r in results:
        times = [f"{r['milliseconds'][name]:.3g}" for name in CONTENDERS]
        ratios = [f"{ratio:.1f}x" for ratio in r["ratio"].values()]
        rows.append([r["size"], r["dtype"], *times, *ratios, f"{r['gradient_difference']:.0e}"])
    ratio_names = [f"PennyLane's best / {name}" for name in results[0]["ratio"]]
    header = ["(qubits, layers, batch)", "model", *CONTENDERS, *ratio_names, "gradient difference"]
    print("W1, one step of a hybrid classifier: milliseconds, medians of interleaved runs\n")
    print(markdown_table(header, rows))
    print()
    print(verdict(all(r["ratio"]["qhybrid"] >= GOAL for r in results), f"PennyLane's best / qhybrid >= {GOAL:g}"))
    write_results("w1_hybrid_step", results)


if __name__ == "__main__":
    main()
