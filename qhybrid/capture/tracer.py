"""Running a quantum function once with tracers in the place of its arguments.

    graph = Graph()
    tracers = graph.inputs(leaves)             # leaves from qhybrid.capture.signature.flatten
    with graph:                                # recording AND lowering happen inside, also math on parameters
        ...
        root = as_root(graph, parameter)       # Tracer, or None if the parameter never changes
    if graph.poison: raise CaptureError(graph.poison)

A :class:`Tracer` carries a *shadow*: the concrete NumPy value of the first call. Shapes, dtypes and branches come from
it; ``bool(tracer)`` notes a branch in ``graph.branches``. Whatever would bake a value in (``float``, ``item``, in-place
writes, random numbers) raises :class:`CaptureError` and poisons the graph, so that no ``try`` can hide it. Trainable
torch tensors that the function reads from outside are nodes of their own (``captured(graph)`` lists them).
"""

from __future__ import annotations

import operator
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import autoray
import numpy as np
import pennylane as qml
from autograd.tracer import Box
from pennylane import numpy as pnp
from pennylane.operation import Operator
from pennylane.ops import MeasurementValue

from qhybrid.capture import hooks
from qhybrid.capture.replay import (
    CALL,
    CAPTURED,
    INPUT,
    NUMPY,
    PACK,
    TORCH,
    Ref,
    cast,
    evaluate,
    numpy_function,
    plain_torch,
    substitute,
)
from qhybrid.capture.values import concrete, is_batched, is_functorch, is_tensor
from qhybrid.errors import CaptureError

_LOCAL = threading.local()


@dataclass(frozen=True, slots=True)
class Node:
    """One recorded step: what computes it, from what, and its shadow value."""

    kind: str
    function: Any
    args: tuple
    kwargs: dict[str, Any]
    value: Any


