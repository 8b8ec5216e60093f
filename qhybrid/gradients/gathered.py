"""Functions of arguments as they are, where slots are numbers of arguments: moved, scaled and shifted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Function
from qhybrid.gradients.function import MOST_DERIVED


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How a slot holds an array: flat, or as rows with the batch last. Mapped axes stay in front.

    Compared by identity, which is faster: a prologue has those of its leaves, and makes no others.

    Args:
        shape: of the array, without mapped axes
        layout: ``"vector"``, or which axis of the array is the batch: the ``"leading"`` or the ``"trailing"`` one

    Example:
        >>> inputs = np.array([[1, 2], [3, 4], [5, 6]])
        >>> Arrangement((3, 2), "leading").arrange(inputs)
        array([[1, 3, 5],
               [2, 4, 6]])
    """

    shape: tuple[int, ...]
    layout: str

    @cached_property
    def moved(self) -> tuple[int, ...]:
        """Shape of the array with the batch, if there is one, as its last axis."""
        return (*self.shape[1:], self.shape[0]) if self.layout == "leading" else self.shape

    @cached_property
    def slot(self) -> tuple[int, ...]:
        """Shape of the slot."""
        return (math.prod(self.shape),) if self.layout == "vector" else (math.prod(self.moved[:-1]), self.moved[-1])

    def arrange(self, array: NDArray) -> NDArray:
        """The array as a slot holds it."""
        front = array.ndim - len(self.shape)
        shape = array.shape[:front] + self.slot
        if self.layout == "leading":
            array = _moved(array, front, -1)
        return array if array.shape == shape else array.reshape(shape)

    def restore(self, array: NDArray) -> NDArray:
        """The inverse of :meth:`arrange`."""
        front = array.ndim - len(self.slot)
        array = array.reshape(array.shape[:front] + self.moved)
        return _moved(array, -1, front) if self.layout == "leading" else array


def _moved(array: NDArray, source: int, target: int) -> NDArray:
    """``numpy.moveaxis``, which takes ten times as long as the usual case."""
    return array.T if array.ndim == 2 and 0 in (source, target) else np.moveaxis(array, source, target)


@dataclass(frozen=True, eq=False)
class Block:
    """All shared, or all batched slots as numbers of some arrays: ``scale * rows[index] + offset``.

    The rows are those of the arrays as they are arranged, one array after the other. Compared by identity, like
    :class:`Arrangement`.

    Args:
        arrangements: of the arrays, all of them vectors, or all of them rows with the batch last
        index: the row of each slot; ``None``: all rows in their order
        scale, offset: a number or a row of numbers for each slot; ``None``: ones, and zeros

    Example:
        >>> twice = Block((Arrangement((), "vector"), Arrangement((2,), "vector")), np.array([2, 0, 2]))
        >>> twice.gather([np.array(1.0), np.array([2.0, 3.0])])
        array([3., 1., 3.])
        >>> twice.scatter(np.array([10.0, 100.0, 7.0]))
        [array(100.), array([ 0., 17.])]
    """

    arrangements: tuple[Arrangement, ...]
    index: NDArray | None = None
    scale: NDArray | None = None
    offset: NDArray | None = None

    @cached_property
    def axis(self) -> int:
        """That of the slots, counted from behind."""
        return -len(self.arrangements[0].slot)

    @cached_property
    def _parts(self) -> list[Any]:
        """Where the rows of each array are."""
        ends = np.cumsum([a.slot[0] for a in self.arrangements]).tolist()
        return [self._at(slice(start, stop)) for start, stop in zip([0, *ends], ends, strict=False)]

    def _at(self, rows: Any) -> Any:
        """The index of some rows."""
        return (..., rows) if self.axis == -1 else (..., rows, slice(None))

    @cached_property
    def _sums(self) -> tuple[NDArray, NDArray, NDArray]:
        """The slots that are numbers, ordered by row; where a row's begin; and which rows these are."""
        assert self.index is not None
        known = np.arange(len(self.index))
        if self.scale is not None:
            known = known[(self.scale != 0).reshape(len(known), -1).any(1)]
        order = known[np.argsort(self.index[known], kind="stable")]
        rows, begins = np.unique(self.index[order], return_index=True)
        return order, begins, rows

    def gather(self, arrays: Sequence[NDArray], linear: bool = False) -> NDArray:
        """The slots; without the offset if ``linear``. Mapped axes, the same of all arrays, stay in front."""
        rows = self.places(arrays)
        if self.scale is not None:
            rows = rows * self.scale
        return rows if linear or self.offset is None else rows + self.offset

    def places(self, arrays: Sequence[NDArray]) -> NDArray:
        """The numbers that slots are, neither scaled nor shifted."""
        if len(self.arrangements) == 1:
            rows = self.arrangements[0].arrange(arrays[0])
        else:
            pairs = zip(self.arrangements, arrays, strict=True)
            rows = np.concatenate([a.arrange(x) for a, x in pairs], self.axis)
        return rows if self.index is None else rows.take(self.index, self.axis)

    def scatter(self, slots: NDArray) -> list[NDArray]:
        """The transpose of :meth:`gather`: what each number gets from all slots that it is in."""
        if self.scale is not None:
            slots = slots * self.scale
        rows = slots if self.index is None else self._summed(slots)
        if len(self.arrangements) == 1:
            return [self.arrangements[0].restore(rows)]
        return [a.restore(rows[part]) for a, part in zip(self.arrangements, self._parts, strict=True)]

    def _summed(self, slots: NDArray) -> NDArray:
        order, begins, rows = self._sums
        own = slots[self._at(order)]
        if len(rows) < len(order):
            own = np.add.reduceat(own, begins, self.axis)
        total = sum(a.slot[0] for a in self.arrangements)
        if len(rows) == total:
            return own
        shape = list(slots.shape)
        shape[self.axis] = total
        out = np.zeros(shape, own.dtype)
        out[self._at(rows)] = own
        return out


