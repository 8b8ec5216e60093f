"""Functions and modules of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad

from qhybrid.bridge.base import HostFunction, Pullback, Raw


class TorchFunction(HostFunction):
    """A function of tensors, differentiated by PyTorch.

    Args:
        raw, active, origin: see :class:`HostFunction`
        parameters: what a recorded pullback adds the gradient of to its ``.grad``
    """

    def __init__(
        self, raw: Raw, active: tuple[bool, ...], origin: Any, parameters: Sequence[torch.nn.Parameter] = ()
    ) -> None:
        super().__init__(raw, active, origin)
        self._parameters = [p for p in parameters if p.requires_grad]

    def _linearized(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[Sequence[Any], Pullback]:
        leaves, outputs = self._traced(inputs, active)
        moving = [x for x in _chosen(leaves, active) if _inexact(x)]

        def pullback(cotangents: Sequence[Any]) -> list[Any]:
            ys, cs = _differentiable(outputs, cotangents)
            found = iter(
                torch.autograd.grad(
                    ys,
                    moving,
                    cs,
                    retain_graph=True,
                    create_graph=torch.is_grad_enabled(),
                    allow_unused=True,
                    materialize_grads=True,
                )
                if ys and moving
                else map(torch.zeros_like, moving)
            )
            return [next(found) if _inexact(x) else self._zeros(x) for x in _chosen(leaves, active)]

        return outputs, pullback

    def _pushed(self, inputs: Sequence[Any], tangents: Sequence[Any], moving: Sequence[bool]) -> Sequence[Any] | None:
        if forward_ad._current_level >= 0:
            return None  # dual numbers do not nest
        rest = iter(tangents)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x, next(rest)) if m else x for x, m in zip(inputs, moving, strict=True)]
            try:
                outputs = self.raw(*duals)
            except NotImplementedError:  # PyTorch has no forward rule for some function
                return None
            found = [forward_ad.unpack_dual(y).tangent for y in outputs]
        return [self._zeros(y) if t is None else t for y, t in zip(outputs, found, strict=True)]

    def _recorded(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[Sequence[Any], Pullback]:
        if not self._parameters:
            return self._linearized(inputs, active)
        leaves, outputs = self._traced(inputs, active)

        def pullback(cotangents: Sequence[Any]) -> list[Any]:
            """As :meth:`_linearized` gives it, with the gradients of the parameters as a side effect."""
            moving = [x for x in _chosen(leaves, active) if _inexact(x)]
            for x in moving:
                x.grad = None
            ys, cs = _differentiable(outputs, cotangents)
            torch.autograd.backward(ys, cs, retain_graph=True, inputs=[*moving, *self._parameters])
            return [self._zeros(x) if x.grad is None else x.grad for x in _chosen(leaves, active)]

        return outputs, pullback

    def _traced(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[list[Any], Sequence[Any]]:
        """The inputs, those that are active as tensors of their own, and the outputs, all in PyTorch's graph."""
        with torch.enable_grad():
            leaves = [_own(x) if a and _inexact(x) else x for x, a in zip(inputs, active, strict=True)]
            return leaves, self.raw(*leaves)

    @staticmethod
    def _stacked(rows: Sequence[Any]) -> Any:
        return torch.stack(list(rows))

    @staticmethod
    def _zeros(array: Any) -> Any:
        return torch.zeros_like(array, dtype=array.dtype if _inexact(array) else torch.get_default_dtype())

    @staticmethod
    def _from_numpy(arrays: Sequence[NDArray]) -> list[torch.Tensor]:
        return [torch.from_numpy(np.array(a)) for a in arrays]  # copies: a module may write into its arguments

    @staticmethod
    def _to_numpy(arrays: Sequence[Any]) -> tuple[NDArray, ...]:
        return tuple((a.float() if a.dtype is torch.bfloat16 else a).numpy(force=True) for a in arrays)

    @staticmethod
    def _evaluating() -> AbstractContextManager:
        return torch.no_grad()


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a tensor of its own that can be differentiated along, in the graph of the original if any."""
    view = tensor.view_as(tensor)
    return view if view.requires_grad else view.requires_grad_()


def _chosen(tensors: Sequence[Any], active: Sequence[bool]) -> list[Any]:
    return [x for x, a in zip(tensors, active, strict=True) if a]


def _inexact(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _differentiable(outputs: Sequence[Any], cotangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The outputs that have a derivative, and their cotangents in their own dtypes."""
    pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    return [y for y, _ in pairs], [c.to(y.device, y.dtype) for y, c in pairs]
