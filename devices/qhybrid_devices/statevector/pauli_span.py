"""Sets of Pauli words that are closed under products, up to phases."""

from __future__ import annotations

from collections.abc import Iterable

from qhybrid_devices.statevector.operations import Pauli


class PauliSpan:
    """All products of some Pauli words: what commutes with the words commutes with them.

    Words are vectors of bits, those that they flip before those whose parity gives their sign, and products are sums.

    Args:
        num_bits: of a state index
        words: the first words

    Example:
        >>> span = PauliSpan(2, [(0b01, 0), (0b10, 0)])  # X on either bit
        >>> span.commutes_with([(0b11, 0)]), span.commutes_with([(0, 0b01)]), span.commutes_with([(0b01, 0b11)])
        (True, False, False)
    """

    def __init__(self, num_bits: int, words: Iterable[Pauli] = ()) -> None:
        self._num_bits = num_bits
        self._basis: list[int] = []
        self.add(words)

    def add(self, words: Iterable[Pauli]) -> None:
        """Take in more words."""
        for x, z in words:
            vector = x << self._num_bits | z
            for other in self._basis:  # the leading bit of each is zero in all that came later
                vector = min(vector, vector ^ other)
            if vector:
                self._basis.append(vector)

    def commutes_with(self, words: Iterable[Pauli]) -> bool:
        """Whether each word commutes with each of these: ``|x1 & z2| + |z1 & x2|`` is even."""
        swapped = [z << self._num_bits | x for x, z in words]
        return not any((s & vector).bit_count() & 1 for s in swapped for vector in self._basis)
