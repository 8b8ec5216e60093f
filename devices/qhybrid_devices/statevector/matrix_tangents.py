"""From tangents of angles to tangents of coefficients, and from those of matrix cotangents back to those of angles.

The same products as in ``matrices.py`` with dual numbers in place of numbers: ``U + eps dU`` along each of ``k``
directions of the angles. A 2x2 matrix is a tuple of its four entries.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.matrices import (
    add_angle,
    angle_of,
    load,
    phase,
    product_2x2,
    refresh,
    shared_factors,
    store,
)
from qhybrid_devices.statevector.simd import borrowed
from qhybrid_devices.statevector.table import (
    COMP_COTANGENT,
    COMP_FIRST,
    COMP_FORM,
    COMP_LAST,
    COMP_OP,
    COMP_PARAM,
    COMP_SIZE,
    COMP_TYPE,
    FACTOR_CONSTANTS,
    FACTOR_TERMS,
    PRODUCT,
    ROTATION,
    SHARED,
    SPECTRUM,
)

# ------------------------------------------------------------------ 2x2 matrices


@row_kernel
def entries(table, f, o):
    """Four entries of row ``f`` of a table of factors: ``F``, ``F'`` or ``F''``."""
    return table[f, o], table[f, o + 1], table[f, o + 2], table[f, o + 3]


@row_kernel
def times(a, b):
    """The matrix product."""
    return (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
    )


@row_kernel
def plus(a, b, scale):
    """``a + scale b``."""
    return a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2], a[3] + scale * b[3]


@row_kernel
def transposed(a):
    """The transpose."""
    return a[0], a[2], a[1], a[3]


@row_kernel
def inverse(a):
    """The conjugate transpose."""
    return a[0].conjugate(), a[2].conjugate(), a[1].conjugate(), a[3].conjugate()


