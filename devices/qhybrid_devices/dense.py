"""Matrices of gates, for devices that apply matrices."""

from __future__ import annotations

from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import PAULI, Diagonal, Evolution, Fixed, Matrix, PauliRotation, SpectralRotation
from qhybrid_devices.externals import Values, external_matrix

Unitary: TypeAlias = Fixed | PauliRotation | SpectralRotation | Evolution | Matrix | Diagonal


def operator_matrix(operator: Unitary, values: Values) -> NDArray:
    """The matrix of a gate's operator, without its controls; a channel has none.

    Args:
        operator: of a gate on ``k`` wires
        values: the slots

    Returns:
        ``(2**k, 2**k)``, or ``(B, 2**k, 2**k)`` if it differs from sample to sample

    Example:
        >>> from qhybrid.program import Angle
        >>> values = Values(np.zeros(0), np.array([[0.0, np.pi]]), ())
        >>> operator_matrix(PauliRotation("Z", Angle(0, batched=True)), values).shape
        (2, 2, 2)
    """
    if isinstance(operator, Fixed):
        return operator.matrix.array
    if isinstance(operator, PauliRotation):
        half = operator.scale / 2 * np.asarray(values.number(operator.angle))[..., None, None]
        word = reduce(lambda a, b: np.kron(a, b), (PAULI[p] for p in operator.word))
        return np.cos(half) * np.eye(len(word)) - 1j * np.sin(half) * word
    if isinstance(operator, SpectralRotation):
        phases = np.exp(1j * np.multiply.outer(values.number(operator.angle), operator.eigenvalues))
        return np.einsum("...m,mab->...ab", phases, operator.projectors.array)
    matrix = external_matrix(operator, values)
    return matrix[..., None] * np.eye(matrix.shape[-1]) if isinstance(operator, Diagonal) else matrix
