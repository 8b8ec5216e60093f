"""Row kernels where lanes are amplitudes: one operation on a tile of psi and of its tangents along several directions.

Tiles, rows and lanes are as in ``lane_kernels.py``; tangents and blocks as in ``tangent_kernels.py``. On pairs,

    ``out[j] = D * v[j] + O * exchanged(v[j ^ xmask]) + dD * psi[j] + dO * exchanged(psi[j ^ xmask])``

with ``psi`` after the operation.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.kernels import pair_at, phase_at, spread
from qhybrid_devices.statevector.lane_kernels import (
    clear_sums,
    deposit_sums,
    diagonal_entry,
    fill_phases,
    has_rows,
    is_met,
    kinds_of_rows,
    lane_controls,
    overlap,
    paired_row,
    pauli_cosine,
    pauli_pair,
    pauli_signs,
    places,
    row_sign,
    save_rows,
    turned,
    u2_lanes,
    u2_moved,
    u2_numbers,
    u2_pair,
    walk_of,
)
from qhybrid_devices.statevector.simd import exchange, exchanged, load, save, splat, total
from qhybrid_devices.statevector.table import (
    COTANGENT,
    COUNT,
    FREE,
    LANE_CMASK,
    LANE_CVAL,
    LANE_XMASK,
    NUM_Y,
    PARAM,
    TARGET,
    WIDTH,
)
from qhybrid_devices.statevector.tangent_kernels import (
    gather_targets,
    phase_tangent_at,
    planes_at,
    row_of_dense,
    u2_change,
)

#: Pairs of rows in a block, whose registers of psi stay in the first-level cache.
BLOCK_ROWS = 64

# ------------------------------------------------------------------ 2 x 2
#
# Formula:   chi'_a = sum_b U_ab chi_b + B_ab psi'_b for each pair, with B = dU U^dagger; G_ab = sum conj(lambda'_a)
#            psi_b.
# Shapes:    U and B: 4 complex coefficients; G: 4 complex cotangents.
# Layout:    as in ``lane_kernels.py``, ``dD`` and ``dO`` being those of B. Here psi goes first.
# Reference: ``apply`` and ``outer``.


@row_kernel
def u2_change_lanes(fr, op, signs, change, odd, buffer):
    """``dD`` and ``dO`` of the rows of one parity: zero where controls are not met."""
    first, second = places(fr, op, signs, odd)
    if op[LANE_CMASK] != 0:
        met = lane_controls(fr, op, buffer)
        first, second = met * first, met * second
    a, b, c, d, e, f, g, h = change
    return (
        first * splat(a) + second * splat(g),
        first * splat(b) + second * splat(h),
        first * splat(c) + second * splat(e),
        first * splat(d) + second * splat(f),
    )


@row_kernel
def changed(chi, v, x, y, z, w, free):
    """``chi + dD (x + i y) + dO (z + i w)``; ``dD`` is imaginary unless it is ``free``."""
    e, f, g, h = v
    s = chi[0] + g * (z + w) - f * y - (g + h) * w
    t = chi[1] + g * (z + w) + f * x + (h - g) * z
    return (s + e * x, t + e * y) if free else (s, t)


@row_kernel
def u2_tangent_pair(psi, xr, xi, i, k, order, u, v, du, dv, free):
    """``U chi + B psi'`` on the registers at ``i`` and ``k``, which may be the same; ``psi`` is the new one there."""
    a, b, c, d = psi
    p, q, r, s = u2_moved(pair_at(xr, xi, i, k), order, u, v)
    p, q = changed((p, q), du, a, b, exchanged(c, order), exchanged(d, order), free)
    r, s = changed((r, s), dv, c, d, exchanged(a, order), exchanged(b, order), free)
    save_rows(xr, xi, i, k, (p, q, r, s))


@row_kernel
def u2_tangent_rows(fr, fi, xr, xi, first, last, odd, walk, rows, tile, order, u, v, du, dv, leads, free):
    """The pairs of rows ``first .. last - 1`` of one direction; if it ``leads``, of psi too."""
    width = 64 // fr.itemsize
    for q in range(first, last):
        j = paired_row(walk, q, odd)
        if is_met(walk, j, rows, tile):
            i, k = j * width, (j ^ walk.xmask) * width
            psi = u2_pair(fr, fi, i, k, order, u, v) if leads else pair_at(fr, fi, i, k)
            u2_tangent_pair(psi, xr, xi, i, k, order, u, v, du, dv, free)


