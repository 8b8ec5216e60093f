"""TorchQuantum: gates as PyTorch functions on a batch of states."""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import hybrid_torch
from benchmarks.peers.ansatz import cnots

# It imports torchvision for its data sets, whose build may not fit the PyTorch that is installed.
UNUSED = ("torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.datasets.utils")
sys.modules |= {name: MagicMock() for name in UNUSED}

import torchquantum as tq  # noqa: E402
from torchquantum import functional as tqf  # noqa: E402


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier, in single precision, which is all it has."""
    del precision
    weights = nn.Parameter(torch.tensor(problem["parameter 2"], dtype=torch.float32))
    layers, qubits, _ = weights.shape
    measure = tq.MeasureAll(tq.PauliZ)

    def heights(angles: Tensor) -> Tensor:
        state = tq.QuantumDevice(n_wires=qubits, bsz=len(angles))
        for wire in range(qubits):
            tqf.rx(state, wires=wire, params=angles[:, wire])
        for layer in range(layers):
            for wire in range(qubits):
                tqf.rot(state, wires=wire, params=weights[layer, wire : wire + 1])
            for wires in cnots(layer, qubits):
                tqf.cnot(state, wires=wires)
        return measure(state)

    return hybrid_torch.calls(problem, torch.float32, heights, [weights])
