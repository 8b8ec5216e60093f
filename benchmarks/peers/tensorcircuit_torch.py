"""TensorCircuit inside of PyTorch: its circuit, compiled by JAX, as a function of PyTorch's graph."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import tensorcircuit as tc
import torch
from torch import Tensor, nn

from benchmarks.peers import hybrid_torch
from benchmarks.peers.tensorcircuit import heights, set_precision


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier with PyTorch's layers: a training step up to the gradients, and its outputs."""
    dtype = getattr(torch, set_precision(precision))
    weights = nn.Parameter(torch.tensor(problem["parameter 2"], dtype=dtype))
    circuit = tc.interfaces.torch_interface(jax.vmap(heights, in_axes=(0, None)), jit=True, enable_dlpack=True)

    def expectations(angles: Tensor) -> Tensor:
        return circuit(angles, weights)

    return hybrid_torch.calls(problem, dtype, expectations, [weights])
