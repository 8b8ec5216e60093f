"""Whole circuits on tiles, forward and in reverse: the entry points of the engine."""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.kernels import (
    bits_of,
    dense_cotangent,
    dense_rows,
    diagonal_cotangent,
    diagonal_rows,
    flip,
    pauli_cotangent,
    pauli_rows,
    spread,
    target_mask,
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
    LANES,
    NUM_Y,
    PARAM,
    PAULI,
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


@row_kernel
def reverse_one(op, bits, re, im, lr, li, rows, tile, wanted, shared, m, ml, totals, out, buffer):
    """Un-compute one operation on psi and lambda and, if wanted, add its matrix cotangent."""
    for step in range(2):
        # A Pauli rotation's cotangent takes both states on the same side of the gate, the others' psi before it.
        if wanted and step == (0 if op[KIND] == PAULI else 1):
            cotangent_one(op, bits, re, im, lr, li, rows, tile, shared, totals, out, buffer)
        if step == 0:
            apply_one(op, bits, re, im, rows, tile, shared, m, ml, buffer)
        else:
            apply_one(op, bits, lr, li, rows, tile, shared, m, ml, buffer)


# ------------------------------------------------------------------ tiles of a state


@row_kernel
def gather(state, base, rows, lanes, re, im):
    """Copy one tile out of the planes ``state`` of shape ``(2, N, 1)``."""
    for a in range(rows.shape[0]):
        o = base + rows[a]
        for t in range(lanes.shape[0]):
            re[a, t] = state[0, o + lanes[t], 0]
            im[a, t] = state[1, o + lanes[t], 0]


@row_kernel
def scatter(state, base, rows, lanes, re, im):
    """Copy one tile back."""
    for a in range(rows.shape[0]):
        o = base + rows[a]
        for t in range(lanes.shape[0]):
            state[0, o + lanes[t], 0] = re[a, t]
            state[1, o + lanes[t], 0] = im[a, t]


# ------------------------------------------------------------------ entry points


@kernel
def forward(psi, i0, i1, ops, order, bits, rows, lanes, tiles, ms, ml, whole, scratch, buffer):
    """Operations on the work items ``i0 .. i1 - 1`` of ``psi``, in place.

    Args:
        psi: ``(C, 2, N, L)``
        ops, bits: tables of the plan
        order: the operations to apply, in this order
        rows, lanes, tiles: index offsets of the row bits, lane bits and other bits; item ``c * len(tiles) + i`` is
            tile ``i`` of chunk ``c``
        ms: shared coefficients ``(K,)``
        ml: coefficients of each sample ``(C, K, L)``
        whole: whether a tile is a whole chunk, its lanes samples; otherwise ``L`` is 1 and tiles are copied
        scratch: ``(4, R, lanes)``, not used if ``whole``
        buffer: scratch rows ``(rows, lanes)``
    """
    for item in range(i0, i1):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        flat = ml[c].reshape(ml.shape[1] * ml.shape[2])
        re, im = psi[c, 0], psi[c, 1]
        if not whole:
            re, im = scratch[0], scratch[1]
            gather(psi[c], tile, rows, lanes, re, im)
        for i in order:
            own = ops[i, FORM] == LANES
            apply_one(ops[i], bits, re, im, rows, tile, not (own and whole), flat if own else ms, ml[c], buffer)
        if not whole:
            scatter(psi[c], tile, rows, lanes, re, im)


@kernel
def backward(
    psi, lam, i0, i1, ops, order, want, bits, rows, lanes, tiles, ms, ml, gs, gc, gl, whole, scratch, buffer
):
    """Un-compute ``psi`` and ``lam`` together, in place, and add the wanted matrix cotangents.

    Args:
        lam: ``(C, 2, N, L)``
        order: the operations to undo, the last one first
        want: for each operation whether its cotangent is wanted
        ms, ml: coefficients of the inverse operations
        gs: cotangents of shared operations ``(K,)``
        gc: cotangents of each chunk's own operations ``(C, K)``, if not ``whole``
        gl: cotangents of each sample's operations ``(C, K, L)``, if ``whole``
        others: as for :func:`forward`
    """
    for item in range(i0, i1):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        flat = ml[c].reshape(ml.shape[1] * ml.shape[2])
        re, im, lr, li = psi[c, 0], psi[c, 1], lam[c, 0], lam[c, 1]
        if not whole:
            re, im, lr, li = scratch[0], scratch[1], scratch[2], scratch[3]
            gather(psi[c], tile, rows, lanes, re, im)
            gather(lam[c], tile, rows, lanes, lr, li)
        for i in order:
            own = ops[i, FORM] == LANES
            m, totals = (flat, gc[c]) if own else (ms, gs)
            shared = not (own and whole)
            reverse_one(ops[i], bits, re, im, lr, li, rows, tile, want[i], shared, m, ml[c], totals, gl[c], buffer)
        if not whole:
            scatter(psi[c], tile, rows, lanes, re, im)
            scatter(lam[c], tile, rows, lanes, lr, li)


@kernel
def outer_lanes(bra, ket, bits, out):
    """Add ``sum conj(bra_a) ket_b`` over all bits but ``bits``, per lane, to ``out`` of shape ``(C, K, L)``."""
    k = bits.shape[0]
    dim, mask = 1 << k, target_mask(bits, 0, k)
    for c in range(bra.shape[0]):
        for j in range(bra.shape[2]):
            a = bits_of(j, bits, 0, k)
            for b in range(dim):
                h = (j & ~mask) | spread(b, bits, 0, k)
                u, v = out[c, 2 * (a * dim + b)], out[c, 2 * (a * dim + b) + 1]
                p0, q0, r0, i0 = bra[c, 0, j], bra[c, 1, j], ket[c, 0, h], ket[c, 1, h]
                for t in range(bra.shape[3]):
                    u[t] += p0[t] * r0[t] + q0[t] * i0[t]
                    v[t] += p0[t] * i0[t] - q0[t] * r0[t]
