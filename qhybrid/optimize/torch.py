"""Natural gradient descent as an optimizer of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from qhybrid.optimize.metric import APPROXIMATIONS, Metric, fubini_study
from qhybrid.optimize.solver import Solution, Solver
from qhybrid.qnn.torch import TorchLayer
from qhybrid.qnode import QNode


class TorchNaturalGradient(torch.optim.Optimizer):
    """Gradient descent in the geometry of the states that a quantum layer prepares.

    See :class:`~qhybrid.optimize.NaturalGradient` for the method and its settings. A step is made whole or not at all.

    Args:
        params: the weights of one layer or of one QNode; other parameters of a model have optimizers of their own
        metric: a :class:`~qhybrid.qnn.TorchLayer`, whose metric is taken at the inputs that it sees in the closure of a
            step, also where that maps the layer by ``torch.vmap``; or a function without arguments that gives a
            :class:`~qhybrid.optimize.Metric` of ``params``
        lr: positive
        approx: of the metric of a layer: ``None``, ``"block-diag"`` or ``"diag"``
        damping, solver, max_iterations, tolerance, preconditioner: see :class:`~qhybrid.optimize.NaturalGradient`

    Attributes:
        solution: of the last step, a :class:`~qhybrid.optimize.Solution`

    Raises:
        ValueError: a setting is impossible, or there are several groups of parameters

    Example:
        >>> import qhybrid as qml
        >>> from qhybrid.optimize import TorchNaturalGradient, fubini_study
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x[0], wires=0)
        ...     qml.RY(x[1], wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> x = torch.tensor([0.3, 0.4], dtype=torch.double, requires_grad=True)
        >>> optimizer = TorchNaturalGradient([x], lambda: fubini_study(circuit)(x), lr=0.1)
        >>> for _ in range(40):
        ...     optimizer.zero_grad()
        ...     circuit(x).backward()
        ...     optimizer.step()
        >>> print(f"{circuit(x):.4f}")
        -1.0000
    """

    def __init__(
        self,
        params: Iterable[Any],
        metric: TorchLayer | Callable[[], Metric],
        lr: float = 0.01,
        *,
        approx: str | None = None,
        damping: float = 1e-3,
        solver: str = "cg",
        max_iterations: int | None = None,
        tolerance: float = 1e-4,
        preconditioner: str | Callable | None = None,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr is {lr}; it must be positive.")
        self.solver = Solver(damping, solver, max_iterations, tolerance, preconditioner)
        if approx not in APPROXIMATIONS:
            raise ValueError(f"There is no approximation {approx!r}; choose one of {APPROXIMATIONS}.")
        self.approx = approx
        self._source = metric
        self.solution: Solution | None = None
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group that there may be."""
        if self.param_groups:
            raise ValueError(
                "A natural gradient couples all parameters of its metric, so there is one group. Make an optimizer "
                "for each layer."
            )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the loss. May be left out if
                the metric is a function

        Returns:
            what the closure returned

        Raises:
            ValueError: a closure is missing, or the metric is not one of the parameters
            RuntimeError: a parameter has no gradient
            FloatingPointError: a number is not finite; no parameter has changed
        """
        loss, metric = self._evaluate(closure)
        group = self.param_groups[0]
        params = [p for p in group["params"] if p.requires_grad]
        order = _order(params, metric)
        if any(p.grad is None for p in params):
            raise RuntimeError("A parameter has no gradient. Call backward() on the loss before a step.")
        gradient = np.concatenate([_flat(p.grad) for p in order])
        last = [self.state[p].get("direction") if p in self.state else None for p in order]
        start = None if any(x is None for x in last) else np.concatenate([_flat(x) for x in last])
        self.solution = self.solver.solve(metric, gradient, start)
        self._move(order, metric.split(self.solution.direction), group["lr"])
        return loss

    def _move(self, params: list[torch.Tensor], directions: list[NDArray], lr: float) -> None:
        """Change all parameters, once every new value is known to be a number."""
        moves = [torch.as_tensor(d).to(p.device, p.dtype) for p, d in zip(params, directions, strict=True)]
        new = [p.detach() - lr * d for p, d in zip(params, moves, strict=True)]
        if not all(bool(torch.isfinite(n).all()) for n in new):
            raise FloatingPointError("A step has entries that are NaN or infinite; no parameter was changed.")
        with torch.no_grad():
            for param, value, direction in zip(params, new, moves, strict=True):
                param.copy_(value)
                self.state[param]["direction"] = direction

    def _evaluate(self, closure: Callable[[], Any] | None) -> tuple[Any, Any]:
        """What the closure returns, and the metric."""
        if isinstance(self._source, TorchLayer):
            if closure is None:
                raise ValueError(
                    "The metric of a layer depends on its inputs: call step(closure) with a closure that runs the "
                    "layer. Or make the optimizer with a function that gives the metric."
                )
            with _recorded(self._source) as seen, torch.enable_grad():
                loss = closure()
            return loss, _layer_metric(self._source, seen, self.approx)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        return loss, self._source()


@contextmanager
def _recorded(layer: TorchLayer) -> Iterator[list[torch.Tensor]]:
    """The inputs of all calls of a layer."""
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        seen.extend(_all_samples(x).detach().clone() for x in (*args, *kwargs.values()))

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _all_samples(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs without what ``torch.func`` wraps around them; axes that ``torch.vmap`` maps are in front."""
    functorch = torch._C._functorch
    if not functorch.is_functorch_wrapped_tensor(inputs):
        return inputs
    inner = _all_samples(functorch.get_unwrapped(inputs))
    if not functorch.is_batchedtensor(inputs):
        return inner
    return inner.movedim(inner.ndim - inputs.ndim - 1 + functorch.maybe_get_bdim(inputs), 0)


def _layer_metric(layer: TorchLayer, inputs: list[torch.Tensor], approx: str | None) -> LinearOperator:
    """The metric of a layer's weights, the mean over all samples that it has seen."""
    if not isinstance(layer.qnode, QNode):
        raise TypeError(
            f"The layer holds a {type(layer.qnode).__name__}, not a QNode of qhybrid; make it with qhybrid.qnode."
        )
    if not inputs:
        raise ValueError("The closure did not run the layer, so that its inputs are not known.")
    single = len(inputs) == 1 and inputs[0].ndim == 1
    samples = inputs[0] if single else torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs])
    return fubini_study(layer.qnode, approx)(**{layer.input_arg: samples, **layer.qnode_weights})


def _order(params: list[torch.Tensor], metric: Metric) -> list[torch.Tensor]:
    """The parameters in the order of the metric."""
    known = {id(p) for p in params}
    if not {id(t) for t in metric.trained} == known or len(metric.trained) != len(known):
        raise ValueError(
            f"The metric is one of tensors of shapes {[tuple(t.shape) for t in metric.trained]}, which are not the "
            f"optimizer's parameters of shapes {[tuple(p.shape) for p in params]}. Give the optimizer the very tensors "
            "that the QNode takes, those that require gradients, once each."
        )
    return list(metric.trained)


def _flat(tensor: torch.Tensor) -> NDArray:
    return tensor.detach().double().cpu().numpy().reshape(-1)
