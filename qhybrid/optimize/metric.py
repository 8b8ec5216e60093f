r"""The Fubini-Study metric of the states that a QNode prepares, as a linear operator.

.. math:: g_{ij} = \mathrm{Re}[\langle \partial_i \psi | \partial_j \psi \rangle
    - \langle \partial_i \psi | \psi \rangle \langle \psi | \partial_j \psi \rangle]

With the Jacobian ``J`` of the state and the projector ``Q`` off the state, ``g = Re(J^dagger Q J)``: a product with a
vector is one Jacobian-vector product, a projection, and one vector-Jacobian product. It is a quarter of the quantum
Fisher information.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from qhybrid.errors import DifferentiationError
from qhybrid.optimize.gates import GateMetric, Occurrences
from qhybrid.optimize.layout import shared_of
from qhybrid.optimize.point import Point, point_of
from qhybrid.optimize.states import MAX_TANGENT_NUMBERS
from qhybrid.program import Slots
from qhybrid.qnode import QNode

#: The approximations that there are.
APPROXIMATIONS = (None, "block-diag", "diag")


class Metric(LinearOperator):
    """A metric of the ``P`` trained numbers of a call, all arguments flattened and joined in their order.

    Symmetric and positive semidefinite; takes part in everything that SciPy does with linear operators. A batch of
    samples has the mean of their metrics.

    Example:
        >>> import qhybrid as qml
        >>> from qhybrid.optimize import fubini_study
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RY(x[0], wires=0)
        ...     qml.RZ(x[1], wires=0)
        ...     return qml.expval(qml.X(0))
        >>> metric = fubini_study(circuit)(qml.numpy.array([0.5, 0.2]))
        >>> (metric @ [1.0, 1.0]).round(4)
        array([0.25  , 0.0575])
        >>> print(metric.dense().round(4) + 0.0)
        [[0.25   0.    ]
         [0.     0.0575]]
    """

    def __init__(self, point: Point) -> None:
        self.point = point
        super().__init__(np.dtype(float), (point.leaves.size, point.leaves.size))

    @property
    def trained(self) -> tuple[Any, ...]:
        """The arguments that the metric is of, in order: the very objects that were passed."""
        return tuple(self.point.leaves.values[i] for i in self.point.leaves.trained)

    def split(self, vector: NDArray) -> list[NDArray]:
        """The parts of a vector ``(P,)`` that belong to the trained arguments, in their shapes."""
        shapes = self.point.leaves.shapes
        stops = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]
        return [part.reshape(s) for part, s in zip(np.split(vector, stops), shapes, strict=True)]

    def dense(self) -> NDArray:
        """The metric as a matrix ``(P, P)``."""
        return np.concatenate([np.zeros((0, len(self))), *(self.matmat(units.T).T for units in self._units())])

    def diagonal(self) -> NDArray:
        """The diagonal ``(P,)``; ``P`` Jacobian-vector products."""
        parts = [np.einsum("ki,ik->k", units, self.matmat(units.T)) for units in self._units()]
        return np.concatenate([np.zeros(0), *parts])

    def block_diagonal(self) -> NDArray:
        """The matrix ``(P, P)`` of the same metric without what couples different layers of gates."""
        return LayerMetric(self.point, diagonal=False).dense()

    def diagonal_estimate(self) -> NDArray:
        """About the diagonal ``(P,)``, for one reverse pass: without what couples gates that share an argument."""
        gates = self.gates
        weights = gates.occurrences.collect(gates.diagonal() / self.point.batch, self.point.slots)
        return self.point.classical.pull_weights(weights)

    @cached_property
    def gates(self) -> GateMetric:
        """The metric of the gate angles."""
        point = self.point
        if any(point.classical.layout.arrays):
            raise DifferentiationError(
                "Layers of gates and diagonals need angles, but an argument makes a whole unitary or a prepared "
                "state. Use the full metric, approx=None, with preconditioner=None."
            )
        return GateMetric(point.circuit, point.state, point.constant)

    def __len__(self) -> int:
        return self.shape[0]

    def _units(self) -> Iterator[NDArray]:
        """The rows of the identity, so many at once as fit into memory."""
        size = min(self.point.state.directions_at_once, max(1, MAX_TANGENT_NUMBERS // max(1, len(self))))
        for start in range(0, len(self), size):
            units = np.zeros((min(size, len(self) - start), len(self)))
            units[np.arange(len(units)), start + np.arange(len(units))] = 1.0
            yield units

    def _matvec(self, vector: NDArray) -> NDArray:
        return self._matmat(np.reshape(vector, (-1, 1)))[:, 0]

    @abstractmethod
    def _matmat(self, vectors: NDArray) -> NDArray:
        """Products with the columns of ``(P, k)``."""

    def _adjoint(self) -> Metric:
        return self


class FullMetric(Metric):
    """The exact metric: its products need one forward-mode and one reverse-mode pass each."""

    def dense(self) -> NDArray:
        """The metric as a matrix ``(P, P)``, from ``P`` Jacobian-vector products."""
        state = self.point.state
        if len(self) * state.psi.size > 8 * MAX_TANGENT_NUMBERS:
            return super().dense()
        parts = [self._tangents(units).reshape(len(units), -1) for units in self._units()]
        real = np.concatenate([np.zeros((0, state.psi.size), complex), *parts]).view(float)
        return real @ real.T / self.point.batch

    def diagonal(self) -> NDArray:
        """The diagonal ``(P,)``; ``P`` Jacobian-vector products."""
        parts = [np.linalg.norm(self._tangents(u).reshape(len(u), -1), axis=1) ** 2 for u in self._units()]
        return np.concatenate([np.zeros(0), *parts]) / self.point.batch

    def _tangents(self, directions: NDArray) -> NDArray:
        return self.point.state.pushforward(self.point.classical.push(directions))

    def _matmat(self, vectors: NDArray) -> NDArray:
        point, columns = self.point, np.asarray(vectors, float).T
        products, size = [np.zeros((0, len(self)))], point.state.directions_at_once
        for start in range(0, len(columns), size):
            tangents = self._tangents(columns[start : start + size]) / point.batch
            products += [point.classical.pull(point.state.pullback(t))[None] for t in tangents]
        return np.concatenate(products).T


class LayerMetric(Metric):
    """The metric without what couples different layers of gates, or, with ``diagonal``, different gates."""

    def __init__(self, point: Point, diagonal: bool) -> None:
        super().__init__(point)
        if diagonal:
            values = self.gates.diagonal()
            self._blocks = [([r], v[:, None, None]) for r, v in enumerate(values) if v.any()]
        else:
            self._blocks = self.gates.layer_blocks()

    def _matmat(self, vectors: NDArray) -> NDArray:
        point, occurrences = self.point, self.gates.occurrences
        pushed = point.classical.push(np.asarray(vectors, float).T)
        found = direction_rows(occurrences, pushed, len(point.state.psi))
        products = np.zeros(found.shape)
        for layer, block in self._blocks:
            products[:, layer] = np.einsum("bij,kjb->kib", block, found[:, layer])
        pulled = [point.classical.pull(occurrences.collect(p / point.batch, point.slots)) for p in products]
        return np.array(pulled).reshape(-1, len(self)).T


def direction_rows(occurrences: Occurrences, tangents: Slots, batch: int) -> NDArray:
    """Directions ``(k, rows, batch)`` of single occurrences, from ``k`` directions of the slots."""
    shared, batched = shared_of(tangents), tangents.batched
    found = [occurrences.spread(s, None if batched is None else batched[j], batch) for j, s in enumerate(shared)]
    return np.array(found).reshape(len(shared), len(occurrences.sources), batch)


def fubini_study(
    qnode: QNode, approx: str | None = None, argnums: int | tuple[int, ...] | None = None
) -> Callable[..., Metric]:
    """The Fubini-Study metric of a QNode, as a function of the QNode's arguments.

    What the QNode measures plays no part. Where :func:`pennylane.metric_tensor` gives a block for each argument, this
    is one operator of all of them, with what couples one to another.

    Args:
        qnode: a QNode of qhybrid on a device that gives states
        approx: ``None`` for the exact metric; ``"block-diag"`` without what couples different layers of gates;
            ``"diag"`` without what couples different gates
        argnums: positions of the trained arguments; by default all arguments that require gradients, also by keyword

    Returns:
        a function that takes what the QNode takes and gives a :class:`Metric`

    Raises:
        DifferentiationError: there is no such approximation; or, when called, there are no states, or nothing is
            trained
        TypeError: the QNode is not one of qhybrid

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> fubini_study(circuit)(qml.numpy.array(0.3)).dense()
        array([[0.25]])
    """
    if approx not in APPROXIMATIONS:
        raise DifferentiationError(f"There is no approximation {approx!r}; choose one of {APPROXIMATIONS}.")
    if not isinstance(qnode, QNode):
        raise TypeError(
            f"The metric is that of a QNode of qhybrid, but a {type(qnode).__name__} was given. Make the QNode with "
            "qhybrid.qnode, or use qml.metric_tensor."
        )

    def metric(*args: Any, **kwargs: Any) -> Metric:
        point = point_of(qnode, args, kwargs, argnums)
        return FullMetric(point) if approx is None else LayerMetric(point, diagonal=approx == "diag")

    return metric