@row_kernel
def u2_tangent(fr, fi, d, op, rows, tile, outer, signs, m, buffer, undo):
    """A 2x2 on psi and on tangents."""
    if op[LANE_XMASK] == 0:
        u2_tangent_in_order(fr, fi, d, op, rows, tile, outer, signs, None, m, buffer, undo)
    else:
        u2_tangent_in_order(fr, fi, d, op, rows, tile, outer, signs, exchange(fr, op[LANE_XMASK]), m, buffer, undo)


@row_kernel
def u2_tangent_in_order(fr, fi, d, op, rows, tile, outer, signs, order, m, buffer, undo):
    """The same with lanes exchanged by ``order``."""
    p = op[PARAM]
    kinds, walk, count, own = kinds_of_rows(op), walk_of(op), op[COUNT], u2_numbers(m, op[PARAM], undo)
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        other = odd ^ outer ^ (2 - kinds)
        u = u2_lanes(fr, op, signs, m, odd ^ outer, buffer, undo)
        v = u2_lanes(fr, op, signs, m, other, buffer, undo)
        size = BLOCK_ROWS if d.count > 1 else count
        for first in range(0, count, size):
            last = min(first + size, count)
            for s in range(d.count):
                change = u2_change(own, u2_numbers(d.shared, p + d.shift[s], undo))
                du = u2_change_lanes(fr, op, signs, change, odd ^ outer, buffer)
                dv = u2_change_lanes(fr, op, signs, change, other, buffer)
                xr, xi = planes_at(d.planes, d.at[s], d.plane)
                if op[FREE] != 0 and s == 0:
                    u2_tangent_rows(fr, fi, xr, xi, first, last, odd, walk, rows, tile, order, u, v, du, dv, True, True)
                elif op[FREE] != 0:
                    u2_tangent_rows(
                        fr, fi, xr, xi, first, last, odd, walk, rows, tile, order, u, v, du, dv, False, True
                    )
                elif s == 0:
                    u2_tangent_rows(
                        fr, fi, xr, xi, first, last, odd, walk, rows, tile, order, u, v, du, dv, True, False
                    )
                else:
                    u2_tangent_rows(
                        fr, fi, xr, xi, first, last, odd, walk, rows, tile, order, u, v, du, dv, False, False
                    )


# ------------------------------------------------------------------ Pauli rotations
#
# Formula:   chi' = U chi - i dx P psi', with dx = cos dsin - sin dcos; undone, chi = U^dagger chi' + i dx P psi;
#            g = Im <lambda|P|psi>, both on the same side of the gate.
# Shapes:    cosine and sine and the derivatives of both; one real cotangent.
# Layout:    as in ``lane_kernels.py``. Here psi goes first.
# Reference: ``word_matrix`` in ``gate_matrix``, and ``gate_cotangent``.


@row_kernel
def pauli_change(op, m, dm, undo):
    """``dx`` in ``dU = -i dx P U``, with its sign changed for the inverse."""
    p = op[PARAM]
    dx = m[p] * dm[p + 1] - m[p + 1] * dm[p]
    return splat(-dx if undo else dx)


@row_kernel
def pauli_tangent_pair(fr, fi, i, k, chi, o, plane, order, real, c, v, h, dv, dh):
    """``(cos - i sin P) chi - i dx P psi'`` on the registers at ``i`` and ``k``, perhaps the same."""
    r, m, s, n = o + i, o + i + plane, o + k, o + k + plane
    x, y, z, w = load(chi, r), load(chi, m), load(chi, s), load(chi, n)
    e, f = turned(z, w, order, real)
    a, b = turned(load(fr, k), load(fi, k), order, real)
    save(chi, r, c * x + v * e + dv * a)
    save(chi, m, c * y + v * f + dv * b)
    if i != k:
        e, f = turned(x, y, order, real)
        a, b = turned(load(fr, i), load(fi, i), order, real)
        save(chi, s, c * z + h * e + dh * a)
        save(chi, n, c * w + h * f + dh * b)


