"""Checking derivatives: for authors of devices, gradient methods and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Function

Path = Callable[[float], Any]

#: Allowed error relative to the size of the derivative, and step of the central differences, by precision.
TOLERANCES = {np.dtype(np.float32): (3e-2, 3e-2), np.dtype(np.float64): (1e-8, 1e-3)}


def check_vjp(
    function: Function,
    inputs: Sequence[NDArray],
    *,
    needs: tuple[bool, ...] | None = None,
    paths: Mapping[int, Path] | None = None,
    order: int = 1,
    precision: Any = np.float64,
    seed: int = 0,
) -> None:
    """Compare the pullback of ``function`` with central differences along one random direction.

    Args:
        function: what to check
        inputs: where
        needs: which inputs' cotangents to check; all by default
        paths: for inputs that may not vary freely (a unitary, a normalised state), by position, a curve that passes
            through the input at 0
        order: 2 also checks the pullback of the pullback
        precision: of the device, a key of :data:`TOLERANCES`
        seed: of the random numbers

    Raises:
        AssertionError: the derivative is wrong; says at which order and by how much
    """
    rng = np.random.default_rng(seed)
    needs = needs or (True,) * len(inputs)
    tolerance, step = TOLERANCES[np.dtype(precision)]
    straight = [_straight(x, rng, n) for x, n in zip(inputs, needs, strict=True)]
    moves = [(paths or {}).get(k, s) if needs[k] else s for k, s in enumerate(straight)]
    outputs = function(*inputs)
    cotangents = [_random_like(y, rng) if y.dtype.kind in "fc" else np.zeros(y.shape) for y in outputs]

    def value(h: float) -> Any:
        return sum(_inner(c, y) for c, y in zip(cotangents, function(*(m(h) for m in moves)), strict=True))

    expected = _slope(value, step)
    pullback = function.pullback(needs)
    tangents = [_slope(m, step) for m, n in zip(moves, needs, strict=True) if n]
    got = sum(_inner(g, t) for g, t in zip(pullback(*inputs, *cotangents), tangents, strict=True))
    if not abs(got - expected) <= tolerance * max(1.0, abs(expected)):
        raise AssertionError(f"the pullback gives {got:.10g} along a direction, central differences {expected:.10g}")
    if order > 1:
        active = tuple(y.dtype.kind in "fc" for y in outputs)
        try:
            check_vjp(
                pullback,
                (*inputs, *cotangents),
                needs=needs + active,
                paths=paths,
                order=order - 1,
                precision=precision,
                seed=seed + 1,
            )
        except AssertionError as wrong:
            raise AssertionError(f"at the next order, {wrong}") from wrong


def _straight(start: NDArray, rng: np.random.Generator, moves: bool) -> Path:
    direction = _random_like(start, rng) * moves
    return lambda h: start + h * direction


def _slope(path: Path, step: float) -> Any:
    """Fourth-order central difference at 0."""
    return (8 * (path(step) - path(-step)) - (path(2 * step) - path(-2 * step))) / (12 * step)


def _random_like(array: NDArray, rng: np.random.Generator) -> NDArray:
    values = rng.normal(size=array.shape)
    return values + 1j * rng.normal(size=array.shape) if np.iscomplexobj(array) else values


def _inner(a: NDArray, b: NDArray) -> float:
    return float(np.real(np.sum(np.conj(a) * b)))
