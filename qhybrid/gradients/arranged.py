"""Functions of arguments as they are, where a slot is an argument with its axes in another order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Function


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How a slot holds an array: flat, or as rows with the batch last. Mapped axes stay in front.

    Compared by identity, which is faster: a prologue has those of its leaves, and makes no others.

    Args:
        shape: of the array, without mapped axes
        layout: ``"vector"``, or which axis of the array is the batch: the ``"leading"`` or the ``"trailing"`` one

    Example:
        >>> inputs = np.array([[1, 2], [3, 4], [5, 6]])
        >>> Arrangement((3, 2), "leading").arrange(inputs)
        array([[1, 3, 5],
               [2, 4, 6]])
    """

    shape: tuple[int, ...]
    layout: str

    @cached_property
    def moved(self) -> tuple[int, ...]:
        """Shape of the array with the batch, if there is one, as its last axis."""
        return (*self.shape[1:], self.shape[0]) if self.layout == "leading" else self.shape

    @cached_property
    def slot(self) -> tuple[int, ...]:
        """Shape of the slot."""
        return (math.prod(self.shape),) if self.layout == "vector" else (math.prod(self.moved[:-1]), self.moved[-1])

    def arrange(self, array: NDArray) -> NDArray:
        """The array as a slot holds it."""
        front = array.ndim - len(self.shape)
        mapped = array.shape[:front]
        if self.layout == "leading":
            array = _moved(array, front, -1)
        return array.reshape(mapped + self.slot)

    def restore(self, array: NDArray) -> NDArray:
        """The inverse of :meth:`arrange`."""
        front = array.ndim - len(self.slot)
        array = array.reshape(array.shape[:front] + self.moved)
        return _moved(array, -1, front) if self.layout == "leading" else array


def _moved(array: NDArray, source: int, target: int) -> NDArray:
    """``numpy.moveaxis``, which takes ten times as long as the usual case."""
    return array.T if array.ndim == 2 and 0 in (source, target) else np.moveaxis(array, source, target)


class Arranged(Function):
    """Another function whose inputs are arranged on their way in, and their cotangents on their way out.

    Hosts then record one node where they would record one for each change of axes.

    Args:
        function: of slots
        inputs: how the first inputs are arranged; ``None`` and all further ones: as they are
        outputs: the same for the outputs
    """

    def __init__(
        self,
        function: Function,
        inputs: tuple[Arrangement | None, ...],
        outputs: tuple[Arrangement | None, ...] = (),
    ) -> None:
        self.function, self._inputs, self._outputs = function, inputs, outputs

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs at ``inputs``."""
        return self._restored(self.function(*self._arranged(inputs)))

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The outputs and the function's residual."""
        outputs, residual = self.function.forward(*self._arranged(inputs))
        return self._restored(outputs), residual

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Arranged:
        """The function's pullback; what it takes and gives is arranged like the function's inputs and outputs."""
        inputs = self._inputs + (None,) * (len(needs) - len(self._inputs))
        needed = tuple([a for a, n in zip(inputs, needs, strict=True) if n])
        return Arranged(self.function.pullback(needs, residual), inputs + self._outputs, needed)

    def pushforward(self, moving: tuple[bool, ...]) -> Arranged:
        """The function's pushforward; tangents are arranged like what they are tangents of."""
        inputs = self._inputs + (None,) * (len(moving) - len(self._inputs))
        tangents = tuple([a for a, m in zip(inputs, moving, strict=True) if m])
        return Arranged(self.function.pushforward(moving), inputs + tangents, self._outputs)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Arranged:
        """The function over one more axis, in front of everything."""
        return Arranged(self.function.vmap(size, mapped), self._inputs, self._outputs)

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output."""
        arrays = [np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in inputs]
        found = self.function.output_types(self._arranged(arrays))
        shaped = self._restored([np.broadcast_to(0.0, shape) for shape, _ in found])
        return tuple((array.shape, kind) for array, (_, kind) in zip(shaped, found, strict=True))

    def _arranged(self, inputs: Sequence[NDArray]) -> list[NDArray]:
        return _each(inputs, self._inputs, Arrangement.arrange)

    def _restored(self, outputs: Sequence[NDArray]) -> tuple[NDArray, ...]:
        return tuple(_each(outputs, self._outputs, Arrangement.restore) if self._outputs else outputs)


def _each(
    arrays: Sequence[NDArray],
    arrangements: tuple[Arrangement | None, ...],
    change: Callable[[Arrangement, NDArray], NDArray],
) -> list[NDArray]:
    """The arrays, the first ones changed by their arrangements."""
    found = list(arrays)
    for i, arrangement in enumerate(arrangements):
        if arrangement is not None:
            found[i] = change(arrangement, found[i])
    return found
