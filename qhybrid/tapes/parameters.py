"""The data of tape operations: how they follow from slots, and how their cotangents lead back to slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.program import Angle, ArrayRef, ArraySlot, Constant, Program, Slots


class SlotCotangents:
    """Sums of cotangents, shaped like the slots of one execution.

    Args:
        program: whose slots
        slots: their values
    """

    def __init__(self, program: Program, slots: Slots) -> None:
        self.program, self.batch_size = program, slots.batch_size
        self.shared = np.zeros(program.num_shared)
        self.batched = np.zeros((program.num_batched, slots.batch_size or 0))
        self.arrays = [None if a is None else np.zeros(a.shape, complex) for a in slots.arrays]

    def add_angle(self, angle: Angle, cotangent: NDArray) -> None:
        """Add to the cotangent of ``angle``; ``cotangent`` is one number, or one a sample."""
        if angle.batched:
            self.batched[angle.index] += cotangent
        else:
            self.shared[angle.index] += np.sum(cotangent)

    def add_array(self, ref: ArrayRef, cotangent: NDArray) -> None:
        """Add to the cotangent of a whole array."""
        self.arrays[ref.index] += cotangent

    def only(self, needs: Needs) -> Slots:
        """The needed ones, ``None`` for each other."""
        wanted = needs.arrays or (False,) * len(self.arrays)
        return Slots(
            self.shared if needs.shared else None,
            self.batched if needs.batched and self.program.num_batched else None,
            tuple(a if w else None for a, w in zip(self.arrays, wanted, strict=True)),
            self.batch_size,
        )


def angle_values(angle: Angle | float, slots: Slots) -> NDArray:
    """The value of an angle, or its values ``(batch,)``; a constant is itself."""
    if not isinstance(angle, Angle):
        return np.asarray(angle)
    rows = slots.batched if angle.batched else slots.shared
    assert rows is not None
    return rows[angle.index]


def wants(angle: Angle | float, needs: Needs) -> bool:
    """Whether the cotangent of an angle is wanted."""
    return isinstance(angle, Angle) and (needs.batched if angle.batched else needs.shared)


class Parameter(ABC):
    """The data of one tape operation as a function of the slots."""

    #: Whether it varies from sample to sample; then its values have the batch axis in front.
    batched: bool
    #: Axes of the data of one sample.
    ndim: int

    @abstractmethod
    def values(self, slots: Slots) -> NDArray:
        """The data: its own shape, or ``(batch, *shape)``."""

    @abstractmethod
    def pull_back(self, slots: Slots, cotangent: NDArray, into: SlotCotangents) -> None:
        """Add to ``into`` what a cotangent shaped like :meth:`values` gives for the slots."""

    @abstractmethod
    def wanted(self, needs: Needs) -> bool:
        """Whether the cotangent of any slot that it reads is wanted."""

    @abstractmethod
    def example(self, rng: np.random.Generator) -> NDArray:
        """Data of one sample as good as any, for a template."""


@dataclass(frozen=True)
class ScaledAngle(Parameter):
    """``scale`` times an angle."""

    angle: Angle
    scale: float = 1.0
    ndim = 0

    @property
    def batched(self) -> bool:  # type: ignore[override]
        """Whether the angle varies from sample to sample."""
        return self.angle.batched

    def values(self, slots: Slots) -> NDArray:
        """One real number, or one a sample."""
        values = angle_values(self.angle, slots)
        return values if self.scale == 1.0 else self.scale * values

    def pull_back(self, slots: Slots, cotangent: NDArray, into: SlotCotangents) -> None:
        """The chain rule of a product."""
        into.add_angle(self.angle, self.scale * np.real(cotangent))

    def wanted(self, needs: Needs) -> bool:
        """Whether the angle's cotangent is wanted."""
        return wants(self.angle, needs)

    def example(self, rng: np.random.Generator) -> NDArray:
        """An angle that is no multiple of pi / 4."""
        return np.asarray(rng.uniform(0.1, 0.7))


