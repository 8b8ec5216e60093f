"""Checks of slot values, made before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import CircuitError, NotFiniteError
from qhybrid.program import Angle, ArrayRef, Diagonal, Matrix, Program, Slots

Check = Callable[[str, NDArray], None]

NORM_TOLERANCE = 1e-5
#: Numbers whose sum of squares takes less time than their sum, and no thread of a BLAS.
FEW = 4096


def check_slots(program: Program, slots: Slots) -> None:
    """Refuse angles that are not finite, states that are not normalised and matrices that are not unitary.

    Args:
        program: the circuit that the values are for
        slots: values of its parameters

    Raises:
        CircuitError: names the gate, the wires and what was got; a :class:`NotFiniteError` for an angle
    """
    check_angles(program, slots.shared, slots.batched)
    if slots.arrays:
        _check_arrays(program, slots)


def check_angles(program: Program, shared: NDArray | None, batched: NDArray | None) -> None:
    """Refuse angles that are not finite; see :func:`check_slots`.

    Raises:
        NotFiniteError: names the gate, the wires and what was got
    """
    for values, is_batched in ((shared, False), (batched, True)):
        if values is not None and not _is_finite(values):
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            _raise_not_finite(program, Angle(row, is_batched), values[row])


def _is_finite(values: NDArray) -> bool:
    """Whether all numbers are; a sum tells at once where it is finite."""
    total = np.vdot(values, values) if values.size <= FEW else np.add.reduce(values, axis=None)
    return math.isfinite(total) or bool(np.isfinite(values).all())


def _raise_not_finite(program: Program, angle: Angle, value: NDArray) -> None:
    bad = np.ravel(value)[~np.isfinite(np.ravel(value))][0]
    samples = f" in sample {int(np.flatnonzero(~np.isfinite(value))[0])}" if angle.batched else ""
    for gate in program.gates:
        if angle in gate.angles:
            where = f"the angle of {gate.name} on wires {list(gate.wires)}"
            break
    else:
        where = "a coefficient of an observable"
    message = f"{where} is {bad}{samples}. Angles and coefficients must be finite."
    raise NotFiniteError(message[0].upper() + message[1:], angle.batched, angle.index)


def _check_arrays(program: Program, slots: Slots) -> None:
    checks: dict[int, tuple[str, Check]] = {}
    if program.preparation is not None:
        wires = list(program.preparation.wires)
        checks[program.preparation.amplitudes.index] = (f"the state prepared on wires {wires}", _check_state)
    for gate in program.gates:
        op = gate.operator
        if isinstance(op, Matrix | Diagonal):
            check: Check = check_unitary if isinstance(op, Matrix) else check_phases
            checks[op.ref.index] = (f"{gate.name} on wires {list(gate.wires)}", check)
    for observable in program.observables():
        for term in observable.terms:
            for wires_, matrix in term.matrices:
                if isinstance(matrix, ArrayRef):
                    checks[matrix.index] = (f"the observable matrix on wires {list(wires_)}", _check_hermitian)
    for index, (what, check) in checks.items():
        array = slots.arrays[index]
        if array is not None and array.size:
            check(what, array)


def _check_state(what: str, amplitudes: NDArray) -> None:
    norms = np.linalg.norm(amplitudes, axis=-1)
    wrong = np.ravel(norms)[~(np.abs(np.ravel(norms) - 1) < NORM_TOLERANCE)]
    if wrong.size:
        raise CircuitError(
            f"{what} has norm {wrong[0]:.6g}; it must be 1. Pass normalize=True, or divide it by its norm."
        )


def check_unitary(what: str, matrix: NDArray) -> None:
    """Refuse matrices ``(..., d, d)`` that are not unitary."""
    _refuse_unless(_from_unitary(matrix), f"{what} got a matrix that is not unitary")


def is_unitary(matrix: NDArray) -> bool:
    """Whether a matrix is as close to a unitary one as :func:`check_unitary` asks for."""
    return bool(_from_unitary(matrix) < NORM_TOLERANCE)


def _from_unitary(matrix: NDArray) -> float:
    """The largest entry of ``U U^dagger - 1``."""
    return float(np.abs(matrix @ np.conj(np.swapaxes(matrix, -1, -2)) - np.eye(matrix.shape[-1])).max())


def check_phases(what: str, diagonal: NDArray) -> None:
    """Refuse diagonals ``(..., d)`` with an entry that is not a phase."""
    _refuse_unless(np.abs(np.abs(diagonal) - 1).max(), f"{what} got entries whose modulus is not 1")


def _check_hermitian(what: str, matrix: NDArray) -> None:
    _refuse_unless(np.abs(matrix - np.conj(np.swapaxes(matrix, -1, -2))).max(), f"{what} is not Hermitian")


def _refuse_unless(error: float, what: str) -> None:
    if not error < NORM_TOLERANCE:
        raise CircuitError(f"{what}: the deviation is {error:.2g}, allowed is {NORM_TOLERANCE:g}.")
