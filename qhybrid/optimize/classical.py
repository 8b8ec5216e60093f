"""Derivatives of the slots with respect to a QNode's arguments: the classical part, differentiated by its host.

Most circuits use numbers of their arguments as they are, or times a constant: then the Jacobian is a sparse matrix that
is found once. Otherwise the host's reverse mode gives products with its transpose, and, since those are linear, the
transpose of *that* gives products with the Jacobian.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from autograd import make_vjp
from autograd import numpy as anp
from autograd.tracer import Box
from numpy.typing import NDArray
from scipy.sparse import csr_array

from qhybrid.capture.prologue import Prologue
from qhybrid.optimize.layout import SlotLayout, shared_of
from qhybrid.program import Slots

#: Random vectors in an estimate of a diagonal.
PROBES = 16


@dataclass(frozen=True)
class Leaves:
    """The arguments of a call, and which of them are trained.

    Args:
        values: of all leaves, tensors of their host
        trained: positions of those that are trained
    """

    values: tuple[Any, ...]
    trained: tuple[int, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the trained leaves."""
        return tuple(tuple(np.shape(self.values[i])) for i in self.trained)

    @property
    def size(self) -> int:
        """Numbers that are trained."""
        return sum(math.prod(s) for s in self.shapes)

    def replaced(self, vector: Any, convert: Callable[[Any, Any], Any]) -> list[Any]:
        """All leaves, the trained ones taken from ``vector``.

        Args:
            vector: shape ``(size,)``, an array of any host
            convert: makes a leaf of a part of the vector and of the leaf that it replaces
        """
        live, start = list(self.values), 0
        for i, shape in zip(self.trained, self.shapes, strict=True):
            stop = start + math.prod(shape)
            live[i] = convert(vector[start:stop].reshape(shape), live[i])
            start = stop
        return live


class ClassicalJacobian(ABC):
    """The Jacobian ``(layout.size, P)`` of the slots that move with respect to the ``P`` trained numbers."""

    layout: SlotLayout
    num_trained: int

    def push(self, vectors: NDArray) -> Slots:
        """Directions of the slots along directions ``(k, P)`` of the arguments."""
        moving = self._push(vectors) if self.layout.size else np.zeros((len(vectors), 0))
        return self.layout.tangents(moving)

    def pull(self, cotangents: Slots) -> NDArray:
        """Cotangents ``(P,)`` of the arguments."""
        vector = self.layout.vector(cotangents)
        return self._pull(vector) if self.layout.size else np.zeros(self.num_trained)

    def pull_weights(self, weights: Slots) -> NDArray:
        """``sum_s J[s, i]**2 weights[s]`` for each trained number ``i``, here an estimate with random signs.

        Args:
            weights: not negative, shaped like the slots
        """
        roots = np.sqrt(self.layout.vector(weights))
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (PROBES, len(roots)))
        return np.mean([self._pull(roots * s) ** 2 for s in signs], axis=0)

    @abstractmethod
    def _push(self, vectors: NDArray) -> NDArray:
        """``(k, P)`` to ``(k, layout.size)``."""

    @abstractmethod
    def _pull(self, vector: NDArray) -> NDArray:
        """``(layout.size,)`` to ``(P,)``."""


@dataclass(frozen=True, eq=False)
class GatheredJacobian(ClassicalJacobian):
    """A constant sparse matrix: each slot is a number of an argument times a constant, plus a constant."""

    layout: SlotLayout
    matrix: csr_array

    @property
    def num_trained(self) -> int:  # type: ignore[override]
        """Columns of the matrix."""
        return self.matrix.shape[1]

    def pull_weights(self, weights: Slots) -> NDArray:
        """Exact; see :meth:`ClassicalJacobian.pull_weights`."""
        return self.matrix.power(2).T @ self.layout.vector(weights)

    def _push(self, vectors: NDArray) -> NDArray:
        return (self.matrix @ vectors.T).T

    def _pull(self, vector: NDArray) -> NDArray:
        return self.matrix.T @ vector


