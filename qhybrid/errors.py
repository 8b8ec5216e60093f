"""The errors and warnings of qhybrid: what was got, what is allowed, what to change."""

from __future__ import annotations

from collections.abc import Sequence


class QHybridError(Exception):
    """Base of every error raised on purpose by qhybrid."""


class CircuitError(QHybridError, ValueError):
    """The quantum function is not a circuit that can run: bad wire, shape, state, matrix or return."""


class NeedsShotsError(CircuitError):
    """Samples or counts are returned by a quantum function that runs without shots."""


class NotFiniteError(CircuitError):
    """An angle or coefficient is NaN or infinite.

    Args:
        message: what is wrong, without the argument that it comes from
        batched, index: the row of the slots that holds it
    """

    def __init__(self, message: str, batched: bool, index: int) -> None:
        super().__init__(message)
        self.batched, self.index = batched, index


class DifferentiationError(QHybridError, ValueError):
    """A derivative was asked for that cannot be given correctly; the message names what can."""


class DeviceError(QHybridError, RuntimeError):
    """The device cannot run this circuit, for example because it does not fit in memory."""


class TransientError(DeviceError):
    """A job failed for a reason that may pass, such as a busy service; the same job is worth another attempt."""


class BudgetError(DeviceError):
    """A call would exceed the circuits or shots that its device may be sent; see :class:`qhybrid.JobPolicy`."""


class JobError(DeviceError):
    """Circuits of a job failed for good.

    Args:
        message: what happened
        indices: numbers of the circuits in their call, counted from 0: the one that failed, or those it is one of
    """

    def __init__(self, message: str, indices: Sequence[int]) -> None:
        super().__init__(message)
        self.indices = tuple(indices)

    def __reduce__(self) -> tuple:
        return (JobError, (str(self), self.indices))


class CaptureError(QHybridError):
    """The quantum function cannot be traced once; it is recorded on every call instead.

    Raised inside the capture layer only. A QNode turns it into a :class:`FallbackWarning`.
    """


class HostTracesError(CaptureError):
    """An argument belongs to a host that traces functions itself, so this one is recorded in each of its traces."""


class FallbackWarning(UserWarning):
    """A QNode runs through PennyLane's own path: right, but not compiled. Names the cause."""
