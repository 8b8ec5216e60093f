"""The errors and warnings of qhybrid: what was got, what is allowed, what to change."""


class QHybridError(Exception):
    """Base of every error raised on purpose by qhybrid."""


class CircuitError(QHybridError, ValueError):
    """The quantum function is not a circuit that can run: bad wire, shape, state, matrix or return."""


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


class CaptureError(QHybridError):
    """The quantum function cannot be traced once; it is recorded on every call instead.

    Raised inside the capture layer only. A QNode turns it into a :class:`FallbackWarning`.
    """


class FallbackWarning(UserWarning):
    """A QNode runs through PennyLane's own path: right, but not compiled. Names the cause."""
