"""Slots as one real vector, so that classical and quantum derivatives meet in plain linear algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Slots


@dataclass(frozen=True)
class SlotLayout:
    """How the slots that move lie in a vector: shared, batched, then each array's real and imaginary parts.

    Args:
        shared: whether the vector holds the shared angles, and so on
        like: slots of the same shapes
    """

    shared: bool
    batched: bool
    arrays: tuple[bool, ...]
    like: Slots

    @property
    def needs(self) -> Needs:
        """Which cotangents make the vector."""
        return Needs(self.shared, self.batched, self.arrays)

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        shared = self.like.shared.size if self.shared else 0
        batched = self.like.batched.size if self.batched else 0
        return shared + batched + sum(2 * a.size for a, m in zip(self.like.arrays, self.arrays, strict=True) if m)

    def tangents(self, vectors: NDArray) -> Slots:
        """Directions of the slots from vectors ``(k, size)``, the axis of directions in front."""
        k, rest = len(vectors), vectors

        def take(shape: tuple[int, ...]) -> NDArray:
            nonlocal rest
            size = math.prod(shape)
            part, rest = rest[:, :size], rest[:, size:]
            return part.reshape(k, *shape)

        like = self.like
        shared = take(like.shared.shape) if self.shared else np.zeros((k, *like.shared.shape))
        batched = take(like.batched.shape) if self.batched else None
        arrays = tuple(
            take(a.shape) + 1j * take(a.shape) if m else None for a, m in zip(like.arrays, self.arrays, strict=True)
        )
        return Slots(shared, batched, arrays, like.batch_size)

    def vector(self, cotangents: Slots) -> NDArray:
        """Cotangents of the slots as a vector ``(size,)``."""
        parts = [cotangents.shared] if self.shared else []
        parts += [cotangents.batched] if self.batched else []
        for array, moves in zip(cotangents.arrays, self.arrays, strict=False):
            parts += [array.real, np.imag(array)] if moves else []
        return np.concatenate([np.ravel(p) for p in parts]) if parts else np.zeros(0)
