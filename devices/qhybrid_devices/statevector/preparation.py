"""The state that a circuit starts from: zeros, or prepared amplitudes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Program
from qhybrid_devices.externals import Directions, Values
from qhybrid_devices.statevector.engine import Layout
from qhybrid_devices.statevector.simd import register_array


def initial_state(program: Program, layout: Layout, values: Values) -> NDArray:
    """The states of all samples before the first gate."""
    psi = layout.empty()
    psi[...] = 0
    if program.preparation is None:
        psi[:, 0, 0, :] = 1
    else:
        _write(program, layout, values, psi)
    return psi


def initial_tangents(program: Program, layout: Layout, directions: Directions) -> NDArray:
    """Their tangents, ``(k, C, 2, N, L)``."""
    chi = register_array((len(directions), *layout.shape), layout.dtype)
    chi[...] = 0
    if program.preparation is not None:
        for i, own in enumerate(chi):
            _write(program, layout, directions.one(i), own)
    return chi


def _write(program: Program, layout: Layout, values: Values, psi: NDArray) -> None:
    """Write prepared amplitudes."""
    assert program.preparation is not None
    amplitudes = np.atleast_2d(values.arrays[program.preparation.amplitudes.index])
    for plane, part in ((0, amplitudes.real), (1, amplitudes.imag)):
        rows = np.broadcast_to(part.T, (part.shape[1], layout.count))
        psi[:, plane, _prepared_rows(program)] = layout.to_lanes(rows)


def add_amplitude_cotangent(program: Program, layout: Layout, lam: NDArray, into: Values) -> None:
    """Add the cotangent of the prepared amplitudes, given lambda at the start of the circuit."""
    assert program.preparation is not None
    kept = lam[:, :, _prepared_rows(program)]  # (C, 2, K, L)
    c = 2 * (kept[:, 0] + 1j * kept[:, 1]).transpose(0, 2, 1).reshape(layout.width, -1)[: layout.count]
    target = into.arrays[program.preparation.amplitudes.index]
    target += c if target.ndim == 2 else c.sum(0)


def _prepared_rows(program: Program) -> NDArray | slice:
    """Rows of the prepared amplitudes, in their order."""
    assert program.preparation is not None
    n, wires = program.num_wires, program.preparation.wires
    if wires == tuple(range(n)):
        return slice(None)
    rows = np.zeros(1, np.int64)
    for w in wires:
        rows = (rows[:, None] | np.array([0, 1 << (n - 1 - w)])).reshape(-1)
    return rows
