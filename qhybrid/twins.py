"""Results of one function with the derivatives of another, in every host and to every order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pennylane as qml
from autograd.tracer import Box
from numpy.typing import NDArray
from pennylane.operation import Operator

from qhybrid import interfaces
from qhybrid.capture.values import concrete, is_functorch, is_tensor
from qhybrid.errors import DifferentiationError
from qhybrid.execution import Function


def graft(
    run: Callable[..., Any], twin: Callable[..., Any], args: tuple, kwargs: dict[str, Any], copies: int | None = None
) -> Any:
    """What ``run`` gives for these arguments, in the host's graph as if ``twin`` had given it.

    The twin is called only if something is being differentiated. ``run`` never sees that.

    Args:
        run: gives the values
        twin: gives the derivatives: results of the same structure and shapes
        args, kwargs: arguments of both
        copies: how many results of ``twin`` a result of ``run`` is made of, ``None`` if it is one

    Raises:
        DifferentiationError: the results of the twin are not like those of ``run``
    """
    leaves, structure = qml.pytrees.flatten((args, kwargs), is_leaf=_is_constant_operator)
    plain_args, plain_kwargs = qml.pytrees.unflatten([detached(leaf) for leaf in leaves], structure)
    result = run(*plain_args, **plain_kwargs)
    values, structure = qml.pytrees.flatten(result)
    if not any(map(is_tracked, (*leaves, *values))):
        return result
    found = twin(*args, **kwargs)
    surrogates = qml.pytrees.flatten(found)[0] * (copies or 1)
    _check_alike(values, surrogates)
    return qml.pytrees.unflatten([_grafted(v, s) for v, s in zip(values, surrogates, strict=True)], structure)


def _is_constant_operator(value: Any) -> bool:
    """Whether a value is an operator without anything to detach; it must stay the same object."""
    return isinstance(value, Operator) and not any(map(is_tracked, qml.pytrees.flatten(value)[0]))


def _grafted(value: Any, surrogate: Any) -> Any:
    """The sum of ``value`` and a zero whose derivative is that of ``surrogate``: exactly ``value``."""
    if isinstance(surrogate, Box):
        return concrete(value) + _zero(surrogate, concrete(surrogate), "autograd")
    host = "torch" if is_tensor(surrogate) else "jax" if _is_jax(surrogate) else "numpy"
    return detached(value) + _zero(surrogate, detached(surrogate), host)


def _zero(surrogate: Any, constant: Any, host: str) -> Any:
    """``surrogate`` less its value ``constant``; where that is not finite, the difference would be NaN."""
    finite = _is_finite(surrogate, host)
    if finite:
        return surrogate - constant
    if finite is None:
        return import_module("qhybrid.interfaces.jax").moving_zero(surrogate)
    return interfaces.apply(host, _NotFinite(), (surrogate,))[0]


def _is_finite(value: Any, host: str) -> bool | None:
    """Whether no number of a result is NaN or infinite, mapped axes included; ``None`` if JAX will only know later."""
    if host == "torch":
        torch = sys.modules["torch"]
        while is_functorch(value):
            value = torch._C._functorch.get_unwrapped(value)
        return bool(torch.isfinite(value.detach()).all())
    if host == "jax":
        value = import_module("qhybrid.interfaces.jax").innermost(value)
        return None if isinstance(value, sys.modules["jax"].core.Tracer) else bool(np.isfinite(value).all())
    return bool(np.isfinite(concrete(value)).all())


class _NotFinite(Function):
    """Zero in place of a result of the twin that is NaN or infinite, and an error in place of its derivatives."""

    def __init__(self, is_derivative: bool = False) -> None:
        self._is_derivative = is_derivative

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """Zeros like the result."""
        if self._is_derivative:
            raise DifferentiationError(
                "The twin of PhysicsAware gives NaN or infinity for a result that is differentiated, so there is no "
                "derivative. The values are the device's and not affected. Call the twin alone with the same arguments "
                "to find the cause, such as a logarithm or a quotient of zero, and give a twin that is finite there."
            )
        return (np.zeros_like(inputs[0]),)

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Function:
        """What refuses."""
        return _NotFinite(is_derivative=True)

    def pushforward(self, moving: tuple[bool, ...]) -> Function:
        """What refuses."""
        return _NotFinite(is_derivative=True)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Function:
        """The same."""
        return self

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """That of the result."""
        return ((inputs[0].shape, "c" if np.issubdtype(inputs[0].dtype, np.complexfloating) else "f"),)


def _check_alike(values: Sequence[Any], surrogates: Sequence[Any]) -> None:
    shapes, others = ([tuple(np.shape(x)) for x in found] for found in (values, surrogates))
    if shapes != others:
        raise DifferentiationError(
            f"The twin of PhysicsAware gives results of the shapes {others}, the device {shapes}. The twin must give "
            "one result for each of the device's, of the same shape."
        )


def detached(value: Any) -> Any:
    """A leaf of any host without its graph, of the same host; what is no tensor as it is."""
    if isinstance(value, Box):
        return qml.numpy.tensor(concrete(value), requires_grad=True)
    if is_tensor(value):
        return value.detach()
    if _is_jax(value):
        return sys.modules["jax"].lax.stop_gradient(value)
    return value


def is_tracked(value: Any) -> bool:
    """Whether the host is differentiating, or mapping, a leaf."""
    if is_tensor(value):
        torch = sys.modules["torch"]
        dual = torch.autograd.forward_ad._current_level >= 0
        return dual or is_functorch(value) or (torch.is_grad_enabled() and value.requires_grad)
    return isinstance(value, Box) or (_is_jax(value) and isinstance(value, sys.modules["jax"].core.Tracer))


def _is_jax(value: Any) -> bool:
    return "jax" in sys.modules and qml.math.get_interface(value) == "jax"
