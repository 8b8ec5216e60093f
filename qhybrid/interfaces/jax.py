"""Functions as JAX primitives: one that evaluates a function, and one that pushes tangents through it.

Evaluation has the function's own batching rule. The push-forward is what forward mode sees; it transposes to the
function's pullback, which is an evaluation again, as is the function's pushforward that forward mode evaluates, so that
both cost what they cost on any other host and a derivative is differentiable as often as the function is.

JAX pairs a cotangent with ``dz`` as ``Re(c dz)``, so its complex cotangents are the conjugates of those of
:class:`~qhybrid.execution.Function` and are conjugated on the way in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qhybrid.execution import Function
from qhybrid.interfaces import jax_ffi

Axes = tuple[tuple[int, tuple[bool, ...]], ...]


class _Residual:
    """What the last evaluation of a function left for its pullback, which takes it at the very same inputs.

    Args:
        is_wanted: whether there is a pullback; in compiled programs that is known when all of it is recorded
        num_axes: over how many axes the function was mapped before it was differentiated
    """

    def __init__(self, is_wanted: bool, num_axes: int) -> None:
        self.is_wanted, self._num_axes = is_wanted, num_axes
        self._left: tuple[Any, Axes, Any] = None, (), None

    def leave(self, inputs: Sequence[np.ndarray], axes: Axes, residual: Any) -> None:
        """Keep the residual of an evaluation, mapped over ``axes``, in place of that of the one before."""
        self._left = _contents(inputs), axes[: len(axes) - self._num_axes], residual

    def take(self, inputs: Sequence[np.ndarray], axes: Axes) -> Any | None:
        """The residual of an evaluation at these inputs, if it is still there; it is not kept any longer.

        Args:
            inputs: of the function
            axes: over which its pullback is mapped
        """
        (known, left, residual), self._left = self._left, (None, (), None)
        same = left == tuple((size, mapped[: len(inputs)]) for size, mapped in axes)
        return residual if same and known is not None and known == _contents(inputs) else None


def _contents(arrays: Sequence[np.ndarray]) -> list[tuple[tuple[int, ...], bytes]]:
    return [(a.shape, a.tobytes()) for a in arrays]


@dataclass(frozen=True)
class _Node:
    """A function, and the axes over which it is mapped.

    Args:
        function: without these axes
        axes: size of each, outermost first, and which inputs have it (in front); every output does
        residual: where evaluations leave what the pullback can use, and where that finds it
        wanted: of the pullback of ``function``, in place of that itself, the inputs whose cotangents are wanted
    """

    function: Function
    axes: Axes = ()
    residual: _Residual | None = None
    wanted: tuple[bool, ...] | None = None

    @cached_property
    def mapped(self) -> Function:
        """The function, or its pullback, with its axes."""
        return self._mapped(self.function if self.wanted is None else self.function.pullback(self.wanted))

    def _mapped(self, function: Function) -> Function:
        for size, mapped in reversed(self.axes):
            function = function.vmap(size, mapped)
        return function

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> _Node:
        """The node over one more axis."""
        return replace(self, axes=((size, mapped), *self.axes))

    def __call__(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """The outputs at ``inputs``, as NumPy arrays."""
        arrays = [np.asarray(x) for x in inputs]
        if self.residual is None or not self.residual.is_wanted:
            return self.mapped(*arrays)
        if self.wanted is None:
            outputs, residual = self.mapped.forward(*arrays)
            self.residual.leave(arrays, self.axes, residual)
            return outputs
        residual = self.residual.take(arrays[: len(self.wanted)], self.axes)
        if residual is None:
            return self.mapped(*arrays)
        pull = None if self.axes else self.function.pullback_at(self.wanted, residual)
        if pull is not None:
            return pull(*arrays[len(self.wanted) :])
        return self._mapped(self.function.pullback(self.wanted, residual))(*arrays)

    def outputs(self, inputs: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        """What the outputs will be: in the promoted precision of ``inputs``."""
        real = jnp.finfo(jnp.result_type(*(x.dtype for x in inputs))).dtype if inputs else jnp.result_type(float)
        dtypes = {"f": real, "c": jnp.result_type(real, jnp.complex64), "i": jnp.result_type(int)}
        return [jax.ShapeDtypeStruct(shape, dtypes[kind]) for shape, kind in self.mapped.output_types(inputs)]


def apply(function: Function, *tensors: Any) -> tuple[Any, ...]:
    """``function`` in JAX, under any of its transformations.

    Args:
        function: what to evaluate
        tensors: its inputs, real or complex; traced or not

    Returns:
        its outputs, in the promoted precision of the inputs
    """
    arrays = [jnp.asarray(t) for t in tensors]
    inexact = [a if jnp.issubdtype(a.dtype, jnp.inexact) else a.astype(float) for a in arrays]
    return tuple(_evaluate.bind(*inexact, node=_Node(function)))


def is_compiling(*arguments: Any) -> bool:
    """Whether JAX is making a program of a call with these arguments, to run it as often as it likes."""
    return any(map(_is_abstract, jax.tree.leaves(arguments)))


def _is_abstract(value: Any) -> bool:
    """Whether a value, below all that differentiates and maps it, has no numbers."""
    return isinstance(innermost(value), jax.core.Tracer)


def innermost(value: Any) -> Any:
    """A value below all that differentiates and maps it: an array, or a tracer if JAX is making a program."""
    inner = getattr(value, "primal", None)  # of a tracer that differentiates; one that maps has a `batch_dim`
    if inner is None and hasattr(value, "batch_dim"):
        inner = value.val
    return value if inner is None else innermost(inner)


@jax.custom_jvp
def moving_zero(value: Any) -> Any:
    """Zero with the derivative of ``value``: NaN where that is not finite, since a compiled program cannot raise."""
    return jnp.zeros_like(value)


@moving_zero.defjvp
def _moving_zero_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    (value,), (tangent,) = primals, tangents
    return moving_zero(value), tangent * jnp.where(jnp.isfinite(value), 1.0, jnp.nan).astype(value.dtype)


# ------------------------------------------------------------------ evaluation

_evaluate = Primitive("qhybrid_evaluate")
_evaluate.multiple_results = True


@_evaluate.def_impl
def _evaluate_now(*inputs: Any, node: _Node) -> list[Any]:
    return [jnp.asarray(v, t.dtype) for v, t in zip(node(*inputs), node.outputs(inputs), strict=True)]


@_evaluate.def_abstract_eval
def _evaluate_types(*inputs: Any, node: _Node) -> list[Any]:
    return [jax.core.ShapedArray(t.shape, t.dtype) for t in node.outputs(inputs)]


def _evaluate_later(*inputs: Any, node: _Node) -> Any:
    """In programs that are compiled for anything but a CPU: a callback, for which JAX moves all numbers."""
    types = tuple(node.outputs(inputs))

    def run(*xs: Any) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(v, dtype=t.dtype) for v, t in zip(node(*xs), types, strict=True))

    return jax.pure_callback(run, types, *inputs, vmap_method="sequential")


def _evaluate_batch(inputs: Sequence[Any], dims: Sequence[Any], *, node: _Node) -> tuple[list[Any], list[int]]:
    size, mapped, moved = _in_front(inputs, dims)
    outputs = _evaluate.bind(*moved, node=node.vmap(size, mapped))
    return outputs, [0] * len(outputs)


def _evaluate_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, node: _Node) -> tuple[list[Any], list[Any]]:
    if node.wanted is None:
        node = replace(node, residual=_Residual(not is_compiling(*primals), len(node.axes)))
    outputs = _evaluate.bind(*primals, node=node)
    if node.wanted is not None:
        node = replace(node, residual=None)  # that of the function, none of the pullback's own
    needs = tuple(not isinstance(t, ad.Zero) for t in tangents)
    moving = iter(_push.bind(*primals, *(t for t, n in zip(tangents, needs, strict=True) if n), node=node, needs=needs))
    return outputs, [
        next(moving) if _inexact(y) else ad.Zero(jax.core.ShapedArray(y.shape, jax.dtypes.float0)) for y in outputs
    ]


mlir.register_lowering(_evaluate, mlir.lower_fun(_evaluate_later, multiple_results=True))
mlir.register_lowering(_evaluate, jax_ffi.lowering(lambda node: node), platform="cpu")
batching.primitive_batchers[_evaluate] = _evaluate_batch
ad.primitive_jvps[_evaluate] = _evaluate_jvp

# ------------------------------------------------------------------ push-forward: primals and needed tangents

_push = Primitive("qhybrid_push")
_push.multiple_results = True


@_push.def_impl
def _push_now(*operands: Any, node: _Node, needs: tuple[bool, ...]) -> list[Any]:
    """The tangents of the outputs that are not integers."""
    tangents = _evaluate.bind(*operands, node=_Node(node.mapped.pushforward(needs)))
    return [t for t, y in zip(tangents, node.outputs(operands[: len(needs)]), strict=True) if _inexact(y)]


@_push.def_abstract_eval
def _push_types(*operands: Any, node: _Node, needs: tuple[bool, ...]) -> list[Any]:
    return [jax.core.ShapedArray(t.shape, t.dtype) for t in node.outputs(operands[: len(needs)]) if _inexact(t)]


def _push_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, node: _Node, needs: tuple[bool, ...]
) -> tuple[list[Any], list[Any]]:
    moving = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(lambda *xs: _push_now(*xs, node=node, needs=needs), tuple(primals), tuple(moving))


def _push_batch(
    operands: Sequence[Any], dims: Sequence[Any], *, node: _Node, needs: tuple[bool, ...]
) -> tuple[list[Any], list[int]]:
    size, _, moved = _in_front(operands, dims)
    in_axes = [None if d is batching.not_mapped else 0 for d in dims]
    outputs = jax.vmap(lambda *xs: _push_now(*xs, node=node, needs=needs), in_axes, axis_size=size)(*moved)
    return outputs, [0] * len(outputs)


def _push_transpose(cotangents: Sequence[Any], *operands: Any, node: _Node, needs: tuple[bool, ...]) -> list[Any]:
    primals, tangents = operands[: len(needs)], operands[len(needs) :]
    given = iter(cotangents)
    full = [
        jnp.conj(ad.instantiate_zeros(next(given))) if _inexact(t) else jnp.zeros(t.shape)
        for t in node.outputs(primals)
    ]
    linear = iter([ad.is_undefined_primal(t) for t in tangents])
    wanted = tuple(n and next(linear) for n in needs)
    if node.residual is not None:
        node.residual.is_wanted = True
    pullback = _Node(node.mapped, residual=node.residual, wanted=wanted)
    found = iter(_evaluate.bind(*primals, *full, node=pullback))
    return [None] * len(primals) + [
        jnp.conj(next(found)).astype(t.aval.dtype) if ad.is_undefined_primal(t) else None for t in tangents
    ]


mlir.register_lowering(_push, mlir.lower_fun(_push_now, multiple_results=True))
batching.primitive_batchers[_push] = _push_batch
ad.primitive_jvps[_push] = _push_jvp
ad.primitive_transposes[_push] = _push_transpose

# ------------------------------------------------------------------ small things


def _in_front(operands: Sequence[Any], dims: Sequence[Any]) -> tuple[int, tuple[bool, ...], list[Any]]:
    """Size of the mapped axis, which operands have it, and the operands with it in front."""
    mapped = tuple(d is not batching.not_mapped for d in dims)
    size = next(x.shape[d] for x, d, m in zip(operands, dims, mapped, strict=True) if m)
    moved = [jnp.moveaxis(x, d, 0) if m else x for x, d, m in zip(operands, dims, mapped, strict=True)]
    return size, mapped, moved


def _inexact(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)
