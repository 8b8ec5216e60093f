"""The transformations of ``torch.func``, one level after the other: what is outside of one, and what is inside.

PyTorch sends any ``autograd.Function`` through its transformations by itself, in a way that takes all arguments apart
as trees, reads signatures and makes a class in each call, for about a fifth of a millisecond a level. Functions of a
few tensors need none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, _unwrap_batched, unwrap_if_dead
from torch._functorch import eager_transforms

_VMAP, _GRAD, _JVP = TransformType.Vmap, TransformType.Grad, TransformType.Jvp
Tensors = Sequence[torch.Tensor]
#: A mapped axis: how many elements it has, and which tensors have it.
Axis = tuple[int, tuple[bool, ...]]


class Vmap(NamedTuple):
    """A level of ``vmap``."""

    number: int


class Derivative(NamedTuple):
    """A level of ``grad`` or of ``jvp``.

    Args:
        number: of the level
        forward: whether it is one of ``jvp``
        record: PyTorch's own of the level
        owner: what that record points into
    """

    number: int
    forward: bool
    record: Any
    owner: Any

    @property
    def is_on(self) -> bool:
        """Whether what is done at this level now is to be differentiated."""
        return torch._C._is_fwd_grad_enabled() if self.forward else torch.is_grad_enabled()

    @property
    def outer_modes(self) -> tuple[bool, bool]:
        """Whether what is inside may be differentiated in reverse, and forward, by what is outside of the level."""
        return (True, self.record.prevFwdGradMode()) if self.forward else (self.record.prevGradMode(), True)


def current() -> Vmap | Derivative | None:
    """The innermost transformation, if it is ``vmap``, ``grad`` or ``jvp``; PyTorch's own way knows all others."""
    level = _functorch.peek_interpreter_stack()
    kind = level.key()
    if kind == _VMAP:
        return Vmap(level.level())
    if kind == _GRAD:
        return Derivative(level.level(), False, _functorch.CGradInterpreterPtr(level), level)
    if kind == _JVP:
        return Derivative(level.level(), True, _functorch.CJvpInterpreterPtr(level), level)
    return None


def made_dual_level() -> bool:
    """Whether ``torch.func.jvp`` has made the level of dual numbers; outside of all transformations there are none."""
    return eager_transforms.JVP_NESTING > 0


def through_vmap(
    level: Vmap, tensors: Tensors, inside: Callable[[Axis | None, Tensors], tuple[Tensors, Tensors]]
) -> tuple[torch.Tensor, ...]:
    """A function of tensors under ``vmap``.

    Args:
        level: of the transformation
        tensors: the function's inputs at this level
        inside: gives the outputs at the level below, those that are the same for all elements and then those that are
            mapped, from the axis that is mapped (``None`` if no input has it) and the inputs; it is their first one
    """
    number = level.number
    pairs = [_unwrap_batched(unwrap_if_dead(t), number) for t in tensors]
    flags = tuple([dim is not None for _, dim in pairs])
    outer = _functorch.pop_dynamic_layer_stack()
    try:
        if True not in flags:
            same, mapped = inside(None, tensors)
            return (*same, *mapped)
        moved = [t.movedim(dim, 0) if dim else t for t, dim in pairs]
        same, mapped = inside((len(moved[flags.index(True)]), flags), moved)
    finally:
        _functorch.push_dynamic_layer_stack(outer)
    return (*same, *[_functorch._add_batch_dim(y, 0, number) for y in mapped])


def lifted(level: Derivative, tensors: Tensors) -> list[torch.Tensor]:
    """Tensors as they are differentiated at a level."""
    return [level.record.lift(unwrap_if_dead(t)) for t in tensors]


def at_level(node: Any, level: Derivative, call: Any, tensors: Tensors) -> tuple[torch.Tensor, ...]:
    """The outputs of a node that is made for one level, from tensors as they are differentiated there."""
    inputs = lifted(level, tensors)
    before = _functorch.get_single_level_autograd_function_allowed()
    _functorch.set_single_level_autograd_function_allowed(True)
    try:
        return node.apply(level, call, *inputs)
    finally:
        _functorch.set_single_level_autograd_function_allowed(before)


def parted(tensors: Tensors) -> tuple[list[torch.Tensor], tuple[bool, ...], list[torch.Tensor]]:
    """Tensors without their tangents at the innermost level, which of them have one, and these.

    There is one level of dual numbers, 0, at each level of ``jvp`` and outside of all.
    """
    pairs = [torch._VF._unpack_dual(t, level=0) for t in tensors]
    moving = tuple([t is not None for _, t in pairs])
    return [p for p, _ in pairs], moving, [t for _, t in pairs if t is not None]


def dual(tensor: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """A tensor with a tangent, at the innermost level."""
    return torch._VF._make_dual(tensor, tangent, level=0)


def through_derivative(
    level: Derivative, tensors: Tensors, inside: Callable[[Tensors], Tensors]
) -> tuple[torch.Tensor, ...]:
    """A function of tensors inside ``grad`` or ``jvp``, which is up to a node of this level to differentiate.

    Args:
        level: of the transformation
        tensors: the function's inputs at this level
        inside: gives the outputs from the inputs at the level below
    """
    inputs = [_functorch._unwrap_for_grad(unwrap_if_dead(t), level.number) for t in tensors]
    outer_backward, outer_forward = level.outer_modes
    backward, forward = torch._C.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
    outer = _functorch.pop_dynamic_layer_stack()
    try:
        torch._C._set_grad_enabled(outer_backward)  # what is outside of ``grad`` may be in ``no_grad``
        torch._C._set_fwd_grad_enabled(outer_forward)
        outputs = inside(inputs)
    finally:
        torch._C._set_grad_enabled(backward)
        torch._C._set_fwd_grad_enabled(forward)
        _functorch.push_dynamic_layer_stack(outer)
    return tuple([_functorch._wrap_for_grad(y, level.number) for y in outputs])
