"""Functions of which some inputs and outputs have no last axis, where those of another one have one of one element.

A circuit that gives one number is such a function of its scalars. PyTorch would otherwise record a node that takes the
axis off, and in the derivative one that puts it back, at every level of what differentiates or maps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Function
from qhybrid.gradients.function import MOST_DERIVED


class Single(Function):
    """Another function without the last axis of some inputs and outputs, which has one element there.

    Args:
        function: with these axes
        outs: positions of outputs that lose theirs
        ins: positions of inputs that get theirs
        sets: how many sets of outputs there are, like each other: two where tangents follow the outputs
    """

    def __init__(self, function: Function, outs: Iterable[int] = (0,), ins: Iterable[int] = (), sets: int = 1) -> None:
        self.function, self._outs, self._ins, self._sets = function, frozenset(outs), frozenset(ins), sets
        self._vmapped: dict[tuple[int, tuple[bool, ...]], Single] = {}

    # ---------------------------------------------------------------- evaluation

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs at ``inputs``."""
        return self._without(self.function(*self._with(inputs)))

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The outputs and the function's residual."""
        outputs, residual = self.function.forward(*self._with(inputs))
        return self._without(outputs), residual

    def pullback_at(self, needs: tuple[bool, ...], residual: Any) -> Callable[..., tuple[NDArray, ...]] | None:
        """The pullback at the inputs of one evaluation, if the function has it; see :meth:`Function.pullback_at`."""
        pull = self.function.pullback_at(needs, residual)
        if pull is None:
            return None
        outs, needed = self._outs, frozenset(_places(self._ins, needs))
        return lambda *cotangents: _removed(pull(*_added(cotangents, outs)), needed)

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output."""
        found = self.function.output_types(
            self._with([np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in inputs])
        )
        positions = self._positions(len(found))
        return tuple((shape[:-1] if k in positions else shape, kind) for k, (shape, kind) in enumerate(found))

    def _with(self, inputs: Sequence[NDArray]) -> Sequence[NDArray]:
        return _added(inputs, self._ins)

    def _without(self, outputs: Sequence[NDArray]) -> tuple[NDArray, ...]:
        return _removed(outputs, self._positions(len(outputs)))

    def _positions(self, outputs: int) -> frozenset[int]:
        """Of all outputs that lose their axis."""
        if self._sets == 1:
            return self._outs
        return frozenset(k + start for start in range(0, outputs, outputs // self._sets) for k in self._outs)

    # ---------------------------------------------------------------- derived functions

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Single:
        """The function's pullback, whose further inputs are cotangents of the outputs."""
        ins = self._ins | {len(needs) + k for k in self._outs}
        return Single(self.function.pullback(needs, residual), _places(self._ins, needs), ins)

    def pushforward(self, moving: tuple[bool, ...]) -> Single:
        """The function's pushforward, whose further inputs are tangents of the inputs that move."""
        ins = self._ins | {len(moving) + k for k in _places(self._ins, moving)}
        return Single(self.function.pushforward(moving), self._outs, ins)

    def with_tangents(self, moving: tuple[bool, ...]) -> Single | None:
        """The function's own, without the axis of its outputs and of their tangents."""
        found = self.function.with_tangents(moving)
        ins = self._ins | {len(moving) + k for k in _places(self._ins, moving)}
        return None if found is None else Single(found, self._outs, ins, 2 * self._sets)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Single:
        """The function over one more axis, in front."""
        found = self._vmapped.get((size, mapped))
        if found is None:
            if len(self._vmapped) >= MOST_DERIVED:
                self._vmapped.clear()
            found = Single(self.function.vmap(size, mapped), self._outs, self._ins, self._sets)
            self._vmapped[size, mapped] = found
        return found


def _places(positions: Iterable[int], flags: Sequence[bool]) -> list[int]:
    """The places that positions have among those that are flagged."""
    return [sum(flags[:k]) for k in positions if flags[k]]


def _added(arrays: Sequence[NDArray], positions: frozenset[int]) -> Sequence[NDArray]:
    return [x[..., None] if k in positions else x for k, x in enumerate(arrays)] if positions else arrays


def _removed(arrays: Sequence[NDArray], positions: frozenset[int]) -> tuple[NDArray, ...]:
    return tuple([y[..., 0] if k in positions else y for k, y in enumerate(arrays)])
