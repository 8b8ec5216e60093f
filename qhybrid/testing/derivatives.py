"""Checking derivatives: for authors of devices, gradient methods and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        order: 2 also checks the pullback and the pushforward of the pullback
        precision: of the device, a key of :data:`TOLERANCES`
        seed: of the random numbers

    Raises:
        AssertionError: the derivative is wrong; says at which order and by how much
    """
    line = _Line.through(function, inputs, needs, paths, precision, seed)
    pullback = function.pullback(line.needs)
    got = sum(map(_inner, pullback(*inputs, *line.cotangents), line.tangents))
    line.compare("pullback", got)
    _check_next_order(line, pullback, (*inputs, *line.cotangents), line.active, paths, order, precision, seed)


def check_jvp(
    function: Function,
    inputs: Sequence[NDArray],
    *,
    moving: tuple[bool, ...] | None = None,
    paths: Mapping[int, Path] | None = None,
    order: int = 1,
    precision: Any = np.float64,
    seed: int = 0,
) -> None:
    """Compare the pushforward of ``function`` with central differences along one random direction.

    Args:
        function: what to check
        inputs: where
        moving: which inputs move; all by default
        paths: as for :func:`check_vjp`
        order: 2 also checks the pullback and the pushforward of the pushforward
        precision: of the device, a key of :data:`TOLERANCES`
        seed: of the random numbers

    Raises:
        AssertionError: the derivative is wrong; says at which order and by how much
    """
    line = _Line.through(function, inputs, moving, paths, precision, seed)
    pushforward = function.pushforward(line.needs)
    got = sum(map(_inner, line.cotangents, pushforward(*inputs, *line.tangents)))
    line.compare("pushforward", got)
    extra = (True,) * len(line.tangents)
    _check_next_order(line, pushforward, (*inputs, *line.tangents), extra, paths, order, precision, seed)


def _check_next_order(
    line: _Line,
    derivative: Function,
    inputs: Sequence[NDArray],
    extra: tuple[bool, ...],
    paths: Mapping[int, Path] | None,
    order: int,
    precision: Any,
    seed: int,
) -> None:
    """Check the derivatives of a derivative, forward and reverse, if ``order`` asks for it."""
    if order < 2:
        return
    how: dict[str, Any] = {"paths": paths, "order": order - 1, "precision": precision, "seed": seed + 1}
    try:
        check_vjp(derivative, inputs, needs=line.needs + extra, **how)
        check_jvp(derivative, inputs, moving=line.needs + extra, **how)
    except AssertionError as wrong:
        raise AssertionError(f"at the next order, {wrong}") from wrong


@dataclass(frozen=True)
class _Line:
    """A random line through the inputs of a function, and how fast its outputs, contracted, change along it."""

    needs: tuple[bool, ...]
    tangents: list[NDArray]
    cotangents: list[NDArray]
    active: tuple[bool, ...]
    slope: float
    tolerance: float

    @classmethod
    def through(
        cls,
        function: Function,
        inputs: Sequence[NDArray],
        needs: tuple[bool, ...] | None,
        paths: Mapping[int, Path] | None,
        precision: Any,
        seed: int,
    ) -> _Line:
        """One through ``inputs``, along those that ``needs`` names."""
        rng = np.random.default_rng(seed)
        needs = needs or (True,) * len(inputs)
        tolerance, step = TOLERANCES[np.dtype(precision)]
        straight = [_straight(x, rng, n) for x, n in zip(inputs, needs, strict=True)]
        moves = [(paths or {}).get(k, s) if needs[k] else s for k, s in enumerate(straight)]
        outputs = function(*inputs)
        cotangents = [_random_like(y, rng) if y.dtype.kind in "fc" else np.zeros(y.shape) for y in outputs]

        def value(h: float) -> Any:
            return sum(map(_inner, cotangents, function(*(m(h) for m in moves))))

        tangents = [_slope(m, step) for m, n in zip(moves, needs, strict=True) if n]
        active = tuple(y.dtype.kind in "fc" for y in outputs)
        return cls(needs, tangents, cotangents, active, _slope(value, step), tolerance)

    def compare(self, name: str, got: float) -> None:
        """Compare a derivative along the line with the slope."""
        if not abs(got - self.slope) <= self.tolerance * max(1.0, abs(self.slope)):
            raise AssertionError(
                f"the {name} gives {got:.10g} along a direction, central differences {self.slope:.10g}"
            )


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
