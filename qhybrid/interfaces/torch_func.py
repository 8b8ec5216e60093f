"""The transformations of ``torch.func``, one level after the other: what is outside of one, and what is inside.

PyTorch sends any ``autograd.Function`` through its transformations by itself, in a way that takes all arguments apart
as trees, reads signatures and makes a class in each call, for about a fifth of a millisecond a level. Functions of a
few tensors need none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import GradInterpreter, VmapInterpreter
from torch.autograd import forward_ad

Tensors = Sequence[torch.Tensor]
#: What takes a ``vmap`` or a ``grad`` through a function.
_INTERPRETERS = {_functorch.TransformType.Vmap: VmapInterpreter, _functorch.TransformType.Grad: GradInterpreter}


def current() -> Any | None:
    """The innermost transformation, if it is a ``vmap`` or a ``grad``; PyTorch's own way knows all others."""
    level = _functorch.peek_interpreter_stack()
    interpreter = _INTERPRETERS.get(level.key())
    return None if interpreter is None else interpreter(level)


def is_vmap(level: Any) -> bool:
    """Whether a level is a ``vmap``."""
    return isinstance(level, VmapInterpreter)


def through_vmap(
    level: Any, tensors: Tensors, inside: Callable[[tuple[int, tuple[bool, ...]] | None, Tensors], Tensors]
) -> tuple[torch.Tensor, ...]:
    """A function of tensors under ``vmap``.

    Args:
        level: of the transformation
        tensors: the function's inputs at this level
        inside: gives the outputs at the level below, from the number of elements and which inputs are mapped (``None``
            if none is), and the inputs; the axis that is mapped is the first one, of all outputs too
    """
    number = level.level()
    pairs = [_functorch._unwrap_batched(_functorch.unwrap_if_dead(t), number) for t in tensors]
    flags = tuple([dim is not None for _, dim in pairs])
    with level.lower():
        if True not in flags:
            return tuple(inside(None, tensors))
        inputs = [t.movedim(dim, 0) if dim else t for t, dim in pairs]
        outputs = inside((level.batch_size(), flags), inputs)
    return tuple([_functorch._add_batch_dim(y, 0, number) for y in outputs])


def lifted(level: Any, tensors: Tensors) -> list[torch.Tensor]:
    """Tensors as they are differentiated at a level of ``grad``."""
    return [level._cptr.lift(_functorch.unwrap_if_dead(t)) for t in tensors]


def through_grad(level: Any, tensors: Tensors, inside: Callable[[Tensors], Tensors]) -> tuple[torch.Tensor, ...]:
    """A function of tensors inside ``grad``, which is up to a node of this level to differentiate.

    Args:
        level: of the transformation
        tensors: the function's inputs at this level
        inside: gives the outputs from the inputs at the level below
    """
    number = level.level()
    inputs = [_functorch._unwrap_for_grad(t, number) for t in tensors]
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), level.lower():
        outputs = inside(inputs)
    return tuple([_functorch._wrap_for_grad(y, number) for y in outputs])
