"""What makes a PennyLane device one that compiled QNodes can use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from qhybrid.execution import Executable
from qhybrid.program import Program

if TYPE_CHECKING:
    from qhybrid.jobs import Jobs


class CompilingDevice(ABC):
    """Mix-in for PennyLane devices that run Programs.

    A device that inherits from it is handed a :class:`~qhybrid.program.Program` once for every circuit structure, and
    from then on only the values of its slots.
    """

    #: Wire labels, ``None`` if each circuit decides.
    wires: Any
    #: Whether the device tells its wires apart: programs then have all of them, not only those that a circuit uses.
    keeps_wires: bool = False
    #: PennyLane's, which every device of PennyLane has.
    tracker: Any
    #: Whether its executables offer an exact derivative in one pass.
    has_vjp: bool = False
    #: Whether its results may have been computed in single precision, whatever type they have.
    single_precision: bool = False
    #: Whether its executables send their circuits through :attr:`jobs`, so that a policy holds for them.
    runs_jobs: bool = False
    #: Whether circuits that measure inside in another way than by deferring are left to PennyLane's path on the device.
    leaves_mid_circuit: bool = False

    @classmethod
    def cache_directory(cls) -> str | None:
        """Where its compiled kernels are kept from process to process, ``None`` if it keeps none."""
        return None

    @property
    def jobs(self) -> Jobs:
        """Sends circuits by this device's policy and counts them; a device may set one with its own predicate."""
        from qhybrid.jobs import jobs_of  # with all that it needs, for devices that send any

        return jobs_of(self)

    @jobs.setter
    def jobs(self, jobs: Jobs) -> None:
        from qhybrid.jobs import attach_jobs

        attach_jobs(self, jobs)

    def leaves_derivative(self, method: str, exact: bool) -> bool:
        """Whether ``method`` asks for a derivative of the device that only PennyLane knows how to use.

        Args:
            method: a name that ``diff_method`` takes
            exact: whether results are exact
        """
        return False

    @abstractmethod
    def new_rng(self) -> np.random.Generator:
        """A generator for one execution; the same seed of the device gives the same sequence of them."""

    def expand(self, tape: Any) -> Any:
        """The PennyLane circuit to run in place of a recorded one, for example with noise; the measurements stay."""
        return tape

    def adapt(self, program: Program) -> Program:
        """The program to run and to differentiate in place of a lowered one, on the same slots."""
        return program

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
