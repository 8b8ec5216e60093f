"""W1: one training step of a hybrid classifier, qhybrid and PennyLane in PyTorch, peers in what is theirs.

``Linear(8, n) -> AngleEmbedding (RX) -> StronglyEntanglingLayers(L) -> <Z_i> on every wire -> Linear(n, 2) -> cross
entropy -> backward``. All models hold the same weights and see the same batch; the gradients of all parameters and the
outputs are compared, at all sizes, before anything is timed. PyTorch's number of threads stays at its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pennylane
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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

#: (qubits, layers, batch)
SIZES = ((4, 2, 32), (8, 3, 32), (10, 4, 64))
QUICK_SIZES = ((2, 1, 3), (4, 2, 8))
#: By how much the times of PennyLane's and TensorCircuit's best are to exceed qhybrid's, by size, double precision.
PENNYLANE_GOALS = {(4, 2, 32): 20.0, (8, 3, 32): 25.0, (10, 4, 64): 25.0}
TENSORCIRCUIT_GOALS = {(4, 2, 32): 1.0, (8, 3, 32): 3.0}
WHAT = ("step", "forward")
REFERENCE = "default.qubit, backprop"
IN_JAX = "qhybrid, JAX jit, complex128"
#: In the names of peers whose circuits are in PyTorch's graph, though another library runs them.
IN_PYTORCH = "in PyTorch"

Calls = Mapping[str, Callable[[], Sequence[Any]]]


@dataclass(frozen=True)
class Contender:
    """One way to run the circuit in PyTorch.

    Args:
        library: whose ``qnode`` and ``TorchLayer`` are used
        device: name of the device
        diff_method: of the QNode
        dtype: of the model
        precision: of the results; PennyLane hands those of Lightning to torch in float32, whatever the model is in
        options: further arguments of the device
    """

    library: Any
    device: str
    diff_method: str
    dtype: torch.dtype = torch.float64
    precision: str = "double"
    options: tuple[tuple[str, Any], ...] = ()


def contenders() -> dict[str, Contender]:
    """PennyLane and qhybrid: all that are installed, the reference first."""
    single: dict[str, Any] = {"dtype": torch.float32, "precision": "single"}
    found = {
        REFERENCE: Contender(pennylane, "default.qubit", "backprop"),
        f"{REFERENCE}, float32 model": Contender(pennylane, "default.qubit", "backprop", **single),
    }
    if has_lightning():
        found["lightning.qubit, adjoint"] = Contender(pennylane, "lightning.qubit", "adjoint", precision="single")
    found["qhybrid"] = Contender(qhybrid, "qhybrid.statevector", "best")
    found["qhybrid, float32 model"] = Contender(qhybrid, "qhybrid.statevector", "best", **single)
    options = (("c_dtype", np.complex64),)
    found["qhybrid, float32 model, complex64"] = Contender(
        qhybrid, "qhybrid.statevector", "best", **single, options=options
    )
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
        for parameter in self._parameters:
            parameter.grad = None
        cross_entropy(self.model(self.features), self.labels).backward()
        return [parameter.grad for parameter in self._parameters]

    @cached_property
    def _parameters(self) -> list[nn.Parameter]:
        """Found once, as an optimizer does."""
        return list(self.model.parameters())

    def predict(self) -> list[Tensor]:
        """The outputs, without a graph."""
        with torch.no_grad():
            return [self.model(self.features)]

    def calls(self) -> Calls:
        """What is compared and timed."""
        return {"step": self.step, "forward": self.predict}


def build_model(contender: Contender, qubits: int, layers: int) -> nn.Module:
    """The hybrid model of one contender."""
    qml = contender.library

    @qml.qnode(qml.device(contender.device, wires=qubits, **dict(contender.options)), diff_method=contender.diff_method)
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(qubits))
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(i)) for i in range(qubits)]

    quantum = qml.qnn.TorchLayer(circuit, {"weights": (layers, qubits, 3)})
    return nn.Sequential(nn.Linear(8, qubits), quantum, nn.Linear(qubits, 2)).to(contender.dtype)


def build_tasks(qubits: int, layers: int, batch: int, chosen: Mapping[str, Contender] | None = None) -> dict[str, Task]:
    """A task for each contender in PyTorch, by default all: the same weights, which float32 can hold, and one batch."""
    torch.manual_seed(0)
    features, labels = torch.rand(batch, 8), torch.randint(2, (batch,))
    state = {
        name: value.float() for name, value in build_model(contenders()[REFERENCE], qubits, layers).state_dict().items()
    }
    tasks = {}
    for name, contender in (chosen or contenders()).items():
        model = build_model(contender, qubits, layers)
        model.load_state_dict(state)
        tasks[name] = Task(model, features.to(contender.dtype), labels)
    return tasks


def build_calls(size: tuple[int, int, int], remotes: Mapping[str, peers.Remote]) -> dict[str, Calls]:
    """What of each contender is compared and timed, by its name."""
    tasks = build_tasks(*size)
    reference = tasks[REFERENCE]
    problem = {f"parameter {i}": p.detach().numpy() for i, p in enumerate(reference.model.parameters())}
    problem |= {"features": reference.features.numpy(), "labels": reference.labels.numpy()}
    fitting = {name: remote for name, remote in remotes.items() if size[0] <= remote.peer.most_qubits}
    return {name: task.calls() for name, task in tasks.items()} | {
        name: remote.build(problem) for name, remote in fitting.items()
    }


def precisions(remotes: Mapping[str, peers.Remote]) -> dict[str, str]:
    """Single or double, by the names of all contenders."""
    own = {name: contender.precision for name, contender in contenders().items()}
    return own | {name: remote.precision for name, remote in remotes.items()}


def check(cases: Mapping[str, Calls], precision: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Compare the gradients of all parameters and, of those that have a forward pass, outputs with the reference's.

    Returns:
        for each contender the tolerance and the largest differences

    Raises:
        ResultsDifferError: they differ by more than the precision allows
    """
    expected = {what: cases[REFERENCE][what]() for what in WHAT}
    found = {}
    for name, calls in cases.items():
        tolerance = TOLERANCES[precision[name]]
        found[name] = {"tolerance": tolerance}
        for what, key in (("step", "gradient"), ("forward", "output")):
            if what in calls:
                difference = checked_difference(f"the {key} of {name}", calls[what](), expected[what], tolerance)
                found[name][f"{key} difference"] = difference
    return found


