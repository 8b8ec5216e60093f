"""Whole circuits on states, forward and in reverse: the entry points of the engine.

Where lanes are samples, a chunk of them is one tile. Where lanes are amplitudes, a state is one tile, or is cut into
tiles that are copied to scratch memory, worked on and copied back.
"""

from __future__ import annotations

from qhybrid_devices.statevector import kernels, lane_kernels
from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.in_parts import PART, WORKER, in_parts
from qhybrid_devices.statevector.kernels import bits_of, flat, parity, spread
from qhybrid_devices.statevector.product import product_cotangents, product_state
from qhybrid_devices.statevector.simd import borrowed, load, save
from qhybrid_devices.statevector.table import DIAGONAL, FLIP, FORM, FREE, KIND, LANES, OUTER_ZMASK, PAULI, U2


@row_kernel
def copy(source, target):
    """Copy a flat array, a whole number of registers."""
    for i in range(0, source.shape[0], 64 // source.itemsize):
        save(target, i, load(source, i))


# ------------------------------------------------------------------ lanes are samples


@row_kernel
def apply_one(op, bits, fr, fi, n, lanes, shared, m, ml, buffer, undo):
    """One operation on a tile; ``shared`` says whether its coefficients are in ``m`` or per lane in ``ml``."""
    kind = op[KIND]
    if kind == U2:
        kernels.u2(fr, fi, n, lanes, op, shared, m, ml, undo)
    elif kind == FLIP:
        kernels.flip(fr, fi, n, lanes, op)
    elif kind == PAULI:
        kernels.pauli(fr, fi, n, lanes, op, shared, m, ml, undo)
    elif kind == DIAGONAL:
        kernels.diagonal(fr, fi, n, lanes, op, bits, shared, m, ml, undo)
    else:
        kernels.dense(fr, fi, n, lanes, op, bits, shared, m, ml, buffer, undo)


@row_kernel
def reverse_one(op, bits, fr, fi, gr, gi, n, lanes, wanted, shared, m, ml, totals, out, buffer):
    """Un-compute one operation on psi and lambda and, if wanted, add its matrix cotangent."""
    kind = op[KIND]
    if wanted and kind == U2 and op[FREE] == 0:
        kernels.u2_reverse(fr, fi, gr, gi, n, lanes, op, shared, m, ml, totals, out)
    elif wanted and kind == PAULI:
        kernels.pauli_reverse(fr, fi, gr, gi, n, lanes, op, shared, m, ml, totals, out)
    elif wanted and kind == DIAGONAL:
        kernels.diagonal_reverse(fr, fi, gr, gi, n, lanes, op, bits, shared, m, ml, totals, out)
    else:
        for step in range(2):
            xr, xi = (fr, fi) if step == 0 else (gr, gi)
            if wanted and step == 1 and kind == U2:
                kernels.u2_entries(gr, gi, fr, fi, n, lanes, op, shared, totals, out)
            elif wanted and step == 1:
                kernels.dense_cotangent(fr, fi, gr, gi, n, lanes, op, bits, shared, totals, out)
            apply_one(op, bits, xr, xi, n, lanes, shared, m, ml, buffer, bool(1))


@kernel
def forward(team, first, last, psi, ops, product, order, bits, ms, ml, undo, buffers):
    """Operations on the chunks ``first .. last - 1`` of ``psi``, in place.

    Args:
        team: as for ``in_parts``
        psi: ``(C, 2, N, L)``
        ops, bits: tables of the plan
        product: the bit of each product operation; if there are any they overwrite ``psi`` before all others
        order: the other operations to apply, in this order
        ms: shared coefficients ``(K,)``
        ml: coefficients of each sample ``(C, K, L)``
        undo: whether to apply the inverses
        buffers: scratch registers, a row for each thread
    """
    if in_parts(team, first, last):
        return
    psi, ops, ms, ml = borrowed(psi), borrowed(ops), borrowed(ms), borrowed(ml)
    buffer = borrowed(buffers)[team[WORKER]]
    if product.shape[0] > 0:
        product_state(psi, first, last, ops, product, ms, ml)
    for c in range(first, last):
        own, fr, fi = flat(ml[c]), flat(psi[c, 0]), flat(psi[c, 1])
        for i in order:
            shared = ops[i, FORM] != LANES
            apply_one(ops[i], bits, fr, fi, psi.shape[2], psi.shape[3], shared, ms, own, buffer, undo)


@kernel
def backward(team, first, last, psi, lam, ops, product, order, want, bits, ms, ml, gs, gl, buffers):
    """Un-compute ``psi`` and ``lam`` together, in place, and add the wanted matrix cotangents.

    Args:
        lam: ``(C, 2, N, L)``
        product: the bit of each product operation; if there are any, theirs are added at the end
        order: the other operations to undo, the last one first
        want: for each operation whether its cotangent is wanted
        gs: cotangents of shared operations, what each part adds: ``(parts, K)``
        gl: cotangents of each sample's operations ``(C, K, L)``
        others: as for :func:`forward`
    """
    if in_parts(team, first, last):
        return
    psi, lam, ops, ms, ml = borrowed(psi), borrowed(lam), borrowed(ops), borrowed(ms), borrowed(ml)
    totals, gl, buffer = borrowed(gs)[team[PART]], borrowed(gl), borrowed(buffers)[team[WORKER]]
    n, lanes = psi.shape[2], psi.shape[3]
    for c in range(first, last):
        own, out = flat(ml[c]), flat(gl[c])
        fr, fi, gr, gi = flat(psi[c, 0]), flat(psi[c, 1]), flat(lam[c, 0]), flat(lam[c, 1])
        for i in order:
            shared = ops[i, FORM] != LANES
            reverse_one(ops[i], bits, fr, fi, gr, gi, n, lanes, want[i], shared, ms, own, totals, out, buffer)
    if product.shape[0] > 0:
        product_cotangents(psi, lam, first, last, ops, product, want, ms, ml, totals, gl)


# ------------------------------------------------------------------ lanes are amplitudes


@row_kernel
def sweep_one(op, bits, fr, fi, n, rows, lanes, tile, signs, m, buffer, undo):
    """One operation on a tile of a state."""
    kind, outer = op[KIND], parity(tile & op[OUTER_ZMASK])
    if kind == U2:
        lane_kernels.u2(fr, fi, op, rows, tile, outer, signs, m, buffer, undo)
    elif kind == FLIP:
        lane_kernels.flip(fr, fi, op, rows, tile, buffer)
    elif kind == PAULI and lane_kernels.is_phase(op):
        lane_kernels.phases(fr, fi, n, op, rows, tile, outer, signs, m, buffer, undo)
    elif kind == PAULI:
        lane_kernels.pauli(fr, fi, op, rows, tile, outer, signs, m, buffer, undo)
    elif kind == DIAGONAL:
        lane_kernels.diagonal(fr, fi, n, op, rows, tile, bits, lanes, m, buffer, undo)
    else:
        lane_kernels.dense(fr, fi, n, op, rows, tile, bits, m, buffer, undo)


@row_kernel
def unsweep_one(op, bits, fr, fi, gr, gi, n, rows, lanes, tile, signs, wanted, m, totals, buffer):
    """Un-compute one operation on tiles of psi and lambda and, if wanted, add its matrix cotangent."""
    kind, outer = op[KIND], parity(tile & op[OUTER_ZMASK])
    if wanted and kind == U2 and op[FREE] == 0:
        lane_kernels.u2_reverse(fr, fi, gr, gi, op, rows, tile, outer, signs, m, totals, buffer)
    elif wanted and kind == PAULI and lane_kernels.is_phase(op):
        lane_kernels.phases_reverse(fr, fi, gr, gi, n, op, rows, tile, outer, signs, m, totals, buffer)
    elif wanted and kind == PAULI:
        lane_kernels.pauli_reverse(fr, fi, gr, gi, op, rows, tile, outer, signs, m, totals, buffer)
    elif wanted and kind == DIAGONAL:
        lane_kernels.diagonal_reverse(fr, fi, gr, gi, n, op, rows, tile, bits, lanes, m, totals, buffer)
    else:
        for step in range(2):
            xr, xi = (fr, fi) if step == 0 else (gr, gi)
            if wanted and step == 1 and kind == U2:
                lane_kernels.u2_overlap(gr, gi, fr, fi, op, rows, tile, outer, signs, totals, buffer)
            elif wanted and step == 1:
                lane_kernels.dense_cotangent(fr, fi, gr, gi, n, op, rows, tile, bits, totals, buffer)
            sweep_one(op, bits, xr, xi, n, rows, lanes, tile, signs, m, buffer, bool(1))


@row_kernel
def gather(plane, tile, rows, lanes, out):
    """Copy one tile out of a plane; its lanes are neighbours if they are the lowest bits."""
    width = 64 // plane.itemsize
    if lanes.shape[0] == width and lanes[width - 1] == width - 1:
        for a in range(rows.shape[0]):
            save(out, a * width, load(plane, tile ^ rows[a]))
        return
    for a in range(rows.shape[0]):
        for t in range(lanes.shape[0]):
            out[a * width + t] = plane[tile ^ rows[a] ^ lanes[t]]


@row_kernel
def scatter(plane, tile, rows, lanes, out):
    """Copy one tile back."""
    width = 64 // plane.itemsize
    if lanes.shape[0] == width and lanes[width - 1] == width - 1:
        for a in range(rows.shape[0]):
            save(plane, tile ^ rows[a], load(out, a * width))
        return
    for a in range(rows.shape[0]):
        for t in range(lanes.shape[0]):
            plane[tile ^ rows[a] ^ lanes[t]] = out[a * width + t]


@kernel
def sweep_forward(
    team, first, last, psi, ops, order, bits, rows, lanes, tiles, signs, ms, ml, undo, whole, scratch, buffers
):
    """Operations on the work items ``first .. last - 1`` of ``psi``, in place.

    Args:
        team: as for ``in_parts``
        psi: ``(C, 2, N, 1)``
        ops, bits: tables of the plan
        order: the operations to apply, in this order
        rows, lanes, tiles: the index of an amplitude is ``rows[j] ^ lanes[t] ^ tile``; item ``c * len(tiles) + i`` is
            tile ``i`` of chunk ``c``
        signs: ``(W, W)``, flat: 1 or -1 by the parity of ``t & z``, at ``z * W + t``
        ms: shared coefficients ``(K,)``
        ml: coefficients of each sample ``(C, K, 1)``
        undo: whether to apply the inverses
        whole: whether a tile is a state as it lies in memory; otherwise it is copied
        scratch: ``(threads, 4, R)``, not used if ``whole``; lanes beyond ``len(lanes)`` are zero
        buffers: scratch registers, a row for each thread
    """
    if in_parts(team, first, last):
        return
    psi, ops, ms, ml = borrowed(psi), borrowed(ops), borrowed(ms), borrowed(ml)
    planes, buffer = borrowed(scratch)[team[WORKER]], borrowed(buffers)[team[WORKER]]
    for item in range(first, last):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        own, pr, pi = flat(ml[c]), flat(psi[c, 0]), flat(psi[c, 1])
        fr, fi = (pr, pi) if whole else (planes[0], planes[1])
        if not whole:
            gather(pr, tile, rows, lanes, fr)
            gather(pi, tile, rows, lanes, fi)
        for i in order:
            m = own if ops[i, FORM] == LANES else ms
            sweep_one(ops[i], bits, fr, fi, rows.shape[0], rows, lanes, tile, signs, m, buffer, undo)
        if not whole:
            scatter(pr, tile, rows, lanes, fr)
            scatter(pi, tile, rows, lanes, fi)


@kernel
def sweep_backward(
    team, first, last, psi, lam, ops, order, want, bits, rows, lanes, tiles, signs, ms, ml, gs, gc, whole, scratch,
    buffers,
):  # fmt: skip
    """Un-compute ``psi`` and ``lam`` together, in place, and add the wanted matrix cotangents.

    Args:
        lam: ``(C, 2, N, 1)``
        order: the operations to undo, the last one first
        want: for each operation whether its cotangent is wanted
        gs: cotangents of shared operations, what each part adds: ``(parts, K)``
        gc: cotangents of each sample's operations, what each part adds: ``(parts, C, K)``
        others: as for :func:`sweep_forward`
    """
    if in_parts(team, first, last):
        return
    psi, lam, ops, ms, ml = borrowed(psi), borrowed(lam), borrowed(ops), borrowed(ms), borrowed(ml)
    all_shared, all_own = borrowed(gs)[team[PART]], borrowed(gc)[team[PART]]
    planes, buffer = borrowed(scratch)[team[WORKER]], borrowed(buffers)[team[WORKER]]
    for item in range(first, last):
        c, tile = item // tiles.shape[0], tiles[item % tiles.shape[0]]
        own = flat(ml[c])
        pr, pi, qr, qi = flat(psi[c, 0]), flat(psi[c, 1]), flat(lam[c, 0]), flat(lam[c, 1])
        fr, fi, gr, gi = (pr, pi, qr, qi) if whole else (planes[0], planes[1], planes[2], planes[3])
        if not whole:
            gather(pr, tile, rows, lanes, fr)
            gather(pi, tile, rows, lanes, fi)
            gather(qr, tile, rows, lanes, gr)
            gather(qi, tile, rows, lanes, gi)
        for i in order:
            mine = ops[i, FORM] == LANES
            m, totals = (own, all_own[c]) if mine else (ms, all_shared)
            unsweep_one(
                ops[i], bits, fr, fi, gr, gi, rows.shape[0], rows, lanes, tile, signs, want[i], m, totals, buffer
            )
        if not whole:
            scatter(pr, tile, rows, lanes, fr)
            scatter(pi, tile, rows, lanes, fi)
            scatter(qr, tile, rows, lanes, gr)
            scatter(qi, tile, rows, lanes, gi)


# ------------------------------------------------------------------ parts of a state


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
