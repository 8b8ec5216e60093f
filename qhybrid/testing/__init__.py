"""For authors of devices, gradient methods and functions: checks of values, samples and derivatives."""

from qhybrid.testing.conformance import device_conformance
from qhybrid.testing.derivatives import TOLERANCES, check_jvp, check_vjp
from qhybrid.testing.report import ConformanceError, Report, Row, Status
from qhybrid.testing.table import GradientRow, GradientTable, check_gradients

__all__ = [
    "TOLERANCES",
    "ConformanceError",
    "GradientRow",
    "GradientTable",
    "Report",
    "Row",
    "Status",
    "check_gradients",
    "check_jvp",
    "check_vjp",
    "device_conformance",
]
