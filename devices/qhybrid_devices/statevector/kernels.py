"""Row kernels: one gate, or the matrix cotangent of one gate, on a tile.

A tile is a pair of real arrays ``re, im`` of shape ``(R, L)``: ``R`` rows, one for each setting of the active bits,
times ``L`` contiguous lanes. ``rows[j] | tile`` is the index in the whole state of row ``j``; masks for controls and
signs are bits of that index, while target positions and flip masks are bits of ``j``.

Coefficients are interleaved real and imaginary parts: ``m[p], m[p + 1], ...`` shared by all lanes, or ``m[p, t],
m[p + 1, t], ...`` for lane ``t``. A cotangent kernel adds ``G_ab = sum conj(lambda_a) psi_b`` over the rows where the
controls are met, psi before the gate and lambda after it; see ``adjoint.md``.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import row_kernel


@row_kernel
def parity(x):
    """Whether ``x >= 0`` has an odd number of bits set."""
    x ^= x >> 32
    x ^= x >> 16
    x ^= x >> 8
    x ^= x >> 4
    x ^= x >> 2
    x ^= x >> 1
    return x & 1


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


# ------------------------------------------------------------------ 2 x 2


@row_kernel
def u2_pair(r0, i0, r1, i1, a, b, c, d, e, f, g, h):
    for t in range(r0.shape[0]):
        x, y, z, w = r0[t], i0[t], r1[t], i1[t]
        r0[t] = a * x - b * y + c * z - d * w
        i0[t] = a * y + b * x + c * w + d * z
        r1[t] = e * x - f * y + g * z - h * w
        i1[t] = e * y + f * x + g * w + h * z


@row_kernel
def u2_shared(re, im, s, m, p, cmask, cval, rows, tile):
    """A 2x2 on rows ``j, j + s``."""
    a, b, c, d = m[p], m[p + 1], m[p + 2], m[p + 3]
    e, f, g, h = m[p + 4], m[p + 5], m[p + 6], m[p + 7]
    n, lanes = re.shape
    if cmask == 0:  # rows j..j+s-1 are contiguous: one long inner loop
        vr = re.reshape(n // (2 * s), 2, s * lanes)
        vi = im.reshape(n // (2 * s), 2, s * lanes)
        for j in range(n // (2 * s)):
            u2_pair(vr[j, 0], vi[j, 0], vr[j, 1], vi[j, 1], a, b, c, d, e, f, g, h)
        return
    for base in range(0, n, 2 * s):
        for j in range(base, base + s):
            if (rows[j] | tile) & cmask == cval:
                u2_pair(re[j], im[j], re[j + s], im[j + s], a, b, c, d, e, f, g, h)


@row_kernel
def u2_lanes(re, im, s, m, p, cmask, cval, rows, tile):
    """A 2x2 of its own for each lane on rows ``j, j + s``."""
    a, b, c, d, e, f, g, h = m[p], m[p + 1], m[p + 2], m[p + 3], m[p + 4], m[p + 5], m[p + 6], m[p + 7]
    for base in range(0, re.shape[0], 2 * s):
        for j in range(base, base + s):
            if (rows[j] | tile) & cmask == cval:
                r0, i0, r1, i1 = re[j], im[j], re[j + s], im[j + s]
                for t in range(re.shape[1]):
                    x, y, z, w = r0[t], i0[t], r1[t], i1[t]
                    r0[t] = a[t] * x - b[t] * y + c[t] * z - d[t] * w
                    i0[t] = a[t] * y + b[t] * x + c[t] * w + d[t] * z
                    r1[t] = e[t] * x - f[t] * y + g[t] * z - h[t] * w
                    i1[t] = e[t] * y + f[t] * x + g[t] * w + h[t] * z


@row_kernel
def u2_pair_cotangent(r0, i0, r1, i1, p0, q0, p1, q1, out, o):
    a = b = c = d = e = f = g = h = r0.dtype.type(0)
    for t in range(r0.shape[0]):
        x, y, z, w = r0[t], i0[t], r1[t], i1[t]
        k, l, m, n = p0[t], q0[t], p1[t], q1[t]
        a += k * x + l * y
        b += k * y - l * x
        c += k * z + l * w
        d += k * w - l * z
        e += m * x + n * y
        f += m * y - n * x
        g += m * z + n * w
        h += m * w - n * z
    out[o] += a
    out[o + 1] += b
    out[o + 2] += c
    out[o + 3] += d
    out[o + 4] += e
    out[o + 5] += f
    out[o + 6] += g
    out[o + 7] += h


@row_kernel
def u2_cotangent(re, im, lr, li, s, out, o, cmask, cval, rows, tile):
    """Matrix cotangent of a 2x2, summed over the lanes."""
    n, lanes = re.shape
    if cmask == 0:
        shape = (n // (2 * s), 2, s * lanes)
        vr, vi, wr, wi = re.reshape(shape), im.reshape(shape), lr.reshape(shape), li.reshape(shape)
        for j in range(n // (2 * s)):
            u2_pair_cotangent(
                vr[j, 0], vi[j, 0], vr[j, 1], vi[j, 1], wr[j, 0], wi[j, 0], wr[j, 1], wi[j, 1], out, o
            )
        return
    for base in range(0, n, 2 * s):
        for j in range(base, base + s):
            if (rows[j] | tile) & cmask == cval:
                k = j + s
                u2_pair_cotangent(re[j], im[j], re[k], im[k], lr[j], li[j], lr[k], li[k], out, o)


@row_kernel
def u2_cotangent_lanes(re, im, lr, li, s, out, o, cmask, cval, rows, tile):
    """Matrix cotangent of a 2x2, for each lane."""
    a, b, c, d = out[o], out[o + 1], out[o + 2], out[o + 3]
    e, f, g, h = out[o + 4], out[o + 5], out[o + 6], out[o + 7]
    for base in range(0, re.shape[0], 2 * s):
        for j in range(base, base + s):
            if (rows[j] | tile) & cmask == cval:
                r0, i0, r1, i1 = re[j], im[j], re[j + s], im[j + s]
                p0, q0, p1, q1 = lr[j], li[j], lr[j + s], li[j + s]
                for t in range(re.shape[1]):
                    x, y, z, w = r0[t], i0[t], r1[t], i1[t]
                    k, l, m, n = p0[t], q0[t], p1[t], q1[t]
                    a[t] += k * x + l * y
                    b[t] += k * y - l * x
                    c[t] += k * z + l * w
                    d[t] += k * w - l * z
                    e[t] += m * x + n * y
                    f[t] += m * y - n * x
                    g[t] += m * z + n * w
                    h[t] += m * w - n * z


@row_kernel
def flip(re, im, s, cmask, cval, rows, tile):
    """Swap rows ``j, j + s``: a (controlled) X."""
    for base in range(0, re.shape[0], 2 * s):
        for j in range(base, base + s):
            if (rows[j] | tile) & cmask == cval:
                r0, i0, r1, i1 = re[j], im[j], re[j + s], im[j + s]
                for t in range(re.shape[1]):
                    x = r0[t]
                    r0[t] = r1[t]
                    r1[t] = x
                    y = i0[t]
                    i0[t] = i1[t]
                    i1[t] = y


# ------------------------------------------------------------------ Pauli rotations


@row_kernel
def pauli_phase(ny, odd):
    """``i**ny`` times -1 if ``odd``, as (real, imaginary)."""
    sign = 1 - 2 * odd
    k = ny & 3
    if k == 0:
        return sign, 0
    if k == 1:
        return 0, sign
    if k == 2:
        return -sign, 0
    return 0, -sign


@row_kernel
def pauli_rows(re, im, xmask, zmask, ny, m, p, shared, ml, cmask, cval, rows, tile):
    """``cos I - i sin P``, ``P|x> = i**ny (-1)**parity(x & zmask) |x ^ xmask>``; cos and sin at ``p``, ``p + 1``.

    ``shared`` says whether the coefficients are ``m[p], m[p + 1]`` or the rows ``ml[p], ml[p + 1]``.
    """
    n, lanes = re.shape
    one = re.dtype.type(1)
    for j in range(n):
        k = j ^ xmask
        index = rows[j] | tile
        if k < j or index & cmask != cval:
            continue
        # <j|P|k> and <k|P|j>, times -i
        ui, ur = pauli_phase(ny, parity((rows[k] | tile) & zmask))
        vi, vr = pauli_phase(ny, parity(index & zmask))
        a, b, e, f = one * ur, -one * ui, one * vr, -one * vi
        r0, i0, r1, i1 = re[j], im[j], re[k], im[k]
        if k == j:  # diagonal: -i sign sin
            if shared:
                c, sb = m[p], m[p + 1] * b
                for t in range(lanes):
                    x, y = r0[t], i0[t]
                    r0[t] = c * x - sb * y
                    i0[t] = c * y + sb * x
            else:
                cl, sl = ml[p], ml[p + 1]
                for t in range(lanes):
                    x, y, v = r0[t], i0[t], sl[t] * b
                    r0[t] = cl[t] * x - v * y
                    i0[t] = cl[t] * y + v * x
        elif shared:
            c, s = m[p], m[p + 1]
            a, b, e, f = a * s, b * s, e * s, f * s
            for t in range(lanes):
                x, y, z, w = r0[t], i0[t], r1[t], i1[t]
                r0[t] = c * x + a * z - b * w
                i0[t] = c * y + a * w + b * z
                r1[t] = c * z + e * x - f * y
                i1[t] = c * w + e * y + f * x
        else:
            cl, sl = ml[p], ml[p + 1]
            for t in range(lanes):
                x, y, z, w = r0[t], i0[t], r1[t], i1[t]
                r0[t] = cl[t] * x + sl[t] * (a * z - b * w)
                i0[t] = cl[t] * y + sl[t] * (a * w + b * z)
                r1[t] = cl[t] * z + sl[t] * (e * x - f * y)
                i1[t] = cl[t] * w + sl[t] * (e * y + f * x)


@row_kernel
def pauli_cotangent(re, im, lr, li, xmask, zmask, ny, out, o, cmask, cval, rows, tile):
    """Add ``Im <lambda|P|psi>`` of each lane to ``out[o]``."""
    one = re.dtype.type(1)
    acc = out[o]
    for j in range(re.shape[0]):
        if (rows[j] | tile) & cmask == cval:
            k = j ^ xmask
            ur, ui = pauli_phase(ny, parity((rows[k] | tile) & zmask))
            u, v = one * ur, one * ui
            r1, i1, p0, q0 = re[k], im[k], lr[j], li[j]
            if ui == 0:
                for t in range(re.shape[1]):
                    acc[t] += u * (p0[t] * i1[t] - q0[t] * r1[t])
            else:
                for t in range(re.shape[1]):
                    acc[t] += v * (p0[t] * r1[t] + q0[t] * i1[t])


# ------------------------------------------------------------------ diagonals and global phases


@row_kernel
def diagonal_rows(re, im, bits, first, k, m, p, shared, ml, cmask, cval, rows, tile):
    """Multiply each row by the diagonal entry that its ``k`` target bits (of the whole index) select."""
    for j in range(re.shape[0]):
        index = rows[j] | tile
        if index & cmask != cval:
            continue
        q = p + 2 * bits_of(index, bits, first, k)
        r0, i0 = re[j], im[j]
        if shared:
            a, b = m[q], m[q + 1]
            if a == 1 and b == 0:
                continue
            for t in range(re.shape[1]):
                x, y = r0[t], i0[t]
                r0[t] = a * x - b * y
                i0[t] = a * y + b * x
        else:
            al, bl = ml[q], ml[q + 1]
            for t in range(re.shape[1]):
                x, y = r0[t], i0[t]
                r0[t] = al[t] * x - bl[t] * y
                i0[t] = al[t] * y + bl[t] * x


@row_kernel
def diagonal_cotangent(re, im, lr, li, bits, first, k, out, o, shared, totals, cmask, cval, rows, tile):
    """Add ``conj(lambda_a) psi_a`` to the entries of a diagonal: per lane to ``out[o:]``, or summed to ``totals[o:]``."""
    for j in range(re.shape[0]):
        index = rows[j] | tile
        if index & cmask != cval:
            continue
        q = o + 2 * bits_of(index, bits, first, k)
        r0, i0, p0, q0 = re[j], im[j], lr[j], li[j]
        if shared:
            u = v = re.dtype.type(0)
            for t in range(re.shape[1]):
                u += p0[t] * r0[t] + q0[t] * i0[t]
                v += p0[t] * i0[t] - q0[t] * r0[t]
            totals[q] += u
            totals[q + 1] += v
        else:
            ul, vl = out[q], out[q + 1]
            for t in range(re.shape[1]):
                ul[t] += p0[t] * r0[t] + q0[t] * i0[t]
                vl[t] += p0[t] * i0[t] - q0[t] * r0[t]


# ------------------------------------------------------------------ dense 2**k x 2**k


@row_kernel
def target_mask(bits, first, k):
    """The mask of ``bits[first : first + k]``."""
    return spread((1 << k) - 1, bits, first, k)


@row_kernel
def dense_rows(re, im, bits, first, k, m, p, shared, ml, cmask, cval, rows, tile, buffer):
    """A dense matrix on ``k`` row bits; ``buffer`` holds ``2 * 2**k`` rows."""
    dim, mask = 1 << k, target_mask(bits, first, k)
    for base in range(re.shape[0]):
        if base & mask or (rows[base] | tile) & cmask != cval:
            continue
        for b in range(dim):
            j = base | spread(b, bits, first, k)
            x, y, r0, i0 = buffer[2 * b], buffer[2 * b + 1], re[j], im[j]
            for t in range(re.shape[1]):
                x[t] = r0[t]
                y[t] = i0[t]
        for a in range(dim):
            j = base | spread(a, bits, first, k)
            r0, i0 = re[j], im[j]
            for t in range(re.shape[1]):
                r0[t] = 0
                i0[t] = 0
            for b in range(dim):
                q = p + 2 * (a * dim + b)
                x, y = buffer[2 * b], buffer[2 * b + 1]
                if shared:
                    u, v = m[q], m[q + 1]
                    for t in range(re.shape[1]):
                        r0[t] += u * x[t] - v * y[t]
                        i0[t] += u * y[t] + v * x[t]
                else:
                    ul, vl = ml[q], ml[q + 1]
                    for t in range(re.shape[1]):
                        r0[t] += ul[t] * x[t] - vl[t] * y[t]
                        i0[t] += ul[t] * y[t] + vl[t] * x[t]


@row_kernel
def dense_cotangent(re, im, lr, li, bits, first, k, out, o, shared, totals, cmask, cval, rows, tile):
    """Matrix cotangent of a dense gate: per lane to ``out[o:]``, or summed over the lanes to ``totals[o:]``."""
    dim, mask = 1 << k, target_mask(bits, first, k)
    for base in range(re.shape[0]):
        if base & mask or (rows[base] | tile) & cmask != cval:
            continue
        for a in range(dim):
            j = base | spread(a, bits, first, k)
            p0, q0 = lr[j], li[j]
            for b in range(dim):
                h = base | spread(b, bits, first, k)
                q = o + 2 * (a * dim + b)
                r0, i0 = re[h], im[h]
                if shared:
                    u = v = re.dtype.type(0)
                    for t in range(re.shape[1]):
                        u += p0[t] * r0[t] + q0[t] * i0[t]
                        v += p0[t] * i0[t] - q0[t] * r0[t]
                    totals[q] += u
                    totals[q + 1] += v
                else:
                    ul, vl = out[q], out[q + 1]
                    for t in range(re.shape[1]):
                        ul[t] += p0[t] * r0[t] + q0[t] * i0[t]
                        vl[t] += p0[t] * i0[t] - q0[t] * r0[t]


