"""Arguments of a call to a hashable key and a list of traced leaves, and back.

``flatten(args, kwargs) -> (key, leaves)`` is what a cached trace is looked up with; ``unflatten(key, leaves)`` gives
``(args, kwargs)`` with other leaves, for example tracers, in their places. ``leaf_names(key, function)`` names the
leaves for messages, ``trainable(leaves)`` copies them for a plain recording, and ``static_objects(key)`` lists the
arguments that a key knows by identity only, so that :func:`qhybrid.capture.guards.environment_guard` can watch what is
inside them.

Traced are floating-point and complex arrays and tensors of any host and Python and NumPy floats; everything else is
static, a part of the key. A key is a pair: one item for each positional argument, one ``(name, item)`` pair for each
keyword argument. An item is a tuple that starts with a tag from the list below.
"""

from __future__ import annotations

import enum
import inspect
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from autograd.builtins import DictBox, SequenceBox
from autograd.tracer import Box
from pennylane import numpy as pnp
from pennylane.operation import Operator
from pennylane.wires import Wires

from qhybrid.capture.replay import plain_torch
from qhybrid.capture.tracer import Tracer
from qhybrid.capture.values import concrete, is_functorch, is_tensor
from qhybrid.errors import CaptureError, CircuitError, HostTracesError

#: Tags of traced leaves: the host that the leaf belongs to.
NUMPY, AUTOGRAD, TORCH = "numpy", "autograd", "torch"
#: Other tags: a Python scalar type, a container, an array kept by content, a value, an object kept by identity.
SCALAR, LIST, DICT, ARRAY, TENSOR, SLICE, VALUE, OBJECT = (
    "scalar", "list", "dict", "array", "tensor", "slice", "value", "object",
)  # fmt: skip
LEAVES = frozenset({NUMPY, AUTOGRAD, TORCH, SCALAR})

Item = tuple
Key = tuple[tuple[Item, ...], tuple[tuple[str, Item], ...]]
Handler = Callable[[Any, list], Item]


class Identity:
    """A reference that compares by identity and keeps its object alive, so that the identity is never reused."""

    __slots__ = ("object",)

    def __init__(self, obj: Any) -> None:
        self.object = obj

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.object is self.object

    def __hash__(self) -> int:
        return id(self.object)


def flatten(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Key, list[Any]]:
    """Split arguments into a hashable key and the leaves that are traced.

    Args:
        args, kwargs: the arguments of one call

    Returns:
        the key, and the leaves in the order of the arguments

    Raises:
        CaptureError: an argument has no key, so that a trace could not be matched to it

    Example:
        >>> key, leaves = flatten((0.5, [1, np.ones(3)]), {"depth": 2})
        >>> leaves
        [0.5, array([1., 1., 1.])]
        >>> key == flatten((0.7, [1, np.zeros(3)]), {"depth": 2})[0]
        True
    """
    leaves: list[Any] = []
    items = tuple([_HANDLERS[type(a)](a, leaves) for a in args])
    if not kwargs:
        return (items, ()), leaves
    return (items, tuple([(k, _HANDLERS[type(a)](a, leaves)) for k, a in kwargs.items()])), leaves


