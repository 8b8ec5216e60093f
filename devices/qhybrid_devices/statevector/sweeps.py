"""Whole circuits on tiles, forward and in reverse: the entry points of the engine."""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.kernels import (
    dense_cotangent,
    dense_rows,
    diagonal_cotangent,
    diagonal_rows,
    flip,
    pauli_cotangent,
    pauli_rows,
    u2_cotangent,
    u2_cotangent_lanes,
    u2_lanes,
    u2_shared,
)
from qhybrid_devices.statevector.table import (
    CMASK,
    COTANGENT,
    CVAL,
    DENSE,
    DIAGONAL,
    FLIP,
    FORM,
    KIND,
    NUM_Y,
    PARAM,
    PAULI,
    SHARED,
    TARGET,
    U2,
    WIDTH,
    XMASK,
    ZMASK,
)


@row_kernel
def apply_one(op, bits, re, im, rows, tile, shared, m, ml, buffer):
    """One operation on a tile; ``shared`` says whether its coefficients are in ``m`` or per lane in ``ml``."""
    kind, p, target, cmask, cval = op[KIND], op[PARAM], op[TARGET], op[CMASK], op[CVAL]
    if kind == U2:
        if shared:
            u2_shared(re, im, target, m, p, cmask, cval, rows, tile)
        else:
            u2_lanes(re, im, target, ml, p, cmask, cval, rows, tile)
    elif kind == FLIP:
        flip(re, im, target, cmask, cval, rows, tile)
    elif kind == PAULI:
        pauli_rows(re, im, op[XMASK], op[ZMASK], op[NUM_Y], m, p, shared, ml, cmask, cval, rows, tile)
    elif kind == DIAGONAL:
        diagonal_rows(re, im, bits, target, op[WIDTH], m, p, shared, ml, cmask, cval, rows, tile)
    else:
        dense_rows(re, im, bits, target, op[WIDTH], m, p, shared, ml, cmask, cval, rows, tile, buffer)


@row_kernel
def cotangent_one(op, bits, re, im, lr, li, rows, tile, shared, totals, out, buffer):
    """Add the matrix cotangent of one operation to ``totals``, or per lane to ``out``."""
    kind, o, target, cmask, cval = op[KIND], op[COTANGENT], op[TARGET], op[CMASK], op[CVAL]
    if kind == U2:
        if shared:
            u2_cotangent(re, im, lr, li, target, totals, o, cmask, cval, rows, tile)
        else:
            u2_cotangent_lanes(re, im, lr, li, target, out, o, cmask, cval, rows, tile)
    elif kind == PAULI:
        if shared:
            buffer[0] = 0
            pauli_cotangent(re, im, lr, li, op[XMASK], op[ZMASK], op[NUM_Y], buffer, 0, cmask, cval, rows, tile)
            for t in range(re.shape[1]):
                totals[o] += buffer[0, t]
        else:
            pauli_cotangent(re, im, lr, li, op[XMASK], op[ZMASK], op[NUM_Y], out, o, cmask, cval, rows, tile)
    elif kind == DIAGONAL:
        diagonal_cotangent(
            re, im, lr, li, bits, target, op[WIDTH], out, o, shared, totals, cmask, cval, rows, tile
        )
    elif kind == DENSE:
        dense_cotangent(re, im, lr, li, bits, target, op[WIDTH], out, o, shared, totals, cmask, cval, rows, tile)


# ------------------------------------------------------------------ tile mode: lanes are samples


@kernel
def tile_forward(psi, c0, c1, ops, o0, o1, bits, rows, ms, ml, buffer):
    """Operations ``o0 .. o1 - 1`` on the chunks ``c0 .. c1 - 1`` of ``psi``, in place; in reverse order if o0 > o1.

    Args:
        psi: ``(C, 2, N, L)``
        ops, bits: tables of the plan
        rows: ``arange(N)``
        ms: shared coefficients ``(K,)``
        ml: coefficients of each sample ``(C, K, L)``
        buffer: scratch rows, ``(rows, L)``
    """
    for c in range(c0, c1):
        if o0 <= o1:
            for i in range(o0, o1):
                apply_one(ops[i], bits, psi[c, 0], psi[c, 1], rows, 0, ops[i, FORM] == SHARED, ms, ml[c], buffer)
        else:
            for i in range(o0 - 1, o1 - 1, -1):
                apply_one(ops[i], bits, psi[c, 0], psi[c, 1], rows, 0, ops[i, FORM] == SHARED, ms, ml[c], buffer)


