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

from qhybrid.capture.values import concrete
from qhybrid.errors import CircuitError

#: Probabilities below this are rounding errors of zero.
SMALLEST = 1e-14
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


def passed(norm: Any) -> Any:
    """The probability of the postselected outcomes, known to be more than zero if it is known.

    Raises:
        CircuitError: it is zero
    """
    if not math.is_abstract(norm) and np.any(np.asarray(concrete(norm)) < SMALLEST):
        raise CircuitError(
            "A postselected outcome has probability zero, or none of the samples has it, so there is no result. "
            "Postselect another outcome, or take more shots."
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

    def value(self, scalars: Sequence[Any], tensors: Sequence[Any]) -> Any:
        """The value, in the host that the results belong to."""
        norm = passed(scalars[self.norm])
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

    def value(self, scalars: Sequence[Any], tensors: Sequence[Any]) -> Any:
        """The value, in the host that the results belong to."""
        start = self.outcome * self.size
        found = tensors[self.index][..., start : start + self.size]
        found = found / passed(math.sum(found, axis=-1))[..., None]
        if self.places == tuple(range(self.size)):
            return found
        places = np.array(self.places)
        return found[..., np.maximum(places, 0)] * math.asarray((places >= 0) * 1.0, like=math.get_interface(found))


def project_state(state: Any, postselected: Mapping[int, bool], num_wires: int) -> Any:
    """The normalised part of a state ``(..., 2**num_wires)`` with the postselected outcomes."""
    bits = np.arange(2**num_wires)
    mask = np.ones(len(bits))
    for wire, bit in postselected.items():
        mask *= (bits >> (num_wires - 1 - wire) & 1) == bit
    kept = state * math.asarray(mask, like=math.get_interface(state))
    return kept / math.sqrt(passed(math.sum(math.abs(kept) ** 2, axis=-1)))[..., None]


def passing(samples: NDArray, postselected: Sequence[tuple[int, bool]]) -> NDArray:
    """The samples ``(shots, wires)`` with the given outcomes in some of their columns.

    Raises:
        CircuitError: there are none
    """
    kept = np.all([samples[:, column] == bit for column, bit in postselected], axis=0)
    passed(kept.any() * 1.0)
    return samples[kept]
