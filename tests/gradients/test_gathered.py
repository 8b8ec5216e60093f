"""Functions of arguments whose numbers slots are: moved, scaled, shifted, repeated and left out."""

from __future__ import annotations

import math

import numpy as np
import pennylane as qml
import pytest
import torch

import qhybrid
from qhybrid.execution import Function
from qhybrid.gradients import Arrangement, Block, Gathered


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
    function = Gathered(Affine(matrix), [Block((Arrangement((4, 3), "leading"),))])
    np.testing.assert_allclose(function(x)[0], matrix @ x.T)
    pulled = function.pullback((True,))
    np.testing.assert_allclose(pulled(x, c)[0], (matrix.T @ c).T)
    assert function.output_types([x]) == (((5, 4), "f"),)
    assert pulled.output_types([x, c]) == (((4, 3), "f"),)
    again = pulled.pullback((False, True))
    np.testing.assert_allclose(again(x, c, x)[0], matrix @ x.T)
    many = rng.normal(size=(6, 4, 3))
    np.testing.assert_allclose(function.vmap(6, (True,))(many)[0], matrix @ many.transpose(0, 2, 1))


BLOCKS = {
    "several vectors": Block((Arrangement((2, 3), "vector"), Arrangement((), "vector"), Arrangement((2,), "vector"))),
    "repeated and left out": Block((Arrangement((4,), "vector"),), np.array([3, 1, 1, 3, 3])),
    "scaled and shifted": Block(
        (Arrangement((3,), "vector"),), None, np.array([2.0, -1.0, 0.5]), np.array([1.0, 0, 3])
    ),
    "constants": Block((Arrangement((2,), "vector"),), np.array([0, 1, 0]), np.array([2.0, 3.0, 0.0]), np.ones(3)),
    "rows of two batches": Block(
        (Arrangement((5, 2), "leading"), Arrangement((3, 5), "trailing")), np.array([4, 0, 0, 2]), np.full((4, 1), 3.0)
    ),
    "factors of each sample": Block((Arrangement((5, 2), "leading"),), None, np.arange(10.0).reshape(2, 5)),
}


@pytest.mark.parametrize("front", [(), (2,), (2, 3)])
@pytest.mark.parametrize("name", BLOCKS)
def test_scatter_is_the_transpose_of_gather(name, front):
    """``<gather(x), s> = <x, scatter(s)>``, and the offset is all that is not linear."""
    rng, block = np.random.default_rng(0), BLOCKS[name]
    arrays = [rng.normal(size=(*front, *a.shape)) for a in block.arrangements]
    slots = block.gather(arrays, linear=True)
    weights = rng.normal(size=slots.shape)
    found = block.scatter(weights)
    assert [c.shape for c in found] == [x.shape for x in arrays]
    products = sum(np.vdot(x, c) for x, c in zip(arrays, found, strict=True))
    assert np.vdot(slots, weights) == pytest.approx(products, rel=1e-12)
    offset = 0.0 if block.offset is None else block.offset
    np.testing.assert_allclose(block.gather(arrays), slots + offset)
    nothing = block.gather([np.zeros_like(x) for x in arrays], linear=True)
    np.testing.assert_array_equal(nothing, np.zeros_like(slots))


def test_cotangents_of_constants_go_nowhere():
    """Not even where they are not finite."""
    (found,) = BLOCKS["constants"].scatter(np.array([1.0, 1.0, np.nan]))
    np.testing.assert_array_equal(found, [2.0, 3.0])


def embedded(inputs, weights, bias):
    """Inputs encoded twice and scaled, weights in two arguments of which one number is used twice, one never."""
    for layer in range(2):
        qml.AngleEmbedding((layer + 1) * inputs, wires=range(2))
        for wire in range(2):
            qml.Rot(weights[layer, wire, 0], bias[wire] + 0.3, weights[0, wire, 1], wires=wire)
        qml.CNOT([0, 1])
    return [qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Z(0))]


@pytest.fixture
def arguments():
    generator = torch.Generator().manual_seed(1)
    shapes = (5, 2), (2, 2, 2), (3,)
    return tuple(torch.rand(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)


def nodes(library):
    device = library.device("qhybrid.statevector" if library is qhybrid else "default.qubit", wires=2)
    node = library.QNode(embedded, device)
    return lambda *args: torch.stack(node(*args), -1)


def test_one_node_whatever_slots_are_gathered_from(arguments):
    qnode = qhybrid.QNode(embedded, qhybrid.device("qhybrid.statevector", wires=2))
    result = qnode.stacked(*arguments)
    read = {edge.variable for edge, _ in result.grad_fn.next_functions if edge is not None}
    assert read == set(arguments)
    torch.testing.assert_close(result, nodes(qml)(*arguments))


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_gradients_by_some_arguments(arguments, trained):
    def gradients(f):
        args = [x.detach().requires_grad_(i in trained) for i, x in enumerate(arguments)]
        return torch.autograd.grad(f(*args).square().sum(), [args[i] for i in trained])

    for found, expected in zip(gradients(nodes(qhybrid)), gradients(nodes(qml)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.hessian])
def test_transformed(arguments, transform):
    for k in range(3):
        found = transform(nodes(qhybrid), k)(*arguments)
        torch.testing.assert_close(found, transform(nodes(qml), k)(*arguments), atol=1e-12, rtol=0)


@pytest.mark.parametrize("mapped", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_mapped_along_some_arguments(arguments, mapped):
    """Values, and cotangents of arguments that are and are not mapped, of which a block may have both."""
    many = [torch.stack([x, 2 * x, -x]).detach() if i in mapped else x.detach() for i, x in enumerate(arguments)]
    dims = tuple(0 if i in mapped else None for i in range(3))
    single = nodes(qhybrid)

    def one_by_one(*args):
        return torch.stack([single(*(x[k] if i in mapped else x for i, x in enumerate(args))) for k in range(3)])

    def loss(f):
        return lambda *args: f(*args).square().sum()

    together = torch.func.vmap(single, dims)
    torch.testing.assert_close(together(*many), one_by_one(*many))
    found, expected = (torch.func.grad(loss(f), (0, 1, 2))(*many) for f in (together, one_by_one))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    each = torch.func.vmap(torch.func.grad(loss(single), (0, 1, 2)), dims)(*many)
    for i, rows in enumerate(each):
        total = rows if i in mapped else rows.sum(0)
        torch.testing.assert_close(total, expected[i], atol=1e-12, rtol=0)
    for second in (torch.func.hessian, lambda f, k: torch.func.jacrev(torch.func.jacrev(f, k), k)):
        for k in range(3):  # of a block with several arguments, of which one has a cotangent
            twice, both = (second(loss(f), k)(*many) for f in (together, one_by_one))
            torch.testing.assert_close(twice, both, atol=1e-11, rtol=0)


def test_autograd_takes_the_same_node(arguments):
    args = [qml.numpy.array(x.detach().numpy(), requires_grad=True) for x in arguments]

    def loss(library):
        node = library.QNode(embedded, library.device("default.qubit", wires=2))
        return lambda *args: sum(qml.math.sum(r**2) for r in node(*args))

    for found, expected in zip(qml.grad(loss(qhybrid))(*args), qml.grad(loss(qml))(*args), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gradcheck(arguments):
    assert torch.autograd.gradcheck(
        nodes(qhybrid), arguments, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(nodes(qhybrid), arguments)
