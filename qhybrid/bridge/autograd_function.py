"""Functions written in ``autograd.numpy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import autograd.builtins
import autograd.numpy as anp
import numpy as np
from autograd.core import make_jvp, make_vjp
from autograd.extend import Box
from autograd.tracer import getval
from numpy.typing import NDArray

from qhybrid.bridge.base import HostFunction, Pullback, Raw


class AutogradFunction(HostFunction):
    """A function of arrays, differentiated by autograd.

    autograd's gradient of a real function is the conjugate of the cotangent, which is conjugated on its way in and out.
    """

    def _linearized(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[Sequence[Any], Pullback]:
        moving = [i for i, (x, a) in enumerate(zip(inputs, active, strict=True)) if a and _inexact(x)]
        traced = _Traced(self.raw, inputs, moving)
        vjp, _ = make_vjp(traced, tuple(inputs[i] for i in moving))

        def pullback(cotangents: Sequence[Any]) -> list[Any]:
            found = vjp(tuple(_conj(cotangents[k]) for k in traced.positions)) if traced.positions else ()
            gradients = {i: _like(_conj(g), inputs[i]) for i, g in zip(moving, found, strict=False)}
            return [gradients.get(i, self._zeros(x)) for i, x in enumerate(inputs) if active[i]]

        return traced.outputs, pullback

    def _pushed(self, inputs: Sequence[Any], tangents: Sequence[Any], moving: Sequence[bool]) -> Sequence[Any] | None:
        positions = [i for i, m in enumerate(moving) if m]
        traced = _Traced(self.raw, inputs, positions)
        try:
            _, found = make_jvp(traced, tuple(inputs[i] for i in positions))(tuple(tangents))
        except NotImplementedError:  # autograd has no forward rule for some function
            return None
        pushed = dict(zip(traced.positions, found, strict=False))
        return [pushed.get(k, self._zeros(y)) for k, y in enumerate(traced.outputs)]

    @staticmethod
    def _stacked(rows: Sequence[Any]) -> Any:
        return anp.stack(rows)

    @staticmethod
    def _zeros(array: Any) -> NDArray:
        value = np.asarray(getval(array))
        return np.zeros(value.shape, value.dtype if value.dtype.kind in "fc" else float)

    @staticmethod
    def _from_numpy(arrays: Sequence[NDArray]) -> list[NDArray]:
        return [np.asarray(a) for a in arrays]

    @staticmethod
    def _to_numpy(arrays: Sequence[Any]) -> tuple[NDArray, ...]:
        return tuple(np.asarray(a) for a in arrays)


class _Traced:
    """A function of some inputs as autograd traces it, which keeps what does not depend on them too.

    Args:
        raw: of all inputs
        inputs: where
        moving: which of the inputs are traced
    """

    def __init__(self, raw: Raw, inputs: Sequence[Any], moving: Sequence[int]) -> None:
        self._raw, self._inputs, self._moving = raw, inputs, moving
        #: All outputs, and which of them depend on what is traced.
        self.outputs: list[Any] = []
        self.positions: list[int] = []

    def __call__(self, boxes: Any) -> Any:
        """The outputs that depend on what is traced; without any, the moving inputs: autograd wants something."""
        xs = list(self._inputs)
        for k, i in enumerate(self._moving):
            xs[i] = boxes[k]
        found = self._raw(*xs)
        depends = [isinstance(y, Box) and y._trace == boxes._trace for y in found]
        self.outputs = [y._value if d else y for y, d in zip(found, depends, strict=True)]
        self.positions = [k for k, (y, d) in enumerate(zip(found, depends, strict=True)) if d and _inexact(y)]
        return autograd.builtins.tuple([found[k] for k in self.positions]) if self.positions else boxes


def _inexact(array: Any) -> bool:
    return np.asarray(getval(array)).dtype.kind in "fc"


def _conj(array: Any) -> Any:
    return anp.conj(array) if np.iscomplexobj(getval(array)) else array


def _like(cotangent: Any, primal: Any) -> Any:
    """The cotangent of a real input is real."""
    return (
        anp.real(cotangent) if np.iscomplexobj(getval(cotangent)) and not np.iscomplexobj(getval(primal)) else cotangent
    )
