"""Whole circuits on tiles, forward and in reverse: the entry points of the engine."""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.kernels import (
    bits_of,
    dense,
    dense_cotangent,
    diagonal,
    diagonal_reverse,
    flat,
    flip,
    parity,
    pauli,
    pauli_reverse,
    spread,
    u2,
    u2_reverse,
)
from qhybrid_devices.statevector.simd import load, save
from qhybrid_devices.statevector.table import (
    DIAGONAL,
    FLIP,
    FORM,
    KIND,
    LANES,
    OUTER_CMASK,
    OUTER_CVAL,
    OUTER_ZMASK,
    PAULI,
    U2,
)


@row_kernel
def apply_one(op, bits, fr, fi, n, lanes, rows, tile, shared, m, ml, buffer):
    """One operation on a tile; ``shared`` says whether its coefficients are in ``m`` or per lane in ``ml``."""
    kind = op[KIND]
    if tile & op[OUTER_CMASK] != op[OUTER_CVAL]:
        return
    if kind == U2:
        u2(fr, fi, n, lanes, op, shared, m, ml)
    elif kind == FLIP:
        flip(fr, fi, n, lanes, op)
    elif kind == PAULI:
        pauli(fr, fi, n, lanes, op, parity(tile & op[OUTER_ZMASK]), shared, m, ml)
    elif kind == DIAGONAL:
        diagonal(fr, fi, n, lanes, op, rows, tile, bits, shared, m, ml)
    else:
        dense(fr, fi, n, lanes, op, bits, shared, m, ml, buffer)


@row_kernel
def reverse_one(op, bits, fr, fi, gr, gi, n, lanes, rows, tile, wanted, shared, m, ml, totals, out, buffer):
    """Un-compute one operation on psi and lambda and, if wanted, add its matrix cotangent."""
    kind = op[KIND]
    if tile & op[OUTER_CMASK] != op[OUTER_CVAL]:
        return
    if wanted and kind == U2:
        u2_reverse(fr, fi, gr, gi, n, lanes, op, shared, m, ml, totals, out)
    elif wanted and kind == PAULI:
        outer = parity(tile & op[OUTER_ZMASK])
        pauli_reverse(fr, fi, gr, gi, n, lanes, op, outer, shared, m, ml, totals, out)
    elif wanted and kind == DIAGONAL:
        diagonal_reverse(fr, fi, gr, gi, n, lanes, op, rows, tile, bits, shared, m, ml, totals, out)
    else:
        for step in range(2):
            xr, xi = (fr, fi) if step == 0 else (gr, gi)
            if wanted and step == 1:
                dense_cotangent(fr, fi, gr, gi, n, lanes, op, bits, shared, totals, out)
            apply_one(op, bits, xr, xi, n, lanes, rows, tile, shared, m, ml, buffer)


# ------------------------------------------------------------------ tiles of a state


@row_kernel
def gather(state, base, rows, lanes, re, im):
    """Copy one tile out of the planes ``state`` of shape ``(2, N, 1)``."""
    sr, si, fr, fi = flat(state[0]), flat(state[1]), flat(re), flat(im)
    step, width = 64 // re.itemsize, re.shape[1]
    if lanes.shape[0] >= step and lanes[step - 1] == step - 1:  # the lowest bits are lanes: whole registers
        for a in range(rows.shape[0]):
            for t in range(0, lanes.shape[0], step):
                o = base + rows[a] + lanes[t]
                save(fr, a * width + t, load(sr, o))
                save(fi, a * width + t, load(si, o))
        return
    for a in range(rows.shape[0]):
        for t in range(lanes.shape[0]):
            o = base + rows[a] + lanes[t]
            fr[a * width + t] = sr[o]
            fi[a * width + t] = si[o]


@row_kernel
def scatter(state, base, rows, lanes, re, im):
    """Copy one tile back."""
    sr, si, fr, fi = flat(state[0]), flat(state[1]), flat(re), flat(im)
    step, width = 64 // re.itemsize, re.shape[1]
    if lanes.shape[0] >= step and lanes[step - 1] == step - 1:
        for a in range(rows.shape[0]):
            for t in range(0, lanes.shape[0], step):
                o = base + rows[a] + lanes[t]
                save(sr, o, load(fr, a * width + t))
                save(si, o, load(fi, a * width + t))
        return
    for a in range(rows.shape[0]):
        for t in range(lanes.shape[0]):
            o = base + rows[a] + lanes[t]
            sr[o] = fr[a * width + t]
            si[o] = fi[a * width + t]


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
        scratch: ``(4, R, lanes)``, not used if ``whole``; lanes beyond ``len(lanes)`` are zero
        buffer: scratch registers, flat
    """
    for item in range(i0, i1):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        own = flat(ml[c])
        re, im = psi[c, 0], psi[c, 1]
        if not whole:
            re, im = scratch[0], scratch[1]
            gather(psi[c], tile, rows, lanes, re, im)
        fr, fi, n, width = flat(re), flat(im), re.shape[0], re.shape[1]
        for i in order:
            mine = ops[i, FORM] == LANES
            shared = not (mine and whole)
            apply_one(ops[i], bits, fr, fi, n, width, rows, tile, shared, own if mine else ms, own, buffer)
        if not whole:
            scatter(psi[c], tile, rows, lanes, re, im)


@kernel
def backward(psi, lam, i0, i1, ops, order, want, bits, rows, lanes, tiles, ms, ml, gs, gc, gl, whole, scratch, buffer):
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
        own, out = flat(ml[c]), flat(gl[c])
        re, im, lr, li = psi[c, 0], psi[c, 1], lam[c, 0], lam[c, 1]
        if not whole:
            re, im, lr, li = scratch[0], scratch[1], scratch[2], scratch[3]
            gather(psi[c], tile, rows, lanes, re, im)
            gather(lam[c], tile, rows, lanes, lr, li)
        fr, fi, gr, gi, n, width = flat(re), flat(im), flat(lr), flat(li), re.shape[0], re.shape[1]
        for i in order:
            mine = ops[i, FORM] == LANES
            m, totals = (own, gc[c]) if mine else (ms, gs)
            shared = not (mine and whole)
            reverse_one(
                ops[i], bits, fr, fi, gr, gi, n, width, rows, tile, want[i], shared, m, own, totals, out, buffer
            )
        if not whole:
            scatter(psi[c], tile, rows, lanes, re, im)
            scatter(lam[c], tile, rows, lanes, lr, li)


@kernel
def outer_lanes(bra, ket, bits, out):
    """Add ``sum conj(bra_a) ket_b`` over all bits but ``bits``, per lane, to ``out`` of shape ``(C, K, L)``."""
    k = bits.shape[0]
    dim = 1 << k
    mask = spread(dim - 1, bits, 0, k)
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
