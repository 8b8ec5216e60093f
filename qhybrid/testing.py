"""Checking derivatives: for authors of devices, gradient methods and functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Function

#: Allowed error relative to the size of the derivative, and step of the central differences, by precision.
TOLERANCES = {np.dtype(np.float32): (3e-2, 3e-2), np.dtype(np.float64): (1e-8, 1e-3)}


def check_vjp(
    function: Function,
    inputs: Sequence[NDArray],
    *,
    needs: tuple[bool, ...] | None = None,
    directions: Sequence[NDArray | None] | None = None,
    order: int = 1,
    precision: Any = np.float64,
    seed: int = 0,
) -> None:
    """Compare the pullback of ``function`` with central differences along one random direction.

    Args:
        function: what to check
        inputs: where
        needs: which inputs' cotangents to check; all by default
        directions: for each input ``None`` or the direction along which to vary it, for inputs that may not vary freely
            (the entries of a unitary, a normalised state); random by default
        order: 2 also checks the pullback of the pullback
        precision: of the device, a key of :data:`TOLERANCES`
        seed: of the random numbers

    Raises:
        AssertionError: the derivative is wrong; says at which order and by how much
    """
    rng = np.random.default_rng(seed)
    needs = needs or (True,) * len(inputs)
    tolerance, step = TOLERANCES[np.dtype(precision)]
    given = directions or (None,) * len(inputs)
    moves = [
        (_random_like(x, rng) if d is None else d) if n else np.zeros_like(x)
        for x, n, d in zip(inputs, needs, given, strict=True)
    ]
    outputs = function(*inputs)
    cotangents = [_random_like(y, rng) if y.dtype.kind in "fc" else np.zeros(y.shape) for y in outputs]

    def value(h: float) -> float:
        moved = function(*(x + h * d for x, d in zip(inputs, moves, strict=True)))
        return sum(_inner(c, y) for c, y in zip(cotangents, moved, strict=True))

    expected = (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)
    pullback = function.pullback(needs)
    needed = [d for d, n in zip(moves, needs, strict=True) if n]
    got = sum(_inner(g, d) for g, d in zip(pullback(*inputs, *cotangents), needed, strict=True))
    if not abs(got - expected) <= tolerance * max(1.0, abs(expected)):
        raise AssertionError(f"the pullback gives {got:.10g} along a direction, central differences {expected:.10g}")
    if order > 1:
        try:
            more = None if directions is None else [*given, *(None for _ in cotangents)]
            check_vjp(
                pullback,
                (*inputs, *cotangents),
                needs=(*needs, *(y.dtype.kind in "fc" for y in outputs)),
                directions=more,
                order=order - 1,
                precision=precision,
                seed=seed + 1,
            )
        except AssertionError as wrong:
            raise AssertionError(f"at the next order, {wrong}") from wrong


def _random_like(array: NDArray, rng: np.random.Generator) -> NDArray:
    values = rng.normal(size=array.shape)
    return values + 1j * rng.normal(size=array.shape) if np.iscomplexobj(array) else values


def _inner(a: NDArray, b: NDArray) -> float:
    return float(np.real(np.sum(np.conj(a) * b)))
