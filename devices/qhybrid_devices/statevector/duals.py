"""Dual numbers along several directions at once: values with their tangents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dual:
    """Numbers and their tangents along ``k`` directions; sums and products follow the rules of differentiation.

    Args:
        value: ``(rows, B)``; ``B`` may be 1
        tangents: ``(k, rows, B)``; ``B`` may be 1

    Example:
        >>> x = Dual(np.array([[3.0]]), np.array([[[1.0]]]))
        >>> (x * x - x).tangents
        array([[[5.]]])
    """

    value: NDArray
    tangents: NDArray

    @classmethod
    def constant(cls, number: float, directions: int) -> Dual:
        """One number that does not change."""
        return cls(np.full((1, 1), number), np.zeros((directions, 1, 1)))

    def __add__(self, other: Dual) -> Dual:
        return Dual(self.value + other.value, self.tangents + other.tangents)

    def __sub__(self, other: Dual) -> Dual:
        return Dual(self.value - other.value, self.tangents - other.tangents)

    def __mul__(self, other: Dual) -> Dual:
        return Dual(self.value * other.value, self.tangents * other.value + self.value * other.tangents)

    def scaled(self, number: float) -> Dual:
        """The product with a constant."""
        return Dual(number * self.value, number * self.tangents)

    def rows(self, index: NDArray | slice) -> Dual:
        """Some rows."""
        return Dual(self.value[index], self.tangents[:, index])

    def transformed(self, matrix: NDArray) -> Dual:
        """The product with a constant matrix from the left."""
        return Dual(matrix @ self.value, matrix @ self.tangents)

    def gathered(self, index: NDArray, rows: int) -> Dual:
        """The sums of all rows ``i`` with the same ``index[i]``, of which there are ``rows``."""
        value, tangents = np.zeros((rows, self.value.shape[1])), np.zeros((rows, *self.tangents.shape[::2]))
        np.add.at(value, index, self.value)
        np.add.at(tangents, index, np.swapaxes(self.tangents, 0, 1))
        return Dual(value, np.swapaxes(tangents, 0, 1))


class DualState(NamedTuple):
    """States of samples and their tangents.

    Args:
        state: ``(C, 2, N, L)``
        tangents: ``(k, C, 2, N, L)``
    """

    state: NDArray
    tangents: NDArray

    def copy(self) -> DualState:
        """The same in memory of its own."""
        return DualState(self.state.copy(), self.tangents.copy())
