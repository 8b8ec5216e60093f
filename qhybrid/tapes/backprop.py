"""Derivatives of simulators that are themselves written in differentiable array code."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import autograd
import autograd.numpy as anp
import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Samples, Slots
from qhybrid.tapes.parameters import SlotCotangents

if TYPE_CHECKING:
    from qhybrid.tapes.executable import TapeExecutable


def backprop(
    executable: TapeExecutable,
    slots: Slots,
    count: int,
    cotangents: tuple[NDArray, ...],
    wanted: tuple[bool, ...],
    needs: Needs,
    into: SlotCotangents,
) -> NDArray:
    """Add the cotangents of gates and varying observables to ``into``.

    The data of operations are what is differentiated; how they follow from slots is the parameters' own business.

    Args:
        executable: the program on its device
        slots: where
        count: samples
        cotangents: of the results, batch in front
        wanted: for each operation with a parameter, whether its cotangent is
        needs: which slots' are
        into: receives them

    Returns:
        values of the scalar measurements ``(count, M)``
    """
    from qhybrid.tapes.executable import Point

    point = executable.point(slots)
    weights = executable.measured.value_cotangents(cotangents[0], slots)
    tensor_bars = list(cotangents[1:])
    if point.lanes != count:
        weights = weights.sum(axis=0, keepdims=True)
        tensor_bars = [c.sum(axis=0, keepdims=True) for c in tensor_bars]
    active = [k for k, w in enumerate(wanted) if w]
    extra = [
        (m, k)
        for m, measurement in enumerate(executable.varying)
        for k, p in enumerate(measurement.parameters)
        if p.wanted(needs)
    ]
    seen: list[NDArray] = []

    def contracted(*data: Any) -> Any:
        gates, varying = list(point.gates), [list(v) for v in point.varying]
        for k, value in zip(active, data[: len(active)], strict=True):
            gates[k] = value
        for (m, k), value in zip(extra, data[len(active) :], strict=True):
            varying[m][k] = value
        moved = Point(tuple(gates), tuple(map(tuple, varying)), point.lanes)
        return _contraction(executable, moved, weights, tensor_bars, seen)

    inputs = [_primal(point.gates[k]) for k in active] + [_primal(point.varying[m][k]) for m, k in extra]
    if inputs:
        with warnings.catch_warnings():  # the transpose of a cast to complex is a cast to real
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            gradient = autograd.grad(contracted, tuple(range(len(inputs))))(*inputs)
    else:
        contracted()
        gradient = ()
    owners = [executable.parameters[k] for k in active] + [executable.varying[m].parameters[k] for m, k in extra]
    for parameter, bar in zip(owners, gradient, strict=True):
        parameter.pull_back(slots, np.conj(bar), into)
    return np.broadcast_to(np.concatenate(seen), (count, executable.measured.num_values))


def _primal(value: NDArray) -> NDArray:
    return np.asarray(value, dtype=complex if np.iscomplexobj(value) else float)


def _contraction(
    executable: TapeExecutable, point: Any, weights: NDArray, tensor_bars: list[NDArray], seen: list[NDArray]
) -> Any:
    """``Re <cotangents, results>`` of all lanes; the scalar values go to ``seen``."""
    total, start = 0.0, 0
    for size, results in executable.execute(point, None, "autograd"):
        part = slice(start, start + size)
        values = executable.scalar_values(results)
        kept = np.empty((size, len(values)))
        for k, value in enumerate(values):
            kept[:, k] = _concrete(value)
            total = total + anp.sum(weights[part, k] * anp.real(value))
        seen.append(kept)
        for index, bars in enumerate(tensor_bars):
            if not isinstance(executable.program.tensors[index], Samples):
                tensor = anp.reshape(executable.tensor_value(results, index), (-1, bars.shape[-1]))
                total = total + anp.sum(anp.real(anp.conj(bars[part]) * tensor))
        start += size
    return total


def _concrete(value: Any) -> NDArray:
    while hasattr(value, "_value"):
        value = value._value
    return np.asarray(value)
