"""What a device must offer, and the one Jacobian-product calculator between gradient methods and hosts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Program, Slots


@dataclass(frozen=True)
class Needs:
    """Which cotangents are wanted: of the shared angles, of the batched angles, of each array."""

    shared: bool = True
    batched: bool = True
    arrays: tuple[bool, ...] = ()


class Executable(ABC):
    """A program compiled for one device.

    Results are a tuple of arrays: first all scalar measurements as one real array ``(S,)`` or ``(batch, S)`` (``S``
    may be 0), then one array a tensor measurement, each with the batch axis in front if the program is batched.
    An empty batch gives empty results.
    """

    #: Whether :meth:`vjp` exists: an exact derivative in one pass.
    has_vjp: bool = False

    def __init__(self, program: Program) -> None:
        self.program = program

    @abstractmethod
    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results."""

    @abstractmethod
    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples a measurement basis, drawn from ``rng``."""

    def vjp(self, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs) -> Slots:
        """Cotangents of the slots, given cotangents shaped like the results of :meth:`run`."""
        raise NotImplementedError(f"{type(self).__name__} has no native derivative")
