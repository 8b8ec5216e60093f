"""The slot values of one recording as tensors of their host."""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import numpy as np
from pennylane import math

from qhybrid.capture.lowering import Lowered
from qhybrid.capture.values import concrete, constant_tensor, is_tensor
from qhybrid.errors import CaptureError, CircuitError
from qhybrid.gradients import Block
from qhybrid.program import Angle

HOSTS = ("torch", "jax", "autograd", "numpy")


class SlotValues(NamedTuple):
    """Slot values as tensors of one host.

    Args:
        host: ``"numpy"``, ``"autograd"``, ``"torch"`` or ``"jax"``
        tensors: shared angles ``(Ps,)`` if there are any, batched angles ``(Pb, batch)`` if there are any, arrays
        blocks: if there are any, ``tensors`` are the arguments that the slots are gathered from
        constant: angles that come from nothing that is differentiated; not all of them need be known
    """

    host: str
    tensors: tuple[Any, ...]
    blocks: tuple[Block, ...] = ()
    constant: frozenset[Angle] = frozenset()


def host_of(values: Any) -> str:
    """The host that all ``values`` can join."""
    found = {math.get_interface(v) for v in values} - {"builtins", "scipy", None}
    if unknown := found - set(HOSTS):
        raise CaptureError(f"tensors of {', '.join(sorted(unknown))} are not compiled")
    return next((h for h in HOSTS if h in found), "numpy")


def assemble(lowered: Lowered) -> SlotValues:
    """Stack the values that a lowered recording holds into the tensors that its program takes."""
    values = (*lowered.shared, *lowered.batched, *lowered.arrays)
    host = host_of(values)
    rows = [tuple(map(_real, r)) for r in (lowered.shared, lowered.batched) if r]
    precision = _precision(values) if host == "torch" else None
    tensors = [_stack(host, r, precision) for r in rows] + [_as_tensor(host, a, precision) for a in lowered.arrays]
    # Numbers of Python's: nobody differentiates along them.
    rows_of = ((False, lowered.shared), (True, lowered.batched))
    constant = (Angle(i, batched) for batched, r in rows_of for i, v in enumerate(r) if type(v) in (int, float))
    return SlotValues(host, tuple(tensors), constant=frozenset(constant))


def _precision(values: Any) -> Any:
    """The promoted real dtype of the floating-point torch tensors among ``values``, ``None`` if there are none."""
    torch = sys.modules["torch"]
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    found = [v.dtype.to_real() for v in tensors if v.is_floating_point() or v.is_complex()]
    return functools.reduce(torch.promote_types, found) if found else None


def assemble_concrete(lowered: Lowered) -> SlotValues:
    """The same as plain arrays, whatever host the values belong to and whether it is differentiating them."""
    rows = [
        np.array([np.asarray(_real(concrete(v)), dtype=float) for v in r])
        for r in (lowered.shared, lowered.batched)
        if r
    ]
    return SlotValues("numpy", (*rows, *(np.asarray(concrete(a)) for a in lowered.arrays)))


def _real(angle: Any) -> Any:
    """An angle without an imaginary part, which must be zero if it is known."""
    if not (isinstance(angle, complex) or "complex" in str(getattr(angle, "dtype", ""))):
        return angle
    if not math.is_abstract(angle) and not np.allclose(math.imag(math.unwrap([angle])[0]), 0.0):
        raise CircuitError(
            f"A gate angle or coefficient is the complex number {angle}; it must be real. Give its real part, or its "
            "absolute value, and apply the phase as a gate of its own."
        )
    return math.real(angle)


def _stack(host: str, values: tuple[Any, ...], precision: Any) -> Any:
    if host == "numpy":
        return np.array([np.asarray(v, dtype=float) for v in values])
    tensors = [_as_tensor(host, v, precision) for v in values]
    return math.stack(tensors if precision is None else [t.to(precision) for t in tensors], like=host)


def _as_tensor(host: str, value: Any, precision: Any) -> Any:
    if host == "torch":
        if precision is not None and not is_tensor(value):
            return constant_tensor(value, precision)
        tensor = math.asarray(value, like="torch")
        return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.double()
    if host == "jax":
        return math.asarray(value, like="jax")
    if host == "autograd" and math.get_interface(value) == "autograd":
        return value
    return np.asarray(value)