def unflatten(key: Key, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that ``key`` stands for, with ``leaves`` in the places of the traced leaves."""
    rest = iter(leaves)
    items, named = key
    return tuple(_rebuild(i, rest) for i in items), {k: _rebuild(i, rest) for k, i in named}


def leaf_names(key: Key, function: Callable | None = None) -> list[str]:
    """Names of the leaves for messages, as in ``x``, ``weights[2]`` or ``params['a']``.

    Args:
        key: from :func:`flatten`
        function: takes the arguments; its signature names the positional ones
    """
    items, named = key
    names: list[str] = []
    for name, item in zip(_positional_names(function, len(items)), items, strict=True):
        names += _walk_names(name, item)
    for name, item in named:
        names += _walk_names(name, item)
    return names


def static_objects(key: Key) -> list[Any]:
    """The arguments that the key knows by identity only: functions, modules, objects of the user's classes."""
    items, named = key
    return [obj for item in (*items, *(i for _, i in named)) for obj in _walk_objects(item)]


def same_arguments(first: Any, second: Any) -> bool:
    """Whether two rebuilt arguments, or containers of them, hold the same values: nothing was changed in place."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_arguments, first, second))
    if isinstance(first, dict):
        return [*first] == [*second] and all(map(same_arguments, first.values(), second.values()))
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if is_tensor(first):
        return bool((first == second).all())
    return first is second or (isinstance(first, slice) and first == second)


def holds_tensor(key: Key) -> bool:
    """Whether a torch tensor of integers is among the arguments."""
    items, named = key
    return any(_holds_tensor(item) for item in (*items, *(i for _, i in named)))


def _holds_tensor(item: Item) -> bool:
    if item[0] == LIST:
        return any(map(_holds_tensor, item[2]))
    if item[0] == DICT:
        return any(_holds_tensor(inner) for _, inner in item[2])
    return item[0] == TENSOR


def trainable(leaves: Sequence[Any]) -> list[Any]:
    """Copies of the leaves that require gradients, with the leaves' values.

    A plain recording must use them to be comparable with a trace: PennyLane drops gates of untrainable zero angles.
    """
    copies: list[Any] = []
    for leaf in leaves:
        if hasattr(leaf, "requires_grad_"):
            with plain_torch():
                copies.append(sys.modules["torch"].as_tensor(concrete(leaf)).clone().requires_grad_())
        else:
            copies.append(pnp.tensor(np.array(concrete(leaf)), requires_grad=True))
    return copies


# ------------------------------------------------------------------ one handler a type


class _Handlers(dict):
    """Handlers by exact type; a type that is met for the first time is classified once."""

    def __missing__(self, kind: type) -> Handler:
        handler = _classify(kind)
        self[kind] = handler
        return handler


def _value(value: Any, leaves: list) -> Item:
    return (VALUE, type(value), value)


def _scalar(value: Any, leaves: list) -> Item:
    leaves.append(value)
    return (SCALAR, type(value))


def _array(array: np.ndarray, leaves: list) -> Item:
    dtype = array.dtype
    if dtype.kind in "fc":
        leaves.append(array)
        return (NUMPY, array.shape, dtype)
    return _static_array(array, type(array))


def _pennylane_tensor(array: Any, leaves: list) -> Item:
    dtype = array.dtype
    if dtype.kind in "fc":
        leaves.append(array)
        return (AUTOGRAD, array.shape, dtype)
    return _static_array(array, pnp.tensor)


def _static_array(array: np.ndarray, kind: type) -> Item:
    if array.dtype.hasobject:
        raise CaptureError("an array of Python objects is an argument; pass a list of numbers or one numeric array")
    return (ARRAY, kind, array.dtype, array.shape, array.tobytes())


def _box(box: Box, leaves: list) -> Item:
    value = box._value
    while isinstance(value, Box):
        value = value._value
    value = np.asarray(value)
    leaves.append(box)
    return (AUTOGRAD, value.shape, value.dtype)


def _torch_tensor(tensor: Any, leaves: list) -> Item:
    dtype = tensor.dtype
    if dtype.is_floating_point or dtype.is_complex:
        if tensor.is_meta:
            raise CircuitError("An argument is a tensor on the device 'meta', which has no values; move it to 'cpu'.")
        leaves.append(tensor)
        return (TORCH, tensor.shape, dtype, tensor.device)
    if is_functorch(tensor):
        raise CaptureError("an integer tensor is an argument under torch.func: its values cannot be read")
    return (TENSOR, dtype, tuple(tensor.shape), tensor.cpu().numpy().tobytes())


def _jax_array(value: Any, leaves: list) -> Item:
    compiling = not sys.modules["jax"].core.is_concrete(value)
    raise HostTracesError(
        "an argument is a JAX array; put the call under jax.jit to record the function only once", once=compiling
    )


def _sequence(values: Any, leaves: list) -> Item:
    return (LIST, type(values), tuple([_HANDLERS[type(v)](v, leaves) for v in values]))


def _boxed_sequence(box: Any, leaves: list) -> Item:
    values = [box[i] for i in range(len(box))]
    kind = list if isinstance(concrete(box), list) else tuple
    return (LIST, kind, tuple([_HANDLERS[type(v)](v, leaves) for v in values]))


def _mapping(values: Any, leaves: list) -> Item:
    kind = dict if isinstance(values, DictBox) else type(values)
    for name in values:
        if not isinstance(name, str | int | tuple | bool | None):
            raise CaptureError(f"a dict argument has a key of type {type(name).__name__}; use strings or integers")
    return (DICT, kind, tuple([(k, _HANDLERS[type(values[k])](values[k], leaves)) for k in values]))


def _slice(value: slice, leaves: list) -> Item:
    parts = (value.start, value.stop, value.step)
    if not all(p is None or type(p) is int for p in parts):
        raise CaptureError(f"the argument {value} is a slice whose limits are not integers")
    return (SLICE, *parts)


def _operator(op: Operator, leaves: list) -> Item:
    numbers: list[Any] = []
    data = tuple([_HANDLERS[type(d)](d, numbers) for d in op.data])
    for number in numbers:
        if isinstance(number, Box) or is_functorch(number) or getattr(number, "requires_grad", False):
            raise CaptureError(f"the argument {op.name} has trainable parameters; pass them as arguments of their own")
    content = tuple(np.asarray(concrete(n)).tobytes() for n in numbers)
    return (OBJECT, Identity(op), data, content)


def _object(value: Any, leaves: list) -> Item:
    return (OBJECT, Identity(value))


def _tracer(value: Tracer, leaves: list) -> Item:
    raise value.refuse("a value that is being traced was passed to another circuit")


_BY_VALUE: frozenset[type] = frozenset({int, bool, str, bytes, type(None), type(Ellipsis), range, Wires})

_HANDLERS: dict[type, Handler] = _Handlers(
    {
        **dict.fromkeys(_BY_VALUE, _value),
        float: _scalar,
        complex: _scalar,
        np.ndarray: _array,
        pnp.tensor: _pennylane_tensor,
        list: _sequence,
        tuple: _sequence,
        dict: _mapping,
        OrderedDict: _mapping,
        SequenceBox: _boxed_sequence,
        DictBox: _mapping,
        slice: _slice,
        Tracer: _tracer,
    }
)


def _classify(kind: type) -> Handler:
    """The handler of a type that is not in the table."""
    torch = sys.modules.get("torch")
    if torch is not None:
        if issubclass(kind, torch.Tensor):
            return _torch_tensor
        if issubclass(kind, torch.dtype | torch.device):
            return _value
    jax = sys.modules.get("jax")
    if jax is not None and issubclass(kind, jax.Array):
        return _jax_array
    rules: tuple[tuple[type | tuple[type, ...], Handler], ...] = (
        (Box, _box),
        ((np.floating, np.complexfloating), _scalar),
        ((np.generic, np.dtype, enum.Enum), _value),
        (Operator, _operator),
        ((set, frozenset), _refuse),
        ((list, dict), _refuse),
        (np.ndarray, _refuse),
        ((types.GeneratorType, Iterator), _refuse),
    )
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _sequence
    return next((handler for base, handler in rules if issubclass(kind, base)), _object)


def _refuse(value: Any, leaves: list) -> Item:
    raise CaptureError(f"an argument is a {type(value).__name__}; pass lists, tuples, dicts, numbers or arrays")


# ------------------------------------------------------------------ reading keys


def _rebuild(item: Item, leaves: Iterator[Any]) -> Any:
    tag = item[0]
    if tag in LEAVES:
        return next(leaves)
    if tag == LIST:
        values = [_rebuild(i, leaves) for i in item[2]]
        return item[1](*values) if hasattr(item[1], "_fields") else item[1](values)
    if tag == DICT:
        return item[1]((k, _rebuild(i, leaves)) for k, i in item[2])
    if tag == ARRAY:
        array = np.frombuffer(item[4], dtype=item[2]).reshape(item[3]).copy()
        return array if item[1] is np.ndarray else pnp.tensor(array, requires_grad=False)
    if tag == TENSOR:
        torch = sys.modules["torch"]
        count = int(np.prod(item[2]))
        return torch.frombuffer(bytearray(item[3]), dtype=item[1]).reshape(item[2]) if count else torch.empty(
            item[2], dtype=item[1]
        )  # fmt: skip
    if tag == SLICE:
        return slice(*item[1:])
    return item[2] if tag == VALUE else item[1].object


def _walk_names(name: str, item: Item) -> Iterator[str]:
    tag = item[0]
    if tag in LEAVES:
        yield name
    elif tag == LIST:
        for i, inner in enumerate(item[2]):
            yield from _walk_names(f"{name}[{i}]", inner)
    elif tag == DICT:
        for k, inner in item[2]:
            yield from _walk_names(f"{name}[{k!r}]", inner)


def _walk_objects(item: Item) -> Iterator[Any]:
    tag = item[0]
    if tag == OBJECT and not isinstance(item[1].object, Operator):
        yield item[1].object
    elif tag == LIST:
        for inner in item[2]:
            yield from _walk_objects(inner)
    elif tag == DICT:
        for _, inner in item[2]:
            yield from _walk_objects(inner)


def _positional_names(function: Callable | None, count: int) -> list[str]:
    names: list[str] = []
    try:
        parameters = list(inspect.signature(function).parameters.values()) if function is not None else []
    except (TypeError, ValueError):  # some builtin callables have no signature
        parameters = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(count - len(names))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    names += [f"argument {i}" for i in range(len(names), count)]
    return names[:count]
