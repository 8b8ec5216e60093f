"""Functions as nodes of PyTorch's graph: one ``autograd.Function`` for all, in three forms.

Backward applies the same node to the function's pullback, and forward mode to its pushforward, so a derivative is
differentiable as often as the function is, and everything that works on the node (``torch.func``, hooks on saved
tensors, several threads) works on its derivatives. Where no more than a value is asked for, backward makes no node.
Complex gradients follow PyTorch's convention, which is that of :class:`~qhybrid.execution.Function`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache, reduce
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Function
from qhybrid.interfaces import torch_func
from qhybrid.interfaces.torch_func import Axis, Tensors

#: Where PyTorch keeps what records operations for ``torch.fx``.
_PROXY = torch._C._TorchDispatchModeKey.PROXY


class _Call:
    """One evaluation of a function, and what its derivative may reuse."""

    __slots__ = ("function", "precision", "residual", "wants_residual")

    def __init__(self, function: Function, wants_residual: bool) -> None:
        self.function, self.wants_residual = function, wants_residual
        self.residual: Any = None
        self.precision: tuple[torch.dtype, torch.device | None]


class _Node(torch.autograd.Function):
    """Evaluates ``call.function``; the tensors are its inputs. The form that any transformation of PyTorch's takes."""

    generate_vmap_rule = False

    @staticmethod
    def forward(call: _Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, on the device and in the precision of the inputs."""
        return _evaluate(call, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, ...]) -> None:
        """Save the inputs; outputs that are not floating point have no derivative."""
        _keep(ctx, *inputs)
        ctx.save_for_forward(*inputs[1:])
        ctx.active = _active(output)
        _mark(ctx, output)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The pullback, as a node again."""
        return (None, *_pulled_back(ctx, ctx.needs_input_grad[1:], cotangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, call: _Call, *tensors: torch.Tensor) -> tuple:
        """The function's own batching rule: mapped elements are lanes of one execution."""
        dims = in_dims[1:]
        moved = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
        outputs = _mapped(call, (info.batch_size, tuple([d is not None for d in dims])), moved)
        return outputs, (0,) * len(outputs)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """The pushforward, as a node again."""
        primals, given = ctx.saved_for_forward, [t for t in tangents if t is not None]
        pushforward = ctx.call.function.pushforward(tuple([t is not None for t in tangents]))
        if any(map(torch._C._functorch.is_legacy_batchedtensor, given)):
            found = _apply_to_batched(pushforward, primals, given)
        else:
            found = apply(pushforward, *primals, *given)
        return tuple([y if a else None for y, a in zip(found, ctx.active, strict=True)])


class _LevelNode(_SingleLevelFunction):
    """The same for one level of ``torch.func.grad``, which has others inside or outside."""

    @staticmethod
    def forward(
        ctx: Any, level: torch_func.Derivative, call: _Call, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The outputs of what is inside; keeps what :meth:`_Node.backward` reads."""
        output = _inside(level, call, tensors)
        _keep(ctx, call, *tensors)
        _mark(ctx, output)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The pullback, as a node again."""
        return (None, None, *_pulled_back(ctx, ctx.needs_input_grad[2:], cotangents))


class _EagerNode(_SingleLevelFunction):
    """The same for calls that nothing transforms: PyTorch does far less work around it."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs; keeps what :meth:`_Node.backward` reads."""
        output = _evaluate(call, tensors)
        _keep(ctx, call, *tensors)
        _mark(ctx, output)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """What :meth:`_Node.backward` gives, without a graph where none is wanted."""
        found = None if _is_traced(cotangents) else _pulled_without_graph(ctx, cotangents)
        return _Node.backward(ctx, *cotangents) if found is None else found


def _is_traced(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether what is done with these tensors now is to be differentiated or mapped."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or True in map(torch._C._functorch.is_legacy_batchedtensor, tensors)
    )


def _pulled_without_graph(ctx: Any, cotangents: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor | None, ...] | None:
    """The cotangents of the inputs from what their evaluation left, ``None`` where that does not suffice."""
    call, needs = ctx.call, ctx.needs_input_grad[1:]
    pull = call.function.pullback_at(needs, call.residual)
    if pull is None:
        return None
    ctx.saved_tensors  # noqa: B018 - refuses inputs that were changed in place, and a graph that is gone
    real, device = call.precision
    found = [_to_torch(y, real, device) for y in pull(*map(_to_numpy, cotangents))]
    return (None, *_in_place_of(needs, found))


def _pulled_back(
    ctx: Any, needs: tuple[bool, ...], cotangents: tuple[torch.Tensor, ...]
) -> Sequence[torch.Tensor | None]:
    """The cotangents of the inputs as they are needed."""
    pullback = ctx.call.function.pullback(needs, ctx.call.residual)
    if any(map(torch._C._functorch.is_legacy_batchedtensor, cotangents)):
        found = _apply_to_batched(pullback, ctx.saved_tensors, cotangents)
    else:
        found = apply(pullback, *ctx.saved_tensors, *cotangents)
    return _in_place_of(needs, found)


def _in_place_of(needs: tuple[bool, ...], found: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    """One cotangent for each input, ``None`` for those that are not needed."""
    rest = iter(found)
    return found if all(needs) else [next(rest) if n else None for n in needs]


def _mapped(call: _Call, axis: Axis | None, tensors: Sequence[torch.Tensor]) -> tuple:
    """The outputs over one more axis, the first one of tensors that have it; ``None``: none has."""
    in_graph = _in_graph(tensors)
    if axis is None:
        return _run(call, in_graph, tensors)
    inner = _Call(call.function.vmap(*axis), call.wants_residual or in_graph)
    outputs = _run(inner, in_graph, tensors)
    call.residual = inner.residual
    return outputs


def _keep(ctx: Any, call: _Call, *tensors: torch.Tensor) -> None:
    ctx.call = call
    ctx.save_for_backward(*tensors)


def _mark(ctx: Any, output: tuple[torch.Tensor, ...]) -> None:
    active = _active(output)
    if not all(active):
        ctx.mark_non_differentiable(*[y for y, a in zip(output, active, strict=True) if not a])


def _active(output: tuple[torch.Tensor, ...]) -> list[bool]:
    """Which outputs have a derivative: those that are floating point."""
    return [y.is_floating_point() or y.is_complex() for y in output]


def apply(function: Function, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``function`` as a node of PyTorch's graph, differentiable as often as the function is.

    Args:
        function: what to evaluate
        tensors: its inputs, on any device; real or complex

    Returns:
        its outputs: on the device of the inputs, in their promoted precision
    """
    in_graph = _in_graph(tensors)
    return _run(_Call(function, in_graph), in_graph, tensors)


def _in_graph(tensors: Sequence[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and True in [t.requires_grad for t in tensors]


def _run(call: _Call, in_graph: bool, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    if torch._C._are_functorch_transforms_active():
        return _under_transforms(call, tensors)
    if forward_ad._current_level >= 0 and not torch_func.made_dual_level():
        return _in_dual_numbers(call, in_graph, tensors)
    return _EagerNode.apply(call, *map(unwrap_if_dead, tensors)) if in_graph else _evaluate(call, tensors)


def _under_transforms(call: _Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    level = torch_func.current()
    if level is None:
        return _Node.apply(call, *tensors)
    if isinstance(level, torch_func.Vmap):
        return torch_func.through_vmap(level, tensors, lambda axis, inputs: ((), _mapped(call, axis, inputs)))
    if not level.is_on:
        return _inside(level, call, tensors)
    if level.forward:
        return _along_tangents(level, call, tensors)
    return torch_func.at_level(_LevelNode, level, call, tensors)


def _inside(level: torch_func.Derivative, call: _Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs at a level, of what is outside of it."""
    return torch_func.through_derivative(level, tensors, lambda inputs: _run(call, _in_graph(inputs), inputs))


class _Moved(NamedTuple):
    """A function and its pushforward.

    Args:
        function: whose inputs come first
        moving: which of these have a tangent; the tangents are further inputs
        axes: mapped axes, the innermost one first
    """

    function: Function
    moving: tuple[bool, ...]
    axes: tuple[Axis, ...] = ()

    def run(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The outputs, without axes that tangents alone have, and then the tangents.

        They come from one evaluation unless they are to be differentiated again.
        """
        if torch._C._are_functorch_transforms_active():
            level = torch_func.current()
            if isinstance(level, torch_func.Vmap):
                return torch_func.through_vmap(level, tensors, self._mapped)
            return self._apart(tensors)
        both = None if _in_graph(tensors) else self.function.with_tangents(self.moving)
        return self._apart(tensors) if both is None else self._at_once(both, tensors)

    def _mapped(self, axis: Axis | None, tensors: Sequence[torch.Tensor]) -> tuple[Tensors, Tensors]:
        """The outputs and tangents over one more axis: those that do not have it, and those that do."""
        if axis is None:
            return (), self.run(tensors)
        found = self._replace(axes=(*self.axes, axis)).run(tensors)
        split = 0 if self._moves(axis) else len(found) // 2
        return found[:split], found[split:]

    def _moves(self, axis: Axis) -> bool:
        """Whether inputs of the function itself have an axis."""
        return True in axis[1][: len(self.moving)]

    def _at_once(self, both: Function, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        found = _evaluate(_Call(_over(both, self.axes), False), tensors)
        outputs, tangents = found[: len(found) // 2], found[len(found) // 2 :]
        for place, axis in reversed(list(enumerate(reversed(self.axes)))):
            if not self._moves(axis):
                outputs = tuple([y.select(place, 0) for y in outputs])
        return *outputs, *tangents

    def _apart(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Each as a node of its own."""
        count = len(self.moving)
        own = [(size, flags[:count]) for size, flags in self.axes if True in flags[:count]]
        outputs = apply(_over(self.function, own), *tensors[:count])
        return *outputs, *apply(_over(self.function.pushforward(self.moving), self.axes), *tensors)


def _over(function: Function, axes: Sequence[Axis]) -> Function:
    """A function over mapped axes, the innermost one first."""
    return reduce(lambda found, axis: found.vmap(*axis), axes, function)


def _along_tangents(
    level: torch_func.Derivative, call: _Call, tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The outputs at a level of ``jvp``, with tangents if inputs have any there."""
    primals, moving, tangents = torch_func.parted(torch_func.lifted(level, tensors))
    if not tangents:
        return _inside(level, call, primals)
    run = _Moved(call.function, moving).run
    return _as_dual_numbers(torch_func.through_derivative(level, [*primals, *tangents], run))


def _in_dual_numbers(call: _Call, in_graph: bool, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs at the level of :func:`torch.autograd.forward_ad.dual_level`."""
    primals, moving, tangents = torch_func.parted(tensors)
    if in_graph or any(map(torch._C._functorch.is_legacy_batchedtensor, tangents)):
        return _Node.apply(call, *tensors)
    if not tangents:
        return _evaluate(call, tensors)
    return _as_dual_numbers(_Moved(call.function, moving).run([*primals, *tangents]))


def _as_dual_numbers(found: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Outputs with tangents, which follow them; those that are not floating point have none."""
    outputs, tangents = found[: len(found) // 2], found[len(found) // 2 :]
    pairs = zip(outputs, tangents, _active(outputs), strict=True)
    return tuple([torch_func.dual(y, t) if active else y for y, t, active in pairs])


def _apply_to_batched(
    derivative: Function, saved: Sequence[torch.Tensor], directions: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """A derivative under ``torch.autograd.grad(..., is_grads_batched=True)``: directions have a hidden batch axis."""
    mapped = tuple(map(torch._C._functorch.is_legacy_batchedtensor, directions))
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    rows = [torch._remove_batch_dim(c, level, 0, 0) if m else c for c, m in zip(directions, mapped, strict=True)]
    size = next(r.shape[0] for r, m in zip(rows, mapped, strict=True) if m)
    found = apply(derivative.vmap(size, (False,) * len(saved) + mapped), *saved, *rows)
    return tuple([torch._add_batch_dim(y, 0, level) for y in found])


@cache
def keep_out_of_graphs(*functions: Any) -> None:
    """Make ``torch.compile`` call these functions as they are; it does not compile what they call either."""
    frames = torch._C._dynamo.eval_frame
    if not hasattr(frames, "set_code_exec_strategy"):
        return  # an older PyTorch cannot be told
    skip = frames._FrameAction.SKIP
    for function in functions:
        function._torchdynamo_disable = True
        function._torchdynamo_disable_msg = "circuits have kernels of their own"
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))


# What PyTorch calls by itself, where no caller has kept the compiler out.
keep_out_of_graphs(
    _Node.forward,
    _Node.setup_context,
    _Node.backward,
    _Node.vmap,
    _Node.jvp,
    _EagerNode.forward,
    _EagerNode.backward,
    _LevelNode.forward,
    _LevelNode.backward,
)


def _evaluate(call: _Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    if torch._C._get_dispatch_mode(_PROXY) is not None:
        raise DifferentiationError(
            "A quantum circuit cannot be recorded by torch.fx, which torch.func.linearize and make_fx use: its kernels "
            "are none of PyTorch's. Use torch.func.jvp in place of linearize, or torch.compile."
        )
    arrays = [_to_numpy(t) for t in tensors]
    if call.wants_residual:
        outputs, call.residual = call.function.forward(*arrays)
    else:
        outputs = call.function(*arrays)
    real, device = call.precision = _precision(tensors)
    return tuple([_to_torch(y, real, device) for y in outputs])


def _precision(tensors: Sequence[torch.Tensor]) -> tuple[torch.dtype, torch.device | None]:
    """The precision of results, as a real dtype, and their device if that is not the CPU, for such inputs."""
    elsewhere = [t.device for t in tensors if not t.is_cpu]
    return _widest(tuple([t.dtype for t in tensors])), elsewhere[0] if elsewhere else None


#: Dtypes that NumPy has in place of those that it lacks.
_NUMPYS = {torch.bfloat16: torch.float32, torch.complex32: torch.complex64}


def _to_numpy(tensor: torch.Tensor) -> NDArray:
    lacking = _NUMPYS.get(tensor.dtype)
    return (tensor if lacking is None else tensor.to(lacking)).numpy(force=True)


@lru_cache(maxsize=256)
def _widest(dtypes: tuple[torch.dtype, ...]) -> torch.dtype:
    """The precision of results, as a real dtype, for inputs of these dtypes."""
    real = [d.to_real() for d in dtypes if d.is_floating_point or d.is_complex]
    return reduce(torch.promote_types, real) if real else torch.get_default_dtype()


def _to_torch(array: NDArray, real: torch.dtype, device: torch.device | None) -> torch.Tensor:
    flags = array.flags
    tensor = torch.from_numpy(array if flags.c_contiguous and flags.writeable else array.copy())
    if tensor.dtype is real and device is None:
        return tensor
    dtype = tensor.dtype if array.dtype.kind not in "fc" else _complex(real) if array.dtype.kind == "c" else real
    return tensor.to(device or tensor.device, dtype)


def _complex(real: torch.dtype) -> torch.dtype:
    """Of the same precision; single precision for half, of which PyTorch's complex numbers do little."""
    return torch.complex64 if real is torch.float16 else real.to_complex()