class Group(NamedTuple):
    """One input or output of a function of slots, and what it is made of, or becomes.

    Args:
        block: how; ``None``: the one member as it is
        members: positions; ``None`` for an array that is not there, as an input zero
        carries: of each member of a block, which of the mapped axes it has, outermost first: none if it is not there
        own: which of them the function's input or output has
        linear: whether the block's offset is left out
    """

    block: Block | None
    members: tuple[int | None, ...]
    carries: tuple[tuple[bool, ...], ...] = ()
    own: tuple[bool, ...] = ()
    linear: bool = False

    def has(self, flags: Sequence[bool]) -> bool:
        """Whether the flag of any member is set."""
        return any(m is not None and flags[m] for m in self.members)

    def placed(self, places: dict[int, int]) -> Group:
        """The derivative of this group, along those of its members that have a place."""
        members = tuple([None if m is None else places.get(m) for m in self.members])
        carries = tuple([(False,) * len(c) if m is None else c for m, c in zip(members, self.carries, strict=False)])
        return self._replace(members=members, carries=carries, linear=True)

    def mapped(self, flags: Sequence[bool] | None) -> Group:
        """The same with one more mapped axis in front, which members have by their flags; ``None``: all do."""
        if self.block is None:
            return self
        added = tuple(m is not None and (flags is None or flags[m]) for m in self.members)
        carries = tuple((f, *c) for f, c in zip(added, self.carries, strict=True))
        return self._replace(carries=carries, own=(flags is None or any(added), *self.own))


