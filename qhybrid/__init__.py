"""qhybrid: PennyLane circuits as differentiable nodes that run at the speed of the machine.

``import qhybrid as qml`` is a drop-in for ``import pennylane as qml``: the QNode and its layers are qhybrid's, every
other name is PennyLane's.
"""

from __future__ import annotations

import importlib
from typing import Any

from qhybrid._fallthrough import fall_through
from qhybrid.catalogue import device
from qhybrid.errors import (
    CaptureError,
    CircuitError,
    DeviceError,
    DifferentiationError,
    FallbackWarning,
    QHybridError,
)
from qhybrid.explanation import Explanation
from qhybrid.qnode import QNode, qnode

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "CircuitError",
    "DeviceError",
    "DifferentiationError",
    "Explanation",
    "FallbackWarning",
    "QHybridError",
    "QNode",
    "device",
    "qnode",
]

#: Own submodules that are imported when first asked for, since they need torch or are for testing only.
_LAZY = frozenset({"qnn", "testing"})


_from_pennylane = fall_through("qhybrid", "pennylane")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"qhybrid.{name}")
    return _from_pennylane(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *dir(importlib.import_module("pennylane"))})
