"""Derivatives of a QNode with respect to its arguments, by every way that a host has, and by differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import autograd
import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane import numpy as pnp

from qhybrid.errors import DifferentiationError

#: Central differences of fourth order: multiples of the step, and their weights.
_STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of a QNode and which of them are differentiated.

    Args:
        args: all of them
        trainable: positions of those that are differentiated
        is_torch: whether the host is PyTorch; else it is autograd
    """

    args: tuple[Any, ...]
    trainable: tuple[int, ...]
    is_torch: bool

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> Arguments:
        """Arguments, with those that are differentiated made ready for it.

        Raises:
            DifferentiationError: there is none
        """
        is_torch = any(qml.math.get_interface(a) == "torch" for a in args)
        real = [i for i, a in enumerate(args) if _is_real(a, is_torch)]
        trainable = [i for i in real if getattr(args[i], "requires_grad", False)] or real
        if not trainable:
            raise DifferentiationError(
                "check_gradients got no argument that is a real floating-point array or number; it differentiates "
                "with respect to those."
            )
        ready = tuple(_ready(a, is_torch) if i in trainable else a for i, a in enumerate(args))
        return cls(ready, tuple(trainable), is_torch)

    @property
    def values(self) -> tuple[Any, ...]:
        """The trainable arguments."""
        return tuple(self.args[i] for i in self.trainable)

    @cached_property
    def direction(self) -> NDArray:
        """Of the products with Jacobians and Hessians: one entry for each of all trainable arguments."""
        return np.random.default_rng(1).normal(size=sum(_array(v).size for v in self.values))

    # ------------------------------------------------------------------ as functions of the trainable arguments

    def flat(self, node: Callable) -> Callable:
        """All results in one row, as a function of the trainable arguments."""

        def function(*values: Any) -> Any:
            args = list(self.args)
            for i, value in zip(self.trainable, values, strict=True):
                args[i] = value
            return _row_of(node(*args))

        return function

    def _weighted(self, node: Callable) -> Callable:
        """One weighted sum of all results, as a function of the trainable arguments."""
        function = self.flat(node)

        def total(*values: Any) -> Any:
            row = function(*values)
            return qml.math.sum(row * qml.math.asarray(self._weights(row.shape[0]), like=row))

        return total

    @staticmethod
    def _weights(count: int) -> NDArray:
        return np.random.default_rng(2).normal(size=count)

    # ------------------------------------------------------------------ derivatives by the host

    def derivative(self, node: Callable, kind: str) -> NDArray:
        """A derivative: ``"gradient"``, ``"jvp"``, ``"hessian"`` or ``"hvp"``.

        Returns:
            the Jacobian ``(results, entries)`` of all results, its product ``(results,)`` with :attr:`direction`, the
            Hessian ``(entries, entries)`` of their weighted sum, or its product ``(entries,)`` with the direction
        """
        ways = {"gradient": self._jacobian, "jvp": self._jvp, "hessian": self._hessian, "hvp": self._hvp}
        return ways[kind](node)

    def gradient(self, node: Callable) -> None:
        """One forward and one backward pass."""
        function = self.flat(node)
        if self.is_torch:
            function(*self.values).sum().backward()
        else:
            autograd.grad(lambda *v: qml.math.sum(function(*v)), self._positions)(*self.values)

    def _jacobian(self, node: Callable) -> NDArray:
        function = self.flat(node)
        if self.is_torch:
            import torch

            blocks = torch.autograd.functional.jacobian(function, self.values)
        else:
            blocks = [autograd.jacobian(function, k)(*self.values) for k in self._positions]
        pairs = zip(blocks, self.values, strict=True)
        return np.concatenate([_array(block).reshape(-1, _array(v).size) for block, v in pairs], axis=1)

    def _jvp(self, node: Callable) -> NDArray:
        function = self.flat(node)
        if self.is_torch:
            import torch

            return _array(torch.func.jvp(function, self._plain, self._tangents)[1])
        return _array(autograd.make_jvp(self._of_one_vector(function))(self._vector)(self.direction)[1])

    def _hessian(self, node: Callable) -> NDArray:
        total = self._weighted(node)
        size = len(self.direction)
        if not self.is_torch:
            vector = self._of_one_vector(total)
            return _array(autograd.jacobian(autograd.grad(vector))(self._vector)).reshape(size, size)
        import torch

        blocks = torch.autograd.functional.hessian(total, self.values)
        rows = [
            [_array(b).reshape(_array(v).size, -1) for b in row] for row, v in zip(blocks, self.values, strict=True)
        ]
        return np.block(rows)

    def _hvp(self, node: Callable) -> NDArray:
        total = self._weighted(node)
        if self.is_torch:
            import torch

            gradient = torch.func.grad(total, tuple(self._positions))
            parts = torch.func.jvp(gradient, self._plain, self._tangents)[1]
            return np.concatenate([np.ravel(_array(p)) for p in parts])
        gradient = autograd.grad(self._of_one_vector(total))
        return _array(autograd.make_jvp(gradient)(self._vector)(self.direction)[1])

    @property
    def _positions(self) -> tuple[int, ...]:
        return tuple(range(len(self.values)))

    @property
    def _plain(self) -> tuple[Any, ...]:
        return tuple(v.detach() for v in self.values)

    @property
    def _tangents(self) -> tuple[Any, ...]:
        return tuple(_like(p, v) for p, v in zip(self._split(self.direction), self.values, strict=True))

    @property
    def _vector(self) -> NDArray:
        return np.concatenate([np.ravel(_array(v)).astype(float) for v in self.values])

    def _of_one_vector(self, function: Callable) -> Callable:
        """A function of the trainable arguments as one of all their entries, for autograd, which takes one argument."""
        return lambda vector: function(*self._split(vector))

    def _split(self, vector: Any) -> list[Any]:
        shapes = [_array(v).shape for v in self.values]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        return [vector[e - int(np.prod(s)) : e].reshape(s) for e, s in zip(ends, shapes, strict=True)]

    # ------------------------------------------------------------------ differences

    def differences(self, node: Callable, step: float) -> NDArray:
        """The Jacobian by central differences of fourth order."""
        at = self._at(node)
        start = self._vector
        units = step * np.eye(len(start))
        columns = [sum(w * at(start + i * unit) for i, w in _STENCIL) / step for unit in units]
        return np.stack(columns, axis=1)

    def second_differences(self, node: Callable, step: float) -> NDArray:
        """The Hessian of the weighted sum of the results by central differences of fourth order."""
        at, start = self._at(node), self._vector
        weights = self._weights(len(at(start)))
        units = step * np.eye(len(start))
        found = np.zeros((len(start), len(start)))
        for i, one in enumerate(units):
            for j, other in enumerate(units[: i + 1]):
                terms = (v * w * at(start + a * one + b * other) for a, v in _STENCIL for b, w in _STENCIL)
                found[i, j] = found[j, i] = weights @ sum(terms) / step**2
        return found

    def _at(self, node: Callable) -> Callable[[NDArray], NDArray]:
        """All results as numbers, as a function of all entries of the trainable arguments."""
        function = self.flat(node)

        def results(vector: NDArray) -> NDArray:
            parts = zip(self._split(vector), self.values, strict=True)
            found = _array(function(*[_like(part, value) for part, value in parts]))
            if np.iscomplexobj(found):
                raise DifferentiationError(
                    "check_gradients got complex results, such as a state; it compares derivatives of real ones. "
                    "Measure expectation values or probabilities instead."
                )
            return found.astype(float)

        return results


def _is_real(value: Any, is_torch: bool) -> bool:
    if is_torch:
        return qml.math.get_interface(value) == "torch" and value.is_floating_point()
    return isinstance(value, float | np.ndarray | np.floating) and np.asarray(value).dtype.kind == "f"


def _ready(value: Any, is_torch: bool) -> Any:
    if is_torch:
        return value.detach().clone().requires_grad_()
    return pnp.array(value, requires_grad=True)


def _array(value: Any) -> NDArray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _like(array: NDArray, value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.new_tensor(array)
    return pnp.array(array, requires_grad=False)


def _row_of(results: Any) -> Any:
    """All real results, flattened into one tensor of the host."""
    if isinstance(results, list | tuple):
        return qml.math.concatenate([_row_of(r) for r in results])
    return qml.math.reshape(results, (-1,))
