"""Results of one function with the derivatives of another, in every host and to every order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pennylane as qml
from autograd.tracer import Box
from pennylane.operation import Operator

from qhybrid.capture.values import concrete, is_functorch, is_tensor
from qhybrid.errors import DifferentiationError


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
    """The difference is exactly zero, so that the sum is exactly ``value``; its derivative is that of ``surrogate``."""
    if isinstance(surrogate, Box):
        return concrete(value) + (surrogate - concrete(surrogate))
    return detached(value) + (surrogate - detached(surrogate))


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
