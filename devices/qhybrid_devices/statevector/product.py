"""The part of a circuit where no bit has met another: the state is a product of one-qubit states.

Product operations act on one bit each, before anything else acts on that bit. The state after them is built by
doubling, bit by bit, and their cotangents come from contracting lambda with the one-qubit states, bit by bit: each
costs about as much as two gates, however many operations there are. ``adjoint.md`` derives the contraction.

Lanes are samples. One-qubit states are four rows of lanes: real and imaginary part of ``<0|v>`` and ``<1|v>``.
"""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.kernels import coefficient, deposit, flat, u2_coefficients
from qhybrid_devices.statevector.simd import load, save, splat
from qhybrid_devices.statevector.table import (
    COTANGENT,
    DIAGONAL,
    FLIP,
    FORM,
    KIND,
    LANES,
    NUM_Y,
    PARAM,
    PAULI,
    U2,
    XMASK,
)

# ------------------------------------------------------------------ one-qubit states


@row_kernel
def get(rows, k, lanes, t):
    """One-qubit state ``k``, for the register of lanes at ``t``."""
    i = 4 * k * lanes + t
    return load(rows, i), load(rows, i + lanes), load(rows, i + 2 * lanes), load(rows, i + 3 * lanes)


@row_kernel
def put(rows, k, lanes, t, v):
    """Write what :func:`get` reads."""
    i = 4 * k * lanes + t
    save(rows, i, v[0])
    save(rows, i + lanes, v[1])
    save(rows, i + 2 * lanes, v[2])
    save(rows, i + 3 * lanes, v[3])


@row_kernel
def times(a, b, x, y):
    """The product of two complex numbers."""
    return a * x - b * y, a * y + b * x


@row_kernel
def matrix_of(op, ms, own, lanes, t):
    """The 2x2 of a product operation, real and imaginary part of each entry."""
    kind, shared, p = op[KIND], op[FORM] != LANES, op[PARAM]
    zero, one = splat(own.dtype.type(0)), splat(own.dtype.type(1))
    if kind == U2:
        return u2_coefficients(shared, ms, own, p, lanes, t, bool(0))
    if kind == FLIP:
        return zero, zero, one, zero, one, zero, zero, zero
    a, b = coefficient(shared, ms, own, p, lanes, t), coefficient(shared, ms, own, p + 1, lanes, t)
    if kind == DIAGONAL:
        c, d = coefficient(shared, ms, own, p + 2, lanes, t), coefficient(shared, ms, own, p + 3, lanes, t)
        return a, b, zero, zero, zero, zero, c, d
    if op[XMASK] == 0:  # cos - i sin Z
        return a, -b, zero, zero, zero, zero, a, b
    if op[NUM_Y] == 0:  # cos - i sin X
        return a, zero, zero, -b, zero, -b, a, zero
    return a, zero, -b, zero, b, zero, a, zero  # cos - i sin Y


@row_kernel
def applied(u, v):
    """``U v``."""
    a, b, c, d, e, f, g, h = u
    x, y, z, w = v
    return (
        a * x - b * y + c * z - d * w,
        a * y + b * x + c * w + d * z,
        e * x - f * y + g * z - h * w,
        (e * y + f * x + g * w + h * z),
    )


