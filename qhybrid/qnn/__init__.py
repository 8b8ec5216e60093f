"""Layers of neural networks made of QNodes; each host's layer is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qhybrid.qnn.torch import TorchLayer as TorchLayer

__all__ = ["TorchLayer"]


def __getattr__(name: str) -> Any:
    if name == "TorchLayer":
        from qhybrid.qnn.torch import TorchLayer

        return TorchLayer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
