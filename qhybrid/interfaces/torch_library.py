"""QNodes as an operator registered with ``torch.library``, for graphs that ``torch.compile`` makes.

A compiler can look into neither a kernel nor PennyLane. It sees a QNode as the operator ``qhybrid::evaluate(call,
tensors)``, where ``call`` says in text which function of the tensors it is:

* ``node3(1,weights)``: the node named ``node3``, given one positional argument and ``weights``;
* ``pullback[10] ...``: the pullback of a function to those of its arguments that have a 1;
* ``vmap[0-] ...``: the function mapped over the first axis of the arguments that have a 0.

The operator's derivative and its batching rule are the operator again, so there are as many derivatives in a graph as
the QNode has outside. Backward runs the circuit forward once more: a graph holds tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from qhybrid.errors import CaptureError
from qhybrid.interfaces.names import node_named

#: Stands for a size of which a graph knows nothing.
_PROBE = 3
#: What a node returns: a tensor, or a tuple or list of tensors.
_CONTAINERS: dict[str, str] = {}


def evaluate_in_graph(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call of a node while PyTorch makes a graph of its caller.

    Args:
        name: of the node
        args, kwargs: of the call, tensors only

    Raises:
        CaptureError: an argument is no tensor, or a result is none, or the call is differentiated within the graph; the
            graph breaks at the call
    """
    if forward_ad._current_level >= 0 or _is_differentiated():  # read here, so that the compiler watches the level
        raise CaptureError("torch.func and forward mode cannot differentiate the operator that a QNode is in a graph")
    tensors = [*args, *kwargs.values()]
    if not all(isinstance(t, Tensor) for t in tensors):
        raise CaptureError("only tensors can be arguments of a QNode in a graph of PyTorch; bind all others before")
    call = f"{name}({len(args)},{','.join(kwargs)})"
    outputs = torch.ops.qhybrid.evaluate(call, tensors)
    container = _container(call)
    if container == "other":
        raise CaptureError("only a tensor, or a tuple or list of them, can be the result of a QNode in a graph")
    return outputs[0] if container == "tensor" else tuple(outputs) if container == "tuple" else outputs


@torch.compiler.assume_constant_result
def _is_differentiated() -> bool:
    """Whether ``torch.func`` differentiates what is traced: custom operators have no rules for it."""
    maps = torch._C._functorch.TransformType.Vmap
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() != maps for level in stack)


@torch.compiler.assume_constant_result
def _container(call: str) -> str:
    return _CONTAINERS[call]


# ------------------------------------------------------------------ the operator


@torch.library.custom_op("qhybrid::evaluate", mutates_args=())
def evaluate(call: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The results of a call."""
    with torch.no_grad():
        return [t.clone(memory_format=torch.contiguous_format) for t in _function(call)(*tensors)]


@evaluate.register_fake
def _(call: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the right sizes and dtypes."""
    if call.startswith("pullback"):
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in _needed(call, tensors)]
    first = _probe(call, _described(tensors, {}))
    shapes = [list(shape) for shape, _ in first]
    for name, size in {str(n): n for t in tensors for n in t.shape if not isinstance(n, int)}.items():
        try:
            moved = _probe(call, _described(tensors, {name: _example(size) + 2}))
        except Exception:  # noqa: BLE001 - whatever the circuit says to another size: this one is not open
            continue
        for shape, (before, _), (after, _) in zip(shapes, first, moved, strict=True):
            shape[:] = [size if a != b else n for n, a, b in zip(shape, before, after, strict=True)]
    return [tensors[0].new_empty(s, dtype=dtype) for s, (_, dtype) in zip(shapes, first, strict=True)]


def _example(size: Any) -> int:
    """A number for a size that a graph leaves open: the one that it was seen with."""
    return size if isinstance(size, int) else size.node.hint if size.node.has_hint() else _PROBE


