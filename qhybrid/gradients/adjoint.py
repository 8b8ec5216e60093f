"""The device's own derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs, SecondOrder, Wanted
from qhybrid.gradients.base import GradientMethod
from qhybrid.program import Slots


@dataclass(frozen=True)
class Adjoint(GradientMethod):
    """The reverse sweep of a simulator, exact and independent of the number of parameters and outputs.

    When to use: always, where the device has it and there are no shots. Cost: about three executions and two states in
    memory, whatever the depth; on devices with a forward mode of their own, one execution for each direction of a
    Jacobian-vector product, and about three gradients for each Hessian-vector product. Differentiates gate angles,
    entries of unitaries, prepared amplitudes, observable coefficients and matrices. Limits: none of it exists with
    shots or on hardware; use :class:`ParameterShift` there.

    T. Jones, J. Gacon, "Efficient calculation of gradients in classical simulations of variational quantum
    algorithms", arXiv:2009.02823.
    """

    name = "adjoint"
    is_native = True

    def forward(self, circuit: Circuit, slots: Slots) -> tuple[tuple[NDArray, ...], Any]:
        """Results, and what the device keeps for the reverse sweep."""
        return circuit.executable.run_with_residual(slots)

    def vjp(
        self, circuit: Circuit, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs, residual: Any = None
    ) -> Slots:
        """One call of the executable's own vjp."""
        if residual is None:
            return circuit.executable.vjp(slots, cotangents, needs)
        return circuit.executable.vjp(slots, cotangents, needs, residual=residual)  # type: ignore[call-arg]

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """The executable's own, or exact shift rules where it has none."""
        if circuit.executable.has_jvp:
            return circuit.executable.jvp(slots, tangents)
        return super().jvp(circuit, slots, tangents)

    def run_with_tangents(
        self, circuit: Circuit, slots: Slots, tangents: Slots
    ) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """The executable's own, where it has a forward mode."""
        if circuit.executable.has_jvp:
            return circuit.executable.run_with_tangents(slots, tangents)
        return super().run_with_tangents(circuit, slots, tangents)

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
        """The executable's own, or exact shift rules on top of its vjp where it has none."""
        if circuit.executable.has_jvp:
            return circuit.executable.second_order(slots, cotangents, tangents, cotangent_tangents, needs, wanted)
        return super().second_order(circuit, slots, cotangents, tangents, cotangent_tangents, needs, wanted)
