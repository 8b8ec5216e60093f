"""Row kernels where lanes are samples: one operation on psi and on its tangents along several directions.

``psi' = U psi``, so a tangent ``chi`` of psi obeys ``chi' = U chi + dU psi``; undone, ``chi = U^dagger chi' +
dU^dagger psi'``, which is the same with both matrices conjugate-transposed. A kernel goes through psi in blocks that
stay in the first-level cache: each block of every direction's tangent first, with the psi before the operation, then
psi itself. Reading psi then costs next to nothing, and a tangent about as much as a state.

What a plane, a lane, a coefficient and a section are is as in ``kernels.py``; see ``tangent.md`` for derivations.
"""

from __future__ import annotations

from typing import NamedTuple

from numpy.typing import NDArray

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.kernels import (
    bits_of,
    blocks_of,
    coefficient,
    deposit,
    flat,
    no_sums,
    pair_at,
    pauli_at,
    pauli_overlap,
    pauli_sign,
    plus_pair,
    save_pair,
    spread,
    times_2x2,
    u2_at,
    u2_coefficients,
    u2_deposit,
    u2_summed,
)
from qhybrid_devices.statevector.lane_kernels import has_rows, kinds_of_rows, paired_row, walk_of
from qhybrid_devices.statevector.simd import load, save, splat
from qhybrid_devices.statevector.table import CMASK, COTANGENT, COUNT, CVAL, FREE, NUM_Y, PARAM, RUN, TARGET, WIDTH

#: Bytes of psi that a block of rows takes at most.
BLOCK_BYTES = 1 << 14
#: Kinds of a change ``B``: any matrix; an anti-Hermitian one; that less ``B_11`` times the identity.
ANY, ANTI_HERMITIAN, PHASE_FREE = range(3)


class Directions(NamedTuple):
    """The tangents that an operation acts on: the first ``count`` entries of ``at`` and ``shift``.

    Args:
        planes: all tangents, flat
        plane: how far a tangent's imaginary part is behind its real part
        at: where each direction's real part begins
        shift: what to add to the number of a coefficient to find its derivative along each direction
        shared: derivatives of shared coefficients, flat
        lanes: those of each sample, flat
        phase_free: whether real multiples of ``i psi`` may be left out of a tangent
    """

    planes: NDArray
    plane: int
    at: NDArray
    shift: NDArray
    count: int
    shared: NDArray
    lanes: NDArray
    phase_free: bool


class Sums(NamedTuple):
    """Where tangents of matrix cotangents go: those of direction ``which[s]`` for direction ``s`` of an operation.

    Args:
        shared: ``(k, K)``
        lanes: of each sample ``(k, C, K, L)``
        chunk: which chunk
        which: directions
    """

    shared: NDArray
    lanes: NDArray
    chunk: int
    which: NDArray


@row_kernel
def sums_of(dg, s):
    """Those of shared operations and those of each sample, of one direction."""
    return dg.shared[dg.which[s]], flat(dg.lanes[dg.which[s], dg.chunk])


@row_kernel
def planes_at(x, o, plane):
    """Real and imaginary part of the state at ``o`` of a flat array."""
    return x[o : o + plane], x[o + plane : o + 2 * plane]


class Runs(NamedTuple):
    """How a kernel goes through pairs of rows.

    Args:
        size: pairs in a block
        span: neighbouring pairs that are treated alike
        registers: how many registers of each row of a span there are to do
        stride: from one of these to the next
    """

    size: int
    span: int
    registers: int
    stride: int