@row_kernel
def pauli_tangent(fr, fi, d, op, rows, tile, outer, signs, m, buffer, undo):
    """A Pauli rotation on psi and on tangents."""
    order, width, real = exchange(fr, op[LANE_XMASK]), 64 // fr.itemsize, op[NUM_Y] & 1 == 1
    c, s = pauli_cosine(fr, op, m[op[PARAM]], buffer), splat(-m[op[PARAM] + 1] if undo else m[op[PARAM] + 1])
    kinds, walk, count = kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        one = pauli_signs(fr, op, signs, odd ^ outer ^ (2 - kinds), buffer)
        two = pauli_signs(fr, op, signs, odd ^ outer, buffer)
        v, h = s * one, s * two
        for first in range(0, count, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, count)
            for q in range(first, last):
                j = paired_row(walk, q, odd)
                if is_met(walk, j, rows, tile):
                    pauli_pair(fr, fi, j * width, (j ^ walk.xmask) * width, order, real, c, v, h)
            for w in range(d.count):
                dx, o = pauli_change(op, m, d.shared[d.shift[w] :], undo), d.at[w]
                dv, dh = dx * one, dx * two
                for q in range(first, last):
                    j = paired_row(walk, q, odd)
                    if is_met(walk, j, rows, tile):
                        i, k = j * width, (j ^ walk.xmask) * width
                        pauli_tangent_pair(fr, fi, i, k, d.planes, o, d.plane, order, real, c, v, h, dv, dh)


@row_kernel
def pauli_overlaps(gr, gi, fr, fi, op, rows, tile, outer, signs, totals, buffer):
    """Add ``Im <lambda|P|psi>``."""
    order, width, real = exchange(fr, op[LANE_XMASK]), 64 // fr.itemsize, op[NUM_Y] & 1 == 1
    kinds, walk, count = kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        one = pauli_signs(fr, op, signs, odd ^ outer ^ (2 - kinds), buffer)
        two = pauli_signs(fr, op, signs, odd ^ outer, buffer)
        g = g2 = splat(fr.dtype.type(0))
        for q in range(count):
            j = paired_row(walk, q, odd)
            if not is_met(walk, j, rows, tile):
                continue
            i, k = j * width, (j ^ walk.xmask) * width
            e, f = turned(load(fr, k), load(fi, k), order, real)
            g = g + load(gr, i) * e + load(gi, i) * f
            if i != k:
                e, f = turned(load(fr, i), load(fi, i), order, real)
                g2 = g2 + load(gr, k) * e + load(gi, k) * f
        totals[op[COTANGENT]] += total(one * g + two * g2)


@row_kernel
def phases_tangent(fr, fi, d, n, op, rows, tile, outer, signs, m, buffer, undo):
    """A rotation of letters Z on psi and on tangents."""
    width, walk, zero = 64 // fr.itemsize, walk_of(op), splat(fr.dtype.type(0))
    c, s = pauli_cosine(fr, op, m[op[PARAM]], buffer), splat(-m[op[PARAM] + 1] if undo else m[op[PARAM] + 1])
    sign = pauli_signs(fr, op, signs, 0, buffer)
    v = s * sign
    for first in range(0, n, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, n)
        for j in range(first, last):
            if is_met(walk, j, rows, tile):
                phase_at(fr, fi, j * width, c, -row_sign(fr, walk, j, outer) * v)
        for w in range(d.count):
            dv, o = pauli_change(op, m, d.shared[d.shift[w] :], undo) * sign, d.at[w]
            for j in range(first, last):
                if is_met(walk, j, rows, tile):
                    mine = -row_sign(fr, walk, j, outer)
                    phase_tangent_at(fr, fi, j * width, d.planes, o, d.plane, c, mine * v, zero, mine * dv)


# ------------------------------------------------------------------ diagonals and global phases
#
# Formula:   chi'_a = d_a chi_a + dd_a psi_a; G_a = sum conj(lambda'_a) psi_a.
# Shapes:    d and dd: 2**k complex coefficients, one for k = 0; G the same. Four registers a slot: phases and sums, or
#            phases and their derivatives.
# Layout:    as in ``lane_kernels.py``.
# Reference: ``apply`` and ``outer`` with a diagonal matrix.


@row_kernel
def fill_change(fr, op, bits, lanes, dm, entry, buffer, slot, undo):
    """The derivatives of the coefficients of each lane of a row that selects ``entry``, to two registers."""
    width = 64 // fr.itemsize
    for t in range(width):
        mine = op[PARAM] + 2 * (entry ^ diagonal_entry(op, bits, lanes[t & (lanes.shape[0] - 1)]))
        met = t & op[LANE_CMASK] == op[LANE_CVAL]
        a, b = dm[mine], -dm[mine + 1] if undo else dm[mine + 1]
        buffer[(4 * slot + 2) * width + t] = a if met else 0
        buffer[(4 * slot + 3) * width + t] = b if met else 0


