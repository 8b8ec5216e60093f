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
    BudgetError,
    CaptureError,
    CircuitError,
    DeviceError,
    DifferentiationError,
    FallbackWarning,
    JobError,
    QHybridError,
    TransientError,
)
from qhybrid.explanation import Explanation
from qhybrid.jobs import JobPolicy, jobs_of, set_jobs
from qhybrid.qnode import QNode, qnode

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "CaptureError",
    "CircuitError",
    "DeviceError",
    "DifferentiationError",
    "Explanation",
    "FallbackWarning",
    "JobError",
    "JobPolicy",
    "QHybridError",
    "QNode",
    "TransientError",
    "device",
    "jobs_of",
    "qnode",
    "set_jobs",
]

#: Own submodules that are imported when first asked for, since they need torch or are for testing only.
_LAZY = frozenset({"bridge", "optimize", "qnn", "testing"})


_from_pennylane = fall_through("qhybrid", "pennylane")


def __getattr__(name: str) -> Any:
    if name == "graph":
        from qhybrid.drawing import graph

        return graph
    if name in _LAZY:
        return importlib.import_module(f"qhybrid.{name}")
    return _from_pennylane(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "graph", *dir(importlib.import_module("pennylane"))})
