"""W1: one training step of a hybrid classifier in PyTorch, qhybrid beside PennyLane.

``Linear(8, n) -> AngleEmbedding (RX) -> StronglyEntanglingLayers(L) -> <Z_i> on every wire -> Linear(n, 2) -> cross
entropy -> backward``. All models hold the same weights and see the same batch; the gradients of all parameters and the
outputs are compared, at all sizes, before anything is timed. PyTorch's number of threads stays at its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pennylane
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import qhybrid
from benchmarks._timing import (
    FULL,
    QUICK,
    Report,
    absences,
    checked_difference,
    has_lightning,
    interleaved,
    pennylanes_best,
    verdict,
)

#: (qubits, layers, batch)
SIZES = ((4, 2, 32), (8, 3, 32), (10, 4, 64))
QUICK_SIZES = ((2, 1, 3), (4, 2, 8))
DTYPES = (torch.float32, torch.float64)
GOAL = 15.0
#: Largest difference to default.qubit, by the precision in which a model computes.
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


def contenders() -> dict[str, Contender]:
    """All that are installed, the reference first."""
    found = {REFERENCE: Contender(pennylane, "default.qubit", "backprop")}
    if has_lightning():
        # PennyLane hands the results of Lightning to torch in float32, whatever the model is in.
        found["lightning.qubit, adjoint"] = Contender(pennylane, "lightning.qubit", "adjoint", single=True)
    found["qhybrid"] = Contender(qhybrid, "qhybrid.statevector", "best")
    complex64 = (("c_dtype", np.complex64),)
    found["qhybrid, complex64"] = Contender(qhybrid, "qhybrid.statevector", "best", single=True, options=complex64)
    return found


@dataclass(frozen=True)
class Task:
    """A model with its batch.

    Args:
        model: the hybrid model
        features: shape ``(batch, 8)``
        labels: shape ``(batch,)``
    """

    model: nn.Module
    features: Tensor
    labels: Tensor

    def step(self) -> list[Tensor]:
        """One training step up to the gradients, which it returns."""
        parameters = list(self.model.parameters())
        for parameter in parameters:
            parameter.grad = None
        cross_entropy(self.model(self.features), self.labels).backward()
        return [parameter.grad for parameter in parameters]

    def predict(self) -> Tensor:
        """The outputs, without a graph."""
        with torch.no_grad():
            return self.model(self.features)


def build_model(contender: Contender, qubits: int, layers: int, dtype: torch.dtype) -> nn.Module:
    """The hybrid model of one contender."""
    qml = contender.library

    @qml.qnode(qml.device(contender.device, wires=qubits, **dict(contender.options)), diff_method=contender.diff_method)
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(qubits))
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(i)) for i in range(qubits)]

    quantum = qml.qnn.TorchLayer(circuit, {"weights": (layers, qubits, 3)})
    return nn.Sequential(nn.Linear(8, qubits), quantum, nn.Linear(qubits, 2)).to(dtype)


def build_tasks(qubits: int, layers: int, batch: int, dtype: torch.dtype) -> dict[str, Task]:
    """A task for each contender: the same weights, the same batch."""
    torch.manual_seed(0)
    features, labels = torch.rand(batch, 8, dtype=dtype), torch.randint(2, (batch,))
    models = {name: build_model(c, qubits, layers, dtype) for name, c in contenders().items()}
    for model in models.values():
        model.load_state_dict(models[REFERENCE].state_dict())
    return {name: Task(model, features, labels) for name, model in models.items()}


def check(tasks: dict[str, Task], dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Compare outputs and the gradients of all parameters with the reference's.

    Returns:
        for each contender the tolerance and the largest differences

    Raises:
        ResultsDifferError: they differ by more than the precision allows
    """
    gradients, outputs = tasks[REFERENCE].step(), tasks[REFERENCE].predict()
    found = {}
    for name, contender in contenders().items():
        tolerance = TOLERANCE[torch.float32 if contender.single else dtype]
        found[name] = {
            "tolerance": tolerance,
            "gradient difference": checked_difference(
                f"the gradient of {name}", tasks[name].step(), gradients, tolerance
            ),
            "output difference": checked_difference(
                f"the output of {name}", [tasks[name].predict()], [outputs], tolerance
            ),
        }
    return found


def measure(tasks: dict[str, Task], quick: bool) -> dict[str, dict[str, Any]]:
    """Milliseconds and ratios, for a full step and for the forward pass alone."""
    effort = QUICK if quick else FULL
    found = {}
    for what, calls in (
        ("step", {name: task.step for name, task in tasks.items()}),
        ("forward", {name: task.predict for name, task in tasks.items()}),
    ):
        seconds = interleaved(calls, effort)
        best = pennylanes_best(seconds)
        found[what] = {
            "milliseconds": {name: 1e3 * t for name, t in seconds.items()},
            "ratio": {name: best / t for name, t in seconds.items() if name.startswith("qhybrid")},
        }
    return found


def run(quick: bool) -> Report:
    """Check all sizes, then time them.

    Args:
        quick: small sizes, one call each
    """
    sizes = QUICK_SIZES if quick else SIZES
    cases = [(size, dtype, build_tasks(*size, dtype)) for size in sizes for dtype in DTYPES]
    checks = [{"size": size, "model": _name(dtype), "differences": check(t, dtype)} for size, dtype, t in cases]
    results = [{"size": size, "model": _name(dtype), **measure(tasks, quick)} for size, dtype, tasks in cases]
    rows = [[r["size"], r["model"], what, *_cells(r[what])] for what in ("step", "forward") for r in results]
    names = list(contenders())
    ratios = [f"PennyLane's best / {name}" for name in names if name.startswith("qhybrid")]
    worst = max(c["differences"]["qhybrid"]["gradient difference"] for c in checks if c["model"] == "float64")
    met = all(r["step"]["ratio"]["qhybrid"] >= GOAL for r in results)
    remarks = [
        f"Largest difference of a gradient between qhybrid and {REFERENCE} in float64 models: {worst:.0e}.",
        "Lightning's results reach torch in float32 and are compared to 1e-5, as are float32 models and complex64.",
        "Forward: without a graph (torch.no_grad).",
        *absences(),
        verdict(met, f"PennyLane's best / qhybrid >= {GOAL:g}, step", quick),
    ]
    title = "W1, hybrid classifier in PyTorch: milliseconds, medians of interleaved calls"
    header = ["(qubits, layers, batch)", "model", "what", *names, *ratios]
    return Report("w1_hybrid_step", title, header, rows, checks, results, remarks)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cells(found: dict[str, Any]) -> list[str]:
    times = [f"{t:.3g}" for t in found["milliseconds"].values()]
    return times + [f"{ratio:.1f}x" for ratio in found["ratio"].values()]