@dataclass(frozen=True)
class Block:
    """Where a matrix acts within that of its controlled gate: rows and columns ``start`` to ``start + size``."""

    dim: int
    start: int
    size: int

    @classmethod
    def of(cls, control_values: tuple[bool, ...], size: int) -> Block:
        """The block of controls, the first one most significant, in front of ``size`` target states."""
        start = 0
        for value in control_values:
            start = 2 * start + value
        return cls(size << len(control_values), start * size, size)

    def embed(self, matrix: NDArray) -> NDArray:
        """Controlled matrices ``(..., dim, dim)``, given the matrices ``(..., size, size)``."""
        if self.dim == self.size:
            return matrix
        full = np.zeros((*matrix.shape[:-2], self.dim, self.dim), complex)
        full[..., range(self.dim), range(self.dim)] = 1
        full[..., self._part, self._part] = matrix
        return full

    def extract(self, full: NDArray) -> NDArray:
        """The transpose of :meth:`embed` for cotangents."""
        return full[..., self._part, self._part]

    @property
    def _part(self) -> slice:
        return slice(self.start, self.start + self.size)


class _MatrixParameter(Parameter):
    """A unitary matrix ``(2**k, 2**k)``, controls included."""

    block: Block
    ndim = 2

    def values(self, slots: Slots) -> NDArray:
        """One matrix, or one a sample."""
        return self.block.embed(self.matrices(slots))

    @abstractmethod
    def matrices(self, slots: Slots) -> NDArray:
        """The matrices without the controls."""

    def example(self, rng: np.random.Generator) -> NDArray:
        """A random unitary with the right block structure."""
        size = self.block.size
        return self.block.embed(np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0])


@dataclass(frozen=True)
class SpectralMatrix(_MatrixParameter):
    """``sum_m exp(i eigenvalues[m] theta) projectors[m]``."""

    eigenvalues: tuple[float, ...]
    projectors: Constant
    angle: Angle
    block: Block

    @property
    def batched(self) -> bool:  # type: ignore[override]
        """Whether the angle varies from sample to sample."""
        return self.angle.batched

    def matrices(self, slots: Slots) -> NDArray:
        """One matrix, or one a sample."""
        return np.tensordot(self._phases(slots), self.projectors.array, 1)

    def _phases(self, slots: Slots) -> NDArray:
        return np.exp(1j * np.multiply.outer(angle_values(self.angle, slots), np.array(self.eigenvalues)))

    def pull_back(self, slots: Slots, cotangent: NDArray, into: SlotCotangents) -> None:
        """``Re <cotangent, dU/dtheta>``."""
        derivative = np.tensordot(1j * np.array(self.eigenvalues) * self._phases(slots), self.projectors.array, 1)
        inner = (self.block.extract(cotangent).conj() * derivative).sum(axis=(-2, -1))
        into.add_angle(self.angle, inner.real)

    def wanted(self, needs: Needs) -> bool:
        """Whether the angle's cotangent is wanted."""
        return wants(self.angle, needs)


