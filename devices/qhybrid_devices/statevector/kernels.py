"""Row kernels where lanes are samples: one operation on many states, forward, or in reverse with its matrix cotangent.

There are ``n`` rows, one for each basis state, times ``lanes`` contiguous lanes, a multiple of a register. They come as
flat planes: ``fr, fi`` hold psi and ``gr, gi`` lambda, row ``j`` at ``j * lanes``. Targets, flips, signs and controls
are bits of ``j``.

Coefficients are interleaved real and imaginary parts: ``m[p], m[p + 1], ...`` if all lanes share them, otherwise rows
``p, p + 1, ...`` of the flat ``ml``. Both cases are one loop: with shared coefficients one block runs through whole
runs of rows in memory order, otherwise there is a block for each register of lanes, which goes down the rows.

Each section gives the formula, the shapes, the layout, the dense NumPy in ``reference.py`` that tests compare with, and
then the kernels.

Coefficients are those of the gate; with ``undo`` it is the inverse that is applied, the conjugate transpose. A reverse
kernel un-computes psi and lambda and adds
``G_ab = sum conj(lambda_a) psi_b``, lambda after and psi before the gate; see ``adjoint.md``.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.simd import load, popcount, save, splat, total
from qhybrid_devices.statevector.table import (
    CMASK,
    COTANGENT,
    CVAL,
    NUM_Y,
    PARAM,
    RUN,
    TARGET,
    WIDTH,
    XMASK,
    ZMASK,
)


@row_kernel
def parity(x):
    """Whether ``x >= 0`` has an odd number of bits set."""
    return popcount(x) & 1


@row_kernel
def bits_of(index, bits, first, k):
    """The bits of ``index`` at ``bits[first : first + k]`` as a number, the first one most significant."""
    out = 0
    for i in range(k):
        out = (out << 1) | ((index >> bits[first + i]) & 1)
    return out


@row_kernel
def spread(value, bits, first, k):
    """The index that has the ``k`` bits of ``value`` at ``bits[first : first + k]``: the inverse of ``bits_of``."""
    out = 0
    for i in range(k):
        out |= ((value >> (k - 1 - i)) & 1) << bits[first + i]
    return out


@row_kernel
def flat(array):
    """A contiguous array as one row."""
    return array.reshape(array.size)


@row_kernel
def blocks_of(plane, lanes, shared):
    """Step of a register, number of blocks, and the stride within a block."""
    step = 64 // plane.itemsize
    if shared:
        return step, 1, step
    return step, lanes // step, lanes


@row_kernel
def coefficient(shared, m, ml, p, lanes, t):
    """Coefficient ``p`` of the lanes from ``t`` on."""
    return splat(m[p]) if shared else load(ml, p * lanes + t)


@row_kernel
def deposit(shared, totals, out, o, lanes, t, g):
    """Add a cotangent to ``totals[o]``, or to row ``o`` of ``out`` for the lanes from ``t`` on."""
    if shared:
        totals[o] += total(g)
    else:
        save(out, o * lanes + t, load(out, o * lanes + t) + g)


# ------------------------------------------------------------------ 2 x 2
#
# Formula:   psi'_a = sum_b U_ab psi_b for each pair of rows j, j ^ x; G_ab = sum conj(lambda'_a) psi_b. If U stays
#            unitary, only the anti-Hermitian part of M_ab = sum conj(lambda'_a) psi'_b matters, and G = M conj(U).
#            (a + ib)(x + iy) = s - (a + b) y + i (s + (b - a) x), s = a (x + y): three products in place of four.
# Shapes:    U: 4 complex coefficients; G: 4 complex cotangents.
# Layout:    row j, of even parity under z, comes first in the pair; a flip is the same without coefficients.
# Reference: ``apply`` and ``outer``.


@row_kernel
def times_2x2(u, psi):
    """A 2x2 times the vector ``(x + i y, z + i w)``."""
    (a, b, c, d, e, f, g, h), (x, y, z, w) = u, psi
    p, q = x + y, z + w
    s, t = a * p + c * q, e * p + g * q
    return (
        s - (a + b) * y - (c + d) * w,
        s + (b - a) * x + (d - c) * z,
        t - (e + f) * y - (g + h) * w,
        t + (f - e) * x + (h - g) * z,
    )


@row_kernel
def pair_at(fr, fi, i, k):
    """The amplitudes at ``i`` and ``k``, as four registers."""
    return load(fr, i), load(fi, i), load(fr, k), load(fi, k)


@row_kernel
def save_pair(fr, fi, i, k, pair):
    """Write the amplitudes at ``i`` and ``k``."""
    save(fr, i, pair[0])
    save(fi, i, pair[1])
    save(fr, k, pair[2])
    save(fi, k, pair[3])


@row_kernel
def u2_at(fr, fi, i, k, u):
    """A 2x2 on the registers at ``i`` and ``k``; what they are then."""
    psi = times_2x2(u, pair_at(fr, fi, i, k))
    save_pair(fr, fi, i, k, psi)
    return psi


@row_kernel
def u2_coefficients(shared, m, ml, p, lanes, t, undo):
    """The eight coefficients of a 2x2, or of its inverse."""
    a, b, c, d, e, f, g, h = (
        coefficient(shared, m, ml, p, lanes, t),
        coefficient(shared, m, ml, p + 1, lanes, t),
        coefficient(shared, m, ml, p + 2, lanes, t),
        coefficient(shared, m, ml, p + 3, lanes, t),
        coefficient(shared, m, ml, p + 4, lanes, t),
        coefficient(shared, m, ml, p + 5, lanes, t),
        coefficient(shared, m, ml, p + 6, lanes, t),
        coefficient(shared, m, ml, p + 7, lanes, t),
    )
    return (a, -b, e, -f, c, -d, g, -h) if undo else (a, b, c, d, e, f, g, h)


@row_kernel
def u2(fr, fi, n, lanes, op, shared, m, ml, undo):
    """A 2x2 on the rows ``j, j ^ x``, of which the first has even parity under ``z``."""
    x, z, run, cmask, cval = op[XMASK], op[ZMASK], op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(blocks):
        t = q * step
        u = u2_coefficients(shared, m, ml, op[PARAM], lanes, t, undo)
        for j in range(0, n, run):
            if parity(j & z) == 0 and j & cmask == cval:
                distance = ((j ^ x) - j) * lanes
                for i in range(j * lanes + t, (j + run) * lanes, stride):
                    u2_at(fr, fi, i, i + distance, u)


@row_kernel
def u2_cotangent(u, first, real, imag, second):
    """``M conj(U)`` of ``M = ((i first, real + i imag), (-real + i imag, i second))``; ``u`` is the inverse of U."""
    a, b, c, d, e, f, g, h = u
    return (
        real * c - imag * d - first * b,
        real * d + imag * c + first * a,
        real * g - imag * h - first * f,
        real * h + imag * g + first * e,
        -real * a - imag * b - second * d,
        imag * a - real * b + second * c,
        -real * e - imag * f - second * h,
        imag * e - real * f + second * g,
    )


@row_kernel
def no_sums(fr):
    """What :func:`plus_pair` begins with."""
    zero = splat(fr.dtype.type(0))
    return zero, zero, zero, zero


@row_kernel
def plus_pair(sums, lam, psi):
    """Add what a pair has to say of the anti-Hermitian part of M: its diagonal, and twice the rest."""
    (x, y, z, w), (p0, q0, p1, q1) = psi, lam
    return (
        sums[0] + p0 * y - q0 * x,
        sums[1] + p0 * z + q0 * w - p1 * x - q1 * y,
        sums[2] + p0 * w - q0 * z + p1 * y - q1 * x,
        sums[3] + p1 * w - q1 * z,
    )


@row_kernel
def u2_summed(fr, u, sums):
    """The matrix cotangent that these sums make; ``u`` is the inverse of U."""
    half = splat(fr.dtype.type(0.5))
    return u2_cotangent(u, sums[0], half * sums[1], half * sums[2], sums[3])


@row_kernel
def u2_reverse(fr, fi, gr, gi, n, lanes, op, shared, m, ml, totals, out):
    """Un-compute a 2x2 and add its matrix cotangent, as far as a U that stays unitary can tell."""
    xmask, zmask, run, cmask, cval = op[XMASK], op[ZMASK], op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(blocks):
        t = q * step
        u, sums = u2_coefficients(shared, m, ml, op[PARAM], lanes, t, bool(1)), no_sums(fr)
        for j in range(0, n, run):
            if parity(j & zmask) != 0 or j & cmask != cval:
                continue
            distance = ((j ^ xmask) - j) * lanes
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                k = i + distance
                psi, lam = pair_at(fr, fi, i, k), pair_at(gr, gi, i, k)
                sums = plus_pair(sums, lam, psi)
                save_pair(fr, fi, i, k, times_2x2(u, psi))
                save_pair(gr, gi, i, k, times_2x2(u, lam))
        u2_deposit(shared, totals, out, op[COTANGENT], lanes, t, u2_summed(fr, u, sums))


@row_kernel
def u2_entries(gr, gi, fr, fi, n, lanes, op, shared, totals, out):
    """Add the whole matrix cotangent of a 2x2, lambda after and psi before it; few circuits need it, so it is short."""
    xmask, zmask, run, cmask, cval = op[XMASK], op[ZMASK], op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(4 * blocks):
        entry, t = q % 4, (q // 4) * step
        real = imag = splat(fr.dtype.type(0))
        for j in range(0, n, run):
            if parity(j & zmask) != 0 or j & cmask != cval:
                continue
            distance = ((j ^ xmask) - j) * lanes
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                bra, ket = i + (entry >> 1) * distance, i + (entry & 1) * distance
                p, q0, x, y = load(gr, bra), load(gi, bra), load(fr, ket), load(fi, ket)
                real = real + p * x + q0 * y
                imag = imag + p * y - q0 * x
        deposit(shared, totals, out, op[COTANGENT] + 2 * entry, lanes, t, real)
        deposit(shared, totals, out, op[COTANGENT] + 2 * entry + 1, lanes, t, imag)


@row_kernel
def u2_deposit(shared, totals, out, o, lanes, t, g):
    """Add the four entries of a matrix cotangent."""
    deposit(shared, totals, out, o, lanes, t, g[0])
    deposit(shared, totals, out, o + 1, lanes, t, g[1])
    deposit(shared, totals, out, o + 2, lanes, t, g[2])
    deposit(shared, totals, out, o + 3, lanes, t, g[3])
    deposit(shared, totals, out, o + 4, lanes, t, g[4])
    deposit(shared, totals, out, o + 5, lanes, t, g[5])
    deposit(shared, totals, out, o + 6, lanes, t, g[6])
    deposit(shared, totals, out, o + 7, lanes, t, g[7])


@row_kernel
def flip(fr, fi, n, lanes, op):
    """Swap the rows of each pair: a (controlled) X."""
    xmask, zmask, run, cmask, cval = op[XMASK], op[ZMASK], op[RUN], op[CMASK], op[CVAL]
    step = 64 // fr.itemsize
    for j in range(0, n, run):
        if parity(j & zmask) == 0 and j & cmask == cval:
            distance = ((j ^ xmask) - j) * lanes
            for i in range(j * lanes, (j + run) * lanes, step):
                k = i + distance
                x, y, z, w = load(fr, i), load(fi, i), load(fr, k), load(fi, k)
                save(fr, i, z)
                save(fi, i, w)
                save(fr, k, x)
                save(fi, k, y)


# ------------------------------------------------------------------ Pauli rotations
#
# Formula:   psi' = (cos - i sin P) psi; g = Im <lambda|P|psi>.
# Shapes:    cosine and sine; one real cotangent.
# Layout:    P|k> = i**ny (-1)**parity(k & z) |k ^ x>. With k = j ^ x, <j|P|k> is sign for an even number of Y and
#            i sign for an odd one, and <k|P|j> is its conjugate.
# Reference: ``word_matrix`` in ``gate_matrix``, and ``gate_cotangent``.


@row_kernel
def pauli_sign(op, k):
    """The real sign of ``<j|P|k>``."""
    return 1 - 2 * (parity(k & op[ZMASK]) ^ ((op[NUM_Y] >> 1) & 1))


@row_kernel
def pauli_at(fr, fi, i, k, odd, c, v):
    """``cos - i sin P`` on the registers at ``i`` and ``k``, with ``v`` the signed sine."""
    x, y = load(fr, i), load(fi, i)
    if i == k:
        save(fr, i, c * x + v * y)
        save(fi, i, c * y - v * x)
        return
    z, w = load(fr, k), load(fi, k)
    if odd:
        save(fr, i, c * x + v * z)
        save(fi, i, c * y + v * w)
        save(fr, k, c * z - v * x)
        save(fi, k, c * w - v * y)
    else:
        save(fr, i, c * x + v * w)
        save(fi, i, c * y - v * z)
        save(fr, k, c * z + v * y)
        save(fi, k, c * w - v * x)


@row_kernel
def pauli_overlap(fr, fi, gr, gi, i, k, odd):
    """``Im conj(lambda) P psi`` of the registers at ``i`` and ``k``, for a positive sign."""
    x, y, p0, q0 = load(fr, i), load(fi, i), load(gr, i), load(gi, i)
    if i == k:
        return p0 * y - q0 * x
    z, w, p1, q1 = load(fr, k), load(fi, k), load(gr, k), load(gi, k)
    if odd:
        return p0 * z + q0 * w - p1 * x - q1 * y
    return p0 * w - q0 * z + p1 * y - q1 * x


@row_kernel
def pauli(fr, fi, n, lanes, op, shared, m, ml, undo):
    """``cos - i sin P``; cosine and sine are coefficients ``p`` and ``p + 1``."""
    p, xmask, run, cmask, cval, odd = op[PARAM], op[XMASK], op[RUN], op[CMASK], op[CVAL], op[NUM_Y] & 1 == 1
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(blocks):
        t = q * step
        c, s = coefficient(shared, m, ml, p, lanes, t), coefficient(shared, m, ml, p + 1, lanes, t)
        s = -s if undo else s
        for j in range(0, n, run):
            k = j ^ xmask
            if k < j or j & cmask != cval:
                continue
            v = s if pauli_sign(op, k) > 0 else -s
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                pauli_at(fr, fi, i, i + (k - j) * lanes, odd, c, v)


@row_kernel
def pauli_reverse(fr, fi, gr, gi, n, lanes, op, shared, m, ml, totals, out):
    """Un-compute a Pauli rotation and add ``Im <lambda|P|psi>``."""
    p, xmask, run, cmask, cval, odd = op[PARAM], op[XMASK], op[RUN], op[CMASK], op[CVAL], op[NUM_Y] & 1 == 1
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(blocks):
        t = q * step
        c, s = coefficient(shared, m, ml, p, lanes, t), -coefficient(shared, m, ml, p + 1, lanes, t)
        one, g = splat(fr.dtype.type(1)), splat(fr.dtype.type(0))
        for j in range(0, n, run):
            k = j ^ xmask
            if k < j or j & cmask != cval:
                continue
            positive = pauli_sign(op, k) > 0
            v, sign = (s, one) if positive else (-s, -one)
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                h = i + (k - j) * lanes
                g = g + sign * pauli_overlap(fr, fi, gr, gi, i, h, odd)
                pauli_at(fr, fi, i, h, odd, c, v)
                pauli_at(gr, gi, i, h, odd, c, v)
        deposit(shared, totals, out, op[COTANGENT], lanes, t, g)


# ------------------------------------------------------------------ diagonals and global phases
#
# Formula:   psi'_a = d_a psi_a; G_a = sum conj(lambda'_a) psi_a.
# Shapes:    d: 2**k complex coefficients, one for k = 0; G the same.
# Layout:    entry ``bits_of(j)`` for row j.
# Reference: ``apply`` and ``outer`` with a diagonal matrix.


@row_kernel
def phase_at(fr, fi, i, a, b):
    """Multiply the register at ``i`` by ``a + i b``."""
    x, y = load(fr, i), load(fi, i)
    save(fr, i, a * x - b * y)
    save(fi, i, a * y + b * x)


@row_kernel
def diagonal(fr, fi, n, lanes, op, bits, shared, m, ml, undo):
    """Multiply each row by the diagonal entry that its target bits select."""
    run, cmask, cval = op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(blocks):
        t = q * step
        for j in range(0, n, run):
            if j & cmask != cval:
                continue
            p = op[PARAM] + 2 * bits_of(j, bits, op[TARGET], op[WIDTH])
            if shared and m[p] == 1 and m[p + 1] == 0:
                continue
            a, b = coefficient(shared, m, ml, p, lanes, t), coefficient(shared, m, ml, p + 1, lanes, t)
            b = -b if undo else b
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                phase_at(fr, fi, i, a, b)


@row_kernel
def diagonal_reverse(fr, fi, gr, gi, n, lanes, op, bits, shared, m, ml, totals, out):
    """Un-compute a diagonal and add ``conj(lambda_a) psi_a`` to its entries."""
    run, cmask, cval = op[RUN], op[CMASK], op[CVAL]
    step, blocks, stride = blocks_of(fr, lanes, shared)
    for q in range(blocks):
        t = q * step
        for j in range(0, n, run):
            if j & cmask != cval:
                continue
            entry = 2 * bits_of(j, bits, op[TARGET], op[WIDTH])
            p, o = op[PARAM] + entry, op[COTANGENT] + entry
            a, b = coefficient(shared, m, ml, p, lanes, t), -coefficient(shared, m, ml, p + 1, lanes, t)
            u = v = splat(fr.dtype.type(0))
            for i in range(j * lanes + t, (j + run) * lanes, stride):
                phase_at(fr, fi, i, a, b)
                x, y, p0, q0 = load(fr, i), load(fi, i), load(gr, i), load(gi, i)
                u = u + p0 * x + q0 * y
                v = v + p0 * y - q0 * x
                phase_at(gr, gi, i, a, b)
            deposit(shared, totals, out, o, lanes, t, u)
            deposit(shared, totals, out, o + 1, lanes, t, v)


# ------------------------------------------------------------------ dense 2**k x 2**k
#
# Formula:   psi'_a = sum_b U_ab psi_b; G_ab = sum conj(lambda'_a) psi_b.
# Shapes:    U and G: 4**k complex numbers, row by row.
# Layout:    entry ``spread(a)`` of the rows that have the target bits at zero.
# Reference: ``apply`` and ``outer``.


@row_kernel
def dense(fr, fi, n, lanes, op, bits, shared, m, ml, buffer, undo):
    """A dense matrix on ``k`` row bits; ``buffer`` holds ``2 * 2**k`` registers."""
    k, first, p = op[WIDTH], op[TARGET], op[PARAM]
    dim, step = 1 << k, 64 // fr.itemsize
    mask = spread(dim - 1, bits, first, k)
    for base in range(n):
        if base & mask or base & op[CMASK] != op[CVAL]:
            continue
        for t in range(0, lanes, step):
            for b in range(dim):
                i = (base | spread(b, bits, first, k)) * lanes + t
                save(buffer, 2 * b * step, load(fr, i))
                save(buffer, (2 * b + 1) * step, load(fi, i))
            for a in range(dim):
                x = y = splat(fr.dtype.type(0))
                for b in range(dim):
                    q = p + 2 * (b * dim + a if undo else a * dim + b)
                    u, v = coefficient(shared, m, ml, q, lanes, t), coefficient(shared, m, ml, q + 1, lanes, t)
                    v = -v if undo else v
                    z, w = load(buffer, 2 * b * step), load(buffer, (2 * b + 1) * step)
                    x = x + u * z - v * w
                    y = y + u * w + v * z
                i = (base | spread(a, bits, first, k)) * lanes + t
                save(fr, i, x)
                save(fi, i, y)


@row_kernel
def dense_cotangent(fr, fi, gr, gi, n, lanes, op, bits, shared, totals, out):
    """Add the matrix cotangent of a dense gate; psi before and lambda after it."""
    k, first = op[WIDTH], op[TARGET]
    dim, step = 1 << k, 64 // fr.itemsize
    mask = spread(dim - 1, bits, first, k)
    for a in range(dim):
        for b in range(dim):
            o = op[COTANGENT] + 2 * (a * dim + b)
            row_a, row_b = spread(a, bits, first, k) * lanes, spread(b, bits, first, k) * lanes
            for t in range(0, lanes, step):
                u = v = splat(fr.dtype.type(0))
                for base in range(n):
                    if base & mask == 0 and base & op[CMASK] == op[CVAL]:
                        i, h = base * lanes + t + row_a, base * lanes + t + row_b
                        p0, q0, x, y = load(gr, i), load(gi, i), load(fr, h), load(fi, h)
                        u = u + p0 * x + q0 * y
                        v = v + p0 * y - q0 * x
                deposit(shared, totals, out, o, lanes, t, u)
                deposit(shared, totals, out, o + 1, lanes, t, v)
