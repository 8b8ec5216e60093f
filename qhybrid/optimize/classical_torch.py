"""Products with the Jacobian of a prologue by PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qhybrid.capture.prologue import Prologue
from qhybrid.optimize.classical import ClassicalJacobian, Leaves, layout_of
from qhybrid.program import Slots


class TorchJacobian(ClassicalJacobian):
    """Two graphs that are kept: of the slots, and of the product of their Jacobian's transpose with any vector."""

    def __init__(self, prologue: Prologue, leaves: Leaves, like: Slots) -> None:
        with torch.enable_grad():
            parts = [_numbers(leaves.values[i]) for i in leaves.trained]
            self._x = torch.cat([torch.zeros(0, dtype=torch.double), *parts]).requires_grad_()
            live = leaves.replaced(self._x, _like)
            tensors = prologue(live).tensors
            moves = [t.requires_grad for t in tensors]
            arrays = [i >= prologue.num_angle_tensors for i in range(len(tensors))]
            moving = [p for t, m, a in zip(tensors, moves, arrays, strict=True) if m for p in _real_parts(t, a)]
            self._y = torch.cat(moving) if moving else 0 * self._x[:0]
            self._u = torch.zeros_like(self._y).requires_grad_()
            (self._pulled,) = torch.autograd.grad(self._y, self._x, self._u, create_graph=True)
        self.layout, self.num_trained = layout_of(moves, like), leaves.size

    def _push(self, vectors: NDArray) -> NDArray:
        found = np.empty((len(vectors), self.layout.size))
        for row, vector in zip(found, vectors, strict=True):
            row[:] = self._product(self._pulled, self._u, vector)
        return found

    def _pull(self, vector: NDArray) -> NDArray:
        return self._product(self._y, self._x, vector)

    @staticmethod
    def _product(outputs: torch.Tensor, inputs: torch.Tensor, vector: NDArray) -> NDArray:
        (found,) = torch.autograd.grad(outputs, inputs, torch.as_tensor(vector), retain_graph=True)
        return found.numpy()


def _numbers(leaf: Any) -> torch.Tensor:
    """The numbers of an argument, which is an array where only a captured tensor is PyTorch's."""
    tensor = leaf.detach() if isinstance(leaf, torch.Tensor) else torch.as_tensor(np.asarray(leaf))
    return tensor.double().cpu().reshape(-1)


def _like(part: torch.Tensor, leaf: Any) -> torch.Tensor:
    return part.to(leaf.device, leaf.dtype) if isinstance(leaf, torch.Tensor) else part


def _real_parts(tensor: Any, is_array: bool) -> list[torch.Tensor]:
    """Angles as they are; of an array, which may be complex, the real and the imaginary part."""
    parts = [tensor]
    if is_array:
        parts = [tensor.real, tensor.imag] if tensor.is_complex() else [tensor, torch.zeros_like(tensor)]
    return [p.reshape(-1).double().cpu() for p in parts]
