"""Programs on any PennyLane device: as one batch of tapes, built from the Program alone."""

from qhybrid.tapes.backend import TapeBackend, backend_of, portable

__all__ = ["TapeBackend", "backend_of", "portable"]