@dataclass(frozen=True, eq=False)
class _Wiring:
    """How the inputs and outputs of a function are made of arguments, and become outputs.

    Args:
        ins: the first inputs
        given: arguments that these are made of; all further ones are further inputs
        outs: the outputs; ``None``: as they are
        num_outputs: how many these become, if they are not as they are
        sizes: of the mapped axes
    """

    ins: tuple[Group, ...]
    given: int
    outs: tuple[Group, ...] | None = None
    num_outputs: int = 0
    sizes: tuple[int, ...] = ()
    _derived: dict[Any, tuple[tuple[bool, ...], _Wiring]] = field(default_factory=dict, init=False, repr=False)

    def derived(self, how: str, *arguments: Any) -> tuple[tuple[bool, ...], _Wiring]:
        """What another method gives, kept for the next time that it is asked for.

        Args:
            how: name of the method
            arguments: its own
        """
        found = self._derived.get((how, *arguments))
        if found is None:
            if len(self._derived) >= MOST_DERIVED:
                self._derived.clear()
            found = self._derived[how, *arguments] = getattr(self, how)(*arguments)
        return found

    def inputs(self, count: int) -> tuple[Group, ...]:
        """All inputs, those among them too that are arguments as they are."""
        return (*self.ins, *[Group(None, (k,)) for k in range(self.given, count)])

    def gathered(self, arguments: Sequence[NDArray]) -> list[NDArray]:
        """The inputs."""
        found = [arguments[g.members[0]] if g.block is None else self._gather(g, arguments) for g in self.ins]  # type: ignore[index]
        found.extend(arguments[self.given :])
        return found

    def _gather(self, group: Group, arguments: Sequence[NDArray]) -> NDArray:
        block, members = group.block, group.members
        assert block is not None
        if None in members:
            pairs = zip(block.arrangements, members, strict=True)
            arrays = [np.zeros(a.shape) if m is None else arguments[m] for a, m in pairs]
        else:
            arrays = [arguments[m] for m in members]  # type: ignore[index]
        if self.sizes:
            arrays = [_spread(x, c, group.own, self.sizes) for x, c in zip(arrays, group.carries, strict=True)]
        return block.gather(arrays, group.linear)

    def scattered(self, outputs: Sequence[NDArray]) -> tuple[NDArray, ...]:
        """What the outputs become."""
        if self.outs is None:
            return tuple(outputs)
        found: list[Any] = [None] * self.num_outputs
        for group, output in zip(self.outs, outputs, strict=True):
            if group.block is None:
                found[group.members[0]] = output  # type: ignore[index]
                continue
            parts = group.block.scatter(output)
            if self.sizes:
                parts = [_collapsed(part, c, group.own) for part, c in zip(parts, group.carries, strict=True)]
            for m, part in zip(group.members, parts, strict=True):
                if m is not None:
                    found[m] = part
        return tuple(found)

    def pulled_back(self, needs: tuple[bool, ...]) -> tuple[tuple[bool, ...], _Wiring]:
        """The inputs that are needed for some arguments, and the wiring of the pullback."""
        places, total, ins = _places(needs), len(needs), self.inputs(len(needs))
        needed = tuple([g.has(needs) for g in ins])
        outs = tuple([g.placed(places) for g, n in zip(ins, needed, strict=True) if n])
        cotangents = {k: total + k for k in range(self.num_outputs)}
        ins = (*ins, *[g.placed(cotangents) for g in self.outs or ()])
        return needed, _Wiring(ins, total + self.num_outputs, outs, len(places), self.sizes)

    def pushed(self, moving: tuple[bool, ...]) -> tuple[tuple[bool, ...], _Wiring]:
        """The inputs that move with some arguments, and the wiring of the pushforward."""
        places, ins = {k: len(moving) + place for k, place in _places(moving).items()}, self.inputs(len(moving))
        moved = tuple([g.has(moving) for g in ins])
        tangents = [g.placed(places) for g, m in zip(ins, moved, strict=True) if m]
        return moved, replace(self, ins=(*ins, *tangents), given=len(moving) + len(places))

    def with_tangents(self, moving: tuple[bool, ...]) -> tuple[tuple[bool, ...], _Wiring]:
        """The inputs that move with some arguments, and the wiring of the function with its pushforward."""
        moved, pushed = self.pushed(moving)
        if self.outs is None:
            return moved, pushed
        places = {k: self.num_outputs + k for k in range(self.num_outputs)}
        tangents = [g.placed(places) for g in self.outs]
        return moved, replace(pushed, outs=(*self.outs, *tangents), num_outputs=2 * self.num_outputs)

    def vmapped(self, size: int, mapped: tuple[bool, ...]) -> tuple[tuple[bool, ...], _Wiring]:
        """The inputs that have one more mapped axis, and the wiring with it."""
        outs = None if self.outs is None else tuple([g.mapped(None) for g in self.outs])
        ins = tuple([g.mapped(mapped) for g in self.ins])
        own = tuple([g.has(mapped) for g in self.inputs(len(mapped))])
        return own, replace(self, ins=ins, outs=outs, sizes=(size, *self.sizes))


