"""Gradients from values along a few random directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs
from qhybrid.gradients import arguments
from qhybrid.gradients.base import ALL, refusal_of_step, refuse_arrays
from qhybrid.gradients.lanes import batch_of, per_lane
from qhybrid.gradients.stochastic import (
    StochasticMethod,
    differences_along,
    from_directions,
    random_directions,
)
from qhybrid.program import Program, Slots

#: Steps by default, in radians: of exact results, and of results from shots.
EXACT_STEP, STEP_WITH_SHOTS = 1e-3, 0.2


@dataclass(frozen=True, eq=False)
class SPSA(StochasticMethod):
    """Simultaneous perturbation: all angles are shifted at once, each up or down at random.

    When to use: with many parameters and few executions, where a noisy direction of descent is enough. Cost: two
    executions for each direction of each sample, whatever the number of parameters; all are lanes of one device call.
    Works for every angle, with and without a shift rule. Limits: biased, by ``O(h**2)`` times third derivatives, so
    take :class:`DoublyStochasticShift` where unbiased gradients matter; entries of arrays are refused.

    With ``k`` directions the variance of entry ``i`` of the gradient ``g`` of one sample is ``(|g|^2 - g_i^2) / k``
    and, with shots, another ``v / (2 h^2 k)``, where ``v`` is the variance of the differentiated result.

    Args:
        num_directions: directions that are averaged
        h: step in radians; by default 0.001, with shots 0.2
        seed: of the directions; see :class:`~qhybrid.gradients.stochastic.StochasticMethod`

    Raises:
        DifferentiationError: the number or the step is not positive

    J. C. Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", IEEE
    Transactions on Automatic Control 37, 332 (1992).
    """

    num_directions: int = 1
    h: float | None = None
    seed: int | None = None

    name = "spsa"

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_directions", arguments.count(self, "num_directions", self.num_directions))
        if self.h is not None:
            object.__setattr__(self, "h", arguments.step(self, self.h, STEP_WITH_SHOTS))
        self._start()

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """Two for each direction of each sample."""
        return 2 * self.num_directions * samples

    def refusal(self, name: str, shots: int) -> str | None:
        """A small step divides the noise."""
        return refusal_of_step(self, name, self.h, shots)

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """The mean over directions of central differences along them."""
        refuse_arrays(circuit.program, needs, self.name)
        h = self.h or (EXACT_STEP if circuit.shots is None else STEP_WITH_SHOTS)
        directions = random_directions(
            self.new_rng(), circuit.program, needs, self.num_directions, batch_of(slots), "rademacher"
        )
        weights = (1 / (2 * h), -1 / (2 * h))
        cotangents = per_lane(cotangents, slots)
        derivatives = differences_along(circuit, slots, cotangents, directions, (h, -h), weights)
        return from_directions(circuit.program, slots, directions, derivatives, needs)
