"""The product at the start and its tangents along several directions: ``product.py`` with dual numbers.

With ``v`` the state of bit ``b`` and ``P_b`` the product of the states of the bits below it, ``P_{b+1} = v x P_b`` has
the tangent ``dv x P_b + v x dP_b``. All ``P_b`` of psi are kept, at the rows from ``2**b`` on, while one tangent after
another is built; so a tangent costs about two gates, however many operations there are. ``tangent.md`` derives the
contraction of lambda, which is treated likewise.

Small arrays are as in ``product.py``; those of tangents hold one direction after another.
"""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.kernels import flat
from qhybrid_devices.statevector.product import (
    applied,
    contract,
    deposit_cotangent,
    double,
    get,
    matrix_of,
    num_bits,
    one_qubit_states,
    powers,
    put,
    times,
    transposed,
)
from qhybrid_devices.statevector.simd import load, save, splat


@row_kernel
def plus(v, w):
    """The sum of two one-qubit states."""
    return v[0] + w[0], v[1] + w[1], v[2] + w[2], (v[3] + w[3])


@row_kernel
def one_qubit_tangents(ops, bits, n, lanes, ms, own, moved, dms, down, before, s, d_before, d_after):
    """Tangents of what ``one_qubit_states`` gives along the direction of number ``s``.

    Args:
        ops, bits, n, lanes, ms, own, before: as there
        moved: for each operation whether it changes
        dms, down: how shared coefficients change, and those of the chunk
        s: number of the direction in the arrays of tangents
        d_before, d_after: receive the tangents
    """
    zero, num = splat(own.dtype.type(0)), bits.shape[0]
    for t in range(0, lanes, 64 // own.itemsize):
        for b in range(n):
            put(d_after, s * n + b, lanes, t, (zero, zero, zero, zero))
        for p in range(num):
            dv = get(d_after, s * n + bits[p], lanes, t)
            put(d_before, s * num + p, lanes, t, dv)
            dv = applied(matrix_of(ops[p], ms, own, lanes, t), dv)
            if moved[p]:
                dv = plus(dv, applied(matrix_of(ops[p], dms, down, lanes, t), get(before, p, lanes, t)))
            put(d_after, s * n + bits[p], lanes, t, dv)


# ------------------------------------------------------------------ forward


@row_kernel
def double_tangent(cr, ci, fr, fi, source, target, half, lanes, t, v, dv):
    """Rows ``source ..`` of a tangent times ``v`` plus those of psi times ``dv``, as in ``double``."""
    for r in range(half - 1, -1, -1):
        i, o = (source + r) * lanes + t, (target + r) * lanes + t
        x, y, z, w = load(cr, i), load(ci, i), load(fr, i), load(fi, i)
        a, b = times(v[2], v[3], x, y)
        c, d = times(dv[2], dv[3], z, w)
        save(cr, o + half * lanes, a + c)
        save(ci, o + half * lanes, b + d)
        a, b = times(v[0], v[1], x, y)
        c, d = times(dv[0], dv[1], z, w)
        save(cr, o, a + c)
        save(ci, o, b + d)


@row_kernel
def power_tangents(cr, ci, fr, fi, n, lanes, t, after, s, d_after):
    """Tangents of the products that ``powers`` writes, from those."""
    zero = splat(fr.dtype.type(0))
    save(cr, lanes + t, zero)
    save(ci, lanes + t, zero)
    for b in range(n - 1):
        v, dv = get(after, b, lanes, t), get(d_after, s * n + b, lanes, t)
        double_tangent(cr, ci, fr, fi, 1 << b, 2 << b, 1 << b, lanes, t, v, dv)


@row_kernel
def product_duals(fr, fi, planes, at, which, count, c, ops, bits, moved, ms, own, dms, dml):
    """Write the state of a chunk after the product operations, and its tangents.

    Args:
        fr, fi: psi
        planes, at: the tangents begin at ``at[: count]`` of the flat ``planes``
        which: their directions
        c: the chunk
        ops, bits, ms, own: as for ``one_qubit_states``
        moved: for each direction and operation whether that changes
        dms, dml: derivatives of coefficients ``(k, K)`` and ``(k, C, K, L)``
    """
    lanes, plane, half = dml.shape[3], fr.shape[0], fr.shape[0] // dml.shape[3] // 2
    n, num = num_bits(2 * half), bits.shape[0]
    before, after = np.empty(4 * num * lanes, fr.dtype), np.empty(4 * n * lanes, fr.dtype)
    d_before, d_after = np.empty_like(before), np.empty_like(after)
    one_qubit_states(ops, bits, n, lanes, ms, own, before, after)
    for t in range(0, lanes, 64 // fr.itemsize):
        powers(fr, fi, n, lanes, t, after)
    for s in range(count):
        d, o = which[s], at[s]
        cr, ci = planes[o : o + plane], planes[o + plane : o + 2 * plane]
        one_qubit_tangents(
            ops, bits, n, lanes, ms, own, moved[d], dms[d], flat(dml[d, c]), before, 0, d_before, d_after
        )
        for t in range(0, lanes, 64 // fr.itemsize):
            power_tangents(cr, ci, fr, fi, n, lanes, t, after, 0, d_after)
            v, dv = get(after, n - 1, lanes, t), get(d_after, n - 1, lanes, t)
            double_tangent(cr, ci, fr, fi, half, 0, half, lanes, t, v, dv)
    for t in range(0, lanes, 64 // fr.itemsize):
        double(fr, fi, half, 0, half, lanes, t, get(after, n - 1, lanes, t))


# ------------------------------------------------------------------ backward


@row_kernel
def contract_tangent(fr, fi, gr, gi, cr, ci, dr, di, half, lanes, t, v, dv):
    """The tangent of what ``contract`` gives and leaves, given those of psi's products and of lambda."""
    zero = splat(fr.dtype.type(0))
    a = b = c = d = zero
    for r in range(half):
        i, k = r * lanes + t, (half + r) * lanes + t
        x, y, z, w, p, q = load(dr, i), load(di, i), load(dr, k), load(di, k), load(fr, k), load(fi, k)
        e, f, g, h, u, s = load(gr, i), load(gi, i), load(gr, k), load(gi, k), load(cr, k), load(ci, k)
        a = a + x * p + y * q + e * u + f * s
        b = b + x * q - y * p + e * s - f * u
        c = c + z * p + w * q + g * u + h * s
        d = d + z * q - w * p + g * s - h * u
        moved = x * v[0] + y * v[1] + z * v[2] + w * v[3]
        save(dr, i, moved + e * dv[0] + f * dv[1] + g * dv[2] + h * dv[3])
        moved = y * v[0] - x * v[1] + w * v[2] - z * v[3]
        save(di, i, moved + f * dv[0] - e * dv[1] + h * dv[2] - g * dv[3])
    return a, b, c, d


@row_kernel
def product_dual_cotangents(
    fr,
    fi,
    gr,
    gi,
    kets,
    bras,
    at,
    which,
    count,
    primal,
    c,
    ops,
    bits,
    want,
    moved,
    ms,
    own,
    dms,
    dml,
    gs,
    out,
    dgs,
    dgl,
):
    """Add the wanted matrix cotangents of the product operations and their tangents; the states of a chunk are used up.

    Args:
        fr, fi: psi, only its memory is used
        gr, gi: lambda after the product operations
        kets, bras: tangents of psi, only their memory is used, and of lambda, at ``at[: count]``
        primal: whether to add the cotangents themselves
        want: for each operation whether its cotangent is wanted
        gs, out: cotangents of shared operations ``(K,)``, and flat those of the chunk's samples
        dgs, dgl: their tangents, ``(k, K)`` and ``(k, C, K, L)``
        others: as for :func:`product_duals`
    """
    lanes, plane = dml.shape[3], fr.shape[0]
    n, num = num_bits(plane // lanes), bits.shape[0]
    before, after, rest = (
        np.empty(4 * num * lanes, fr.dtype),
        np.empty(4 * n * lanes, fr.dtype),
        np.empty(4 * n * lanes, fr.dtype),
    )
    d_before, d_after = np.empty(count * before.size, fr.dtype), np.empty(count * after.size, fr.dtype)
    d_rest = np.empty_like(d_after)
    one_qubit_states(ops, bits, n, lanes, ms, own, before, after)
    for s in range(count):
        d = which[s]
        one_qubit_tangents(
            ops, bits, n, lanes, ms, own, moved[d], dms[d], flat(dml[d, c]), before, s, d_before, d_after
        )
    for t in range(0, lanes, 64 // fr.itemsize):
        powers(fr, fi, n, lanes, t, after)
        for s in range(count):
            o, m = at[s], at[s] + plane
            power_tangents(kets[o:m], kets[m : m + plane], fr, fi, n, lanes, t, after, s, d_after)
        for b in range(n - 1, -1, -1):
            v = get(after, b, lanes, t)
            for s in range(count):
                o, m, k = at[s], at[s] + plane, s * n + b
                dk = contract_tangent(
                    fr, fi, gr, gi, kets[o:m], kets[m : m + plane], bras[o:m], bras[m : m + plane],
                    1 << b, lanes, t, v, get(d_after, k, lanes, t),
                )  # fmt: skip
                put(d_rest, k, lanes, t, dk)
            put(rest, b, lanes, t, contract(fr, fi, gr, gi, 1 << b, lanes, t, v))
        for p in range(num - 1, -1, -1):
            b, u, v = bits[p], matrix_of(ops[p], ms, own, lanes, t), get(before, p, lanes, t)
            k, w = get(rest, b, lanes, t), applied(u, v)
            if want[p] and primal:
                deposit_cotangent(ops[p], k, v, w, lanes, t, gs, out)
            for s in range(count):
                d, dk, dv = which[s], get(d_rest, s * n + b, lanes, t), get(d_before, s * num + p, lanes, t)
                dw, turned = applied(u, dv), applied(transposed(u), dk)
                if moved[d, p]:
                    du = matrix_of(ops[p], dms[d], flat(dml[d, c]), lanes, t)
                    dw, turned = plus(dw, applied(du, v)), plus(turned, applied(transposed(du), k))
                if want[p]:
                    deposit_cotangent(ops[p], dk, v, w, lanes, t, dgs[d], flat(dgl[d, c]))
                    deposit_cotangent(ops[p], k, dv, dw, lanes, t, dgs[d], flat(dgl[d, c]))
                put(d_rest, s * n + b, lanes, t, turned)
            put(rest, b, lanes, t, applied(transposed(u), k))
