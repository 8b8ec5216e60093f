"""Slots as one real vector, so that classical and quantum derivatives meet in plain linear algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Slots


def or_empty(array: NDArray | None) -> NDArray:
    """An array of a record of slots; an empty one in place of none."""
    return np.zeros(0) if array is None else array


def shared_of(slots: Slots) -> NDArray:
    """The shared angles, or their directions or cotangents."""
    return or_empty(slots.shared)


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

    @cached_property
    def size(self) -> int:
        """Numbers in the vector."""
        shared = shared_of(self.like).size if self.shared else 0
        batched = or_empty(self.like.batched).size if self.batched else 0
        return shared + batched + 2 * sum(or_empty(a).size for a, moves in self._arrays if moves)

    @property
    def _arrays(self) -> list[tuple[NDArray | None, bool]]:
        return list(zip(self.like.arrays, self.arrays, strict=True))

    def tangents(self, vectors: NDArray) -> Slots:
        """Directions of the slots from vectors ``(k, size)``, the axis of directions in front."""
        k, rest = len(vectors), vectors

        def take(like: NDArray | None) -> NDArray:
            nonlocal rest
            shape = or_empty(like).shape
            part, rest = np.split(rest, [math.prod(shape)], axis=1)
            return part.reshape(k, *shape)

        like = self.like
        shared = take(like.shared) if self.shared else np.zeros((k, *shared_of(like).shape))
        batched = take(like.batched) if self.batched else None
        arrays = tuple(take(a) + 1j * take(a) if moves else None for a, moves in self._arrays)
        return Slots(shared, batched, arrays, like.batch_size)

    def vector(self, cotangents: Slots) -> NDArray:
        """Cotangents of the slots as a vector ``(size,)``."""
        parts = [shared_of(cotangents)] if self.shared else []
        parts += [or_empty(cotangents.batched)] if self.batched else []
        for array, moves in zip(map(or_empty, cotangents.arrays), self.arrays, strict=False):
            parts += [np.real(array), np.imag(array)] if moves else []
        return np.concatenate([np.ravel(p) for p in parts]) if parts else np.zeros(0)