@row_kernel
def diagonal_tangent(fr, fi, d, n, op, rows, tile, bits, lanes, m, buffer, undo):
    """A diagonal on tangents; psi stays for the plain kernel to do."""
    width, size = 64 // fr.itemsize, 1 << op[WIDTH]
    few, walk = size <= n, walk_of(op)
    for s in range(d.count):
        dm = d.shared[d.shift[s] :]
        for entry in range(size if few else 0):
            fill_phases(fr, op, bits, lanes, m, entry, buffer, entry, undo)
            fill_change(fr, op, bits, lanes, dm, entry, buffer, entry, undo)
        for j in range(n):
            if not is_met(walk, j, rows, tile):
                continue
            entry = diagonal_entry(op, bits, rows[j] ^ tile)
            slot = entry if few else 0
            if not few:
                fill_phases(fr, op, bits, lanes, m, entry, buffer, slot, undo)
                fill_change(fr, op, bits, lanes, dm, entry, buffer, slot, undo)
            o = 4 * slot * width
            a, b = load(buffer, o), load(buffer, o + width)
            da, db = load(buffer, o + 2 * width), load(buffer, o + 3 * width)
            phase_tangent_at(fr, fi, j * width, d.planes, d.at[s], d.plane, a, b, da, db)


@row_kernel
def diagonal_overlap(gr, gi, fr, fi, n, op, rows, tile, bits, lanes, totals, buffer):
    """Add ``conj(lambda_a) psi_a`` to the entries of a diagonal."""
    width, size = 64 // fr.itemsize, 1 << op[WIDTH]
    few, walk = size <= n, walk_of(op)
    for entry in range(size if few else 0):
        clear_sums(fr, buffer, entry)
    for j in range(n):
        if not is_met(walk, j, rows, tile):
            continue
        entry = diagonal_entry(op, bits, rows[j] ^ tile)
        slot = entry if few else 0
        if not few:
            clear_sums(fr, buffer, slot)
        i, o = j * width, 4 * slot * width
        s, t = overlap(load(fr, i), load(fi, i), load(gr, i), load(gi, i))
        save(buffer, o + 2 * width, load(buffer, o + 2 * width) + s)
        save(buffer, o + 3 * width, load(buffer, o + 3 * width) + t)
        if not few:
            deposit_sums(fr, op, bits, lanes, entry, buffer, slot, totals)
    for entry in range(size if few else 0):
        deposit_sums(fr, op, bits, lanes, entry, buffer, entry, totals)


# ------------------------------------------------------------------ dense 2**k x 2**k
#
# Formula:   chi'_a = sum_b U_ab chi_b + dU_ab psi_b; for G see ``dense_cotangent`` in ``lane_kernels.py``.
# Shapes:    U and dU: 4**k complex numbers, row by row.
# Layout:    entry ``spread(a)`` of the rows that have the target bits at zero; targets are never lanes.
# Reference: ``apply``.


@row_kernel
def dense_tangent(fr, fi, d, n, op, rows, tile, bits, m, buffer, undo):
    """A dense matrix on tangents; psi stays for the plain kernel to do. ``buffer`` holds ``4 * 2**k`` registers."""
    k, first, p = op[WIDTH], op[TARGET], op[PARAM]
    dim, width = 1 << k, 64 // fr.itemsize
    mask, zero = spread(dim - 1, bits, first, k), splat(fr.dtype.type(0))
    met, walk = lane_controls(fr, op, buffer), walk_of(op)
    kept = splat(fr.dtype.type(1)) - met
    for base in range(n):
        if base & mask or not is_met(walk, base, rows, tile):
            continue
        gather_targets(fr, fi, base, width, 0, dim, bits, first, k, buffer, 0)
        for s in range(d.count):
            o, plane, dm = d.at[s], d.plane, d.shared[d.shift[s] :]
            chi_r, chi_i = d.planes[o : o + plane], d.planes[o + plane : o + 2 * plane]
            gather_targets(chi_r, chi_i, base, width, 0, dim, bits, first, k, buffer, 2 * dim * width)
            for a in range(dim):
                x, y = row_of_dense(True, m, m, p, a, dim, width, 0, undo, buffer, 2 * dim * width, width, zero, zero)
                x, y = row_of_dense(True, dm, dm, p, a, dim, width, 0, undo, buffer, 0, width, x, y)
                i = (base | spread(a, bits, first, k)) * width
                if op[LANE_CMASK] != 0:
                    x, y = met * x + kept * load(chi_r, i), met * y + kept * load(chi_i, i)
                save(chi_r, i, x)
                save(chi_i, i, y)
