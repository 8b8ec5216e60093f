"""Gradients from forward-mode derivatives along a few random directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs
from qhybrid.gradients import arguments
from qhybrid.gradients.base import ALL, refuse_arrays
from qhybrid.gradients.lanes import all_batched, batch_of, contract, per_lane
from qhybrid.gradients.stochastic import (
    Distribution,
    StochasticMethod,
    angle_rows,
    differences_along,
    from_directions,
    random_directions,
)
from qhybrid.program import Program, Slots

#: The central difference of fourth order that stands in for forward mode: its step, points and weights.
STEP = 3e-3
_POINTS, _WEIGHTS = (1.0, -1.0, 2.0, -2.0), (2 / 3, -2 / 3, -1 / 12, 1 / 12)


@dataclass(frozen=True, eq=False)
class ForwardGradient(StochasticMethod):
    """Gradients without backpropagation: derivatives along random directions ``v``, times ``v``.

    When to use: on exact simulators, where no reverse sweep is wanted. Unbiased: the mean of ``v v^T`` is the identity.
    Cost: one Jacobian-vector product for each direction, whatever the number of parameters. A device without
    :attr:`~qhybrid.execution.Executable.has_jvp` is executed at four points along each direction instead, exact to
    about ``1e-10``. Limits: with shots such differences are noise, so that it is refused: use :class:`SPSA` or
    :class:`DoublyStochasticShift`; entries of arrays are refused.

    With ``k`` directions the variance of entry ``i`` of the gradient ``g`` of one sample is ``(|g|^2 - g_i^2) / k`` for
    the distribution ``"rademacher"`` and ``(|g|^2 + g_i^2) / k`` for ``"normal"``.

    Args:
        num_directions: directions that are averaged
        seed: of the directions; see :class:`~qhybrid.gradients.stochastic.StochasticMethod`
        distribution: of their entries: ``"rademacher"``, plus or minus one, or ``"normal"``

    Raises:
        DifferentiationError: the number is not positive, or the distribution unknown

    A. G. Baydin, B. A. Pearlmutter, D. Syme, F. Wood, P. Torr, "Gradients without backpropagation", arXiv:2202.08587.
    """

    num_directions: int = 1
    seed: int | None = None
    distribution: Distribution = "rademacher"

    name = "forward-gradient"

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_directions", arguments.count(self, "num_directions", self.num_directions))
        arguments.choice(self, "distribution", self.distribution, ("rademacher", "normal"))
        self._start()

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """The device's own forward mode where it has one, by shift rules elsewhere."""
        if circuit.shots is None and circuit.executable.has_jvp:
            return circuit.executable.jvp(slots, tangents)
        return super().jvp(circuit, slots, tangents)

    def refusal(self, name: str, shots: int) -> str:
        """Why it is impossible with shots, and what to use."""
        return (
            f"ForwardGradient needs exact results, and the circuit has shots={shots}. Use SPSA or "
            "DoublyStochasticShift, which also take a few executions a gradient."
        )

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """One for each direction of each sample, four where the device has no forward mode."""
        return self.num_directions * samples

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """The mean over directions of derivatives along them."""
        refuse_arrays(circuit.program, needs, self.name)
        if circuit.shots is not None:
            raise DifferentiationError(self.refusal(self.name, circuit.shots))
        directions = random_directions(
            self.new_rng(), circuit.program, needs, self.num_directions, batch_of(slots), self.distribution
        )
        cotangents = per_lane(cotangents, slots)
        if circuit.executable.has_jvp:
            derivatives = _derivatives_along(circuit, slots, cotangents, directions)
        else:
            steps, weights = [STEP * p for p in _POINTS], [w / STEP for w in _WEIGHTS]
            derivatives = differences_along(circuit, slots, cotangents, directions, steps, weights)
        return from_directions(circuit.program, slots, directions, derivatives, needs)


def _derivatives_along(circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], directions: NDArray) -> NDArray:
    """``<cotangents, jvp>`` for each direction and sample, ``(count, batch)``, by the device's forward mode."""
    count, arrays = len(directions), (None,) * len(slots.arrays)
    if slots.batch_size is None:
        tangents = circuit.executable.jvp(slots, Slots(directions[:, :, 0], None, arrays))
    else:  # with angles of its own for each sample, so that each has directions of its own
        program = all_batched(circuit.program, tuple(a.batched for a in circuit.program.arrays))
        lanes = Slots(np.empty(0), angle_rows(slots), slots.arrays, slots.batch_size)
        moves = Slots(np.empty((count, 0)), directions, arrays, slots.batch_size)
        tangents = circuit.rewritten(program).executable.jvp(lanes, moves)
        tangents = tuple(t.reshape(t.shape[0] * t.shape[1], *t.shape[2:]) for t in tangents)
    return contract(tangents, cotangents, count)
