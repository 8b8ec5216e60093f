"""How a run ends, and what is kept of it for derivatives."""

from __future__ import annotations

from typing import NamedTuple

from numpy.typing import NDArray

from qhybrid_devices.statevector.engine import Coefficients, Layout
from qhybrid_devices.statevector.simd import register_copy


class Final(NamedTuple):
    """How a run ends: the final state and the gates' coefficients."""

    layout: Layout
    psi: NDArray
    coef: Coefficients


class Residual:
    """A :class:`Final` kept for derivatives, of which each wants to overwrite the state.

    A small state is copied for each of them. A large one goes to the first, so that no more than psi and lambda are in
    memory; a later derivative of the same run finds nothing and runs the circuit again.

    ``layout`` is that of the state.
    """

    def __init__(self, final: Final, copied_bytes: int) -> None:
        self.layout = final.layout
        self._kept = [final]  # taking from a list is atomic: derivatives may be in several threads
        self._copies = final.psi.nbytes <= copied_bytes

    def take(self) -> Final | None:
        """A final state of one's own; ``None`` if it has gone to another."""
        if self._copies:
            (final,) = self._kept
            return final._replace(psi=register_copy(final.psi))
        try:
            return self._kept.pop()
        except IndexError:
            return None
