"""The hybrid classifier of W1 around the circuit of a peer that runs in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def calls(
    problem: dict[str, np.ndarray],
    dtype: torch.dtype,
    circuit: Callable[[Tensor], Tensor],
    weights: Sequence[nn.Parameter],
) -> dict[str, Callable[[], list]]:
    """A training step up to the gradients, and the outputs.

    Args:
        problem: features, labels and parameters
        dtype: of the classical layers
        circuit: expectation values, shape (batch, qubits), of angles of the same shape
        weights: parameters of the circuit, which together are its weights
    """
    features, labels = torch.tensor(problem["features"], dtype=dtype), torch.tensor(problem["labels"])
    into, into_bias, _, out, out_bias = (
        nn.Parameter(torch.tensor(problem[f"parameter {i}"], dtype=dtype)) for i in range(5)
    )
    shape = problem["parameter 2"].shape
    parameters = [into, into_bias, *weights, out, out_bias]

    def model() -> Tensor:
        angles = nn.functional.linear(features, into, into_bias)
        return nn.functional.linear(circuit(angles), out, out_bias)

    def step() -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = None
        cross_entropy(model(), labels).backward()
        gradient = torch.stack([weight.grad for weight in weights]).reshape(shape)
        return [into.grad, into_bias.grad, gradient, out.grad, out_bias.grad]

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [model()]

    return {"step": step, "forward": forward}
