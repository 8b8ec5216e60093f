"""Constant gates by the names that simulators, noise models and hardware know."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.circuit import Gate as QiskitGate
from qiskit.circuit import library
from qiskit.circuit.library import get_standard_gate_name_mapping

#: Two matrices are the same gate if their entries agree to this.
EXACT = 1e-12
#: Fixed gates that keep their names. Others, such as iswap, are matrices: Qiskit has no way from each of them to the
#: gates of every simulator.
STANDARD = ("id", "x", "y", "z", "h", "s", "sdg", "t", "tdg", "sx", "sxdg", "cx", "cy", "cz", "swap", "ccx", "cswap")

ROTATIONS = {
    "X": library.RXGate,
    "Y": library.RYGate,
    "Z": library.RZGate,
    "XX": library.RXXGate,
    "YY": library.RYYGate,
    "ZZ": library.RZZGate,
}


@cache
def _standard_gates() -> tuple[tuple[NDArray, QiskitGate], ...]:
    """Qiskit's gates without parameters that simulators and noise models know, with their matrices."""
    gates = get_standard_gate_name_mapping()
    return tuple((np.asarray(gates[name].to_matrix()), gates[name]) for name in STANDARD)


def fixed_gate(name: str, matrix: NDArray) -> QiskitGate:
    """The gate with a matrix: a standard one or a rotation if there is one, so that noise models know its name."""
    for standard, gate in _standard_gates():
        if standard.shape == matrix.shape and np.abs(standard - matrix).max() < EXACT:
            return gate
    for word, rotation in ROTATIONS.items():
        if 2 ** len(word) == len(matrix) and (angle := _rotation_angle(matrix, rotation)) is not None:
            return rotation(angle)
    if len(matrix) == 2 and abs(matrix[0, 0] - 1) < EXACT and abs(matrix[0, 1]) + abs(matrix[1, 0]) < EXACT:
        return library.PhaseGate(float(np.angle(matrix[1, 1])))
    return library.UnitaryGate(matrix, label=name)


def _rotation_angle(matrix: NDArray, rotation: Any) -> float | None:
    """The angle whose rotation is ``matrix``, ``None`` if there is none."""
    generator = np.asarray(rotation(np.pi).to_matrix())  # -i P
    cosine, sine = np.trace(matrix).real / len(matrix), np.trace(generator.conj().T @ matrix).real / len(matrix)
    exact = np.abs(cosine * np.eye(len(matrix)) + sine * generator - matrix).max() < EXACT
    return float(2 * np.arctan2(sine, cosine)) if exact else None
