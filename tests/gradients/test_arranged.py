"""Functions of arguments with their axes in another order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qhybrid.execution import Function
from qhybrid.gradients import Arranged, Arrangement


class Affine(Function):
    """``x -> matrix x`` on the last axis of slots ``(rows, batch)`` transposed; linear, so its pullback is known."""

    def __init__(self, matrix, transposed=False):
        self.matrix, self.transposed = matrix, transposed

    def __call__(self, *inputs):
        matrix = self.matrix.T if self.transposed else self.matrix
        return (matrix @ inputs[-1],)

    def pullback(self, needs, residual=None):
        return Affine(self.matrix, not self.transposed)

    def pushforward(self, moving):
        return Affine(self.matrix, self.transposed)

    def vmap(self, size, mapped):
        return self

    def output_types(self, inputs):
        shape = inputs[-1].shape
        rows = self.matrix.shape[1 if self.transposed else 0]
        return (((*shape[:-2], rows, shape[-1]), "f"),)


@pytest.mark.parametrize("mapped", [(), (3,), (2, 5)])
@pytest.mark.parametrize(
    ("shape", "layout", "slot"),
    [((), "vector", (1,)), ((2, 3), "vector", (6,)), ((7,), "leading", (1, 7)), ((7, 2, 3), "leading", (6, 7)),
     ((2, 3, 7), "trailing", (6, 7))],
)  # fmt: skip
def test_arrangements_are_undone(shape, layout, slot, mapped):
    arrangement = Arrangement(shape, layout)
    array = np.arange(math.prod((*mapped, *shape))).reshape((*mapped, *shape))
    found = arrangement.arrange(array)
    assert found.shape == (*mapped, *slot)
    np.testing.assert_array_equal(arrangement.restore(found), array)


def test_leading_batch_becomes_columns():
    array = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(Arrangement((4, 3), "leading").arrange(array), array.T)


def test_values_pullbacks_and_types_are_those_of_the_function():
    """The pullback of ``x -> (M x^T)`` is ``c -> (M^T c)^T``."""
    rng = np.random.default_rng(0)
    matrix, x, c = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 4))
    function = Arranged(Affine(matrix), (Arrangement((4, 3), "leading"),))
    np.testing.assert_allclose(function(x)[0], matrix @ x.T)
    pulled = function.pullback((True,))
    np.testing.assert_allclose(pulled(x, c)[0], (matrix.T @ c).T)
    assert function.output_types([x]) == (((5, 4), "f"),)
    assert pulled.output_types([x, c]) == (((4, 3), "f"),)
    again = pulled.pullback((False, True))
    np.testing.assert_allclose(again(x, c, x)[0], matrix @ x.T)
    many = rng.normal(size=(6, 4, 3))
    np.testing.assert_allclose(function.vmap(6, (True,))(many)[0], matrix @ many.transpose(0, 2, 1))