@row_kernel
def contracted(a, b):
    """``sum_ij a_ij b_ij``."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


@row_kernel
def product_tangent(comp, factors, table, d_shared, d_batched, b):
    """The tangent of the product of the factors of an operation, along one direction of the angles."""
    u, du = (1.0 + 0j, 0j, 0j, 1.0 + 0j), (0j, 0j, 0j, 0j)
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        factor, v = entries(table, f, 0), angle_of(factors, f, d_shared, d_batched, b)
        du = plus(times(factor, du), times(entries(table, f, 4), u), v)
        u = times(factor, u)
    return du


# ------------------------------------------------------------------ to coefficients


@row_kernel
def compose_product_tangent(comp, factors, constants, shared, batched, d_shared, d_batched, first, table, out):
    """Tangents of the coefficients of a fused operation for the samples from ``first`` on."""
    for lane in range(out.shape[1]):
        p, b = comp[COMP_PARAM], first + lane
        refresh(comp, factors, constants, shared, batched, b, lane == 0, table)
        du = product_tangent(comp, factors, table, d_shared, d_batched, b)
        store(out, p, lane, du[0])
        if comp[COMP_TYPE] == PRODUCT:
            store(out, p + 2, lane, du[1])
            store(out, p + 4, lane, du[2])
            p += 4
        store(out, p + 2, lane, du[3])


@row_kernel
def compose_rotation_tangent(comp, factors, constants, shared, batched, d_shared, d_batched, first, out):
    """Tangents of the cosine and sine of a Pauli rotation."""
    f = comp[COMP_FIRST]
    scale = constants[factors[f, FACTOR_CONSTANTS]].real
    for lane in range(out.shape[1]):
        e = phase(scale * angle_of(factors, f, shared, batched, first + lane))
        v = scale * angle_of(factors, f, d_shared, d_batched, first + lane)
        store(out, comp[COMP_PARAM], lane, 1j * v * e)


@row_kernel
def compose_spectrum_tangent(comp, factors, constants, shared, batched, d_shared, d_batched, first, out):
    """Tangents of the coefficients of ``sum_m exp(i lambda_m theta) A_m``."""
    f, p, size = comp[COMP_FIRST], comp[COMP_PARAM], comp[COMP_SIZE]
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    for lane in range(out.shape[1]):
        theta = angle_of(factors, f, shared, batched, first + lane)
        v = angle_of(factors, f, d_shared, d_batched, first + lane)
        for q in range(2 * size):
            out[p + q, lane] = 0
        for m in range(terms):
            x = constants[o + m].real
            e = 1j * x * v * phase(x * theta)
            for q in range(size):
                value = e * constants[o + terms + m * size + q]
                out[p + 2 * q, lane] += value.real
                out[p + 2 * q + 1, lane] += value.imag


@kernel
def compose_tangents(comps, factors, constants, shared, batched, d_shared, d_batched, moving, c0, c1, table, dms, dml):
    """Tangents of the coefficients of all moving operations that have angles, for the chunks ``c0 .. c1 - 1``.

    Args:
        comps, factors, constants, shared, batched: as for ``compose``
        d_shared: tangents of the angles ``(k, Ps)``
        d_batched: ``(k, Pb, B)``
        moving: for each operation whether any of its parameters changes
        table: scratch, ``(F, 8)``
        dms: ``(k, 1, K, 1)``, receives those of the shared coefficients, with chunk 0
        dml: ``(k, C, K, L)``, receives those of each sample
    """
    comps, table, dms, dml = borrowed(comps), borrowed(table), borrowed(dms), borrowed(dml)
    d_shared, d_batched = borrowed(d_shared), borrowed(d_batched)
    shared_factors(comps, factors, constants, shared, table)
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not moving[comp[COMP_OP]]:
            continue
        own = comp[COMP_FORM] != SHARED
        for k in range(dms.shape[0]):
            ds, db = d_shared[k], d_batched[k]
            for c in range(c0, c1 if own else min(c1, 1)):
                out, first = (dml[k, c], c * dml.shape[3]) if own else (dms[k, 0], 0)
                if comp[COMP_TYPE] == ROTATION:
                    compose_rotation_tangent(comp, factors, constants, shared, batched, ds, db, first, out)
                elif comp[COMP_TYPE] == SPECTRUM:
                    compose_spectrum_tangent(comp, factors, constants, shared, batched, ds, db, first, out)
                else:
                    compose_product_tangent(comp, factors, constants, shared, batched, ds, db, first, table, out)


# ------------------------------------------------------------------ back to angles


@row_kernel
def cotangent_2x2(comp, g, lane):
    """The matrix cotangent of a fused operation; zeros beside the diagonal of a diagonal one."""
    o = comp[COMP_COTANGENT]
    if comp[COMP_TYPE] == PRODUCT:
        return load(g, o, lane), load(g, o + 2, lane), load(g, o + 4, lane), load(g, o + 6, lane)
    return load(g, o, lane), 0j, 0j, load(g, o + 2, lane)


@row_kernel
def chain_product_tangent(
    comp, factors, constants, shared, batched, d_shared, d_batched, first, count, table, g, dg, out_shared, out_batched
):
    """Chain rule of ``U = F_k ... F_1`` and its tangent; see ``chain_product``."""
    for lane in range(count):
        b = first + lane
        refresh(comp, factors, constants, shared, batched, b, lane == 0, table)
        u, du = product_2x2(comp, table), product_tangent(comp, factors, table, d_shared, d_batched, b)
        h, dh = cotangent_2x2(comp, g, lane), cotangent_2x2(comp, dg, lane)
        for f in range(comp[COMP_LAST] - 1, comp[COMP_FIRST] - 1, -1):
            factor, slope, v = entries(table, f, 0), entries(table, f, 4), angle_of(factors, f, d_shared, d_batched, b)
            du = plus(times(inverse(factor), du), times(inverse(slope), u), v)
            u = times(inverse(factor), u)
            own = times(h, transposed(u))
            d_own = plus(times(dh, transposed(u)), times(h, transposed(du)), 1.0)
            total = v * contracted(entries(table, f, 8), own) + contracted(slope, d_own)
            add_angle(factors, f, 2 * total.real, b, out_shared, out_batched)
            dh = plus(times(transposed(factor), dh), times(transposed(slope), h), v)
            h = times(transposed(factor), h)


@row_kernel
def chain_rotation_tangent(comp, factors, constants, first, count, dg, out_shared, out_batched):
    """Chain rule of a Pauli rotation: its angle's cotangent is linear in ``g``."""
    f, o = comp[COMP_FIRST], comp[COMP_COTANGENT]
    twice = 2 * constants[factors[f, FACTOR_CONSTANTS]].real
    for lane in range(count):
        add_angle(factors, f, twice * dg[o, lane], first + lane, out_shared, out_batched)


