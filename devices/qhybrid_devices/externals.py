"""The slots of a batch, and operations whose matrices NumPy fills in from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Angle, Diagonal, Evolution, Matrix, Program, Slots


class Values(NamedTuple):
    """The slots of a batch in double precision.

    Args:
        shared: ``(Ps,)``
        batched: ``(Pb, B)``
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
        shared = np.zeros(0) if slots.shared is None else np.ascontiguousarray(slots.shared, float)
        if slots.batched is None:
            batched = np.zeros((0, count))
        else:
            batched = np.ascontiguousarray(slots.batched, float)
        return cls(shared, batched, tuple([np.asarray(a, complex) for a in slots.arrays])), count

    def part(self, program: Program, start: int, stop: int) -> Values:
        """The slots of some samples, as views."""
        if not program.is_batched or (start == 0 and stop == self.batched.shape[1]):
            return self
        return self._replace(
            batched=self.batched[:, start:stop],
            arrays=tuple(a[start:stop] if s.batched else a for a, s in zip(self.arrays, program.arrays, strict=True)),
        )

    def number(self, value: Angle | float) -> NDArray | float:
        """A parameter, scalar or ``(B,)``."""
        if not isinstance(value, Angle):
            return value
        return self.batched[value.index] if value.batched else self.shared[value.index]


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
