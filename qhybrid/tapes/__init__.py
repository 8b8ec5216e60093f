"""Programs on any PennyLane device: as one batch of tapes, built from the Program alone.

What makes tapes is imported with the first device that needs it; those that run programs themselves do not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qhybrid.tapes.devices import backend_of, portable

if TYPE_CHECKING:
    from qhybrid.tapes.backend import TapeBackend

__all__ = ["TapeBackend", "backend_of", "portable"]


def __getattr__(name: str) -> Any:
    if name == "TapeBackend":
        return import_module("qhybrid.tapes.backend").TapeBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