class Graph:
    """What one traced run of a function computed.

    Attributes:
        nodes: in the order of computation
        branches: pairs of a node and the truth value that the run saw
        poison: why the trace must not be used, ``None`` if it may
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.branches: list[tuple[int, bool]] = []
        self.poison: str | None = None
        self.host = "numpy"
        self.device: Any = "cpu"
        self.active = False
        self._sampled = False
        self._memo: dict[Any, Tracer] = {}
        self._captured: dict[int, Tracer] = {}
        self._stack = ExitStack()

    def inputs(self, leaves: Sequence[Any]) -> list[Tracer]:
        """One tracer for each leaf.

        Raises:
            CaptureError: the value of a leaf cannot be read
        """
        for leaf in leaves:
            if is_tensor(leaf):
                self.host, self.device = "torch", leaf.device
            elif self.host == "numpy" and isinstance(leaf, Box | pnp.tensor):
                self.host = "autograd"
        self._sampled = any(is_batched(leaf) for leaf in leaves)
        return [self._add(INPUT, i, (), {}, concrete(leaf)) for i, leaf in enumerate(leaves)]

    def __enter__(self) -> Graph:
        hooks.install(Tracer)
        self._random_state = _random_state()
        self._outer = getattr(_LOCAL, "graph", None)
        _LOCAL.graph = self
        self.active = True
        if (torch := sys.modules.get("torch")) is not None:
            from qhybrid.capture.lifting import TrainableTensors

            self._stack.enter_context(torch.enable_grad())
            self._stack.enter_context(TrainableTensors(self))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()
        self.active = False
        _LOCAL.graph = self._outer
        if _random_state() != self._random_state:
            self.refuse("random numbers were drawn")

    def refuse(self, reason: str) -> CaptureError:
        """Poison the graph; returns the error to raise."""
        self.poison = self.poison or reason
        return CaptureError(reason)

    def record(self, kind: str, function: Any, args: tuple, kwargs: dict[str, Any] | None = None) -> Any:
        """Compute a step on shadow values and note it.

        Args:
            kind, function: as in :mod:`qhybrid.capture.replay`
            args, kwargs: with tracers in them

        Returns:
            a tracer, or a tuple of tracers, or a value that does not depend on values of the arguments (a dtype)
        """
        if not self.active:
            raise self.refuse("a traced value was kept and used after its trace had ended")
        stored = tuple(self._store(a) for a in args)
        named = {k: self._store(v) for k, v in (kwargs or {}).items()}
        key = _memo_key((kind, function, stored, named))
        if key is not None and key in self._memo:
            return self._memo[key]
        value = evaluate(kind, function, self._shadow(stored), self._shadow(named), "numpy")
        if value is None:
            raise self.refuse(f"{_name(function)} changes its argument in place")
        if isinstance(value, str | np.dtype | type):
            return value
        result = self._add(kind, function, stored, named, value)
        if isinstance(value, tuple | list):
            parts = (self._add(CALL, operator.getitem, (Ref(result._index), k), {}, v) for k, v in enumerate(value))
            return type(value)(parts) if type(value) in (tuple, list) else tuple(parts)
        if key is not None:
            self._memo[key] = result
        return result

    def capture(self, tensor: Any) -> Tracer:
        """The node of a trainable torch tensor that is read from outside on every call."""
        if not tensor.is_leaf or is_functorch(tensor):
            raise self.refuse("a trainable tensor computed outside the circuit is read in it; pass it as an argument")
        if id(tensor) not in self._captured:
            self.host, self.device = "torch", tensor.device
            self._captured[id(tensor)] = self._add(CAPTURED, tensor, (), {}, concrete(tensor))
        return self._captured[id(tensor)]

    def branch(self, tracer: Tracer) -> bool:
        """The truth value of a tracer in this run, noted."""
        if self._sampled:
            raise self.refuse("a branch depends on a value under torch.func.vmap")
        value = bool(tracer._value)
        self.branches.append((tracer._index, value))
        return value

    def _add(self, kind: str, function: Any, args: tuple, kwargs: dict[str, Any], value: Any) -> Tracer:
        self.nodes.append(Node(kind, function, args, kwargs, value))
        return Tracer(self, len(self.nodes) - 1, value)

    def _shadow(self, stored: Any) -> Any:
        return substitute(stored, lambda i: self.nodes[i].value)

    def _store(self, argument: Any) -> Any:
        """An argument as it is kept in a node: tracers as references, constants as copies."""
        kind = type(argument)
        if kind is Tracer:
            if argument._graph is not self:
                raise self.refuse("values of two traces meet: one circuit is called inside another")
            return Ref(argument._index)
        if isinstance(argument, np.ndarray):
            if argument.dtype == object:
                return Ref(pack(self, argument)._index)
            return np.array(argument)
        if isinstance(argument, Box):
            raise self.refuse("a value that autograd differentiates is read from outside; pass it as an argument")
        if is_tensor(argument):
            if argument.requires_grad or is_functorch(argument):
                return Ref(self.capture(argument)._index)
            return concrete(argument).copy()
        if isinstance(argument, list | tuple):
            kept = [self._store(a) for a in argument]
            return kept if isinstance(argument, list) else tuple(kept)
        if kind is dict:
            return {k: self._store(v) for k, v in argument.items()}
        return argument


def as_root(graph: Graph, value: Any) -> Tracer | None:
    """The node that a parameter of the circuit comes from, ``None`` if it is a constant.

    Args:
        graph: the active trace
        value: a tracer, a number, an array or tensor of any host, or an array or list with tracers in it

    Raises:
        CaptureError: the parameter changes from call to call in a way that the trace does not see
    """
    if isinstance(value, Tracer):
        if value._graph is not graph:
            raise graph.refuse("a parameter belongs to another trace")
        return value
    if isinstance(value, Box):
        raise graph.refuse("a value that autograd differentiates is read from outside; pass it as an argument")
    if is_tensor(value):
        return graph.capture(value) if value.requires_grad or is_functorch(value) else None
    if isinstance(value, list | tuple):
        value = np.array(value, dtype=object) if any(isinstance(v, Tracer) for v in _flat(value)) else np.empty(0)
    if isinstance(value, np.ndarray) and value.dtype == object and any(isinstance(v, Tracer) for v in value.flat):
        return pack(graph, value)
    return None


def captured(graph: Graph) -> list[Any]:
    """The trainable torch tensors that the traced function read from outside; they are read again on every call."""
    return [node.function for node in graph.nodes if node.kind == CAPTURED]


def active_graph() -> Graph | None:
    """The graph that this thread is recording into."""
    return getattr(_LOCAL, "graph", None)


def pack(graph: Graph, array: np.ndarray) -> Tracer:
    """An object array with scalar tracers in it as one tracer."""
    return graph.record(PACK, array.shape, (list(array.flat),))


# ------------------------------------------------------------------ small helpers


def _random_state() -> tuple:
    """The global random states that a trace must not advance."""
    found = np.random.get_state(legacy=False)  # noqa: NPY002
    numpy_state, spare = found["state"], (found["has_gauss"], found["gauss"])  # normal numbers are made in pairs
    state: tuple = (random.getstate(), numpy_state["pos"], numpy_state["key"].tobytes(), spare)
    if (torch := sys.modules.get("torch")) is not None:
        with plain_torch():
            state += (torch.get_rng_state().numpy().tobytes(),)
    return state


def _name(function: Any) -> str:
    return function if isinstance(function, str) else getattr(function, "__name__", repr(function))


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _memo_key(argument: Any) -> Any:
    """A hashable key of a recorded step, ``None`` if it has none; equal steps are computed once."""
    try:
        key = _freeze(argument)
        hash(key)
    except TypeError:
        return None
    return key


def _freeze(argument: Any) -> Any:
    kind = type(argument)
    if kind is Ref:
        return (Ref, argument.index)
    if kind in (list, tuple):
        return (kind, *[_freeze(a) for a in argument])
    if kind is dict:
        return (dict, *[(k, _freeze(argument[k])) for k in sorted(argument)])
    if kind is slice:
        return (slice, _freeze(argument.start), _freeze(argument.stop), _freeze(argument.step))
    if kind is np.ndarray:
        return (kind, argument.dtype.str, argument.shape, argument.tobytes())
    return (kind, repr(argument) if kind is float else argument)


# ------------------------------------------------------------------ the tracer


class Size(int):
    """``x.size``: a number as in NumPy that can be called as in torch."""

    shape: tuple[int, ...]

    def __call__(self, axis: int | None = None) -> Any:
        """The shape, or one axis of it."""
        return self.shape if axis is None else self.shape[axis]


class Tracer:
    """Stands for an argument, or for what is computed from it, while a function is traced.

    It answers to NumPy, to torch and to PennyLane's ``math`` (as a NumPy array that requires gradients).
    """

    __slots__ = ("__weakref__", "_graph", "_index", "_value")
    __array_priority__ = 1e9
    requires_grad = True

    def __init__(self, graph: Graph, index: int, value: Any) -> None:
        self._graph, self._index, self._value = graph, index, value

    def refuse(self, reason: str) -> CaptureError:
        """Poison the trace; returns the error to raise."""
        return self._graph.refuse(reason)

    # what is known without a value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in this call."""
        return np.shape(self._value)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return np.ndim(self._value)

    @property
    def size(self) -> Size:
        """Number of elements; called as ``size()`` or ``size(axis)``, the shape."""
        size = Size(np.size(self._value))
        size.shape = self.shape
        return size

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype."""
        return np.asarray(self._value).dtype

    @property
    def device(self) -> Any:
        """Torch's device, ``"cpu"`` for other hosts."""
        return self._graph.device

    def numel(self) -> int:
        """Number of elements."""
        return int(np.size(self._value))

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tracer]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return f"Tracer(%{self._index}, shape={self.shape})"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __hash__(self) -> int:
        return id(self)

    def __copy__(self) -> Tracer:
        return self

    def __deepcopy__(self, memo: dict) -> Tracer:
        return self

    # what would need a value

    def __bool__(self) -> bool:
        return self._graph.branch(self)

    def __float__(self) -> float:
        raise self.refuse("the function turns an argument into a Python number")

    __int__ = __complex__ = __index__ = __float__  # type: ignore[assignment]

    def item(self, *index: int) -> Any:
        """Refused: it would bake a value in."""
        raise self.refuse("the function reads a value with item()")

    def numpy(self, **options: Any) -> Any:
        """Refused: it would bake values in."""
        raise self.refuse("the function turns a tensor into a NumPy array")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise self.refuse("the function writes into an argument in place")

    def tolist(self) -> Any:
        """Nested lists of scalar tracers."""
        return [row.tolist() for row in self] if self.ndim else self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != object:
            raise self.refuse(f"the function makes an array of dtype {np.dtype(dtype)} of an argument")
        out = np.empty(self.shape, dtype=object)
        for index in np.ndindex(self.shape):
            out[index] = self[index] if self.ndim else self
        return out

    # NumPy and torch protocols

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if kwargs.pop("out", None) is not None or method == "at":
            raise self.refuse(f"the function writes the result of {ufunc.__name__} into an existing array")
        if method != "__call__":
            name = _UFUNC_METHODS.get((ufunc.__name__, method))
            if name is None:
                return self._graph.record(CALL, getattr(ufunc, method), inputs, kwargs)
            return self._graph.record(NUMPY, name, inputs, kwargs)
        if getattr(np, ufunc.__name__, None) is ufunc:
            return self._graph.record(NUMPY, ufunc.__name__, inputs, kwargs)
        return self._graph.record(CALL, ufunc, inputs, kwargs)

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        name = _numpy_name(function)
        if name in _IN_PLACE or kwargs.get("out") is not None:
            raise self.refuse(f"{name} writes into an existing array")
        if name in _STATIC:
            graph = self._graph
            shadows = [graph._shadow(graph._store(a)) for a in (args, kwargs)]
            return function(*shadows[0], **shadows[1])
        return self._graph.record(NUMPY, name, args, kwargs)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        graph = active_graph()
        if graph is None:
            raise CaptureError("a traced value was kept and used after its trace had ended")
        return record_torch(graph, function, args, kwargs or {})

    def __getitem__(self, index: Any) -> Any:
        if any(isinstance(i, Tracer) for i in (index if isinstance(index, tuple) else (index,))):
            raise self.refuse("the function indexes with a value that is computed from an argument")
        return self._graph.record(CALL, operator.getitem, (self, index))

    # methods

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in _ABSENT:
            raise AttributeError(f"a traced value has no attribute {name!r}")
        if name in ("T", "real", "imag"):
            return self._graph.record(NUMPY, "transpose" if name == "T" else name, (self,))
        if self._graph.host == "torch":
            method = getattr(sys.modules["torch"].Tensor, name, None)
            if callable(method):
                return lambda *args, **kwargs: record_torch(self._graph, method, (self, *args), kwargs)
        if name in _ARRAY_METHODS:
            return lambda *args, **kwargs: _array_method(self, name, args, kwargs)
        raise AttributeError(f"a traced value has no attribute {name!r}")

    def copy(self) -> Tracer:
        """Itself: a traced value never changes."""
        return self

    clone = contiguous = copy

    def astype(self, dtype: Any, **options: Any) -> Any:
        """The same numbers in another floating or complex dtype."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        if dtype.kind not in "fc" or (dtype.kind == "f" and self.dtype.kind == "c"):
            raise self.refuse(f"the function casts an argument to {dtype}")
        return self._graph.record(CALL, cast, (self, dtype.name))

    def flatten(self, *args: Any, **kwargs: Any) -> Any:
        """One axis of all elements, or torch's flatten of a range of axes."""
        if args or kwargs:
            return self.__getattr__("flatten")(*args, **kwargs)
        return self._graph.record(NUMPY, "reshape", (self, (-1,)))

    @property
    def flat(self) -> Iterator[Tracer]:
        """Iterates over all elements."""
        return iter(self.flatten())

    # operators that are not made by the loops below

    def __pos__(self) -> Tracer:
        return self

    def __neg__(self) -> Any:
        return self._graph.record(CALL, operator.neg, (self,))

    def __abs__(self) -> Any:
        return self._graph.record(NUMPY, "absolute", (self,))

    def __invert__(self) -> Any:
        return self._graph.record(NUMPY, "logical_not", (self,))

    def __round__(self, digits: int | None = None) -> Any:
        if digits is None:
            raise self.refuse("the function rounds an argument to a Python integer")
        return self._graph.record(NUMPY, "round", (self, digits))