@row_kernel
def chain_spectrum_tangent(
    comp, factors, constants, shared, batched, d_shared, d_batched, first, count, g, dg, out_shared, out_batched
):
    """Chain rule of ``sum_m exp(i lambda_m theta) A_m`` and its tangent."""
    f, size, p = comp[COMP_FIRST], comp[COMP_SIZE], comp[COMP_COTANGENT]
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    for lane in range(count):
        theta = angle_of(factors, f, shared, batched, first + lane)
        v = angle_of(factors, f, d_shared, d_batched, first + lane)
        total = 0j
        for m in range(terms):
            x = constants[o + m].real
            q = dq = 0j
            for i in range(size):
                a = constants[o + terms + m * size + i]
                q += a * load(g, p + 2 * i, lane)
                dq += a * load(dg, p + 2 * i, lane)
            total += 1j * x * phase(x * theta) * (dq + 1j * x * v * q)
        add_angle(factors, f, 2 * total.real, first + lane, out_shared, out_batched)


@kernel
def chain_tangents(
    comps, factors, constants, shared, batched, d_shared, d_batched, want, table, gs, gl, dgs, dgl,
    out_shared, out_batched,
):  # fmt: skip
    """Add the tangents of the cotangents of the angles.

    Args:
        comps, factors, constants, shared, batched: as for ``compose``
        d_shared, d_batched: tangents of the angles, ``(k, Ps)`` and ``(k, Pb, B)``
        want: for each operation whether its matrix cotangent is there
        table: scratch, ``(F, 12)``
        gs: shared matrix cotangents ``(1, K, 1)``
        gl: those of each sample ``(C, K, L)``
        dgs, dgl: their tangents, ``(k, 1, K, 1)`` and ``(k, C, K, L)``
        out_shared, out_batched: shaped as ``d_shared`` and ``d_batched``
    """
    comps, gs, gl, dgs, dgl = borrowed(comps), borrowed(gs), borrowed(gl), borrowed(dgs), borrowed(dgl)
    d_shared, d_batched, out_shared, out_batched = (
        borrowed(d_shared), borrowed(d_batched), borrowed(out_shared), borrowed(out_batched),
    )  # fmt: skip
    shared_factors(comps, factors, constants, shared, table)
    lanes = gl.shape[2]
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not want[comp[COMP_OP]]:
            continue
        own = comp[COMP_FORM] != SHARED
        for k in range(dgs.shape[0]):
            ds, db, to_s, to_b = d_shared[k], d_batched[k], out_shared[k], out_batched[k]
            for c in range(gl.shape[0] if own else 1):
                g, dg, first = (gl[c], dgl[k, c], c * lanes) if own else (gs[0], dgs[k, 0], 0)
                count = max(0, min(lanes, batched.shape[1] - first)) if own else 1
                if comp[COMP_TYPE] == ROTATION:
                    chain_rotation_tangent(comp, factors, constants, first, count, dg, to_s, to_b)
                elif comp[COMP_TYPE] == SPECTRUM:
                    chain_spectrum_tangent(
                        comp, factors, constants, shared, batched, ds, db, first, count, g, dg, to_s, to_b
                    )
                else:
                    chain_product_tangent(
                        comp, factors, constants, shared, batched, ds, db, first, count, table, g, dg, to_s, to_b
                    )