def measure(cases: Mapping[str, Calls], effort: Effort) -> dict[str, dict[str, Any]]:
    """Milliseconds, and how many times qhybrid's each contender's are, for a step and for the forward pass alone."""
    found = {}
    for what in WHAT:
        seconds = interleaved({name: calls[what] for name, calls in cases.items() if what in calls}, effort)
        found[what] = {
            "milliseconds": {name: 1e3 * t for name, t in seconds.items()},
            "ratio": {name: t / seconds["qhybrid"] for name, t in seconds.items()},
        }
    return found


def run(quick: bool) -> Report:
    """Check all sizes, then time them.

    Args:
        quick: small sizes, one call each
    """
    sizes = QUICK_SIZES if quick else SIZES
    with peers.started("w1") as remotes:
        precision = precisions(remotes)
        cases = {size: build_calls(size, remotes) for size in sizes}
        checks = [{"size": size, "differences": check(found, precision)} for size, found in cases.items()]
        results = [{"size": size, **measure(found, QUICK if quick else FULL)} for size, found in cases.items()]
    rows = [
        [name, precision[name], what, *(cell(r[what], name) for r in results)]
        for what in WHAT
        for name in precision
        if any(name in r[what]["milliseconds"] for r in results)
    ]
    worst = max(c["differences"]["qhybrid"]["gradient difference"] for c in checks)
    remarks = [
        "In brackets: how many times as long as qhybrid in a float64 model.",
        f"Largest difference of a gradient between qhybrid and {REFERENCE} in float64 models: {worst:.0e}.",
        "Those in single precision are compared to 1e-5; Lightning's results reach torch in float32.",
        "Forward: without a graph (torch.no_grad in PyTorch).",
        *absences(),
        *peers.absences("w1"),
        *(line for r in results for line in _verdicts(r, quick)),
    ]
    title = "W1, hybrid classifier, (qubits, layers, batch): milliseconds, medians of interleaved calls"
    header = ["contender", "precision", "what", *(str(size) for size in sizes)]
    return Report("w1_hybrid_step", title, header, rows, checks, results, remarks)


def _verdicts(found: dict[str, Any], quick: bool) -> list[str]:
    """One line for each goal of a size whose contenders were there."""
    size, ratio = found["size"], found["step"]["ratio"]
    own = contenders()
    tensorcircuit = [n for n in ratio if n.startswith("TensorCircuit")]
    groups = {
        "PennyLane's": (PENNYLANE_GOALS, [n for n in ratio if n in own and own[n].library is pennylane]),
        "TensorCircuit's": (TENSORCIRCUIT_GOALS, tensorcircuit),
        "TensorCircuit's in PyTorch": (TENSORCIRCUIT_GOALS, [n for n in tensorcircuit if IN_PYTORCH in n]),
    }
    lines = []
    for whose, (goals, names) in groups.items():
        if size in goals and names:
            best = min(names, key=ratio.__getitem__)
            text = f"{size}, step, {whose} best ({best}) / qhybrid >= {goals[size]:g} (found: {ratio[best]:.2g}"
            in_jax = IN_JAX in ratio and IN_PYTORCH not in best
            text += f"; in JAX {ratio[best] / ratio[IN_JAX]:.2g})" if in_jax else ")"
            lines.append(verdict(ratio[best] >= goals[size], text, quick))
    return lines
