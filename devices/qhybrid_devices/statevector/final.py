"""How a run ends, and what is kept of it for derivatives."""

from __future__ import annotations

from collections.abc import Callable
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

    It goes to the first, which in training is the only one. A later derivative of the same run finds nothing and runs
    the circuit again: each of them if the state is large, so that no more than psi and lambda are in memory; else it
    leaves the state there for others to copy.

    ``layout`` is that of the state.
    """

    def __init__(self, final: Final, copied_bytes: int) -> None:
        self.layout = final.layout
        self._first = [final]  # taking from a list is atomic: derivatives may be in several threads
        self._again: Final | None = None
        self._copies = final.psi.nbytes <= copied_bytes

    def take(self, run: Callable[[], Final]) -> Final:
        """A final state of one's own.

        Args:
            run: gives it anew
        """
        try:
            return self._first.pop()
        except IndexError:
            pass
        if not self._copies:
            return run()
        kept = self._again
        if kept is None:
            kept = self._again = run()
            self.layout = kept.layout  # the number of threads may have changed
        return kept._replace(psi=register_copy(kept.psi))