class Gathered(Function):
    """Another function whose slots are gathered from its arguments, and their cotangents scattered on the way out.

    Hosts then record one node where they would record one for each change of axes, concatenation, index and scale.

    Args:
        function: of one input for each block, and of others, which stay as they are
        blocks: what its first inputs are made of; the arguments are the arrays of all blocks in turn
    """

    def __init__(self, function: Function, blocks: Sequence[Block]) -> None:
        ends = np.cumsum([len(b.arrangements) for b in blocks]).tolist()
        members = [tuple(range(end - len(b.arrangements), end)) for b, end in zip(blocks, ends, strict=True)]
        ins = tuple(Group(b, m, ((),) * len(m)) for b, m in zip(blocks, members, strict=True))
        self.function, self._wiring = function, _Wiring(ins, ends[-1])

    def _derived(self, function: Function, wiring: _Wiring) -> Gathered:
        found = Gathered.__new__(Gathered)
        found.function, found._wiring = function, wiring
        return found

    # ---------------------------------------------------------------- evaluation

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs at ``inputs``."""
        return self._wiring.scattered(self.function(*self._wiring.gathered(inputs)))

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The outputs and the function's residual."""
        outputs, residual = self.function.forward(*self._wiring.gathered(inputs))
        return self._wiring.scattered(outputs), residual

    def pullback_at(self, needs: tuple[bool, ...], residual: Any) -> Callable[..., tuple[NDArray, ...]] | None:
        """The pullback at the inputs of one evaluation, if the function has it; see :meth:`Function.pullback_at`."""
        if self._wiring.outs is not None:
            return None
        needed, wiring = self._wiring.derived("pulled_back", needs)
        pull = self.function.pullback_at(needed, residual)
        return None if pull is None else lambda *cotangents: wiring.scattered(pull(*cotangents))

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output."""
        arrays = [np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in inputs]
        found = self.function.output_types(self._wiring.gathered(arrays))
        if self._wiring.outs is None:
            return found
        outputs = self._wiring.scattered([np.broadcast_to(0.0, shape) for shape, _ in found])
        kinds = {m: kind for g, (_, kind) in zip(self._wiring.outs, found, strict=True) for m in g.members}
        return tuple((array.shape, kinds[i]) for i, array in enumerate(outputs))

    # ---------------------------------------------------------------- derived functions

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Gathered:
        """The function's pullback: cotangents of slots, scattered to the arguments that are needed."""
        needed, wiring = self._wiring.derived("pulled_back", needs)
        return self._derived(self.function.pullback(needed, residual), wiring)

    def pushforward(self, moving: tuple[bool, ...]) -> Gathered:
        """The function's pushforward: tangents of slots, gathered from those of the arguments that move."""
        moved, wiring = self._wiring.derived("pushed", moving)
        return self._derived(self.function.pushforward(moved), wiring)

    def with_tangents(self, moving: tuple[bool, ...]) -> Gathered | None:
        """The function's own, of slots gathered from arguments and tangents from those that move."""
        moved, wiring = self._wiring.derived("with_tangents", moving)
        found = self.function.with_tangents(moved)
        return None if found is None else self._derived(found, wiring)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Gathered:
        """The function over one more axis, in front of everything that has it."""
        own, wiring = self._wiring.derived("vmapped", size, mapped)
        return self._derived(self.function.vmap(size, own), wiring)


def _places(flags: Sequence[bool]) -> dict[int, int]:
    """For each position that is flagged, its place among them."""
    return {k: place for place, k in enumerate(k for k, flag in enumerate(flags) if flag)}


def _spread(array: NDArray, carried: tuple[bool, ...], own: tuple[bool, ...], sizes: tuple[int, ...]) -> NDArray:
    """An array that carries some mapped axes, repeated along all that it is to have."""
    if carried == own:
        return array
    front = iter(array.shape[: sum(carried)])
    rest = array.shape[sum(carried) :]
    ones = [next(front) if c else 1 for c, o in zip(carried, own, strict=True) if o]
    full = [n for n, o in zip(sizes, own, strict=True) if o]
    return np.broadcast_to(array.reshape(*ones, *rest), (*full, *rest))


def _collapsed(array: NDArray, carried: tuple[bool, ...], own: tuple[bool, ...]) -> NDArray:
    """The transpose of :func:`_spread`."""
    axes = [c for c, o in zip(carried, own, strict=True) if o]
    lost = tuple(k for k, c in enumerate(axes) if not c)
    return np.asarray(array.sum(lost)) if lost else array
