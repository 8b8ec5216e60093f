"""Circuits without a derivative: results as ever, and an error in place of every derivative."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs, SecondOrder, Wanted
from qhybrid.gradients.base import ALL, GradientMethod
from qhybrid.program import Program, Slots


@dataclass(frozen=True)
class WithoutDerivative(GradientMethod):
    """Results as ever, and an error in place of every derivative, forward and reverse."""

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why there is none, and what to do instead."""

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


@dataclass(frozen=True)
class Refused(WithoutDerivative):
    """What stands for the method of a circuit whose derivative would be wrong.

    Args:
        reason: why there is none, and what to do instead
    """

    reason: str = ""  # type: ignore[assignment]

    name = "none"


@dataclass(frozen=True)
class NoDerivative(WithoutDerivative):
    """What ``diff_method=None`` means."""

    name = "none"
    reason = 'This circuit was made with diff_method=None, so it has no derivative. Use diff_method="best".'  # type: ignore[assignment]
