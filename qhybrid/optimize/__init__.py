"""Optimizers: natural gradients without a P x P matrix, and PennyLane's. Every other name is PennyLane's.

* :func:`fubini_study`: the metric of a QNode's states as a linear operator, :class:`Metric`.
* :class:`NaturalGradient`, :class:`ImaginaryTime`: optimizers in PennyLane's style.
* :class:`TorchNaturalGradient`: an optimizer of PyTorch's, imported when it is first asked for.
* :class:`GradientDescentOptimizer` and seven others: PennyLane's, with gradients as of :class:`qhybrid.grad`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qhybrid._fallthrough import fall_through
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
from qhybrid.optimize.metric import Metric, fubini_study
from qhybrid.optimize.natural_gradient import ImaginaryTime, NaturalGradient
from qhybrid.optimize.solver import Solution, Solver

if TYPE_CHECKING:
    from qhybrid.optimize.torch import TorchNaturalGradient as TorchNaturalGradient

__all__ = [
    "AdagradOptimizer",
    "AdamOptimizer",
    "GradientDescentOptimizer",
    "ImaginaryTime",
    "Metric",
    "MomentumOptimizer",
    "MomentumQNGOptimizer",
    "NaturalGradient",
    "NesterovMomentumOptimizer",
    "QNGOptimizer",
    "RMSPropOptimizer",
    "Solution",
    "Solver",
    "TorchNaturalGradient",
    "fubini_study",
]

__getattr__ = fall_through("qhybrid.optimize", "pennylane.optimize", {"TorchNaturalGradient": "torch"})
