"""Exact derivatives from shifted executions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs
from qhybrid.gradients.base import ALL, GradientMethod, refuse_arrays, shifted_vjp
from qhybrid.gradients.lanes import untie
from qhybrid.program import Program, Slots


@dataclass(frozen=True)
class ParameterShift(GradientMethod):
    """Exact derivatives of results, exact or sampled, from executions at shifted angles.

    When to use: with shots or on hardware, where it is unbiased. Cost: two executions for each Pauli rotation of each
    sample, four if it is controlled, twice that for variances, and as many as the generator has distinct differences
    of eigenvalues otherwise; all are lanes of one device call. Limits: entries of unitaries, prepared amplitudes and
    matrices have no shift rule, nor do trainable coefficients of an evolution whose terms do not commute; use
    :class:`Adjoint` for them.

    D. Wierichs, J. Izaac, C. Wang, C. Y.-Y. Lin, "General parameter-shift rules for quantum gradients", Quantum 6,
    677 (2022).
    """

    name = "parameter-shift"

    def executions(self, program: Program, samples: int, needs: Needs = ALL) -> int:
        """One for each shift of each angle of each sample."""
        untied = untie(program)
        return samples * len(untied.shifts(untied.needed_rows(needs)))

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """The exact rule of every angle."""
        refuse_arrays(circuit.program, needs, self.name)
        return shifted_vjp(circuit, slots, cotangents, needs)
