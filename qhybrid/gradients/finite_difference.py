"""Approximate derivatives from close executions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs
from qhybrid.gradients import arguments
from qhybrid.gradients.base import ALL, GradientMethod, refusal_of_step, refuse_arrays, shifted_jvp, shifted_vjp
from qhybrid.gradients.lanes import untie
from qhybrid.gradients.shift_rules import ShiftRule
from qhybrid.program import Program, Slots

#: Central differences: multiples of the step and their weights, by order of accuracy.
_STENCILS = {
    2: ((1.0, -1.0), (1 / 2, -1 / 2)),
    4: ((1.0, -1.0, 2.0, -2.0), (2 / 3, -2 / 3, -1 / 12, 1 / 12)),
}


@dataclass(frozen=True)
class FiniteDiff(GradientMethod):
    """Central differences of order ``order`` with step ``h``, in radians.

    When to use: to check another method, or for an angle without a shift rule on a device without its own derivative.
    Cost: ``order`` executions for each occurrence of an angle in each sample, lanes of one device call. Limits: the
    error is about ``h**order + precision / h``, 1e-12 by default in double precision (take ``h=0.03`` in single
    precision); with shots the noise is divided by ``h``, so it is never chosen for you there.

    Args:
        h: step
        order: order of accuracy, 2 or 4

    Raises:
        DifferentiationError: the step or the order is not one of these
    """

    h: float = 1e-3
    order: int = 4

    name = "finite-diff"

    def __post_init__(self) -> None:
        object.__setattr__(self, "h", arguments.step(self, self.h, 1e-3))
        object.__setattr__(self, "order", arguments.choice(self, "order", self.order, _STENCILS))

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """``order`` for each angle of each sample."""
        return samples * self.order * len(untie(program).needed_rows(needs))

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """The same stencil for every angle."""
        refuse_arrays(circuit.program, needs, self.name)
        return shifted_vjp(circuit, slots, cotangents, needs, self._rule)

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """The same stencil for every angle that moves."""
        return shifted_jvp(circuit, slots, tangents, self._rule)

    def refusal(self, name: str, shots: int) -> str | None:
        """A small step divides the noise."""
        return refusal_of_step(self, name, self.h, shots)

    @property
    def _rule(self) -> ShiftRule:
        steps, weights = _STENCILS[self.order]
        return ShiftRule(tuple(self.h * s for s in steps), tuple(w / self.h for w in weights))
