"""Evaluating one recorded node in the framework of the live values: NumPy, autograd or PyTorch.

A node is recorded under a kind that says how its function is named: ``NUMPY`` by NumPy's name (replayed with the host's
function of that name), ``CALL`` by a Python callable that works on any host, ``TORCH`` by a torch function, ``PACK`` as
an array assembled from scalars. Constants inside recorded arguments are NumPy arrays and Python scalars.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import autoray
import numpy as np
from autograd import numpy as anp

NUMPY, CALL, TORCH, PACK = "numpy", "call", "torch", "pack"
#: Kinds of nodes that are not computed: an argument, and a trainable tensor read from outside on every call.
INPUT, CAPTURED = "input", "captured"


class Ref:
    """A reference to a node inside recorded arguments."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"%{self.index}"


def substitute(arguments: Any, value: Callable[[int], Any]) -> Any:
    """``arguments`` with ``value(index)`` in the place of each :class:`Ref`."""
    kind = type(arguments)
    if kind is Ref:
        return value(arguments.index)
    if kind is list or kind is tuple:
        return kind([substitute(a, value) for a in arguments])
    if kind is dict:
        return {k: substitute(a, value) for k, a in arguments.items()}
    return arguments


def references(arguments: Any) -> set[int]:
    """Indices of the nodes that ``arguments`` refer to."""
    found: set[int] = set()
    substitute(arguments, found.add)
    return found