def _described(tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
    """Shapes and dtypes, with numbers for open sizes: those of ``sizes``, or examples."""
    shapes = [tuple(sizes.get(str(n), _example(n)) for n in t.shape) for t in tensors]
    return tuple((shape, t.dtype) for shape, t in zip(shapes, tensors, strict=True))


@lru_cache(maxsize=256)
def _probe(
    call: str, described: tuple[tuple[tuple[int, ...], torch.dtype], ...]
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of the results of a call, from one at random numbers."""
    random = torch.Generator().manual_seed(0)
    with _disable_current_modes(), torch.no_grad():
        inputs = [torch.rand(shape, generator=random, dtype=torch.float64).to(dtype) for shape, dtype in described]
        return [(tuple(t.shape), t.dtype) for t in _function(call)(*inputs)]


# ------------------------------------------------------------------ derivative and batching rule


def _setup(ctx: Any, inputs: tuple[str, Sequence[Tensor]], output: Sequence[Tensor]) -> None:
    ctx.call, tensors = inputs
    ctx.flags = "".join(str(int(t.requires_grad)) for t in tensors)
    ctx.num_outputs = len(output)
    ctx.save_for_backward(*tensors, *[y.detach() for y in output])


def _backward(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[None, list[Tensor | None]]:
    split = len(ctx.saved_tensors) - ctx.num_outputs
    tensors, outputs = ctx.saved_tensors[:split], ctx.saved_tensors[split:]
    given = [torch.zeros_like(y) if c is None else c for c, y in zip(cotangents, outputs, strict=True)]
    found = iter(torch.ops.qhybrid.evaluate(f"pullback[{ctx.flags}] {ctx.call}", [*tensors, *given]))
    return None, [next(found) if flag == "1" else None for flag in ctx.flags]


evaluate.register_autograd(_backward, setup_context=_setup)


@evaluate.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], call: str, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    dims = in_dims[1]
    moved = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
    flags = "".join("-" if d is None else "0" for d in dims)
    outputs = torch.ops.qhybrid.evaluate(f"vmap[{flags}] {call}", moved)
    return outputs, [0] * len(outputs)


# ------------------------------------------------------------------ what a call means


def _function(call: str) -> Callable[..., list[Tensor]]:
    """The function of tensors that ``call`` is."""
    head, _, rest = call.partition(" ")
    if not rest:
        return _node(call)
    kind, _, flags = head.rstrip("]").partition("[")
    inner = _function(rest)
    if kind == "vmap":
        return torch.vmap(inner, tuple(None if f == "-" else 0 for f in flags))
    return _pullback(inner, [f == "1" for f in flags])


def _node(call: str) -> Callable[..., list[Tensor]]:
    name, _, arguments = call.rstrip(")").partition("(")
    count, _, names = arguments.partition(",")
    keywords = names.split(",") if names else []

    def function(*tensors: Tensor) -> list[Tensor]:
        split = int(count)
        named = dict(zip(keywords, tensors[split:], strict=True))
        result = node_named(name).call_outside_of_graphs(tensors[:split], named)
        several = [result] if isinstance(result, Tensor) else result
        flat = isinstance(several, tuple | list) and all(isinstance(t, Tensor) for t in several)
        _CONTAINERS[call] = "other" if not flat else "tensor" if isinstance(result, Tensor) else type(result).__name__
        return list(several) if flat else []

    return function


def _pullback(inner: Callable[..., list[Tensor]], needs: list[bool]) -> Callable[..., list[Tensor]]:
    """Cotangents of the needed tensors, as a function of all tensors and the cotangents of the results."""

    def function(*values: Tensor) -> list[Tensor]:
        create_graph = torch.is_grad_enabled()
        tensors, cotangents = values[: len(needs)], values[len(needs) :]
        with _recording():
            inputs = [t.view_as(t) if create_graph else t.detach() for t in tensors]
            needed = [t if t.requires_grad else t.requires_grad_() for t, n in zip(inputs, needs, strict=True) if n]
            pairs = [(y, c) for y, c in zip(inner(*inputs), cotangents, strict=True) if y.requires_grad]
            outputs, given = zip(*pairs, strict=True) if pairs else ((), ())
            return list(torch.autograd.grad(outputs, needed, given, create_graph=create_graph, materialize_grads=True))

    return function


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd as outside of an operator, within which PyTorch keeps it out."""
    keys, excluded = torch._C.DispatchKey, torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.AutogradNestedTensor):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        yield


def _needed(call: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    flags = call.partition("[")[2].partition("]")[0]
    return [t for t, flag in zip(tensors, flags, strict=False) if flag == "1"]
