"""What commutes with a set of Pauli words, against all products of them."""

from functools import reduce
from itertools import product

import numpy as np
import pytest

from qhybrid_devices.statevector.operations import commute
from qhybrid_devices.statevector.pauli_span import PauliSpan

BITS = 3


def times(a, b):
    return a[0] ^ b[0], a[1] ^ b[1]


@pytest.mark.parametrize("seed", range(20))
def test_words_and_their_products(seed):
    rng = np.random.default_rng(seed)
    words = [tuple(int(m) for m in rng.integers(1 << BITS, size=2)) for _ in range(int(rng.integers(0, 6)))]
    span = PauliSpan(BITS, words[:2])
    span.add(words[2:])
    chosen = product(*([(0, 0), word] for word in words))
    products = [reduce(times, own, (0, 0)) for own in chosen]
    for own in product(range(1 << BITS), repeat=2):
        assert span.commutes_with([own]) == commute([own], words) == commute([own], products)


def test_each_word_must_commute():
    x, z = (1, 0), (0, 1)
    assert PauliSpan(1).commutes_with([x, z])
    assert not PauliSpan(1, [x]).commutes_with([x, z])
    assert not PauliSpan(1, [x, z]).commutes_with([(1, 1)])