class AutogradJacobian(ClassicalJacobian):
    """Products by autograd."""

    def __init__(self, prologue: Prologue, leaves: Leaves, like: Slots) -> None:
        start = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(leaves.values[i])) for i in leaves.trained)])
        moves: list[bool] = []

        def vector(x: Any) -> Any:
            tensors = prologue(leaves.replaced(x, lambda part, leaf: part)).tensors
            moves[:] = [isinstance(t, Box) for t in tensors]
            arrays = [i >= prologue.num_angle_tensors for i in range(len(tensors))]
            parts = [p for t, m, a in zip(tensors, moves, arrays, strict=True) if m for p in _real_parts(t, a)]
            return anp.concatenate(parts) if parts else np.zeros(0)

        self._vjp, value = make_vjp(vector)(start)
        self._jvp, _ = make_vjp(self._vjp)(np.zeros(len(value)))
        self.layout, self.num_trained = layout_of(moves, like), leaves.size

    def _push(self, vectors: NDArray) -> NDArray:
        return np.array([self._jvp(v) for v in vectors]).reshape(len(vectors), self.layout.size)

    def _pull(self, vector: NDArray) -> NDArray:
        return self._vjp(vector)


def _real_parts(tensor: Any, is_array: bool) -> list[Any]:
    """Angles as they are; of an array, which may be complex, the real and the imaginary part."""
    if not is_array:
        return [tensor.reshape(-1)]
    if tensor.dtype.kind == "c":
        return [anp.real(tensor).reshape(-1), anp.imag(tensor).reshape(-1)]
    return [tensor.reshape(-1), np.zeros(tensor.size)]


def layout_of(moves: Sequence[bool], like: Slots) -> SlotLayout:
    """The layout of the slots that move; ``moves`` has an entry for each tensor of a prologue."""
    rest = list(moves)
    shared = rest.pop(0) if shared_of(like).size else False
    batched = rest.pop(0) if like.batched is not None else False
    return SlotLayout(shared, batched, tuple(rest), like)


_GATHERED: WeakKeyDictionary[Prologue, dict[tuple[int, ...], csr_array | None]] = WeakKeyDictionary()


def classical_jacobian(prologue: Prologue, host: str, leaves: Leaves, like: Slots) -> ClassicalJacobian:
    """The Jacobian of a prologue at some leaves.

    Args:
        prologue: from leaves to slots
        host: whose tensors the leaves are: ``"autograd"`` or ``"torch"``
        leaves: where, and which are trained
        like: the slots there
    """
    found = _GATHERED.setdefault(prologue, {})
    if leaves.trained not in found:
        found[leaves.trained] = _gathered(prologue, leaves)
    matrix = found[leaves.trained]
    if matrix is not None:
        layout = SlotLayout(shared_of(like).size > 0, like.batched is not None, (False,) * len(like.arrays), like)
        return GatheredJacobian(layout, matrix)
    if host == "torch":
        from qhybrid.optimize.classical_torch import TorchJacobian

        return TorchJacobian(prologue, leaves, like)
    return AutogradJacobian(prologue, leaves, like)


def _gathered(prologue: Prologue, leaves: Leaves) -> csr_array | None:
    """The Jacobian of a prologue that only gathers, scales and shifts, read from where it takes numbers from."""
    blocks = prologue.gathered_from
    if blocks is None:
        return None
    stops = np.cumsum([math.prod(shape) for shape in leaves.shapes])
    numbers = {
        i: np.arange(stop - math.prod(shape), stop).reshape(shape)
        for i, stop, shape in zip(leaves.trained, stops, leaves.shapes, strict=True)
    }
    columns, slopes = [np.zeros(0, int)], [np.zeros(0)]
    for block, sources in blocks:
        pairs = zip(block.arrangements, sources, strict=True)
        places = block.places([numbers.get(i, np.full(a.shape, -1)) for a, i in pairs])  # type: ignore[arg-type]
        columns.append(places.reshape(-1))
        slopes.append(np.broadcast_to(1.0 if block.scale is None else block.scale, places.shape).reshape(-1))
    column, slope = np.concatenate(columns), np.concatenate(slopes)
    rows = np.flatnonzero((column >= 0) & (slope != 0))
    return csr_array((slope[rows], (rows, column[rows])), (len(slope), leaves.size))