@dataclass(frozen=True)
class EvolutionMatrix(_MatrixParameter):
    """``exp(-i t sum_k c_k H_k)``, differentiated by divided differences of the exponential."""

    terms: Constant
    time: Angle | float
    coefficients: tuple[Angle | float, ...]
    block: Block

    @property
    def batched(self) -> bool:  # type: ignore[override]
        """Whether the time or a coefficient varies from sample to sample."""
        return any(isinstance(a, Angle) and a.batched for a in (self.time, *self.coefficients))

    def matrices(self, slots: Slots) -> NDArray:
        """One matrix, or one a sample."""
        time, energies, vectors, _ = self._eigen(slots)
        return (vectors * np.exp(-1j * time * energies)[..., None, :]) @ vectors.conj().swapaxes(-1, -2)

    def _eigen(self, slots: Slots) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Time ``(..., 1)``, eigenvalues and eigenvectors of the generator, and the generator."""
        coefficients = np.broadcast_arrays(*(angle_values(c, slots) for c in self.coefficients))
        generator = np.tensordot(np.stack(coefficients, axis=-1), self.terms.array, 1)
        return (angle_values(self.time, slots)[..., None], *np.linalg.eigh(generator), generator)

    def pull_back(self, slots: Slots, cotangent: NDArray, into: SlotCotangents) -> None:
        """``Re <cotangent, dU>`` for the time and for each coefficient."""
        time, energies, vectors, generator = self._eigen(slots)
        bar = self.block.extract(cotangent)
        if isinstance(self.time, Angle):
            derivative = -1j * generator @ self.matrices(slots)
            into.add_angle(self.time, (bar.conj() * derivative).sum(axis=(-2, -1)).real)
        half = 0.5 * time[..., None]
        sums, gaps = energies[..., :, None] + energies[..., None, :], energies[..., :, None] - energies[..., None, :]
        divided = -2j * half * np.exp(-1j * half * sums) * np.sinc(half * gaps / np.pi)
        dagger = vectors.conj().swapaxes(-1, -2)
        inner = vectors.conj() @ ((dagger @ bar @ vectors).conj() * divided) @ vectors.swapaxes(-1, -2)
        for c, term in zip(self.coefficients, self.terms.array, strict=True):
            if isinstance(c, Angle):
                into.add_angle(c, (inner * term).sum(axis=(-2, -1)).real)

    def wanted(self, needs: Needs) -> bool:
        """Whether the cotangent of the time or of a coefficient is wanted."""
        return any(wants(a, needs) for a in (self.time, *self.coefficients))


@dataclass(frozen=True)
class SlotMatrix(_MatrixParameter):
    """A unitary that is an array slot: whole, or its diagonal only."""

    ref: ArrayRef
    slot: ArraySlot
    adjoint: bool
    block: Block

    @property
    def batched(self) -> bool:  # type: ignore[override]
        """Whether the array varies from sample to sample."""
        return self.slot.batched

    def matrices(self, slots: Slots) -> NDArray:
        """One matrix, or one a sample."""
        entries = slots.arrays[self.ref.index]
        assert entries is not None
        if len(self.slot.shape) == 1:
            entries = entries[..., None] * np.eye(self.block.size)
        return entries.conj().swapaxes(-1, -2) if self.adjoint else entries

    def pull_back(self, slots: Slots, cotangent: NDArray, into: SlotCotangents) -> None:
        """The cotangent itself, back in the layout of the slot."""
        bar = self.block.extract(cotangent)
        if self.adjoint:
            bar = bar.conj().swapaxes(-1, -2)
        into.add_array(self.ref, np.diagonal(bar, axis1=-2, axis2=-1) if len(self.slot.shape) == 1 else bar)

    def wanted(self, needs: Needs) -> bool:
        """Whether the array's cotangent is wanted."""
        return bool(needs.arrays) and needs.arrays[self.ref.index]


@dataclass(frozen=True)
class SlotArray(Parameter):
    """An array slot as it is: prepared amplitudes, or a Hermitian matrix."""

    ref: ArrayRef
    slot: ArraySlot

    @property
    def batched(self) -> bool:  # type: ignore[override]
        """Whether the array varies from sample to sample."""
        return self.slot.batched

    @property
    def ndim(self) -> int:  # type: ignore[override]
        """Axes of the slot."""
        return len(self.slot.shape)

    def values(self, slots: Slots) -> NDArray:
        """The array."""
        array = slots.arrays[self.ref.index]
        assert array is not None
        return array

    def pull_back(self, slots: Slots, cotangent: NDArray, into: SlotCotangents) -> None:
        """The cotangent; that of a Hermitian matrix is its Hermitian part."""
        into.add_array(self.ref, (cotangent + cotangent.conj().swapaxes(-1, -2)) / 2 if self.ndim == 2 else cotangent)

    def wanted(self, needs: Needs) -> bool:
        """Whether the array's cotangent is wanted."""
        return bool(needs.arrays) and needs.arrays[self.ref.index]

    def example(self, rng: np.random.Generator) -> NDArray:
        """A random state, or a random Hermitian matrix."""
        array = rng.normal(size=self.slot.shape) + 1j * rng.normal(size=self.slot.shape)
        return (array + array.conj().T) / 2 if self.ndim == 2 else array / np.linalg.norm(array)
