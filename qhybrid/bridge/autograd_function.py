"""Functions written in ``autograd.numpy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import autograd.builtins
import autograd.numpy as anp
import numpy as np
from autograd.core import make_vjp
from autograd.extend import Box
from autograd.tracer import getval
from numpy.typing import NDArray

from qhybrid.bridge.base import HostFunction, Pullback


class AutogradFunction(HostFunction):
    """A function of arrays, differentiated by autograd.

    autograd's gradient of a real function is the conjugate of the cotangent, which is conjugated on its way in and out.
    """

    def _linearized(self, inputs: Sequence[Any], active: Sequence[bool]) -> tuple[Sequence[Any], Pullback]:
        moving = [k for k, (x, a) in enumerate(zip(inputs, active, strict=True)) if a and _inexact(x)]
        outputs: list[Any] = []
        traced: list[int] = []

        def of_moving(boxes: Any) -> Any:
            """The outputs that depend on the moving inputs; without any, these inputs: autograd wants some."""
            xs = list(inputs)
            for k, i in enumerate(moving):
                xs[i] = boxes[k]
            found = self.raw(*xs)
            for k, y in enumerate(found):
                depends = isinstance(y, Box) and y._trace == boxes._trace
                outputs.append(y._value if depends else y)
                if depends and _inexact(y):
                    traced.append(k)
            return autograd.builtins.tuple([found[k] for k in traced]) if traced else boxes

        vjp, _ = make_vjp(of_moving, tuple(inputs[i] for i in moving))

        def pullback(cotangents: Sequence[Any]) -> list[Any]:
            found = vjp(tuple(_conj(cotangents[k]) for k in traced)) if traced else ()
            gradients = {i: _like(_conj(found[k]), inputs[i]) for k, i in enumerate(moving if traced else ())}
            return [gradients.get(i, self._zeros(x)) for i, x in enumerate(inputs) if active[i]]

        return outputs, pullback

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


def _inexact(array: Any) -> bool:
    return np.asarray(getval(array)).dtype.kind in "fc"


def _conj(array: Any) -> Any:
    return anp.conj(array) if np.iscomplexobj(getval(array)) else array


def _like(cotangent: Any, primal: Any) -> Any:
    """The cotangent of a real input is real."""
    return (
        anp.real(cotangent) if np.iscomplexobj(getval(cotangent)) and not np.iscomplexobj(getval(primal)) else cotangent
    )