@row_kernel
def one_qubit_states(ops, bits, n, lanes, ms, own, before, after):
    """The state of each bit after the product operations, and the state of its bit before each of them.

    Args:
        ops, bits: the product operations, and the bit of each
        n: number of bits
        ms, own: shared coefficients, and those of the chunk
        before: receives one state for each operation
        after: receives one state for each bit
    """
    zero, one = splat(own.dtype.type(0)), splat(own.dtype.type(1))
    for t in range(0, lanes, 64 // own.itemsize):
        for b in range(n):
            put(after, b, lanes, t, (one, zero, zero, zero))
        for p in range(bits.shape[0]):
            v = get(after, bits[p], lanes, t)
            put(before, p, lanes, t, v)
            put(after, bits[p], lanes, t, applied(matrix_of(ops[p], ms, own, lanes, t), v))


# ------------------------------------------------------------------ forward


@row_kernel
def double(fr, fi, source, target, half, lanes, t, v):
    """Rows ``source ..`` times ``<0|v>`` to ``target ..``, times ``<1|v>`` to ``target + half ..``; the last first."""
    for r in range(half - 1, -1, -1):
        i, o = (source + r) * lanes + t, (target + r) * lanes + t
        x, y = load(fr, i), load(fi, i)
        re, im = times(v[2], v[3], x, y)
        save(fr, o + half * lanes, re)
        save(fi, o + half * lanes, im)
        re, im = times(v[0], v[1], x, y)
        save(fr, o, re)
        save(fi, o, im)


@row_kernel
def powers(fr, fi, n, lanes, t, after):
    """The product of the states of the bits below ``b`` for each ``b < n``, at the rows from ``2**b`` on."""
    save(fr, lanes + t, splat(fr.dtype.type(1)))
    save(fi, lanes + t, splat(fr.dtype.type(0)))
    for b in range(n - 1):
        double(fr, fi, 1 << b, 2 << b, 1 << b, lanes, t, get(after, b, lanes, t))


@row_kernel
def product_state(psi, c0, c1, ops, bits, ms, ml):
    """Write the state after the product operations to some chunks.

    Args:
        psi: ``(C, 2, N, L)``
        ops, bits: the product operations, and the bit of each
        ms: shared coefficients ``(K,)``
        ml: coefficients of each sample ``(C, K, L)``
    """
    rows, lanes = psi.shape[2], psi.shape[3]
    n = num_bits(rows)
    before, after = np.empty(4 * bits.shape[0] * lanes, psi.dtype), np.empty(4 * n * lanes, psi.dtype)
    zero, one = splat(psi.dtype.type(0)), splat(psi.dtype.type(1))
    for c in range(c0, c1):
        fr, fi = flat(psi[c, 0]), flat(psi[c, 1])
        one_qubit_states(ops, bits, n, lanes, ms, flat(ml[c]), before, after)
        for t in range(0, lanes, 64 // psi.itemsize):
            save(fr, t, one)
            save(fi, t, zero)
            for b in range(n):
                double(fr, fi, 0, 0, 1 << b, lanes, t, get(after, b, lanes, t))


@row_kernel
def num_bits(rows):
    """The logarithm of a power of two."""
    n = 0
    while 1 << n < rows:
        n += 1
    return n


# ------------------------------------------------------------------ backward


@row_kernel
def contract(fr, fi, gr, gi, half, lanes, t, v):
    """Contract the highest bit of lambda's ``2 half`` rows with ``v``, in place, and all others with their states.

    The product of the others' states is at the rows ``half ..`` of psi. Gives the conjugate of what is left of lambda
    for that bit.
    """
    zero = splat(fr.dtype.type(0))
    a = b = c = d = zero
    for r in range(half):
        i, k, o = r * lanes + t, (half + r) * lanes + t, (half + r) * lanes + t
        x, y, z, w, p, q = load(gr, i), load(gi, i), load(gr, k), load(gi, k), load(fr, o), load(fi, o)
        a = a + x * p + y * q
        b = b + x * q - y * p
        c = c + z * p + w * q
        d = d + z * q - w * p
        save(gr, i, x * v[0] + y * v[1] + z * v[2] + w * v[3])
        save(gi, i, y * v[0] - x * v[1] + w * v[2] - z * v[3])
    return a, b, c, d


@row_kernel
def pauli_moment(op, k, v):
    """``Im sum_a k_a (P v)_a`` of a Pauli rotation's letter."""
    if op[XMASK] == 0:
        return k[0] * v[1] + k[1] * v[0] - k[2] * v[3] - k[3] * v[2]
    if op[NUM_Y] == 0:
        return k[0] * v[3] + k[1] * v[2] + k[2] * v[1] + k[3] * v[0]
    return k[1] * v[3] - k[0] * v[2] + k[2] * v[0] - k[3] * v[1]


@row_kernel
def deposit_product(shared, totals, out, o, lanes, t, a, b, x, y):
    """Add the product of two complex numbers to the cotangent at ``o``."""
    re, im = times(a, b, x, y)
    deposit(shared, totals, out, o, lanes, t, re)
    deposit(shared, totals, out, o + 1, lanes, t, im)


@row_kernel
def deposit_cotangent(op, k, v, w, lanes, t, totals, out):
    """Add the matrix cotangent ``k_a v_b`` of one operation, ``v`` before it and ``k`` after it, as is ``w``."""
    kind, shared, o = op[KIND], op[FORM] != LANES, op[COTANGENT]
    if kind == PAULI:
        deposit(shared, totals, out, o, lanes, t, pauli_moment(op, k, w))
    elif kind == U2:
        deposit_product(shared, totals, out, o, lanes, t, k[0], k[1], v[0], v[1])
        deposit_product(shared, totals, out, o + 2, lanes, t, k[0], k[1], v[2], v[3])
        deposit_product(shared, totals, out, o + 4, lanes, t, k[2], k[3], v[0], v[1])
        deposit_product(shared, totals, out, o + 6, lanes, t, k[2], k[3], v[2], v[3])
    elif kind == DIAGONAL:
        deposit_product(shared, totals, out, o, lanes, t, k[0], k[1], v[0], v[1])
        deposit_product(shared, totals, out, o + 2, lanes, t, k[2], k[3], v[2], v[3])


@row_kernel
def transposed(u):
    """``U^T``."""
    a, b, c, d, e, f, g, h = u
    return a, b, e, f, c, d, g, h


@row_kernel
def product_cotangents(psi, lam, c0, c1, ops, bits, want, ms, ml, gs, gl):
    """Add the wanted matrix cotangents of the product operations; the states are used up.

    Args:
        psi: ``(C, 2, N, L)``, only its memory is used
        lam: lambda after the product operations
        ops, bits, ms, ml: as for :func:`product_state`
        want: for each operation whether its cotangent is wanted
        gs: cotangents of shared operations ``(K,)``
        gl: cotangents of each sample's operations ``(C, K, L)``
    """
    rows, lanes = psi.shape[2], psi.shape[3]
    n = num_bits(rows)
    before, after = np.empty(4 * bits.shape[0] * lanes, psi.dtype), np.empty(4 * n * lanes, psi.dtype)
    rest = np.empty(4 * n * lanes, psi.dtype)
    for c in range(c0, c1):
        fr, fi, gr, gi = flat(psi[c, 0]), flat(psi[c, 1]), flat(lam[c, 0]), flat(lam[c, 1])
        own, out = flat(ml[c]), flat(gl[c])
        one_qubit_states(ops, bits, n, lanes, ms, own, before, after)
        for t in range(0, lanes, 64 // psi.itemsize):
            powers(fr, fi, n, lanes, t, after)
            for b in range(n - 1, -1, -1):
                put(rest, b, lanes, t, contract(fr, fi, gr, gi, 1 << b, lanes, t, get(after, b, lanes, t)))
            for p in range(bits.shape[0] - 1, -1, -1):
                u, k = matrix_of(ops[p], ms, own, lanes, t), get(rest, bits[p], lanes, t)
                if want[p]:
                    v = get(before, p, lanes, t)
                    deposit_cotangent(ops[p], k, v, applied(u, v), lanes, t, gs, out)
                put(rest, bits[p], lanes, t, applied(transposed(u), k))