@row_kernel
def runs_of(fr, op, lanes, shared):
    """Blocks and spans; with coefficients of each lane, a span is one column of registers."""
    step = 64 // fr.itemsize
    registers, stride = (lanes // step, step) if shared else (1, lanes)
    size, span = max(1, BLOCK_BYTES // (4 * 64 * registers)), op[RUN]
    while span > size:  # a power of two: spans end where runs do
        span //= 2
    return Runs(size - size % span, span, span * registers, stride)


# ------------------------------------------------------------------ 2 x 2
#
# Formula:   chi'_a = sum_b U_ab chi_b + B_ab psi'_b for each pair of rows j, j ^ x, with B = dU U^dagger; G_ab =
#            sum conj(lambda'_a) psi_b, or with M as in ``kernels.py`` G = M conj(U), dG = dM conj(U) + M conj(dU).
# Shapes:    U and B: 4 complex coefficients, but as long as U stays unitary B_00 and B_11 are imaginary and B_10 is
#            -conj(B_01), and where phases do not matter B_11 can be zero; G: 4 complex cotangents.
# Layout:    as in ``kernels.py``; pairs are counted as ``paired_row`` says. Here psi goes first.
# Reference: ``apply`` and ``outer``.


@row_kernel
def u2_change(u, du):
    """``B = dU U^dagger``."""
    a, b, c, d, e, f, g, h = u
    p, q, r, s, t, v, w, x = du
    return (
        p * a + q * b + r * c + s * d,
        q * a - p * b + s * c - r * d,
        p * e + q * f + r * g + s * h,
        q * e - p * f + s * g - r * h,
        t * a + v * b + w * c + x * d,
        v * a - t * b + x * c - w * d,
        t * e + v * f + w * g + x * h,
        (v * e - t * f + x * g - w * h),
    )


@row_kernel
def kind_of_change(op, d):
    """What the change of a 2x2 is treated as; a phase is the same for all rows if there are no controls."""
    if op[FREE] != 0:
        return ANY
    return PHASE_FREE if d.phase_free and op[CMASK] == 0 else ANTI_HERMITIAN


@row_kernel
def plus_change(chi, b, psi, kind):
    """``chi + B psi'`` of a pair."""
    x, y, z, w = psi
    if kind == ANY:
        add = times_2x2(b, psi)
        return chi[0] + add[0], chi[1] + add[1], chi[2] + add[2], chi[3] + add[3]
    _, first, c, d, _, _, _, second = b
    s, t = c * (z + w), c * (x + y)
    if kind == PHASE_FREE:
        first = first - second
        p, q = chi[2], chi[3]
    else:
        p, q = chi[2] - second * w, chi[3] + second * z
    return (
        chi[0] + s - first * y - (c + d) * w,
        chi[1] + s + first * x + (d - c) * z,
        p - t + (c - d) * y,
        q - t + (c + d) * x,
    )


@row_kernel
def u2_tangent_rows(fr, fi, xr, xi, first, last, walk, runs, lanes, t, u, change, leads, kind):
    """Pairs ``first .. last - 1`` of one direction; if it ``leads``, of psi too."""
    for q in range(first, last, runs.span):
        j = paired_row(walk, q, 0)
        if j & walk.cmask == walk.cval:
            start, distance = j * lanes + t, ((j ^ walk.xmask) - j) * lanes
            for e in range(runs.registers):
                i = start + e * runs.stride
                k = i + distance
                psi = u2_at(fr, fi, i, k, u) if leads else pair_at(fr, fi, i, k)
                chi = times_2x2(u, pair_at(xr, xi, i, k))
                save_pair(xr, xi, i, k, plus_change(chi, change, psi, kind))


@row_kernel
def u2_tangent(fr, fi, d, lanes, op, shared, m, ml, undo):
    """A 2x2 on psi and on tangents."""
    kind = kind_of_change(op, d)
    if kind == ANY:
        u2_tangent_of_kind(fr, fi, d, lanes, op, shared, m, ml, undo, ANY)
    elif kind == ANTI_HERMITIAN:
        u2_tangent_of_kind(fr, fi, d, lanes, op, shared, m, ml, undo, ANTI_HERMITIAN)
    else:
        u2_tangent_of_kind(fr, fi, d, lanes, op, shared, m, ml, undo, PHASE_FREE)


@row_kernel
def u2_tangent_of_kind(fr, fi, d, lanes, op, shared, m, ml, undo, kind):
    """The same for one kind of change."""
    step, blocks, _ = blocks_of(fr, lanes, shared)
    walk, p, count, runs = walk_of(op), op[PARAM], op[COUNT], runs_of(fr, op, lanes, shared)
    for block in range(blocks):
        t = block * step
        u = u2_coefficients(shared, m, ml, p, lanes, t, undo)
        size = runs.size if d.count > 1 else count
        for first in range(0, count, size):
            last = min(first + size, count)
            for s in range(d.count):
                du = u2_coefficients(shared, d.shared, d.lanes, p + d.shift[s], lanes, t, undo)
                change = u2_change(u, du)
                xr, xi = planes_at(d.planes, d.at[s], d.plane)
                if s == 0:
                    u2_tangent_rows(fr, fi, xr, xi, first, last, walk, runs, lanes, t, u, change, True, kind)
                else:
                    u2_tangent_rows(fr, fi, xr, xi, first, last, walk, runs, lanes, t, u, change, False, kind)


@row_kernel
def u2_pairs(fr, fi, gr, gi, kets, bras, lanes, op, t, walk, runs, leads):
    """What all pairs say of M, if a direction leads, and of its tangent along the direction, before the gate is undone.

    Args:
        kets, bras: tangents of psi and of lambda along one direction
        t: the register of lanes
    """
    sums, d_sums, (xr, xi), (yr, yi) = no_sums(fr), no_sums(fr), kets, bras
    for q in range(0, op[COUNT], runs.span):
        j = paired_row(walk, q, 0)
        if j & walk.cmask == walk.cval:
            start, distance = j * lanes + t, ((j ^ walk.xmask) - j) * lanes
            for e in range(runs.registers):
                i = start + e * runs.stride
                k = i + distance
                psi, lam = pair_at(fr, fi, i, k), pair_at(gr, gi, i, k)
                d_sums = plus_pair(d_sums, pair_at(yr, yi, i, k), psi)
                d_sums = plus_pair(d_sums, lam, pair_at(xr, xi, i, k))
                if leads:
                    sums = plus_pair(sums, lam, psi)
    return sums, d_sums


@row_kernel
def u2_overlaps(fr, fi, gr, gi, d, bras, lanes, op, shared, m, ml, wanted, g, dg):
    """Add the matrix cotangent of a 2x2 that stays unitary, and its tangents, before the gate is undone.

    Args:
        d, bras: tangents of psi, and those of lambda, flat, in the same places; a negative ``shift`` where U stays
        wanted: whether the matrix cotangent itself is to be added
        g, dg: where both go: the first as to ``deposit``, the others as :class:`Sums`
    """
    step, blocks, _ = blocks_of(fr, lanes, shared)
    walk, runs, p, o = walk_of(op), runs_of(fr, op, lanes, shared), op[PARAM], op[COTANGENT]
    for block in range(blocks):
        t, sums = block * step, no_sums(fr)
        u = u2_coefficients(shared, m, ml, p, lanes, t, bool(1))
        for s in range(d.count):
            states = (fr, fi, gr, gi, planes_at(d.planes, d.at[s], d.plane), planes_at(bras, d.at[s], d.plane))
            if s == 0:
                sums, d_sums = u2_pairs(*states, lanes, op, t, walk, runs, True)
            else:
                _, d_sums = u2_pairs(*states, lanes, op, t, walk, runs, False)
            u2_deposit(shared, *sums_of(dg, s), o, lanes, t, u2_summed(fr, u, d_sums))
            if d.shift[s] >= 0:
                du = u2_coefficients(shared, d.shared, d.lanes, p + d.shift[s], lanes, t, bool(1))
                u2_deposit(shared, *sums_of(dg, s), o, lanes, t, u2_summed(fr, du, sums))
        if wanted:
            u2_deposit(shared, *g, o, lanes, t, u2_summed(fr, u, sums))


@row_kernel
def u2_overlap(gr, gi, fr, fi, lanes, op, shared, totals, out):
    """Add the matrix cotangent of a 2x2, lambda after and psi before it."""
    step, blocks, _ = blocks_of(fr, lanes, shared)
    walk, runs = walk_of(op), runs_of(fr, op, lanes, shared)
    for block in range(blocks):
        t = block * step
        a = b = c = d = e = f = g = h = splat(fr.dtype.type(0))
        for q in range(0, op[COUNT], runs.span):
            j = paired_row(walk, q, 0)
            if j & walk.cmask != walk.cval:
                continue
            start, distance = j * lanes + t, ((j ^ walk.xmask) - j) * lanes
            for r in range(runs.registers):
                i = start + r * runs.stride
                k = i + distance
                x, y, z, w = pair_at(fr, fi, i, k)
                p0, q0, p1, q1 = pair_at(gr, gi, i, k)
                a = a + p0 * x + q0 * y
                b = b + p0 * y - q0 * x
                c = c + p0 * z + q0 * w
                d = d + p0 * w - q0 * z
                e = e + p1 * x + q1 * y
                f = f + p1 * y - q1 * x
                g = g + p1 * z + q1 * w
                h = h + p1 * w - q1 * z
        u2_deposit(shared, totals, out, op[COTANGENT], lanes, t, (a, b, c, d, e, f, g, h))


# ------------------------------------------------------------------ Pauli rotations
#
# Formula:   dU = -i dx P U, so chi' = U chi - i dx P psi', with dx = cos dsin - sin dcos; undone, chi = U^dagger chi' +
#            i dx P psi; g = Im <lambda|P|psi>, both on the same side of the gate.
# Shapes:    cosine and sine and the derivatives of both; one real cotangent.
# Layout:    as in ``kernels.py``. Here psi goes first.
# Reference: ``word_matrix`` in ``gate_matrix``, and ``gate_cotangent``.


@row_kernel
def turned(x, y, z, w, odd):
    """``-i P`` on the pair ``(x + i y, z + i w)`` for a positive sign of ``<j|P|k>``."""
    if odd:
        return z, w, -x, -y
    return w, -z, y, -x


@row_kernel
def pauli_tangent_at(fr, fi, i, k, chi, o, plane, odd, c, v, dv):
    """``(cos - i sin P) chi - i dx P psi'`` on the registers at ``i`` and ``k``; ``v`` and ``dv`` are signed."""
    r, m, s, n = o + i, o + i + plane, o + k, o + k + plane
    x, y = load(chi, r), load(chi, m)
    if i == k:
        save(chi, r, c * x + v * y + dv * load(fi, i))
        save(chi, m, c * y - v * x - dv * load(fr, i))
        return
    z, w = load(chi, s), load(chi, n)
    a = turned(x, y, z, w, odd)
    b = turned(load(fr, i), load(fi, i), load(fr, k), load(fi, k), odd)
    save(chi, r, c * x + v * a[0] + dv * b[0])
    save(chi, m, c * y + v * a[1] + dv * b[1])
    save(chi, s, c * z + v * a[2] + dv * b[2])
    save(chi, n, c * w + v * a[3] + dv * b[3])


@row_kernel
def pauli_tangent(fr, fi, d, lanes, op, shared, m, ml, undo):
    """A Pauli rotation on psi and on tangents."""
    step, blocks, _ = blocks_of(fr, lanes, shared)
    walk, p, count, runs = walk_of(op), op[PARAM], op[COUNT], runs_of(fr, op, lanes, shared)
    kinds, imaginary = kinds_of_rows(op), op[NUM_Y] & 1 == 1
    for part in range(blocks * kinds):
        t, odd = (part // kinds) * step, part % kinds
        if not has_rows(op, odd):
            continue
        c, s = coefficient(shared, m, ml, p, lanes, t), coefficient(shared, m, ml, p + 1, lanes, t)
        negative = (pauli_sign(op, paired_row(walk, 0, odd) ^ walk.xmask) < 0) ^ undo
        v = -s if negative else s
        for first in range(0, count, runs.size):
            last = min(first + runs.size, count)
            for q in range(first, last, runs.span):
                j = paired_row(walk, q, odd)
                if j & walk.cmask == walk.cval:
                    i, distance = j * lanes + t, ((j ^ walk.xmask) - j) * lanes
                    for e in range(runs.registers):
                        h = i + e * runs.stride
                        pauli_at(fr, fi, h, h + distance, imaginary, c, v)
            for w in range(d.count):
                r, o = p + d.shift[w], d.at[w]
                dc = coefficient(shared, d.shared, d.lanes, r, lanes, t)
                ds = coefficient(shared, d.shared, d.lanes, r + 1, lanes, t)
                dx = c * ds - s * dc
                dv = -dx if negative else dx
                for q in range(first, last, runs.span):
                    j = paired_row(walk, q, odd)
                    if j & walk.cmask == walk.cval:
                        i, distance = j * lanes + t, ((j ^ walk.xmask) - j) * lanes
                        for e in range(runs.registers):
                            h = i + e * runs.stride
                            pauli_tangent_at(fr, fi, h, h + distance, d.planes, o, d.plane, imaginary, c, v, dv)


@row_kernel
def pauli_overlaps(gr, gi, fr, fi, lanes, op, shared, totals, out):
    """Add ``Im <lambda|P|psi>``."""
    step, blocks, _ = blocks_of(fr, lanes, shared)
    walk, count, runs = walk_of(op), op[COUNT], runs_of(fr, op, lanes, shared)
    kinds, imaginary = kinds_of_rows(op), op[NUM_Y] & 1 == 1
    for part in range(blocks * kinds):
        t, odd = (part // kinds) * step, part % kinds
        if not has_rows(op, odd):
            continue
        g = splat(fr.dtype.type(0))
        for q in range(0, count, runs.span):
            j = paired_row(walk, q, odd)
            if j & walk.cmask == walk.cval:
                i, distance = j * lanes + t, ((j ^ walk.xmask) - j) * lanes
                for e in range(runs.registers):
                    h = i + e * runs.stride
                    g = g + pauli_overlap(fr, fi, gr, gi, h, h + distance, imaginary)
        g = g if pauli_sign(op, paired_row(walk, 0, odd) ^ walk.xmask) > 0 else -g
        deposit(shared, totals, out, op[COTANGENT], lanes, t, g)


# ------------------------------------------------------------------ diagonals and global phases
#
# Formula:   chi'_a = d_a chi_a + dd_a psi_a; G_a = sum conj(lambda'_a) psi_a.
# Shapes:    d and dd: 2**k complex coefficients, one for k = 0; G the same.
# Layout:    entry ``bits_of(j)`` for row j.
# Reference: ``apply`` and ``outer`` with a diagonal matrix.


@row_kernel
def phase_tangent_at(fr, fi, i, chi, o, plane, a, b, da, db):
    """``(a + i b) chi + (da + i db) psi`` on the register at ``i``."""
    x, y, z, w = load(chi, o + i), load(chi, o + i + plane), load(fr, i), load(fi, i)
    save(chi, o + i, a * x - b * y + da * z - db * w)
    save(chi, o + i + plane, a * y + b * x + da * w + db * z)


@row_kernel
def diagonal_tangent(fr, fi, d, n, lanes, op, bits, shared, m, ml, undo):
    """A diagonal on tangents; psi stays for the plain kernel to do."""
    run, cmask, cval = op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for block in range(blocks):
        t = block * step
        for j in range(0, n, run):
            if j & cmask != cval:
                continue
            p = op[PARAM] + 2 * bits_of(j, bits, op[TARGET], op[WIDTH])
            a, b = coefficient(shared, m, ml, p, lanes, t), coefficient(shared, m, ml, p + 1, lanes, t)
            b = -b if undo else b
            for s in range(d.count):
                h, o, chi = p + d.shift[s], d.at[s], d.planes
                da = coefficient(shared, d.shared, d.lanes, h, lanes, t)
                db = coefficient(shared, d.shared, d.lanes, h + 1, lanes, t)
                db = -db if undo else db
                for i in range(j * lanes + t, (j + run) * lanes, stride):
                    phase_tangent_at(fr, fi, i, chi, o, d.plane, a, b, da, db)


@row_kernel
def diagonal_overlap(gr, gi, fr, fi, n, lanes, op, bits, shared, totals, out):
    """Add ``conj(lambda_a) psi_a`` to the entries of a diagonal."""
    run, cmask, cval = op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for block in range(blocks):
        t = block * step
        for j in range(0, n, run):
            if j & cmask != cval:
                continue
            o = op[COTANGENT] + 2 * bits_of(j, bits, op[TARGET], op[WIDTH])
            u = v = splat(fr.dtype.type(0))
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                x, y, p0, q0 = load(fr, i), load(fi, i), load(gr, i), load(gi, i)
                u = u + p0 * x + q0 * y
                v = v + p0 * y - q0 * x
            deposit(shared, totals, out, o, lanes, t, u)
            deposit(shared, totals, out, o + 1, lanes, t, v)


# ------------------------------------------------------------------ dense 2**k x 2**k
#
# Formula:   chi'_a = sum_b U_ab chi_b + dU_ab psi_b; for G see ``dense_cotangent`` in ``kernels.py``.
# Shapes:    U and dU: 4**k complex numbers, row by row.
# Layout:    entry ``spread(a)`` of the rows that have the target bits at zero.
# Reference: ``apply``.


@row_kernel
def gather_targets(fr, fi, base, lanes, t, dim, bits, first, k, buffer, start):
    """The registers of all target values, to ``buffer`` from ``start`` on."""
    step = 64 // fr.itemsize
    for b in range(dim):
        i = (base | spread(b, bits, first, k)) * lanes + t
        save(buffer, start + 2 * b * step, load(fr, i))
        save(buffer, start + (2 * b + 1) * step, load(fi, i))


@row_kernel
def row_of_dense(shared, m, ml, p, a, dim, lanes, t, undo, buffer, start, step, x, y):
    """Add row ``a`` of a dense matrix, times what ``buffer`` holds from ``start`` on, to ``x + i y``."""
    for b in range(dim):
        q = p + 2 * (b * dim + a if undo else a * dim + b)
        u, v = coefficient(shared, m, ml, q, lanes, t), coefficient(shared, m, ml, q + 1, lanes, t)
        v = -v if undo else v
        z, w = load(buffer, start + 2 * b * step), load(buffer, start + (2 * b + 1) * step)
        x = x + u * z - v * w
        y = y + u * w + v * z
    return x, y


@row_kernel
def dense_tangent(fr, fi, d, n, lanes, op, bits, shared, m, ml, buffer, undo):
    """A dense matrix on tangents; psi stays for the plain kernel to do. ``buffer`` holds ``4 * 2**k`` registers."""
    k, first, p = op[WIDTH], op[TARGET], op[PARAM]
    dim, step = 1 << k, 64 // fr.itemsize
    mask, zero = spread(dim - 1, bits, first, k), splat(fr.dtype.type(0))
    for base in range(n):
        if base & mask or base & op[CMASK] != op[CVAL]:
            continue
        for t in range(0, lanes, step):
            gather_targets(fr, fi, base, lanes, t, dim, bits, first, k, buffer, 0)
            for s in range(d.count):
                o, h = d.at[s], p + d.shift[s]
                xr, xi = d.planes[o : o + d.plane], d.planes[o + d.plane : o + 2 * d.plane]
                gather_targets(xr, xi, base, lanes, t, dim, bits, first, k, buffer, 2 * dim * step)
                for a in range(dim):
                    x, y = row_of_dense(
                        shared, m, ml, p, a, dim, lanes, t, undo, buffer, 2 * dim * step, step, zero, zero
                    )
                    x, y = row_of_dense(shared, d.shared, d.lanes, h, a, dim, lanes, t, undo, buffer, 0, step, x, y)
                    i = (base | spread(a, bits, first, k)) * lanes + t
                    save(xr, i, x)
                    save(xi, i, y)
