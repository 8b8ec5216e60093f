"""What makes a PennyLane device one that compiled QNodes can use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from qhybrid.execution import Executable
from qhybrid.program import Program


class CompilingDevice(ABC):
    """Mix-in for PennyLane devices that run Programs.

    A device that inherits from it is handed a :class:`~qhybrid.program.Program` once for every circuit structure, and
    from then on only the values of its slots.
    """

    #: Wire labels, ``None`` if each circuit decides. A mapping gives the index of each label: programs are then
    #: numbered over all wires, which a device may tell apart, and not only over those that a circuit uses.
    wires: Any
    #: PennyLane's, which every device of PennyLane has.
    tracker: Any
    #: Whether its executables offer an exact derivative in one pass.
    has_vjp: bool = False

    @abstractmethod
    def new_rng(self) -> np.random.Generator:
        """A generator for one execution; the same seed of the device gives the same sequence of them."""

    @abstractmethod
    def compile(self, program: Program) -> Executable:
        """An executable for ``program``, from a cache if this device has compiled it before.

        Raises:
            DeviceError: the device cannot run it
        """

    def check(self, program: Program, shots: int | None) -> None:  # noqa: B027 - most devices run every program
        """Say no to a program that PennyLane's own path may run on this device.

        Args:
            program: the circuit
            shots: samples a measurement basis, ``None`` for exact results

        Raises:
            CaptureError: with the reason
        """

    def describe(self, program: Program, shots: int | None) -> str:
        """How the device runs a program, in words; empty if there is only one way."""
        return ""

    @abstractmethod
    def memory_needed(self, program: Program, batch_size: int) -> int:
        """Bytes that states take while a batch of ``program`` is differentiated."""
