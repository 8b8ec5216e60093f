"""PennyLane devices as QNodes meet them: what runs circuits on one, and how one is pickled."""

from __future__ import annotations

import copy
from typing import Any

from qhybrid.backend import CompilingDevice
from qhybrid.errors import CaptureError


def backend_of(device: Any) -> CompilingDevice:
    """What runs compiled circuits on ``device``: itself, or its one :class:`~qhybrid.tapes.TapeBackend`.

    Args:
        device: a PennyLane device

    Raises:
        CaptureError: the device must be left to PennyLane, with the reason

    Example:
        >>> import pennylane as qml
        >>> device = qml.device("default.qubit")
        >>> backend_of(device) is backend_of(device)
        True
    """
    if getattr(type(device), "original_device", None) is not None:
        raise CaptureError(f"device {device.name!r} carries PennyLane transforms")
    if isinstance(device, CompilingDevice):
        return device
    from qhybrid.tapes.backend import tape_backend_of  # with all that it needs, for devices of others

    return tape_backend_of(device)


def portable(device: Any) -> Any:
    """``device`` for pickling: Lightning's without its C++ state, which it makes anew."""
    if getattr(device, "_statevector", None) is None:
        return device
    copied = copy.copy(device)
    copied._statevector = copied._intermediate_states = None
    return copied
