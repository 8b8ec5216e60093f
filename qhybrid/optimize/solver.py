"""Solving ``(metric + damping) x = gradient`` without the matrix, or with it where it is small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg

from qhybrid.optimize.metric import Metric

#: Ways to solve, and preconditioners that have a name.
SOLVERS, PRECONDITIONERS = ("cg", "dense"), (None, "diagonal")
#: A dense solution leaves out directions whose damped eigenvalue is smaller than this part of the largest.
SMALLEST_EIGENVALUE = 1e-12


@dataclass(frozen=True)
class Solution:
    """A natural gradient.

    Args:
        direction: the natural gradient ``(P,)``
        products: with the metric, or columns of it, that it took
        converged: whether the tolerance was reached
    """

    direction: NDArray
    products: int
    converged: bool


@dataclass(frozen=True)
class Solver:
    """How natural gradients are solved for.

    Conjugate gradients that stop early still give a direction of descent.

    Args:
        damping: added to the diagonal of the metric; not negative
        method: ``"cg"`` for conjugate gradients, one product with the metric an iteration; ``"dense"`` for the
            pseudoinverse of the whole matrix
        max_iterations: of conjugate gradients; ``None``: ten times as many as there are parameters
        tolerance: norm of what may be left of the gradient, relative to the gradient
        preconditioner: ``None``; ``"diagonal"``, about the diagonal of the metric for one more reverse pass; or a
            function of the metric and the damping that gives an operator close to the inverse

    Raises:
        ValueError: a setting is impossible
    """

    damping: float = 0.0
    method: str = "cg"
    max_iterations: int | None = None
    tolerance: float = 1e-5
    preconditioner: str | Callable[[Metric, float], Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.damping < np.inf:
            raise ValueError(f"damping is {self.damping}; it must be zero or a positive number.")
        if self.method not in SOLVERS:
            raise ValueError(f"There is no solver {self.method!r}; choose one of {SOLVERS}.")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise ValueError(f"max_iterations is {self.max_iterations}; it must be at least 1, or None.")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; it must be between 0 and 1.")
        if not callable(self.preconditioner) and self.preconditioner not in PRECONDITIONERS:
            raise ValueError(
                f"There is no preconditioner {self.preconditioner!r}; choose one of {PRECONDITIONERS} or a function."
            )

    def solve(self, metric: LinearOperator, gradient: NDArray, start: NDArray | None = None) -> Solution:
        """The natural gradient.

        Args:
            metric: symmetric and positive semidefinite, ``(P, P)``
            gradient: ``(P,)``
            start: a guess, such as the last natural gradient; it is scaled to fit best

        Raises:
            FloatingPointError: the gradient or the solution is not finite
        """
        norm = float(np.linalg.norm(gradient))
        if not np.isfinite(norm):
            raise FloatingPointError("The gradient has entries that are NaN or infinite; no step was made.")
        if norm == 0:
            return Solution(np.zeros(len(gradient)), 0, True)
        if self.method == "dense":
            return self._solve_dense(metric, gradient / norm, norm)
        return self._solve_iteratively(metric, gradient / norm, norm, start)

    def _solve_dense(self, metric: LinearOperator, unit: NDArray, norm: float) -> Solution:
        matrix = metric.dense() if isinstance(metric, Metric) else metric @ np.eye(len(unit))
        values, vectors = np.linalg.eigh(matrix + self.damping * np.eye(len(unit)))
        kept = values > SMALLEST_EIGENVALUE * values[-1]
        direction = vectors[:, kept] @ ((vectors[:, kept].T @ unit) / values[kept])
        return Solution(norm * direction, len(unit), True)

    def _solve_iteratively(self, metric: LinearOperator, unit: NDArray, norm: float, start: NDArray | None) -> Solution:
        products = 0

        def damped(vector: NDArray) -> NDArray:
            nonlocal products
            products += 1
            return metric @ vector + self.damping * vector

        operator = LinearOperator(metric.shape, matvec=damped, dtype=float)
        begin, left = np.zeros(len(unit)), unit
        if start is not None and start.any():
            begin, left = _fitted(operator, unit, start)
        limit = self.max_iterations or 10 * len(unit)
        inverse = self._preconditioner(metric)
        rest, failed = cg(operator, left, rtol=0.0, atol=self.tolerance, maxiter=limit, M=inverse)
        direction = norm * (begin + rest)
        if not np.isfinite(direction).all():
            raise FloatingPointError("The natural gradient is not finite. Use a larger damping; no step was made.")
        return Solution(direction, products, not failed)

    def _preconditioner(self, metric: LinearOperator) -> LinearOperator | None:
        if self.preconditioner is None:
            return None
        if callable(self.preconditioner):
            return aslinearoperator(self.preconditioner(metric, self.damping))
        if not isinstance(metric, Metric):
            raise TypeError(
                'preconditioner="diagonal" needs a metric of qhybrid.optimize.fubini_study; use None, or a function.'
            )
        diagonal = metric.diagonal_estimate() + self.damping
        floor = 1e-6 * max(diagonal.max(initial=0.0), np.finfo(float).tiny)
        inverse = 1 / np.maximum(diagonal, floor)
        return LinearOperator(metric.shape, matvec=lambda v: inverse * np.ravel(v), dtype=float)


def _fitted(operator: LinearOperator, unit: NDArray, start: NDArray) -> tuple[NDArray, NDArray]:
    """``start`` times the number that brings it closest to the solution, and what it leaves of ``unit``.

    What conjugate gradients make of it is a direction of descent, however bad ``start`` is.
    """
    start = start / np.linalg.norm(start)
    product = operator @ start
    curvature = float(start @ product)
    factor = float(start @ unit) / curvature if curvature > 0 else 0.0
    return factor * start, unit - factor * product
