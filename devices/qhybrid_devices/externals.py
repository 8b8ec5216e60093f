"""The slots of a batch, and operations whose matrices NumPy fills in from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from qhybrid.program import Angle, Diagonal, Evolution, Matrix, Program, Slots


class Values(NamedTuple):
    """The slots of a batch in double precision.

    Args:
        shared: ``(Ps,)``
        batched: ``(Pb, B)``; in memory either axis may come first
        arrays: complex, with the batch axis in front where the slot has one
    """

    shared: NDArray
    batched: NDArray
    arrays: tuple[NDArray, ...]

    @classmethod
    def of(cls, program: Program, slots: Slots) -> tuple[Values, int]:
        """The slots of an execution, and how many samples it has."""
        count = 1
        if program.is_batched:
            assert slots.batch_size is not None
            count = slots.batch_size
        shared = np.zeros(0) if slots.shared is None else in_one_piece(slots.shared)
        batched = np.zeros((0, count)) if slots.batched is None else in_one_piece(slots.batched)
        return cls(shared, batched, tuple([np.asarray(a, complex) for a in slots.arrays])), count

    def part(self, program: Program, start: int, stop: int) -> Values:
        """The slots of some samples, as views."""
        if not program.is_batched or (start == 0 and stop == self.batched.shape[1]):
            return self
        return self._replace(
            batched=self.batched[:, start:stop],
            arrays=tuple(a[start:stop] if s.batched else a for a, s in zip(self.arrays, program.arrays, strict=True)),
        )

    def contiguous(self) -> Values:
        """The same angles in one piece of memory, which is what kernels are compiled for."""
        batched = in_one_piece(self.batched)
        return self if batched is self.batched else self._replace(batched=batched)

    def zeros(self) -> Values:
        """Zeros that lie in memory as these values do."""
        own, samples_first = self.rows()
        rows, arrays = np.zeros(own.shape), tuple([np.zeros(a.shape, a.dtype) for a in self.arrays])
        return Values(np.zeros(self.shared.shape), rows.T if samples_first else rows, arrays)

    def rows(self) -> tuple[NDArray, bool]:
        """The batched angles as kernels take them: as they lie in memory, and whether samples come first there."""
        return (self.batched, False) if self.batched.flags.c_contiguous else (self.batched.T, True)

    def number(self, value: Angle | float) -> NDArray | float:
        """A parameter, scalar or ``(B,)``."""
        if not isinstance(value, Angle):
            return value
        return self.batched[value.index] if value.batched else self.shared[value.index]


@dataclass(frozen=True)
class Directions:
    """Tangents of the slots of a batch along ``k`` directions, or of their cotangents.

    Args:
        shared: ``(k, Ps)``
        batched: ``(k, Pb, B)``
        arrays: as in :class:`Values`, with the axis of directions in front
    """

    shared: NDArray
    batched: NDArray
    arrays: tuple[NDArray, ...]

    @classmethod
    def of(cls, values: Values, tangents: Slots) -> Directions:
        """The tangents of an execution, zeros where they are not given."""
        assert tangents.shared is not None
        shared, batched, arrays = _rows_in_one_piece(tangents.shared), tangents.batched, tangents.arrays
        k = len(shared)
        return cls(
            shared,
            np.zeros((k, *values.batched.shape)) if batched is None else _rows_in_one_piece(batched),
            tuple(
                np.zeros((k, *own.shape), complex) if a is None else np.asarray(a, complex)
                for a, own in zip(arrays or (None,) * len(values.arrays), values.arrays, strict=True)
            ),
        )

    @classmethod
    def zeros(cls, count: int, values: Values) -> Directions:
        """``count`` tangents of zero."""
        arrays = tuple(np.zeros((count, *a.shape), complex) for a in values.arrays)
        return cls(np.zeros((count, *values.shared.shape)), np.zeros((count, *values.batched.shape)), arrays)

    def __len__(self) -> int:
        return len(self.shared)

    def part(self, program: Program, start: int, stop: int) -> Directions:
        """The tangents of some samples, as views."""
        if not program.is_batched or (start == 0 and stop == self.batched.shape[2]):
            return self
        pairs = zip(self.arrays, program.arrays, strict=True)
        arrays = tuple(a[:, start:stop] if s.batched else a for a, s in pairs)
        return Directions(self.shared, self.batched[:, :, start:stop], arrays)

    def some(self, start: int, stop: int) -> Directions:
        """Some of the directions, as views."""
        if start == 0 and stop == len(self):
            return self
        return Directions(self.shared[start:stop], self.batched[start:stop], tuple(a[start:stop] for a in self.arrays))

    def contiguous(self) -> Directions:
        """The same tangents of angles in one piece of memory."""
        if self.batched.flags.c_contiguous:
            return self
        return replace(self, batched=_rows_in_one_piece(self.batched))

    def one(self, index: int) -> Values:
        """One direction, as views."""
        return Values(self.shared[index], self.batched[index], tuple(a[index] for a in self.arrays))

    def number(self, value: Angle | float) -> NDArray:
        """The tangents of a parameter, ``(k, 1)`` or ``(k, B)``."""
        if not isinstance(value, Angle):
            return np.zeros((len(self), 1))
        return self.batched[:, value.index] if value.batched else self.shared[:, value.index, None]

    def moves(self, value: Angle | float) -> bool:
        """Whether a parameter changes along any direction."""
        return isinstance(value, Angle) and bool(self.number(value).any())


def in_one_piece(angles: NDArray) -> NDArray:
    """Angles as float64 without gaps in memory, whichever axis comes first there, and such that one may write to them.

    Kernels would be compiled once more for any others.
    """
    angles = np.asarray(angles, float)
    return angles if angles.flags.forc and angles.flags.writeable else np.array(angles)


def _rows_in_one_piece(tangents: NDArray) -> NDArray:
    """The same with axes in their order in memory."""
    return in_one_piece(np.ascontiguousarray(tangents))


def accumulate(into: Values | Directions, cotangents: Values | Directions) -> None:
    """Add cotangents to others, in place."""
    pairs = [(into.shared, cotangents.shared), (into.batched, cotangents.batched)]
    for target, own in [*pairs, *zip(into.arrays, cotangents.arrays, strict=True)]:
        target += own


def external_matrix(operator: Matrix | Diagonal | Evolution, values: Values) -> NDArray:
    """The matrix or diagonal of an operator, with the batch axis in front if it differs from sample to sample."""
    if isinstance(operator, Evolution):
        energies, vectors, time = _spectrum(operator, values)
        return np.einsum("...ai,...i,...bi->...ab", vectors, np.exp(-1j * time * energies), vectors.conj())
    array = values.arrays[operator.ref.index]
    if not operator.adjoint:
        return array
    return array.conj() if isinstance(operator, Diagonal) else np.swapaxes(array, -1, -2).conj()


def external_cotangent(operator: Matrix | Diagonal | Evolution, values: Values, g: NDArray, into: Values) -> None:
    """Add the cotangents of an operator's parameters to ``into``.

    Args:
        operator: the operator
        values: the slots
        g: matrix cotangent ``(..., d, d)``, or ``(..., d)`` of a diagonal, with ``dL = 2 Re sum dU_ab g_ab``
        into: cotangents, changed in place
    """
    if isinstance(operator, Evolution):
        _evolution_cotangent(operator, values, g, into)
    elif isinstance(operator, Diagonal):
        into.arrays[operator.ref.index][...] += 2 * (g if operator.adjoint else g.conj())
    else:
        into.arrays[operator.ref.index][...] += 2 * (np.swapaxes(g, -1, -2) if operator.adjoint else g.conj())


def _spectrum(operator: Evolution, values: Values) -> tuple[NDArray, NDArray, NDArray]:
    """Eigenvalues ``(..., d)`` and eigenvectors ``(..., d, d)`` of the Hermitian sum, and the time ``(..., 1)``."""
    weights = np.stack(np.broadcast_arrays(*(values.number(c) for c in operator.coefficients)), -1)
    energies, vectors = np.linalg.eigh(np.tensordot(weights, operator.terms.array, 1))
    return energies, vectors, np.asarray(values.number(operator.time))[..., None]


def _evolution_cotangent(operator: Evolution, values: Values, g: NDArray, into: Values) -> None:
    """Daleckii-Krein: ``dU = V (Phi * (V^dagger dA V)) V^dagger``, ``Phi`` the divided differences of exp(-i t x)."""
    energies, vectors, time = _spectrum(operator, values)
    phases = np.exp(-1j * time * energies)
    q = np.einsum("...ai,...ab,...bj->...ij", vectors, g, vectors.conj())
    d_time = 2 * np.sum((-1j * energies * phases * np.einsum("...ii->...i", q)).real, -1)
    _add_number(operator.time, d_time, into)
    difference = energies[..., :, None] - energies[..., None, :]
    mean = (energies[..., :, None] + energies[..., None, :]) / 2
    t = time[..., None]
    phi = -1j * t * np.exp(-1j * t * mean) * np.sinc(t * difference / (2 * np.pi))
    r = np.einsum("...ai,...ij,...bj->...ab", vectors.conj(), phi * q, vectors)
    for c, term in zip(operator.coefficients, operator.terms.array, strict=True):
        _add_number(c, 2 * np.sum((term * r).real, (-2, -1)), into)


def _add_number(value: Angle | float, cotangent: NDArray, into: Values) -> None:
    if isinstance(value, Angle) and value.batched:
        into.batched[value.index] += cotangent
    elif isinstance(value, Angle):
        into.shared[value.index] += np.sum(cotangent)


# ------------------------------------------------------------------ along directions


def external_moves(operator: Matrix | Diagonal | Evolution, directions: Directions) -> bool:
    """Whether an operator changes along any direction."""
    if isinstance(operator, Evolution):
        return any(directions.moves(p) for p in (operator.time, *operator.coefficients))
    return bool(directions.arrays[operator.ref.index].any())


def external_tangents(operator: Matrix | Diagonal | Evolution, values: Values, directions: Directions) -> NDArray:
    """The tangents of :func:`external_matrix`, ``(k, 1, ...)`` or ``(k, B, ...)``."""
    if isinstance(operator, Evolution):
        energies, vectors, time = _spectrum(operator, values)
        return _frechet(energies, vectors, time, _exponent_tangents(operator, values, directions))
    tangents = directions.arrays[operator.ref.index]
    if tangents.ndim == (2 if isinstance(operator, Diagonal) else 3):
        tangents = tangents[:, None]
    if not operator.adjoint:
        return tangents
    return tangents.conj() if isinstance(operator, Diagonal) else np.swapaxes(tangents, -1, -2).conj()


def external_cotangent_tangents(
    operator: Matrix | Diagonal | Evolution,
    values: Values,
    g: NDArray,
    directions: Directions,
    dg: NDArray,
    into: Directions,
) -> None:
    """Add the tangents of what :func:`external_cotangent` adds.

    Args:
        operator, values, g: as there
        directions: tangents of the slots
        dg: those of ``g``, with the axis of directions in front
        into: tangents of cotangents, changed in place
    """
    if isinstance(operator, Evolution):
        _evolution_cotangent_tangents(operator, values, g, directions, dg, into)
        return
    for i, own in enumerate(dg):  # a cotangent is linear in the matrix cotangent
        external_cotangent(operator, values, own, into.one(i))


def _evolution_cotangent_tangents(
    operator: Evolution, values: Values, g: NDArray, directions: Directions, dg: NDArray, into: Directions
) -> None:
    r"""The cotangent of a parameter ``p`` of ``exp(A)`` is ``2 Re tr(dA/dp M)``, ``M = L(A, G^T)``.

    ``L`` is the Frechet derivative, whose own is ``dM = L(A, dG^T) + L2(A; G^T, dA)``.
    """
    energies, vectors, time = _spectrum(operator, values)
    tilt, time = _exponent_tangents(operator, values, directions), time[..., None]
    gt, dgt = np.swapaxes(g, -1, -2), np.swapaxes(dg, -1, -2)
    if dgt.ndim == 3:
        gt, dgt = gt[None], dgt[:, None]
    m = _frechet(energies, vectors, time[..., 0], gt)
    dm = _frechet(energies, vectors, time[..., 0], dgt)
    hamiltonian = np.einsum("...ai,...i,...bi->...ab", vectors, energies, vectors.conj())
    if tilt.any():
        dm = dm + _second_frechet(-1j * time * hamiltonian, gt, tilt)
    d_hamiltonian = _hamiltonian_tangents(operator, directions)
    d_time = 2 * _trace(hamiltonian, dm).imag + 2 * _trace(d_hamiltonian, m).imag
    _add_numbers(operator.time, d_time, into)
    dt = directions.number(operator.time)
    for c, term in zip(operator.coefficients, operator.terms.array, strict=True):
        if isinstance(c, Angle):
            _add_numbers(c, 2 * (time[..., 0, 0] * _trace(term, dm) + dt * _trace(term, m)).imag, into)


def _trace(a: NDArray, b: NDArray) -> NDArray:
    """``tr(a b)`` of each pair of matrices."""
    return np.einsum("...ij,...ji->...", a, b)


def _add_numbers(value: Angle | float, tangents: NDArray, into: Directions) -> None:
    for i, own in enumerate(tangents):
        _add_number(value, own, into.one(i))


def _hamiltonian_tangents(operator: Evolution, directions: Directions) -> NDArray:
    """The tangents of ``sum_k c_k H_k``, ``(k, 1, d, d)`` or ``(k, B, d, d)``."""
    weights = np.stack(np.broadcast_arrays(*(directions.number(c) for c in operator.coefficients)), -1)
    return np.tensordot(weights, operator.terms.array, 1)


def _exponent_tangents(operator: Evolution, values: Values, directions: Directions) -> NDArray:
    """The tangents of ``-i t sum_k c_k H_k``, ``(k, 1, d, d)`` or ``(k, B, d, d)``."""
    energies, vectors, time = _spectrum(operator, values)
    hamiltonian = np.einsum("...ai,...i,...bi->...ab", vectors, energies, vectors.conj())
    dt = directions.number(operator.time)[..., None, None]
    return -1j * (dt * hamiltonian + time[..., None] * _hamiltonian_tangents(operator, directions))


def _frechet(energies: NDArray, vectors: NDArray, time: NDArray, x: NDArray) -> NDArray:
    """``L(A, x)``, the derivative of ``exp(A)``, ``A = -i t H``, along ``x`` (Daleckii and Krein)."""
    difference = energies[..., :, None] - energies[..., None, :]
    mean = (energies[..., :, None] + energies[..., None, :]) / 2
    t = time[..., None]
    phi = np.exp(-1j * t * mean) * np.sinc(t * difference / (2 * np.pi))
    adjoint = np.swapaxes(vectors, -1, -2).conj()
    return vectors @ (phi * (adjoint @ x @ vectors)) @ adjoint


def _second_frechet(a: NDArray, x: NDArray, e: NDArray) -> NDArray:
    """``L2(a; x, e)``, the mixed second derivative of ``exp``, from the exponential of a block triangular matrix.

    N. J. Higham and S. D. Relton, "Higher order Frechet derivatives of matrix functions" (2014), theorem 3.5. Second
    divided differences would cancel where eigenvalues are close.
    """
    scales = [np.linalg.norm(m, axis=(-2, -1), keepdims=True) for m in (x, e)]
    sx, se = (np.where(s == 0, 1, s) for s in scales)
    a, x, e = np.broadcast_arrays(a, x / sx, e / se)
    d = a.shape[-1]
    blocks = np.zeros((*a.shape[:-2], 4, d, 4, d), complex)
    for i in range(4):
        blocks[..., i, :, i, :] = a
    for i, j, block in ((0, 1, x), (2, 3, x), (0, 2, e), (1, 3, e)):
        blocks[..., i, :, j, :] = block
    result = expm(blocks.reshape(*a.shape[:-2], 4 * d, 4 * d))
    return sx * se * result[..., :d, 3 * d :]
