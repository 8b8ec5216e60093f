"""What functions written for a host have in common: their derivatives are functions of that host again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Function

#: A function of one host's arrays, which gives a sequence of them.
Raw = Callable[..., Sequence[Any]]
#: Cotangents of all outputs to those of the active inputs, as arrays of the host.
Pullback = Callable[[Sequence[Any]], Sequence[Any]]
#: Of an evaluation: which function it was of, and the pullback that the host recorded.
Record = tuple[Raw, Pullback]


def name_of(function: Any) -> str:
    """What messages call a function or a module."""
    return getattr(function, "__name__", None) or type(function).__name__


class HostFunction(Function):
    """A function written for one host, for use in the graph of another.

    Args:
        raw: a function of the host's arrays that gives a sequence of them
        active: for each of the first inputs, whether it is expected to be differentiated along; all further ones are.
            A derivative along others is right too, and costs another evaluation.
        origin: the function or module that the user wrote
    """

    def __init__(self, raw: Raw, active: tuple[bool, ...], origin: Any) -> None:
        self.raw, self.active, self.origin = raw, active, origin

    # ---------------------------------------------------------------- what a host adds

    @abstractmethod
    def _linearized(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[Sequence[Any], Pullback]:
        """The outputs, and their pullback; cotangents are those of :class:`~qhybrid.execution.Function`."""

    @abstractmethod
    def _pushed(self, inputs: Sequence[Any], tangents: Sequence[Any], moving: Sequence[bool]) -> Sequence[Any] | None:
        """Tangents of the outputs by the host's forward mode; ``None`` if it lacks a rule."""

    @staticmethod
    @abstractmethod
    def _stacked(rows: Sequence[Any]) -> Any:
        """Arrays along a new first axis."""

    @staticmethod
    @abstractmethod
    def _zeros(array: Any) -> Any:
        """A cotangent of an array that is zero."""

    @staticmethod
    @abstractmethod
    def _from_numpy(arrays: Sequence[NDArray]) -> list[Any]:
        """Arrays of the host."""

    @staticmethod
    @abstractmethod
    def _to_numpy(arrays: Sequence[Any]) -> tuple[NDArray, ...]:
        """The inverse of :meth:`_from_numpy`."""

    @staticmethod
    def _evaluating() -> AbstractContextManager:
        """What surrounds an evaluation that is not differentiated."""
        return nullcontext()

    def _recorded(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[Sequence[Any], Pullback]:
        """The same as :meth:`_linearized`, for a pullback that is kept."""
        return self._linearized(inputs, active)

    # ---------------------------------------------------------------- evaluation

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs at ``inputs``."""
        with self._evaluating():
            return self._to_numpy(self.raw(*self._from_numpy(inputs)))

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Record | None]:
        """The outputs, and the host's own record of how they came about."""
        with self._evaluating():
            try:
                outputs, pullback = self._recorded(self._from_numpy(inputs), self._active(len(inputs)))
            except DifferentiationError:  # of a circuit inside; whoever asks for this derivative is told
                return self(*inputs), None
            return self._to_numpy(outputs), (self.raw, pullback)

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output, found by an evaluation at a point of no significance."""
        rng = np.random.default_rng(0)
        outputs = self(*[np.asarray(rng.uniform(0.1, 0.9, x.shape)).astype(x.dtype) for x in inputs])
        return tuple((y.shape, y.dtype.kind if y.dtype.kind in "fc" else "i") for y in outputs)

    def _active(self, num_inputs: int) -> tuple[bool, ...]:
        return self.active + (True,) * (num_inputs - len(self.active))

    # ---------------------------------------------------------------- derived functions

    def pullback(self, needs: tuple[bool, ...], residual: Record | None = None) -> Function:
        """The vector-Jacobian product; see :meth:`Function.pullback`."""
        plain = self._derived(self._pulled_back(needs))
        active = self._active(len(needs))
        if residual is None or residual[0] is not self.raw:  # of this function mapped
            return plain
        if any(n and not a for n, a in zip(needs, active, strict=True)):
            return plain
        return _Replayed(plain, residual[1], len(needs), [n for n, a in zip(needs, active, strict=True) if a])

    def pushforward(self, moving: tuple[bool, ...]) -> HostFunction:
        """The Jacobian-vector product; see :meth:`Function.pushforward`."""

        def pushed(*operands: Any) -> Sequence[Any]:
            inputs, tangents = operands[: len(moving)], operands[len(moving) :]
            found = self._pushed(inputs, tangents, moving)
            return self._transposed(inputs, tangents, moving) if found is None else found

        return self._derived(pushed)

    def _transposed(self, inputs: Sequence[Any], tangents: Sequence[Any], moving: tuple[bool, ...]) -> Sequence[Any]:
        """The Jacobian-vector product without forward mode: the transpose of the pullback, linear in the cotangents."""
        pullback = self._derived(self._pulled_back(moving))
        cotangents = [self._zeros(y) for y in self.raw(*inputs)]
        transpose = pullback._pulled_back((False,) * len(inputs) + (True,) * len(cotangents))
        return transpose(*inputs, *cotangents, *tangents)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> HostFunction:
        """The function called once for each element."""
        if size == 0:
            raise ValueError(
                f"{name_of(self.origin)} cannot be mapped over an axis of size 0; map over one element or more."
            )

        def looped(*inputs: Any) -> Sequence[Any]:
            each = [[x[i] if m else x for x, m in zip(inputs, mapped, strict=True)] for i in range(size)]
            return [self._stacked(rows) for rows in zip(*[self.raw(*xs) for xs in each], strict=True)]

        return self._derived(looped)

    def _pulled_back(self, needs: tuple[bool, ...]) -> Raw:
        def pulled_back(*operands: Any) -> Sequence[Any]:
            inputs, cotangents = operands[: len(needs)], operands[len(needs) :]
            _, pullback = self._linearized(inputs, needs)
            return pullback(cotangents)

        return pulled_back

    def _derived(self, raw: Raw) -> Self:
        """Another function of the inputs, and maybe of more."""
        return type(self)(raw, self.active, self.origin)


class _Replayed(Function):
    """A pullback that has been recorded where it is evaluated.

    Args:
        plain: the pullback at any inputs
        pullback: at the inputs of the record
        num_inputs: how many inputs come before the cotangents
        wanted: which of the pullback's results are outputs
    """

    def __init__(self, plain: HostFunction, pullback: Pullback, num_inputs: int, wanted: Sequence[bool]) -> None:
        self._plain, self._pullback, self._num_inputs, self._wanted = plain, pullback, num_inputs, wanted

    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The cotangents; only those of the outputs are read."""
        with self._plain._evaluating():
            found = self._pullback(self._plain._from_numpy(inputs[self._num_inputs :]))
            return self._plain._to_numpy([g for g, w in zip(found, self._wanted, strict=True) if w])

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The cotangents, recorded anew."""
        return self._plain.forward(*inputs)

    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Function:
        """The second derivative; see :meth:`Function.pullback`."""
        return self._plain.pullback(needs, residual)

    def pushforward(self, moving: tuple[bool, ...]) -> Function:
        """The second derivative along tangents; see :meth:`Function.pushforward`."""
        return self._plain.pushforward(moving)

    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Function:
        """One call for each element."""
        return self._plain.vmap(size, mapped)

    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each cotangent."""
        return self._plain.output_types(inputs)
