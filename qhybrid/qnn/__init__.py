"""Layers of neural networks made of QNodes; each host's layer is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qhybrid._fallthrough import fall_through

if TYPE_CHECKING:
    from qhybrid.qnn.torch import TorchLayer as TorchLayer

__all__ = ["TorchLayer"]

__getattr__ = fall_through("qhybrid.qnn", "pennylane.qnn", {"TorchLayer": "torch"})
