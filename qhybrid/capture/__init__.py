"""Running a quantum function once: tracer, guards, prologue and the lowering of PennyLane's operations."""

from qhybrid._fallthrough import fall_through

__getattr__ = fall_through("qhybrid.capture", "pennylane.capture")
