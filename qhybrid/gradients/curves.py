"""Curves through the slots of a program along which it stays a program: unitaries unitary, states normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Angle, Diagonal, Matrix, Program, Slots

Path = Callable[[float], NDArray]

#: A small step along a direction of length one.
STEP = 0.02


@dataclass(frozen=True)
class Curve:
    """A curve.

    Args:
        at: slots as a function of its parameter, which is 0 where the curve starts
        tangents: of the slots there; ``None`` where they stay
        step: a change of the parameter that is small for it
    """

    at: Callable[[float], Slots]
    tangents: Slots
    step: float


def straight_curve(slots: Slots, tangents: Slots) -> Curve | None:
    """The straight line along given tangents; ``None`` if these would change arrays, or nothing at all."""
    if any(t is not None and t.any() for t in tangents.arrays):
        return None
    length = np.sqrt(sum(np.sum(t**2) for t in (tangents.shared, tangents.batched) if t is not None))
    if not length > 0:
        return None

    def at(h: float) -> Slots:
        shared, batched = _moved(slots.shared, tangents.shared, h), _moved(slots.batched, tangents.batched, h)
        return Slots(shared, batched, slots.arrays, slots.batch_size)

    return Curve(at, tangents, STEP / float(length))


def random_curve(program: Program, slots: Slots, needs: Needs, rng: np.random.Generator) -> Curve:
    """One along a random direction of unit length of what is wanted."""
    shared, batched = (
        None if values is None else rng.normal(size=values.shape) * _wanted(needs, len(values), is_batched)
        for values, is_batched in ((slots.shared, False), (slots.batched, True))
    )
    total = np.sqrt(sum(np.sum(v**2) for v in (shared, batched) if v is not None))
    shared, batched = (None if v is None else v / max(1.0, total) for v in (shared, batched))
    flags = needs.arrays or (False,) * len(slots.arrays)
    moves = [
        _array_path(program, i, a, rng) if n and a is not None else None
        for i, (a, n) in enumerate(zip(slots.arrays, flags, strict=True))
    ]

    def at(h: float) -> Slots:
        arrays = tuple(a if m is None else m[0](h) for a, m in zip(slots.arrays, moves, strict=True))
        return Slots(_moved(slots.shared, shared, h), _moved(slots.batched, batched, h), arrays, slots.batch_size)

    tangents = Slots(shared, batched, tuple(None if m is None else m[1] for m in moves), slots.batch_size)
    return Curve(at, tangents, STEP)


def _moved(values: NDArray | None, tangent: NDArray | None, h: float) -> NDArray | None:
    return values if values is None or tangent is None else values + h * tangent


def _wanted(needs: Needs, rows: int, batched: bool) -> NDArray:
    """1 for each wanted row and 0 for the others, to multiply rows ``(rows,)`` or ``(rows, batch)`` with."""
    flags = np.array([needs.wants(Angle(i, batched)) for i in range(rows)], dtype=float)
    return flags[:, None] if batched else flags


def _array_path(program: Program, index: int, array: NDArray, rng: np.random.Generator) -> tuple[Path, NDArray]:
    """A path of an array by what reads it, and its tangent at 0."""
    if program.preparation is not None and program.preparation.amplitudes.index == index:
        return _on_the_sphere(array, rng)
    readers = [g.operator for g in program.gates if isinstance(g.operator, Matrix | Diagonal)]
    kinds = {type(op) for op in readers if op.ref.index == index}
    if kinds == {Diagonal}:
        phases = rng.normal(size=array.shape) / np.sqrt(array.size)
        return lambda h: array * np.exp(1j * h * phases), 1j * phases * array
    generator = _hermitian(array, rng)
    if kinds:
        energies, vectors = np.linalg.eigh(generator)
        adjoint = np.conj(np.swapaxes(vectors, -1, -2))
        return (
            lambda h: array @ (vectors * np.exp(1j * h * energies)[..., None, :]) @ adjoint,
            1j * array @ generator,
        )
    return lambda h: array + h * generator, generator


def _hermitian(array: NDArray, rng: np.random.Generator) -> NDArray:
    """Random Hermitian matrices of the array's shape, of length one together."""
    drawn = rng.normal(size=array.shape) + 1j * rng.normal(size=array.shape)
    drawn = drawn + np.conj(np.swapaxes(drawn, -1, -2))
    return drawn / np.linalg.norm(drawn)


def _on_the_sphere(array: NDArray, rng: np.random.Generator) -> tuple[Path, NDArray]:
    """Great circles through normalised states."""
    drawn = rng.normal(size=array.shape) + 1j * rng.normal(size=array.shape)
    drawn -= array * np.sum(np.conj(array) * drawn, axis=-1, keepdims=True).real
    drawn /= np.linalg.norm(drawn, axis=-1, keepdims=True)
    return lambda h: array * np.cos(h) + drawn * np.sin(h), drawn
