"""Results given postselected outcomes: quotients in the host's graph, so that its derivatives are theirs.

With the projector ``P`` on the postselected outcomes, which commutes with everything that is measured, an expectation
value is ``<P O> / <P>``. From shots that are estimates of both; read from the same samples they make the mean over
those that pass, which is what a device without postselection gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pennylane import math

from qhybrid.capture.values import concrete, is_differentiated
from qhybrid.errors import CircuitError, DifferentiationError

#: Probabilities below this are rounding errors of zero.
SMALLEST = 1e-14
#: The least probability at which quotients are differentiated, if first and second derivatives are computed directly.
RARE = 1e-11
#: The same where they are differences of results, whose rounding errors are not small beside them.
RARE_SHIFTED = 1e-5
#: Either in single precision.
RARE_SINGLE = 1e-3
#: Most postselected outcomes; their projector is a sum of ``2**k`` words.
MAX_POSTSELECTED = 6

Word = tuple[tuple[int, str], ...]


def projector(postselected: Mapping[int, bool]) -> list[tuple[float, Word]]:
    """The projector on outcomes as a sum of words of Z.

    >>> projector({3: True})
    [(0.5, ()), (-0.5, ((3, 'Z'),))]
    """
    terms = []
    for chosen in product((False, True), repeat=len(postselected)):
        kept = [(w, bit) for (w, bit), c in zip(postselected.items(), chosen, strict=True) if c]
        sign = (-1.0) ** sum(bit for _, bit in kept)
        terms.append((sign / 2 ** len(postselected), tuple((w, "Z") for w, _ in kept)))
    return terms


def projector_factors(postselected: Mapping[int, bool]) -> tuple[tuple[tuple[int, ...], NDArray], ...]:
    """The projector on outcomes as wires and their matrices."""
    return tuple(((w,), np.diag([1.0 - bit, 1.0 * bit])) for w, bit in postselected.items())


def passed(norm: Any, rare: float = RARE) -> Any:
    """The probability of the postselected outcomes, known to be large enough to divide by if it is known.

    Args:
        norm: the probability, of any host
        rare: the least that is differentiated

    Raises:
        CircuitError: it is zero
        DifferentiationError: derivatives of a quotient by it would be rounding errors
    """
    if math.is_abstract(norm):
        return norm
    values = np.asarray(concrete(norm))
    if np.any(values < SMALLEST):
        raise CircuitError(
            "A postselected outcome has probability zero, or none of the samples has it, so there is no result. "
            "Postselect another outcome, or take more shots."
        )
    least = max(rare, RARE_SINGLE) if values.dtype == np.float32 else rare
    if np.any(values < least) and is_differentiated(norm):
        raise DifferentiationError(
            f"The postselected outcomes have probability {values.min():.3g}, so derivatives of what is given them "
            f"would lose their accuracy to rounding errors; they are computed from {least:.0e} on. Take the device "
            f'"qhybrid.statevector" in double precision with diff_method="best" (from {RARE:.0e} on), move to a point '
            "where the outcomes are likelier, or, if only values are wanted, pass arguments that require no gradient "
            "or use torch.no_grad()."
        )
    return norm


@dataclass(frozen=True)
class PostselectedScalar:
    """An expectation value or a variance, from unnormalised moments.

    Args:
        moment: which scalar is ``<P O>``
        norm: which scalar is ``<P>``
        square: which scalar is ``<P O^2>``; ``None`` for an expectation value
    """

    moment: int
    norm: int
    square: int | None = None

    def value(self, scalars: Sequence[Any], tensors: Sequence[Any], rare: float = RARE) -> Any:
        """The value, in the host that the results belong to; see :func:`passed` for ``rare``."""
        norm = passed(scalars[self.norm], rare)
        mean = scalars[self.moment] / norm
        return mean if self.square is None else scalars[self.square] / norm - mean**2


@dataclass(frozen=True)
class PostselectedProbabilities:
    """Probabilities of outcomes, from those of the postselected wires and all others that are wanted.

    Args:
        index: which tensor; its first bits are the postselected ones
        outcome: their values, as a number
        size: number of outcomes of the other wires
        places: for each outcome that is wanted, that of the other wires; -1 where it contradicts the postselection
    """

    index: int
    outcome: int
    size: int
    places: tuple[int, ...]

    def value(self, scalars: Sequence[Any], tensors: Sequence[Any], rare: float = RARE) -> Any:
        """The value, in the host that the results belong to; see :func:`passed` for ``rare``."""
        start = self.outcome * self.size
        found = tensors[self.index][..., start : start + self.size]
        found = found / passed(math.sum(found, axis=-1), rare)[..., None]
        if self.places == tuple(range(self.size)):
            return found
        places = np.array(self.places)
        return found[..., np.maximum(places, 0)] * math.asarray((places >= 0) * 1.0, like=math.get_interface(found))


def project_state(state: Any, postselected: Mapping[int, bool], num_wires: int, rare: float = RARE) -> Any:
    """The normalised part of a state ``(..., 2**num_wires)`` with the postselected outcomes."""
    bits = np.arange(2**num_wires)
    mask = np.ones(len(bits))
    for wire, bit in postselected.items():
        mask *= (bits >> (num_wires - 1 - wire) & 1) == bit
    kept = state * math.asarray(mask, like=math.get_interface(state))
    return kept / math.sqrt(passed(math.sum(math.abs(kept) ** 2, axis=-1), rare))[..., None]


def passing(samples: NDArray, postselected: Sequence[tuple[int, bool]]) -> NDArray:
    """The samples ``(shots, wires)`` with the given outcomes in some of their columns.

    Raises:
        CircuitError: there are none
    """
    kept = np.all([samples[:, column] == bit for column, bit in postselected], axis=0)
    passed(kept.any() * 1.0)
    return samples[kept]
