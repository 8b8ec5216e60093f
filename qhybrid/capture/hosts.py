# ruff: noqa: D102

"""The few array operations that a compiled prologue is made of, in each host's framework."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from autograd import numpy as anp
from autograd.extend import defjvp, defvjp, primitive

from qhybrid.capture.replay import TORCH_NAMES, plain_torch
from qhybrid.capture.values import concrete, constant_tensor

if TYPE_CHECKING:
    from qhybrid.capture.plan import Plan


class Host(ABC):
    """Array operations of one framework for one plan.

    Args:
        plan: its dtype and constants are converted once
    """

    name: str
    constants: Sequence[Any]

    @abstractmethod
    def array(self, value: Any) -> Any:
        """A leaf as an array of the plan's dtype."""

    @abstractmethod
    def whole(self, value: Any) -> Any:
        """A parameter that is an array of its own dtype."""

    @abstractmethod
    def read(self, tensor: Any) -> Any:
        """A trainable torch tensor from outside."""

    @abstractmethod
    def concatenate(self, parts: list[Any], axis: int) -> Any:
        """Several arrays as one."""

    @abstractmethod
    def take(self, array: Any, index: Any) -> Any:
        """``array[index]`` along the first axis; ``index`` is a constant ``(n,)``."""

    @abstractmethod
    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        """``array`` repeated to ``shape``."""

    @abstractmethod
    def move_batch(self, array: Any, source: int, target: int) -> Any:
        """One axis moved to another place."""

    @abstractmethod
    def function(self, name: str) -> Callable:
        """The elementwise function of that NumPy name."""


class NumpyHost(Host):
    """Plain arrays, also PennyLane's when nothing is being differentiated."""

    name = "numpy"

    def __init__(self, plan: Plan) -> None:
        self.dtype = plan.dtype
        self.constants = plan.constants

    def array(self, value: Any) -> Any:
        return np.asarray(value, dtype=self.dtype)

    def whole(self, value: Any) -> Any:
        return value

    def read(self, tensor: Any) -> Any:
        return concrete(tensor)

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        return np.concatenate(parts, axis)

    def take(self, array: Any, index: Any) -> Any:
        return array.take(index, 0)

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return np.broadcast_to(array, shape)

    def move_batch(self, array: Any, source: int, target: int) -> Any:
        return np.moveaxis(array, source, target)

    def function(self, name: str) -> Callable:
        return getattr(np, name)


@primitive
def _gather(array: Any, index: Any) -> Any:
    return array.take(index, 0)


@primitive
def _scatter(rows: Any, index: Any, size: int) -> Any:
    if rows.ndim == 1:
        return np.bincount(index, rows, size) if rows.dtype == np.float64 else _scatter_rows(rows, index, size)
    return _scatter_rows(rows, index, size)


def _scatter_rows(rows: Any, index: Any, size: int) -> Any:
    out = np.zeros((size, *rows.shape[1:]), rows.dtype)
    np.add.at(out, index, rows)
    return out


def _gather_vjp(answer: Any, array: Any, index: Any) -> Callable:
    return lambda g: _scatter(g, index, array.shape[0])


def _scatter_vjp(answer: Any, rows: Any, index: Any, size: int) -> Callable:
    return lambda g: _gather(g, index)


defvjp(_gather, _gather_vjp, None)
defvjp(_scatter, _scatter_vjp, None, None)
defjvp(_gather, "same")
defjvp(_scatter, "same")


class AutogradHost(Host):
    """Arrays that autograd is differentiating."""

    name = "autograd"

    def __init__(self, plan: Plan) -> None:
        self.dtype = plan.dtype
        self.constants = plan.constants

    def array(self, value: Any) -> Any:
        if isinstance(value, np.ndarray | float | complex | np.generic):
            return np.asarray(value, dtype=self.dtype)
        value = anp.array(value) if anp.ndim(value) == 0 else value
        return value if value.dtype == self.dtype else value.astype(self.dtype)

    def whole(self, value: Any) -> Any:
        return value

    def read(self, tensor: Any) -> Any:
        return concrete(tensor)

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        return anp.concatenate(parts, axis)

    def take(self, array: Any, index: Any) -> Any:
        return _gather(array, index)

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return array * np.ones(shape, self.dtype)

    def move_batch(self, array: Any, source: int, target: int) -> Any:
        return anp.moveaxis(array, source, target)

    def function(self, name: str) -> Callable:
        return getattr(anp, name)


class TorchHost(Host):
    """Torch tensors on one device.

    Args:
        plan: its dtype and constants are converted once
        device: of the leaves
    """

    name = "torch"

    def __init__(self, plan: Plan, device: Any) -> None:
        self.torch: Any = sys.modules["torch"]
        self.device = device
        self.dtype = getattr(self.torch, plan.dtype.name)
        with plain_torch():
            self.constants = [
                self.torch.as_tensor(c, device=device, dtype=self.dtype if c.dtype.kind == "f" else None)
                for c in plan.constants
            ]

    def array(self, value: Any) -> Any:
        if isinstance(value, self.torch.Tensor):
            return value if value.dtype == self.dtype else value.to(self.dtype)
        return self.torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def whole(self, value: Any) -> Any:
        return value if isinstance(value, self.torch.Tensor) else constant_tensor(value, self.dtype, self.device)

    def read(self, tensor: Any) -> Any:
        return tensor

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        return self.torch.cat(parts, axis)

    def take(self, array: Any, index: Any) -> Any:
        return array.index_select(0, index)

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        return array.expand(shape)

    def move_batch(self, array: Any, source: int, target: int) -> Any:
        return array.movedim(source, target)

    def function(self, name: str) -> Callable:
        return getattr(self.torch, TORCH_NAMES.get(name, name))
