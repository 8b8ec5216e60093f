"""qhybrid: PennyLane circuits as differentiable nodes that run at the speed of the machine.

``import qhybrid as qml`` is a drop-in for ``import pennylane as qml``: the QNode, its layers, ``grad`` and the
optimizers that step along it are qhybrid's, every other name is PennyLane's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qhybrid._fallthrough import fall_through
from qhybrid.capture.queues import keep_queues_apart
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
from qhybrid.qnode import QNode, qnode

if TYPE_CHECKING:
    from qhybrid.descent import (
        AdagradOptimizer,
        AdamOptimizer,
        GradientDescentOptimizer,
        MomentumOptimizer,
        MomentumQNGOptimizer,
        NesterovMomentumOptimizer,
        QNGOptimizer,
        RMSPropOptimizer,
    )
    from qhybrid.differentiate import grad
    from qhybrid.drawing import graph
    from qhybrid.explanation import Explanation
    from qhybrid.jobs import JobPolicy, jobs_of, set_jobs

__version__ = "0.1.0"

__all__ = [
    "AdagradOptimizer",
    "AdamOptimizer",
    "BudgetError",
    "CaptureError",
    "CircuitError",
    "DeviceError",
    "DifferentiationError",
    "Explanation",
    "FallbackWarning",
    "GradientDescentOptimizer",
    "JobError",
    "JobPolicy",
    "MomentumOptimizer",
    "MomentumQNGOptimizer",
    "NesterovMomentumOptimizer",
    "QHybridError",
    "QNGOptimizer",
    "QNode",
    "RMSPropOptimizer",
    "TransientError",
    "device",
    "grad",
    "graph",
    "jobs_of",
    "qnode",
    "set_jobs",
]

#: Own submodules that are imported when first asked for: many programs need none of them, and some need torch.
_LAZY = frozenset({"bridge", "numpy", "optimize", "qnn", "testing"})
#: Modules of what few programs ask for; they are imported when one does.
_LAZY_NAMES = {
    "AdagradOptimizer": "descent",
    "AdamOptimizer": "descent",
    "Explanation": "explanation",
    "GradientDescentOptimizer": "descent",
    "JobPolicy": "jobs",
    "MomentumOptimizer": "descent",
    "MomentumQNGOptimizer": "descent",
    "NesterovMomentumOptimizer": "descent",
    "QNGOptimizer": "descent",
    "RMSPropOptimizer": "descent",
    "grad": "differentiate",
    "graph": "drawing",
    "jobs_of": "jobs",
    "set_jobs": "jobs",
}
_other_name = fall_through("qhybrid", "pennylane", _LAZY_NAMES)
keep_queues_apart()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"qhybrid.{name}")
    return _other_name(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_NAMES, *dir(importlib.import_module("pennylane"))})
