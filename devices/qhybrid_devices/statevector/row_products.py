"""Products of all rows of one matrix with all rows of another: overlaps of many states, and small matrices."""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.in_parts import in_parts
from qhybrid_devices.statevector.kernels import flat
from qhybrid_devices.statevector.simd import borrowed, load, splat, total

#: Numbers of a row whose products with others are summed at a time: four rows of them fit the first-level cache.
BLOCK = 1 << 9


@kernel
def row_products(team, first, last, bras, kets, later, out):
    """``sum_i bras[a, i] kets[b, i]``, added to ``out[:, a, b]``: what each of some parts of the numbers gives.

    Four rows by four columns at a time, whose sums stay in registers. For small matrices a BLAS is no faster, and its
    threads stay awake in the way of others.

    Args:
        team: as for ``in_parts``
        first, last: which parts
        bras, kets: ``(n, R)`` and ``(m, R)``, a whole number of registers a row
        later: whether only ``b >= a`` are wanted; some of the others are written too
        out: double precision ``(parts, n, m)``
    """
    if in_parts(team, first, last):
        return
    bras, kets, out = borrowed(bras), borrowed(kets), borrowed(out)
    n, m, size = bras.shape[0], kets.shape[0], bras.shape[1]
    f, g, block, unit = flat(bras), flat(kets), np.empty((4, 4), out.dtype), 64 // bras.itemsize
    for p in range(first, last):
        begin, end = unit * (size // unit * p // out.shape[0]), unit * (size // unit * (p + 1) // out.shape[0])
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, end)
            for a in range(0, n, 4):
                for b in range(a if later else 0, m, 4):
                    product_block(f, g, n, m, size, start, stop, a, b, block)
                    for i in range(a, min(a + 4, n)):
                        for j in range(b, min(b + 4, m)):
                            out[p, i, j] += block[i - a, j - b]


@row_kernel
def product_block(f, g, n, m, size, start, stop, a, b, sums):
    """The products of four rows with four, as far as the numbers ``start .. stop - 1`` of each go."""
    step, zero, end = 64 // f.itemsize, splat(f.dtype.type(0)), (n - 1) * size
    o, p, q, r = a * size, min((a + 1) * size, end), min((a + 2) * size, end), min((a + 3) * size, end)
    end = (m - 1) * size
    w, x, y, z = b * size, min((b + 1) * size, end), min((b + 2) * size, end), min((b + 3) * size, end)
    ow = ox = oy = oz = pw = px = py = pz = qw = qx = qy = qz = rw = rx = ry = rz = zero
    for i in range(start, stop, step):
        s, t, u, v = load(f, o + i), load(f, p + i), load(f, q + i), load(f, r + i)
        ket = load(g, w + i)
        ow, pw, qw, rw = ow + s * ket, pw + t * ket, qw + u * ket, rw + v * ket
        ket = load(g, x + i)
        ox, px, qx, rx = ox + s * ket, px + t * ket, qx + u * ket, rx + v * ket
        ket = load(g, y + i)
        oy, py, qy, ry = oy + s * ket, py + t * ket, qy + u * ket, ry + v * ket
        ket = load(g, z + i)
        oz, pz, qz, rz = oz + s * ket, pz + t * ket, qz + u * ket, rz + v * ket
    sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3] = total(ow), total(ox), total(oy), total(oz)
    sums[1, 0], sums[1, 1], sums[1, 2], sums[1, 3] = total(pw), total(px), total(py), total(pz)
    sums[2, 0], sums[2, 1], sums[2, 2], sums[2, 3] = total(qw), total(qx), total(qy), total(qz)
    sums[3, 0], sums[3, 1], sums[3, 2], sums[3, 3] = total(rw), total(rx), total(ry), total(rz)