def record_torch(graph: Graph, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Record a torch function or method; refuse what writes in place, draws random numbers or hides gradients."""
    name = getattr(function, "__name__", "")
    if name == "__setitem__" or kwargs.get("out") is not None or kwargs.get("inplace"):
        raise graph.refuse("the function writes into a tensor in place")
    if name.endswith("_") and not name.endswith("__"):
        raise graph.refuse(f"the function calls the in-place torch function {name}")
    if name in _TORCH_VALUES:
        raise graph.refuse(f"the function reads values of a tensor with {name}")
    if name in ("batch_norm", "instance_norm") and any(a is True for a in args):
        raise graph.refuse(f"the function updates the statistics of {name}")
    if any(word in name for word in _TORCH_RANDOM):
        raise graph.refuse(f"the function draws random numbers with torch's {name}")
    if not sys.modules["torch"].is_grad_enabled():
        raise graph.refuse("the function computes with an argument under torch.no_grad()")
    return graph.record(TORCH, function, args, kwargs)


def _array_method(tracer: Tracer, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    if name in ("reshape", "view", "transpose", "permute") and args:
        args = (args[0] if isinstance(args[0], tuple | list) else args,)
    return tracer._graph.record(NUMPY, _ARRAY_METHODS[name], (tracer, *args), kwargs)


_NUMPY_NAMES: dict[Callable, str] = {}


def _numpy_name(function: Callable) -> str:
    if function not in _NUMPY_NAMES:
        name, module = function.__name__, getattr(function, "__module__", None) or ""
        for part in ("linalg", "fft"):
            if part in module and hasattr(getattr(np, part), name):
                name = f"{part}.{name}"
        if numpy_function(name) is not function and getattr(np, name.split(".")[0], None) is None:
            raise CaptureError(f"{name} is not a public NumPy function")
        _NUMPY_NAMES[function] = name
    return _NUMPY_NAMES[function]


_STATIC = {
    "shape", "ndim", "size", "result_type", "iscomplexobj", "isrealobj", "can_cast", "may_share_memory",
    "shares_memory", "common_type", "min_scalar_type", "zeros_like", "ones_like", "empty_like",
}  # fmt: skip
_IN_PLACE = {"copyto", "put", "place", "putmask", "fill_diagonal", "put_along_axis"}
_UFUNC_METHODS = {
    ("add", "reduce"): "sum",
    ("multiply", "reduce"): "prod",
    ("maximum", "reduce"): "max",
    ("minimum", "reduce"): "min",
    ("logical_and", "reduce"): "all",
    ("logical_or", "reduce"): "any",
    ("add", "accumulate"): "cumsum",
    ("multiply", "outer"): "outer",
}
_ARRAY_METHODS = {
    **{n: n for n in (
        "sum", "mean", "prod", "max", "min", "dot", "clip", "squeeze", "conj", "conjugate", "cumsum", "diagonal",
        "trace", "repeat", "swapaxes", "take", "round", "std", "var", "any", "all", "argmax", "argmin", "argsort",
        "reshape", "transpose",
    )},
    "view": "reshape", "ravel": "ravel", "unsqueeze": "expand_dims", "permute": "transpose",
}  # fmt: skip
_ABSENT = {
    "requires_grad_", "data", "grad", "grad_fn", "is_leaf", "batch_size", "wires", "name", "unwrap", "backward",
    "register_hook", "retain_grad", "toarray", "todense", "is_cuda", "layout", "base", "is_quantized",
}  # fmt: skip
_TORCH_VALUES = {
    "item", "numpy", "tensor", "tolist", "data_ptr", "__float__", "__int__", "__index__", "__complex__", "__array__",
}  # fmt: skip
_TORCH_RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal_", "poisson", "binomial", "gumbel", "rrelu")


def _binary(name: str, function: Callable, reflected: bool = False) -> Callable:
    def method(self: Tracer, other: Any) -> Any:
        if other is None or isinstance(other, str | MeasurementValue):
            return NotImplemented
        if isinstance(other, Operator):  # an operator multiplies only by the array types that it knows
            return qml.s_prod(self, other) if name == "mul" else NotImplemented
        return self._graph.record(CALL, function, (other, self) if reflected else (self, other))

    return method


def _in_place(name: str, function: Callable) -> Callable:
    def method(self: Tracer, other: Any) -> Any:
        node = self._graph.nodes[self._index]
        if self.ndim and (node.kind == INPUT or node.function in (operator.getitem, "reshape", "transpose")):
            raise self.refuse("the function changes an argument, or a view of one, in place")
        return self._graph.record(CALL, function, (self, other))

    return method


for _operation in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    _function, _plain = getattr(operator, _operation), _operation.strip("_")
    setattr(Tracer, f"__{_plain}__", _binary(_plain, _function))
    setattr(Tracer, f"__r{_plain}__", _binary(_plain, _function, reflected=True))
    setattr(Tracer, f"__i{_plain}__", _in_place(_plain, _function))
for _operation in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Tracer, f"__{_operation}__", _binary(_operation, getattr(operator, _operation)))
Tracer.__hash__ = lambda self: id(self)  # type: ignore[method-assign]

autoray.register_backend(Tracer, "numpy")