@kernel
def tile_backward(psi, lam, c0, c1, ops, stop, want, bits, rows, ms, ml, gs, gl, buffer):
    """Un-compute ``psi`` and ``lam`` down to operation ``stop`` and add the wanted matrix cotangents.

    Args:
        psi, lam: ``(C, 2, N, L)``, both changed in place
        want: for each operation whether its cotangent is wanted
        ms, ml: coefficients of the inverse gates
        gs: shared cotangents ``(K,)``
        gl: cotangents of each sample ``(C, K, L)``
    """
    for c in range(c0, c1):
        re, im, lr, li = psi[c, 0], psi[c, 1], lam[c, 0], lam[c, 1]
        for i in range(ops.shape[0] - 1, stop - 1, -1):
            shared = ops[i, FORM] == SHARED
            apply_one(ops[i], bits, re, im, rows, 0, shared, ms, ml[c], buffer)
            if want[i]:
                cotangent_one(ops[i], bits, re, im, lr, li, rows, 0, shared, gs, gl[c], buffer)
            apply_one(ops[i], bits, lr, li, rows, 0, shared, ms, ml[c], buffer)


@kernel
def tile_cotangent(psi, lam, ops, bits, rows, out, totals):
    """Matrix cotangent of one dense operation on whole states, per lane, added to ``out`` of shape ``(C, K, L)``.

    ``totals`` is not used: the row kernels take it for shared operations.
    """
    target, k = ops[0, TARGET], ops[0, WIDTH]
    for c in range(psi.shape[0]):
        re, im, lr, li = psi[c, 0], psi[c, 1], lam[c, 0], lam[c, 1]
        if ops[0, KIND] == U2:
            u2_cotangent_lanes(re, im, lr, li, target, out[c], 0, 0, 0, rows, 0)
        else:
            dense_cotangent(re, im, lr, li, bits, target, k, out[c], 0, False, totals, 0, 0, rows, 0)


# ------------------------------------------------------------------ sweep mode: lanes are qubits


@row_kernel
def gather(state, base, rows, lanes, re, im):
    """Copy one tile out of the planes ``state`` of shape ``(2, N)``."""
    for a in range(rows.shape[0]):
        o = base + rows[a]
        for t in range(lanes.shape[0]):
            re[a, t] = state[0, o + lanes[t]]
            im[a, t] = state[1, o + lanes[t]]


@row_kernel
def scatter(state, base, rows, lanes, re, im):
    """Copy one tile back."""
    for a in range(rows.shape[0]):
        o = base + rows[a]
        for t in range(lanes.shape[0]):
            state[0, o + lanes[t]] = re[a, t]
            state[1, o + lanes[t]] = im[a, t]


@kernel
def sweep_forward(psi, i0, i1, ops, o0, o1, bits, rows, lanes, tiles, ms, ml, scratch, buffer):
    """One sweep over work items ``i0 .. i1 - 1``, each a tile of a sample; in reverse order if ``o0 > o1``.

    Args:
        psi: ``(C, 2, N)``, one sample a chunk
        rows, lanes, tiles: index offsets of the active bits, the lane bits and the other bits
        ml: coefficients of each sample ``(C, K)``
        scratch: ``(4, R, L)``
    """
    re, im = scratch[0], scratch[1]
    for item in range(i0, i1):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        gather(psi[c], tile, rows, lanes, re, im)
        if o0 <= o1:
            for i in range(o0, o1):
                m = ms if ops[i, FORM] == SHARED else ml[c]
                apply_one(ops[i], bits, re, im, rows, tile, True, m, re, buffer)
        else:
            for i in range(o0 - 1, o1 - 1, -1):
                m = ms if ops[i, FORM] == SHARED else ml[c]
                apply_one(ops[i], bits, re, im, rows, tile, True, m, re, buffer)
        scatter(psi[c], tile, rows, lanes, re, im)


@kernel
def sweep_backward(
    psi, lam, i0, i1, ops, o0, o1, want, bits, rows, lanes, tiles, ms, ml, gs, gl, scratch, buffer
):
    """One sweep in reverse over psi and lambda together; arguments as above, ``gl`` is ``(C, K)``."""
    re, im, lr, li = scratch[0], scratch[1], scratch[2], scratch[3]
    for item in range(i0, i1):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        gather(psi[c], tile, rows, lanes, re, im)
        gather(lam[c], tile, rows, lanes, lr, li)
        for i in range(o1 - 1, o0 - 1, -1):
            m = ms if ops[i, FORM] == SHARED else ml[c]
            g = gs if ops[i, FORM] == SHARED else gl[c]
            apply_one(ops[i], bits, re, im, rows, tile, True, m, re, buffer)
            if want[i]:
                cotangent_one(ops[i], bits, re, im, lr, li, rows, tile, True, g, re, buffer)
            apply_one(ops[i], bits, lr, li, rows, tile, True, m, re, buffer)
        scatter(psi[c], tile, rows, lanes, re, im)
        scatter(lam[c], tile, rows, lanes, lr, li)
