"""What makes a PennyLane device one that compiled QNodes can use."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from qhybrid.execution import Executable
from qhybrid.program import Program


class CompilingDevice(ABC):
    """Mix-in for PennyLane devices that run Programs.

    A device that inherits from it is handed a :class:`~qhybrid.program.Program` once for every circuit structure, and
    from then on only the values of its slots.
    """

    #: Generator of all random numbers of the device; the same seed gives the same samples.
    rng: np.random.Generator
    #: Whether its executables offer an exact derivative in one pass.
    has_vjp: bool = False

    @abstractmethod
    def compile(self, program: Program) -> Executable:
        """An executable for ``program``, from a cache if this device has compiled it before.

        Raises:
            DeviceError: the device cannot run it
        """
