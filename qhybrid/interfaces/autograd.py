"""Functions as nodes of autograd's graph.

autograd's gradient of a real function of ``z = x + iy`` is ``dL/dx - i dL/dy``, the conjugate of the cotangent of
:class:`~qhybrid.execution.Function`, so cotangents are conjugated on the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.builtins import SequenceBox
from autograd.builtins import tuple as tuple_of_boxes
from autograd.core import defjvp_argnums
from autograd.extend import Box, defjvp, defvjp, defvjp_argnums, primitive
from numpy.typing import NDArray

from qhybrid.execution import Function


@primitive
def _node(call: _Call, *inputs: NDArray) -> NDArray | tuple[NDArray, ...]:
    """Evaluate ``call.function``."""
    arrays = [np.asarray(x) for x in inputs]
    outputs, call.residual = call.function.forward(*arrays)
    return outputs[0] if len(outputs) == 1 else outputs  # a tuple costs autograd two nodes more


class _Call:
    """One evaluation of a function, and what its derivative may reuse."""

    __slots__ = ("function", "residual")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.residual: Any = None


def _pullback(argnums: tuple[int, ...], ans: Any, args: tuple[Any, ...], kwargs: dict) -> Callable[[Any], tuple]:
    del ans, kwargs
    call, *inputs = args
    needs = tuple(k + 1 in argnums for k in range(len(inputs)))

    def vjp(cotangents: Any) -> tuple:
        """Cotangents of the needed inputs, themselves nodes of the graph."""
        several = cotangents if isinstance(cotangents, tuple | SequenceBox) else (cotangents,)
        conjugated = [_conj(c) for c in several]
        traced = any(isinstance(x, Box) for x in (*inputs, *several))
        pull = None if traced else call.function.pullback_at(needs, call.residual)
        if pull is None:
            found = apply(call.function.pullback(needs, call.residual), *inputs, *conjugated)
        else:
            found = pull(*conjugated)
        return tuple(_conj(g) for g in found)

    return vjp


def _conj(value: Any) -> Any:
    return anp.conj(value) if value.dtype.kind == "c" else value


defvjp_argnums(_node, _pullback)


def _pushforward(
    argnums: tuple[int, ...], tangents: Sequence[Any], ans: Any, args: tuple[Any, ...], kwargs: dict
) -> Any:
    """Tangents of the outputs, themselves nodes of the graph; those of autograd are plain ``dz``."""
    del kwargs
    call, *inputs = args
    moving = tuple(k + 1 in argnums for k in range(len(inputs)))
    given = [t for _, t in sorted(zip(argnums, tangents, strict=True), key=lambda pair: pair[0])]
    outputs = apply(call.function.pushforward(moving), *inputs, *given)
    return tuple_of_boxes(outputs) if isinstance(ans, tuple | SequenceBox) else outputs[0]


defjvp_argnums(_node, _pushforward)


@primitive
def _entry(scalars: NDArray, index: int) -> Any:
    return scalars[index] if scalars.ndim == 1 else scalars[:, index]


@primitive
def _embedded(entry: Any, index: int, size: int) -> NDArray:
    """Zeros but for entry ``index`` of the last axis: the transpose of :func:`_entry`."""
    out = np.zeros((*np.shape(entry), size))
    out[..., index] = entry
    return out


defvjp(_entry, lambda ans, scalars, index: lambda g: _embedded(g, index, scalars.shape[-1]), None)
defvjp(_embedded, lambda ans, entry, index, size: lambda g: _entry(g, index), None, None)
defjvp(_entry, "same")
defjvp(_embedded, "same")


def unstack(scalars: Any) -> list[Any]:
    """The entries along the last axis. autograd's own indexing is far slower to differentiate.

    Args:
        scalars: shape ``(S,)`` or ``(batch, S)``
    """
    pick = _entry if isinstance(scalars, Box) else _entry.fun
    return [pick(scalars, i) for i in range(scalars.shape[-1])]


def apply(function: Function, *inputs: Any) -> tuple[Any, ...]:
    """``function`` as a node of autograd's graph, differentiable as often as the function is.

    Args:
        function: what to evaluate
        inputs: arrays, boxes or PennyLane tensors

    Returns:
        its outputs: plain arrays, or boxes while autograd differentiates
    """
    if not any(isinstance(x, Box) for x in inputs):
        return function(*[np.asarray(x) for x in inputs])
    outputs = _node(_Call(function), *inputs)
    return tuple(outputs) if isinstance(outputs, tuple | SequenceBox) else (outputs,)