def cast(array: Any, dtype: str) -> Any:
    """``array`` with the dtype of that NumPy name, on any host."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array.to(getattr(torch, dtype))
    return array.astype(dtype) if hasattr(array, "astype") else np.asarray(array).astype(dtype)


def set_items(array: Any, index: Any, value: Any, add: bool = False) -> Any:
    """A copy of ``array`` with ``value`` written to, or added at, the static ``index``; differentiable."""
    shape = np.shape(array)
    ids = np.arange(int(np.prod(shape))).reshape(shape)[index]
    torch = sys.modules.get("torch")
    if torch is not None and (isinstance(array, torch.Tensor) or isinstance(value, torch.Tensor)):
        array, value = torch.as_tensor(array), torch.as_tensor(value)
        flat = array.reshape(-1).to(torch.promote_types(array.dtype, value.dtype))
        where, value = torch.as_tensor(ids.reshape(-1)), value.broadcast_to(ids.shape).reshape(-1).to(flat.dtype)
        out = flat.index_add(0, where, value) if add else flat.index_copy(0, where, value)
        return out.reshape(shape)
    spread = np.zeros((ids.size, int(np.prod(shape))))
    spread[np.arange(ids.size), ids.reshape(-1)] = 1.0
    value = anp.reshape(value * np.ones(ids.shape), (-1,))
    kept = array if add else array * (1.0 - spread.max(axis=0, initial=0.0).reshape(shape))
    return kept + anp.reshape(anp.dot(value, spread), shape)


def numpy_function(name: str) -> Callable:
    """The NumPy function of that dotted name, as in ``linalg.norm``."""
    function: Any = np
    for part in name.split("."):
        function = getattr(function, part)
    return function


def evaluate(kind: str, function: Any, args: tuple, kwargs: dict, host: str) -> Any:
    """Compute one node.

    Args:
        kind, function: of the node
        args, kwargs: its arguments with live values in them
        host: ``"numpy"``, ``"autograd"`` or ``"torch"``
    """
    if host == "torch":
        return _evaluate_torch(kind, function, args, kwargs)
    if kind == CALL:
        return function(*args, **kwargs)
    if kind == TORCH:
        return _torch_on_numpy(function, args, kwargs)
    namespace: Any = np if host == "numpy" else anp
    if kind == PACK:
        return namespace.reshape(namespace.array(list(args[0])), function)
    return functools.reduce(getattr, function.split("."), namespace)(*args, **kwargs)


# ------------------------------------------------------------------ torch


def _torch() -> Any:
    return sys.modules["torch"]


@contextmanager
def plain_torch() -> Iterator[None]:
    """Torch without gradients, without overrides and outside ``torch.func``, for values that are kept."""
    torch = _torch()
    with torch._C.DisableTorchFunction(), torch._C._DisableFuncTorch(), torch.no_grad():
        yield


def torch_dtype(dtype: Any) -> Any:
    """The torch dtype of a NumPy dtype."""
    return getattr(_torch(), np.dtype(dtype).name)


def _to_torch(value: Any, device: Any) -> Any:
    """NumPy constants as tensors; everything else unchanged."""
    if isinstance(value, np.ndarray | np.generic):
        return _torch().as_tensor(value, device=device)
    if isinstance(value, np.dtype):
        return torch_dtype(value)
    if type(value) in (list, tuple):
        return type(value)(_to_torch(v, device) for v in value)
    return value


def _device(values: Any) -> Any:
    for value in values:
        if isinstance(value, _torch().Tensor):
            return value.device
        if isinstance(value, list | tuple) and (device := _device(value)) is not None:
            return device
    return None


def _evaluate_torch(kind: str, function: Any, args: tuple, kwargs: dict) -> Any:
    torch = _torch()
    device = _device((args, tuple(kwargs.values())))
    if kind == CALL and function is operator.getitem:
        return args[0][args[1]] if isinstance(args[0], list | tuple) else torch.as_tensor(args[0])[args[1]]
    if kind == PACK:
        parts = [torch.as_tensor(a, device=device) for a in args[0]]
        dtype = functools.reduce(torch.promote_types, [p.dtype for p in parts])
        return torch.stack([p.to(dtype) for p in parts]).reshape(function)
    args = tuple(_to_torch(a, device) for a in args)
    kwargs = {k: _to_torch(v, device) for k, v in kwargs.items()}
    if kind == NUMPY:
        return _numpy_named(function, args, kwargs, device)
    if function is operator.matmul:
        return _numpy_named("matmul", args, kwargs, device)
    return function(*args, **kwargs)


_SEQUENCES = {"stack", "concatenate", "hstack", "vstack", "column_stack", "block", "dstack"}
_SAME_DTYPE = {"matmul", "dot", "inner", "outer", "tensordot", "kron", "cross", "vdot", "einsum"}
_TWO_TENSORS = _SAME_DTYPE | {"arctan2", "maximum", "minimum", "logical_and", "logical_or", "isclose", "allclose"}
TORCH_NAMES = {
    "absolute": "abs", "negative": "neg", "subtract": "sub", "multiply": "mul", "true_divide": "div", "divide": "div",
    "power": "pow", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh",
    "arctanh": "atanh", "concatenate": "cat", "conjugate": "conj", "mod": "remainder", "max": "amax", "min": "amin",
    "amax": "amax", "amin": "amin", "expand_dims": "unsqueeze", "swapaxes": "swapaxes", "repeat": "repeat_interleave",
    "array": "as_tensor", "asarray": "as_tensor", "around": "round", "invert": "bitwise_not", "rint": "round",
    "linalg.norm": "linalg.norm", "float_power": "pow", "degrees": "rad2deg", "radians": "deg2rad", "fabs": "abs",
}  # fmt: skip


def _numpy_named(name: str, args: tuple, kwargs: dict, device: Any) -> Any:
    """A function recorded by its NumPy name, on tensors."""
    torch = _torch()
    if (special := _TORCH_SPECIAL.get(name)) is not None:
        return special(torch, *args, **kwargs)
    if name in _SEQUENCES:
        parts = [torch.as_tensor(a, device=device) for a in args[0]]
        dtype = functools.reduce(torch.promote_types, [p.dtype for p in parts])
        args = ([p.to(dtype) for p in parts], *args[1:])
    elif name in _TWO_TENSORS:
        args = tuple(torch.as_tensor(a, device=device) if isinstance(a, float | int | complex) else a for a in args)
    elif args and isinstance(args[0], float | complex):
        args = (torch.as_tensor(args[0], device=device), *args[1:])
    if name in _SAME_DTYPE:
        dtype = functools.reduce(torch.promote_types, [a.dtype for a in args if isinstance(a, torch.Tensor)])
        args = tuple(a.to(dtype) if isinstance(a, torch.Tensor) else a for a in args)
    try:
        function = functools.reduce(getattr, TORCH_NAMES.get(name, name).split("."), torch)
    except AttributeError:
        return autoray.do(name, *args, like="torch", **kwargs)
    return function(*args, **kwargs)


def _transpose(torch: Any, array: Any, axes: Any = None) -> Any:
    return array.permute(*(range(array.ndim - 1, -1, -1) if axes is None else axes))


def _round(torch: Any, array: Any, decimals: int = 0) -> Any:
    return torch.round(array, decimals=decimals)


def _squeeze(torch: Any, array: Any, axis: Any = None) -> Any:
    return array.squeeze() if axis is None else array.squeeze(axis)


def _clip(torch: Any, array: Any, a_min: Any = None, a_max: Any = None, **limits: Any) -> Any:
    return torch.clamp(array, limits.get("min", a_min), limits.get("max", a_max))


def _where(torch: Any, condition: Any, *choices: Any) -> Any:
    return torch.where(torch.as_tensor(condition), *choices)


def _deviation(name: str) -> Callable:
    def function(torch: Any, array: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
        return getattr(torch, name)(array, dim=axis, correction=ddof, keepdim=keepdims)

    return function


def _flip(torch: Any, array: Any, axis: Any = None) -> Any:
    axes = range(array.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return torch.flip(array, tuple(axes))


def _roll(torch: Any, array: Any, shift: Any, axis: Any = None) -> Any:
    return torch.roll(array, shift, axis)


def _dot(torch: Any, a: Any, b: Any) -> Any:
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype)
    return a * b if a.ndim == 0 or b.ndim == 0 else torch.tensordot(a, b, dims=([-1], [max(b.ndim - 2, 0)]))


def _real_if_close(torch: Any, array: Any, tol: float = 100) -> Any:
    return array.real if array.is_complex() and bool((array.imag.abs() < tol * np.finfo(float).eps).all()) else array


def _tensordot(torch: Any, a: Any, b: Any, axes: Any = 2) -> Any:
    dtype = torch.promote_types(a.dtype, b.dtype)
    axes = tuple([x] if isinstance(x, int) else list(x) for x in axes) if isinstance(axes, tuple | list) else axes
    return torch.tensordot(a.to(dtype), b.to(dtype), dims=axes)


def _einsum(torch: Any, equation: str, *operands: Any, **_: Any) -> Any:
    dtype = functools.reduce(torch.promote_types, [o.dtype for o in operands])
    return torch.einsum(equation, *[o.to(dtype) for o in operands])


def _take(torch: Any, array: Any, indices: Any, axis: Any = None, mode: str = "raise") -> Any:
    indices = torch.as_tensor(indices, device=array.device)
    if axis is None:
        return torch.take(array, indices)
    rest = array.shape[axis % array.ndim + 1 :]
    shape = (*array.shape[: axis % array.ndim], *indices.shape, *rest)
    return array.index_select(axis, indices.reshape(-1)).reshape(shape)


def _identity(torch: Any, array: Any, *_: Any, **__: Any) -> Any:
    return torch.as_tensor(array)


_TORCH_SPECIAL: dict[str, Callable] = {
    "transpose": _transpose,
    "round": _round,
    "around": _round,
    "squeeze": _squeeze,
    "clip": _clip,
    "where": _where,
    "std": _deviation("std"),
    "var": _deviation("var"),
    "flip": _flip,
    "roll": _roll,
    "dot": _dot,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "real_if_close": _real_if_close,
    "array": _identity,
    "asarray": _identity,
    "copy": _identity,
    "prod": lambda torch, a, axis=None: torch.prod(a) if axis is None else torch.prod(a, axis),
    "cumsum": lambda torch, a, axis=None: torch.cumsum(a.reshape(-1) if axis is None else a, axis or 0),
    "imag": lambda torch, a: a.imag if a.is_complex() else torch.zeros_like(a),
    "atleast_1d": lambda torch, a: torch.atleast_1d(torch.as_tensor(a)),
    "repeat": lambda torch, a, repeats, axis=None: torch.repeat_interleave(a, repeats, axis),
    "take": _take,
    "max": lambda torch, a, axis=None, keepdims=False: torch.max(a) if axis is None else torch.amax(a, axis, keepdims),
    "min": lambda torch, a, axis=None, keepdims=False: torch.min(a) if axis is None else torch.amin(a, axis, keepdims),
    "trace": lambda torch, a: torch.diagonal(a).sum(),
    "ascontiguousarray": _identity,
}  # fmt: skip


def _torch_on_numpy(function: Callable, args: tuple, kwargs: dict) -> Any:
    """A torch function on NumPy values, without gradients: what the shadow values and branches need."""
    with plain_torch():
        result = function(
            *(_to_torch(a, None) for a in args), **{k: _to_torch(v, None) for k, v in kwargs.items()}
        )  # fmt: skip
        return _to_numpy(result)


def _to_numpy(result: Any) -> Any:
    if isinstance(result, _torch().Tensor):
        return result.resolve_conj().resolve_neg().cpu().numpy()
    if isinstance(result, list | tuple):
        return tuple(_to_numpy(r) for r in result)
    return result
