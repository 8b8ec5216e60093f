"""PennyLane's optimizers by gradients; those of a QNode are taken without a graph where none is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pennylane as qml

from qhybrid.differentiate import grad, trained, value_and_gradients


class GradientDescentOptimizer(qml.GradientDescentOptimizer):
    """PennyLane's :class:`pennylane.GradientDescentOptimizer`, with gradients as of :class:`qhybrid.grad`.

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> x = qml.numpy.array(0.5)
        >>> optimizer = qml.GradientDescentOptimizer(stepsize=0.4)
        >>> for _ in range(50):
        ...     x = optimizer.step(circuit, x)
        >>> print(f"{circuit(x):.4f}")
        -1.0000
    """

    @staticmethod
    def compute_grad(
        objective_fn: Callable, args: tuple, kwargs: dict[str, Any], grad_fn: Callable | None = None
    ) -> tuple[tuple[Any, ...], Any]:
        """The gradient by each argument that requires one, and the value; see PennyLane's."""
        if grad_fn is None:
            found = value_and_gradients(objective_fn, args, kwargs, trained(args))
            if found is not None:
                value, gradients = found
                return gradients, value
        return qml.GradientDescentOptimizer.compute_grad(objective_fn, args, kwargs, grad_fn)


class MomentumOptimizer(qml.MomentumOptimizer, GradientDescentOptimizer):
    """PennyLane's :class:`pennylane.MomentumOptimizer`, with gradients as of :class:`qhybrid.grad`."""


class NesterovMomentumOptimizer(qml.NesterovMomentumOptimizer, MomentumOptimizer):
    """PennyLane's :class:`pennylane.NesterovMomentumOptimizer`, with gradients as of :class:`qhybrid.grad`."""

    def compute_grad(  # type: ignore[override]  # as PennyLane does
        self, objective_fn: Callable, args: tuple, kwargs: dict[str, Any], grad_fn: Callable | None = None
    ) -> tuple[tuple[Any, ...], Any]:
        """The gradient at the arguments shifted by the momentum, and the value there; see PennyLane's."""
        return super().compute_grad(objective_fn, args, kwargs, grad_fn or grad(objective_fn))


class AdagradOptimizer(qml.AdagradOptimizer, GradientDescentOptimizer):
    """PennyLane's :class:`pennylane.AdagradOptimizer`, with gradients as of :class:`qhybrid.grad`."""


class RMSPropOptimizer(qml.RMSPropOptimizer, AdagradOptimizer):
    """PennyLane's :class:`pennylane.RMSPropOptimizer`, with gradients as of :class:`qhybrid.grad`."""


class AdamOptimizer(qml.AdamOptimizer, GradientDescentOptimizer):
    """PennyLane's :class:`pennylane.AdamOptimizer`, with gradients as of :class:`qhybrid.grad`."""


class QNGOptimizer(qml.QNGOptimizer, GradientDescentOptimizer):
    """PennyLane's :class:`pennylane.QNGOptimizer`, with gradients as of :class:`qhybrid.grad`.

    :class:`qhybrid.optimize.NaturalGradient` is the one for more than a few parameters.
    """


class MomentumQNGOptimizer(qml.MomentumQNGOptimizer, QNGOptimizer):
    """PennyLane's :class:`pennylane.MomentumQNGOptimizer`, with gradients as of :class:`qhybrid.grad`."""
