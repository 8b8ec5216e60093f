"""Collecting the parameters of a circuit while it is lowered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pennylane import math

from qhybrid.errors import CircuitError
from qhybrid.program import Angle, ArrayRef, ArraySlot


class SlotTable:
    """Gives each parameter that changes from call to call a slot, and keeps its value in slot order.

    Args:
        varies: whether a parameter changes from call to call; the others become constants of the program
        trainable: whether a parameter may carry a gradient or is not known, so that its value must not be baked in
            where there is no slot for it; by default every parameter that varies
    """

    def __init__(self, varies: Callable[[Any], bool], trainable: Callable[[Any], bool] | None = None) -> None:
        self.varies = varies
        self.trainable = trainable or varies
        self.shared: list[Any] = []
        self.batched: list[Any] = []
        self.arrays: list[Any] = []
        self.array_slots: list[ArraySlot] = []
        self.batch_size: int | None = None

    def angle(self, value: Any, constant: bool = True) -> Angle | float:
        """A slot for a real parameter of shape ``()`` or ``(batch,)``; a number if it never changes.

        Args:
            value: the parameter, of any host
            constant: whether an unchanging scalar may be returned as a number instead of a slot
        """
        ndim = math.ndim(value)
        if ndim > 1:
            raise CircuitError(
                f"A gate angle has shape {tuple(math.shape(value))}; it must be a scalar or have one batch axis. "
                "Index or reshape the argument before it reaches the gate."
            )
        if constant and ndim == 0 and not self.varies(value):
            return float(value)
        rows = self.batched if ndim else self.shared
        if ndim:
            self._join_batch(math.shape(value)[0])
        rows.append(value)
        return Angle(len(rows) - 1, bool(ndim))

    def array(self, value: Any, shape: tuple[int, ...]) -> ArrayRef:
        """A slot for a whole array of ``shape``, with or without one batch axis in front."""
        full = tuple(math.shape(value))
        if full[len(full) - len(shape) :] != shape or len(full) - len(shape) not in (0, 1):
            raise CircuitError(f"A parameter has shape {full}; expected {shape}, with at most one batch axis in front.")
        batched = len(full) > len(shape)
        if batched:
            self._join_batch(full[0])
        self.arrays.append(value)
        self.array_slots.append(ArraySlot(shape, batched))
        return ArrayRef(len(self.arrays) - 1)

    def _join_batch(self, size: int) -> None:
        if self.batch_size is None:
            self.batch_size = size
        elif self.batch_size != size:
            raise CircuitError(
                f"Two parameters have different batch sizes, {self.batch_size} and {size}. All batched parameters "
                "of a circuit need the same number of samples."
            )
