"""The state that a circuit prepares, and its derivatives along the circuit's slots."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs
from qhybrid.gradients import GradientMethod
from qhybrid.optimize.layout import shared_of
from qhybrid.program import Program, Slots, State

#: Complex numbers that tangents of states may hold at once; more directions are taken one part after the other.
MAX_TANGENT_NUMBERS = 2**22


def state_program(program: Program) -> Program:
    """The same gates and slots with the state as the only result."""
    return replace(program, scalars=(), tensors=(State(),))


@dataclass(frozen=True, eq=False)
class PreparedState:
    """A state at fixed slots.

    Args:
        circuit: its only result is the state
        method: how it is differentiated
        slots: where
        needs: which slots move
        psi: the state, ``(batch, 2**num_wires)``; batch 1 if the circuit has none
        residual: what the device keeps for derivatives
    """

    circuit: Circuit
    method: GradientMethod
    slots: Slots
    needs: Needs
    psi: NDArray
    residual: object

    @classmethod
    def at(cls, circuit: Circuit, method: GradientMethod, slots: Slots, needs: Needs) -> PreparedState:
        """Run the circuit once."""
        (_, psi), residual = method.forward(circuit, slots)
        return cls(circuit, method, slots, needs, np.array(psi, complex).reshape(-1, psi.shape[-1]), residual)

    @property
    def directions_at_once(self) -> int:
        """How many directions :meth:`pushforward` should be given in one call."""
        return max(1, MAX_TANGENT_NUMBERS // max(1, self.psi.size))

    def pushforward(self, tangents: Slots) -> NDArray:
        """Tangents of the state without their part along the state, ``(k, batch, 2**num_wires)``.

        Args:
            tangents: of the slots, the axis of ``k`` directions in front
        """
        found = np.asarray(self.method.jvp(self.circuit, self.slots, tangents)[1], complex)
        found = found.reshape(len(shared_of(tangents)), *self.psi.shape)
        overlaps = np.einsum("bn,kbn->kb", self.psi.conj(), found)
        return found - overlaps[:, :, None] * self.psi

    def pullback(self, cotangent: NDArray) -> Slots:
        """Cotangents of the slots; ``None`` in place of those that do not move.

        Args:
            cotangent: of the state, ``(batch, 2**num_wires)``
        """
        shaped = cotangent if self.slots.batch_size is not None else cotangent[0]
        none = np.zeros((*shaped.shape[:-1], 0))
        return self.method.vjp(self.circuit, self.slots, (none, shaped), self.needs, self.residual)
