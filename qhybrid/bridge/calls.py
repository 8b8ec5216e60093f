"""What the user calls: arguments of one host to inputs of a node, and its outputs to results."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from autograd.extend import Box
from autograd.tracer import getval
from numpy.typing import NDArray
from torch import Tensor, nn

from qhybrid import interfaces
from qhybrid.bridge.autograd_function import AutogradFunction
from qhybrid.bridge.base import name_of
from qhybrid.bridge.torch_function import TorchFunction
from qhybrid.bridge.trees import Rebuild, flatten
from qhybrid.interfaces.torch import keep_out_of_graphs

#: Kinds of arrays that a result may be made of.
_NUMBERS = tuple("biufc")


def as_torch_function(function: Callable) -> Callable:
    """See :func:`qhybrid.bridge.to_torch`."""

    @functools.wraps(function)
    def bridged(*args: Any, **kwargs: Any) -> Any:
        return _call_in_torch(function, args, kwargs)

    return bridged


def _call_in_torch(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function of arrays at tensors, as a node of PyTorch's graph."""
    name = name_of(function)
    leaves, rebuild = flatten((args, kwargs))
    if any(isinstance(x, Box) for x in leaves):
        raise TypeError(f"{name} was given a value that autograd traces; inside autograd, call the function itself.")
    is_input = [isinstance(x, Tensor) for x in leaves]
    check = partial(_checked_array, name=name)
    call = _Call(_in_autograd(function, name), leaves, is_input, rebuild, _as_it_is, check)
    node = AutogradFunction(call, tuple(t.requires_grad for t in call.inputs), function)
    return call.restore(interfaces.apply("torch", node, call.inputs))


keep_out_of_graphs(_call_in_torch)


def as_autograd_function(module: Callable, accumulate_grad: bool) -> Callable:
    """See :func:`qhybrid.bridge.to_autograd`."""
    parameters = tuple(module.parameters()) if isinstance(module, nn.Module) else ()
    if accumulate_grad and not parameters:
        raise TypeError(f"accumulate_grad needs an nn.Module with parameters, got {name_of(module)}.")
    return _autograd_function(module, module, parameters if accumulate_grad else ())


def as_function_of_parameters(module: Any) -> tuple[Callable, dict[str, NDArray]]:
    """See :func:`qhybrid.bridge.functional`."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"functional takes an nn.Module, got {type(module).__name__}; use to_autograd for a function.")

    def of_parameters(parameters: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(module, parameters, args, kwargs)

    values = {name: p.numpy(force=True).copy() for name, p in module.named_parameters()}
    return _autograd_function(of_parameters, module, ()), values


def _autograd_function(function: Callable, module: Callable, accumulated: Sequence[nn.Parameter]) -> Callable:
    name = name_of(module)

    def bridged(*args: Any, **kwargs: Any) -> Any:
        leaves, rebuild = flatten((args, kwargs))
        if any(isinstance(x, Tensor) and x.requires_grad for x in leaves):
            raise TypeError(f"{name} was given a tensor that requires grad; inside PyTorch, call the module itself.")
        is_input = [isinstance(x, Box | np.ndarray | np.generic) for x in leaves]
        convert, check = partial(_tensor_of, like=_reference(module)), partial(_checked_tensor, name=name)
        call = _Call(function, leaves, is_input, rebuild, convert, check)
        node = TorchFunction(call, tuple(isinstance(x, Box) for x in call.inputs), module, accumulated)
        return call.restore(interfaces.apply("autograd", node, call.inputs))

    return functools.wraps(module)(bridged) if not isinstance(module, nn.Module) else bridged


def _in_autograd(function: Callable, name: str) -> Callable:
    """The function, with a word on the commonest mistake."""

    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (TypeError, ValueError) as error:
            if "ArrayBox" not in str(error):
                raise
            raise TypeError(
                f"{name} cannot be differentiated ({error}): write it with autograd.numpy or qhybrid.numpy in place of "
                "numpy, and without float() or item() on what depends on its arguments."
            ) from error

    return called


class _Call:
    """A function with one call's arguments, as a function of those leaves that are inputs of a node.

    Args:
        function: what is called
        leaves: of its arguments
        is_input: which of them are inputs of the node; the others are passed as they are
        rebuild: the arguments from leaves
        convert: an input as the function takes it
        check: a leaf of the result as an array of the host
    """

    def __init__(
        self,
        function: Callable,
        leaves: list[Any],
        is_input: list[bool],
        rebuild: Rebuild,
        convert: Callable[[Any], Any],
        check: Callable[[Any], Any],
    ) -> None:
        self._function, self._leaves, self._is_input, self._rebuild = function, leaves, is_input, rebuild
        self._convert, self._check = convert, check
        #: Builds the result from its leaves; known once the function has been called.
        self._restore: Rebuild = next

    @property
    def inputs(self) -> list[Any]:
        """The leaves that are inputs."""
        return [x for x, i in zip(self._leaves, self._is_input, strict=True) if i]

    def __call__(self, *inputs: Any) -> list[Any]:
        """The leaves of the result."""
        given = map(self._convert, inputs)
        args, kwargs = self._rebuild(next(given) if i else x for x, i in zip(self._leaves, self._is_input, strict=True))
        outputs, self._restore = flatten(self._function(*args, **kwargs))
        return [self._check(y) for y in outputs]

    def restore(self, outputs: Sequence[Any]) -> Any:
        """The result from its leaves."""
        return self._restore(iter(outputs))


# ------------------------------------------------------------------ leaves


def _as_it_is(array: Any) -> Any:
    return array


def _tensor_of(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A tensor on the device and, unless it holds integers, in the precision of another."""
    if like is None:
        return tensor
    inexact = tensor.is_floating_point() or tensor.is_complex()
    dtype = tensor.dtype if not inexact else like.dtype.to_complex() if tensor.is_complex() else like.dtype.to_real()
    return tensor.to(like.device, dtype)


def _reference(module: Callable) -> Tensor | None:
    """The first parameter that is not made of integers, if there is one."""
    parameters = module.parameters() if isinstance(module, nn.Module) else ()
    return next((p for p in parameters if p.is_floating_point() or p.is_complex()), None)


def _checked_array(leaf: Any, name: str) -> Any:
    kind = "" if isinstance(leaf, Tensor) else np.asarray(getval(leaf)).dtype.kind
    if kind not in _NUMBERS:
        raise TypeError(
            f"{name} returned {_described(leaf)}; a function for bridge.to_torch returns arrays or numbers, or tuples, "
            "lists and dicts of them."
        )
    return leaf


def _checked_tensor(leaf: Any, name: str) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf
    array = None if isinstance(leaf, Box) else np.asarray(leaf)
    if array is None or array.dtype.kind not in _NUMBERS:
        raise TypeError(
            f"{name} returned {_described(leaf)}; what bridge.to_autograd takes returns tensors or numbers, or tuples, "
            "lists and dicts of them."
        )
    return torch.from_numpy(array)


def _described(leaf: Any) -> str:
    kind = type(leaf)
    return "None" if leaf is None else f"a {kind.__module__.split('.')[0]} {kind.__name__}".replace("builtins ", "")
