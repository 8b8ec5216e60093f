"""A circuit whose derivative would be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs, SecondOrder
from qhybrid.gradients.base import ALL, GradientMethod, Wanted
from qhybrid.program import Program, Slots


@dataclass(frozen=True)
class Refused(GradientMethod):
    """Results as ever, and an error in place of every derivative.

    Args:
        reason: why there is none, and what to do instead
    """

    reason: str = ""

    name = "none"

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """None."""
        return 0

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """Refuse."""
        raise DifferentiationError(self.reason)

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """Refuse."""
        raise DifferentiationError(self.reason)

    def second_order(
        self,
        circuit: Circuit,
        slots: Slots,
        cotangents: tuple[NDArray, ...],
        tangents: Slots,
        cotangent_tangents: tuple[NDArray, ...] | None,
        needs: Needs,
        wanted: Wanted,
    ) -> SecondOrder:
        """Refuse."""
        raise DifferentiationError(self.reason)
