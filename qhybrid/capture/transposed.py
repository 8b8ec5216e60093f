"""The transpose of a prologue that only moves, scales and shifts numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Transposed:
    """From cotangents of shared angles to those of the leaves whose numbers the angles are.

    Args:
        shapes: of the leaves, which stand flat, one after the other
        angles: which angles depend on a number; ``None``: all, in the order of the numbers, as they are
        numbers: on which, for each of these angles
        scales: how many times that number the angle is

    Example:
        >>> twice = Transposed(((), (2,)), np.array([0, 1]), np.array([2, 2]), np.array([1.0, 3.0]))
        >>> twice(np.array([10.0, 100.0, 7.0]))
        [array(0.), array([  0., 310.])]
    """

    shapes: tuple[tuple[int, ...], ...]
    angles: NDArray | None
    numbers: NDArray
    scales: NDArray

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, ...]], numbers: NDArray, scales: NDArray) -> Transposed:
        """The transpose of ``scales * flat[numbers]``; a negative number stands for a constant."""
        angles = np.flatnonzero(numbers >= 0)
        size = sum(map(math.prod, shapes))
        as_they_are = np.array_equal(numbers, np.arange(size)) and bool((scales == 1).all())
        return cls(tuple(shapes), None if as_they_are else angles, numbers[angles], scales[angles])

    def __call__(self, cotangents: NDArray) -> list[NDArray]:
        """Cotangents of the leaves, given those of all angles, shape ``(Ps,)``."""
        sizes = [math.prod(shape) for shape in self.shapes]
        flat = cotangents
        if self.angles is not None:
            flat = np.bincount(self.numbers, self.scales * cotangents[self.angles], sum(sizes))
        if len(sizes) == 1:
            return [flat.reshape(self.shapes[0])]
        stops = list(accumulate(sizes))
        triples = zip(stops, sizes, self.shapes, strict=True)
        return [flat[stop - size : stop].reshape(shape) for stop, size, shape in triples]
