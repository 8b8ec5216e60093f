"""Natural gradient descent as an optimizer in PennyLane's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pennylane as qml
from numpy.typing import NDArray
from pennylane import numpy as pnp
from scipy.linalg import block_diag
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from qhybrid.optimize.metric import APPROXIMATIONS, fubini_study
from qhybrid.optimize.solver import Solution, Solver
from qhybrid.qnode import QNode


class NaturalGradient(qml.GradientDescentOptimizer):
    r"""Gradient descent in the geometry of states: ``x - stepsize * (g + damping)^-1 gradient``.

    The metric ``g`` is that of Fubini and Study (J. Stokes, J. Izaac, N. Killoran, G. Carleo, "Quantum natural
    gradient", Quantum 4, 269 (2020)). It is never built: with ``solver="cg"`` a step costs a gradient and, for each
    iteration, one forward-mode and one reverse-mode pass, and its memory does not grow with the square of the number
    of parameters. Takes the place of :class:`pennylane.QNGOptimizer`, where ``lam`` is the damping; other than there,
    the metric knows what couples one argument to another.

    Args:
        stepsize: positive
        approx: ``None`` for the exact metric, ``"block-diag"`` or ``"diag"``; see
            :func:`~qhybrid.optimize.fubini_study`
        damping: added to the diagonal of the metric. Where few parameters move the state, steps without damping can be
            far too long
        solver: ``"cg"``, or ``"dense"``, which is faster for up to some hundred parameters
        max_iterations: products with the metric in a step, ``None`` for as many as the tolerance takes
        tolerance: norm of what conjugate gradients may leave of the gradient, relative to the gradient
        preconditioner: ``None``, ``"diagonal"`` or a function; see :class:`~qhybrid.optimize.Solver`
        warm_start: whether conjugate gradients begin with the last step's solution

    Attributes:
        solution: of the last step, a :class:`~qhybrid.optimize.Solution`

    Example:
        >>> import qhybrid as qml
        >>> from qhybrid import numpy as np
        >>> from qhybrid.optimize import NaturalGradient
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x[0], wires=0)
        ...     qml.RY(x[1], wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> x, optimizer = np.array([0.3, 0.4]), NaturalGradient(0.1, damping=1e-3)
        >>> for _ in range(40):
        ...     x = optimizer.step(circuit, x)
        >>> print(f"{circuit(x):.4f}")
        -1.0000
    """

    def __init__(
        self,
        stepsize: float = 0.01,
        approx: str | None = None,
        damping: float = 1e-3,
        *,
        solver: str = "cg",
        max_iterations: int | None = None,
        tolerance: float = 1e-4,
        preconditioner: str | Callable | None = None,
        warm_start: bool = True,
    ) -> None:
        super().__init__(stepsize)
        if approx not in APPROXIMATIONS:
            raise ValueError(f"There is no approximation {approx!r}; choose one of {APPROXIMATIONS}.")
        self.approx = approx
        self.solver = Solver(damping, solver, max_iterations, tolerance, preconditioner)
        self.warm_start = warm_start
        self.solution: Solution | None = None
        self._metric: LinearOperator | None = None

    def step(
        self,
        objective_fn: Callable,
        *args: Any,
        grad_fn: Callable | None = None,
        recompute_tensor: bool = True,
        metric_tensor_fn: Callable | None = None,
        **kwargs: Any,
    ) -> Any:
        """The arguments after one step; see :meth:`step_and_cost`."""
        return self.step_and_cost(
            objective_fn,
            *args,
            grad_fn=grad_fn,
            recompute_tensor=recompute_tensor,
            metric_tensor_fn=metric_tensor_fn,
            **kwargs,
        )[0]

    def step_and_cost(
        self,
        objective_fn: Callable,
        *args: Any,
        grad_fn: Callable | None = None,
        recompute_tensor: bool = True,
        metric_tensor_fn: Callable | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """The arguments after one step, and the cost before it.

        Args:
            objective_fn: the cost, a QNode or a function of one; trained are the arguments that require gradients
            args, kwargs: its arguments
            grad_fn: gives the gradient, a tuple with an array for each trained argument
            recompute_tensor: ``False`` takes the metric of the last step again
            metric_tensor_fn: gives the metric at these arguments, where ``objective_fn`` is not a QNode of qhybrid: a
                :class:`~qhybrid.optimize.Metric`, or arrays as from :func:`pennylane.metric_tensor`

        Returns:
            the arguments, as a list if there are several, and the cost

        Raises:
            TypeError: ``objective_fn`` is not a QNode of qhybrid and ``metric_tensor_fn`` is missing
            DifferentiationError: the metric does not exist on the QNode's device
            FloatingPointError: a number is not finite
        """
        trained = [i for i, a in enumerate(args) if getattr(a, "requires_grad", False)]
        if not trained:
            return args[0] if len(args) == 1 else list(args), objective_fn(*args, **kwargs)
        if recompute_tensor or self._metric is None:
            self._metric = self._metric_at(objective_fn, trained, metric_tensor_fn, args, kwargs)
        gradients, cost = self.compute_grad(objective_fn, args, kwargs, grad_fn=grad_fn)
        self.solution = self._solve(self._metric, gradients)
        new = self._moved(args, trained, self.solution.direction)
        if cost is None:
            cost = objective_fn(*args, **kwargs)
        return new[0] if len(new) == 1 else new, cost

    def reset(self) -> None:
        """Forget the last step."""
        self.solution = self._metric = None

    def _metric_at(
        self, objective_fn: Callable, trained: Sequence[int], given: Callable | None, args: tuple, kwargs: dict
    ) -> LinearOperator:
        if given is not None:
            return _as_operator(given(*args, **kwargs))
        if not isinstance(objective_fn, QNode):
            raise TypeError(
                "The metric of the cost is not known, since the cost is not a QNode of qhybrid. Pass "
                "metric_tensor_fn=, for example qhybrid.optimize.fubini_study(circuit)."
            )
        return fubini_study(objective_fn, self.approx, tuple(trained))(*args, **kwargs)

    def _solve(self, metric: LinearOperator, gradients: Sequence[Any]) -> Solution:
        gradient = np.concatenate([np.ravel(np.asarray(g, float)) for g in gradients])
        if metric.shape != (len(gradient), len(gradient)):
            raise ValueError(
                f"The metric has shape {metric.shape}, but there are {len(gradient)} trained numbers. Give the metric "
                "of exactly the arguments that require gradients."
            )
        last = self.solution
        warm = self.warm_start and last is not None and len(last.direction) == len(gradient)
        return self.solver.solve(metric, gradient, last.direction if warm and last is not None else None)

    def _moved(self, args: Sequence[Any], trained: Sequence[int], direction: NDArray) -> list[Any]:
        new, start = list(args), 0
        for i in trained:
            size = np.size(args[i])
            part = direction[start : start + size].reshape(np.shape(args[i]))
            new[i] = args[i] - self.stepsize * pnp.tensor(part, requires_grad=True)
            start += size
        return new


class ImaginaryTime(NaturalGradient):
    r"""Evolution in imaginary time, projected onto what a circuit can reach: it ends in the ground state, if it can.

    ``exp(-H tau)`` leaves of a state only its ground state. McLachlan's principle gives the motion of the parameters
    that follows it most closely, :math:`g\,\dot\theta = -\tfrac12 \nabla \langle H \rangle`, which is half a natural
    gradient (S. McArdle, T. Jones, S. Endo, Y. Li, S. C. Benjamin, X. Yuan, "Variational ansatz-based quantum
    simulation of imaginary time evolution", npj Quantum Information 5, 75 (2019)). The QNode must return the energy
    :math:`\langle H \rangle`.

    Args:
        time_step: ``tau`` of a step, by Euler's method
        kwargs: of :class:`NaturalGradient`, but for its ``stepsize``

    Example:
        >>> import qhybrid as qml
        >>> from qhybrid import numpy as np
        >>> from qhybrid.optimize import ImaginaryTime
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def energy(x):
        ...     qml.RY(x, wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> x, optimizer = np.array(np.pi / 2), ImaginaryTime(0.001, damping=0.0)
        >>> for _ in range(500):
        ...     x = optimizer.step(energy, x)
        >>> print(f"{energy(x):.3f} {-np.tanh(2 * 0.5):.3f}")  # of the state exp(-H tau) |+> at tau = 0.5
        -0.762 -0.762
    """

    def __init__(self, time_step: float = 0.01, **kwargs: Any) -> None:
        super().__init__(time_step / 2, **kwargs)

    @property
    def time_step(self) -> float:
        """``tau`` of a step."""
        return 2 * self.stepsize


def _as_operator(metric: Any) -> LinearOperator:
    """A metric as an operator; PennyLane gives an array with twice the axes of each argument."""
    if isinstance(metric, LinearOperator):
        return metric
    blocks = [np.asarray(m, float) for m in (metric if isinstance(metric, tuple) else (metric,))]
    sizes = [int(np.prod(b.shape[: b.ndim // 2])) for b in blocks]
    return aslinearoperator(block_diag(*(b.reshape(s, s) for b, s in zip(blocks, sizes, strict=True))))
