"""From angles to the coefficients of operations, and from matrix cotangents back to angles.

Every factor is ``F(theta) = sum_m exp(i lambda_m theta) A_m``. A fused operation is a product ``F_k ... F_1`` of 2x2
factors. Its cotangent ``G`` means ``dL = 2 Re sum_ab dU_ab G_ab``; the chain rule peels factors off from the left.
"""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector._jit import kernel, row_kernel
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
    FACTOR_BATCHED,
    FACTOR_CONSTANTS,
    FACTOR_INDEX,
    FACTOR_TERMS,
    PRODUCT,
    PRODUCT_DIAGONAL,
    ROTATION,
    SHARED,
    SPECTRUM,
)


@row_kernel
def angle_of(factors, f, shared, batched, b):
    """The angle of factor ``f`` for sample ``b``; zero for lanes beyond the batch."""
    if factors[f, FACTOR_BATCHED] == 0:
        return shared[factors[f, FACTOR_INDEX]]
    if b < batched.shape[1]:
        return batched[factors[f, FACTOR_INDEX], b]
    return 0.0


@row_kernel
def phase(x):
    """``exp(i x)``."""
    return complex(np.cos(x), np.sin(x))


@row_kernel
def factor_2x2(factors, f, constants, theta, table):
    """``F`` and ``dF/dtheta`` of 2x2 factor ``f`` to row ``f`` of ``table``, ``(F, 8)``.

    The second derivative follows if the table is ``(F, 12)``.
    """
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    for q in range(table.shape[1]):
        table[f, q] = 0
    e = 1.0 + 0j
    for m in range(terms):
        x = constants[o + m].real
        if m > 0 and x == -constants[o + m - 1].real:
            e = e.conjugate()
        else:
            e = phase(x * theta)
        first = o + terms + 4 * m
        for q in range(4):
            value = e * constants[first + q]
            table[f, q] += value
            table[f, 4 + q] += complex(-x * value.imag, x * value.real)
            if table.shape[1] > 8:
                table[f, 8 + q] -= x * x * value


@row_kernel
def shared_factors(comps, factors, constants, shared, out):
    """``F`` and ``dF/dtheta`` of every 2x2 factor with a shared angle, ``(F, 8)``."""
    for i in range(comps.shape[0]):
        if comps[i, COMP_TYPE] == PRODUCT or comps[i, COMP_TYPE] == PRODUCT_DIAGONAL:
            for f in range(comps[i, COMP_FIRST], comps[i, COMP_LAST]):
                if factors[f, FACTOR_BATCHED] == 0:
                    factor_2x2(factors, f, constants, shared[factors[f, FACTOR_INDEX]], out)


@row_kernel
def is_repeated(factors, f, batched, b, fresh):
    """Whether sample ``b`` has the angle of the one before: the rule where one angle of many is shifted at a time."""
    if factors[f, FACTOR_BATCHED] == 0:
        return True
    i = factors[f, FACTOR_INDEX]
    return not fresh and b < batched.shape[1] and batched[i, b] == batched[i, b - 1]


@row_kernel
def refresh(comp, factors, constants, shared, batched, b, fresh, table):
    """Fill the rows of the factors whose angle is not that of the sample before; whether there was one."""
    changed = fresh
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        if not is_repeated(factors, f, batched, b, fresh):
            factor_2x2(factors, f, constants, angle_of(factors, f, shared, batched, b), table)
            changed = True
    return changed


@row_kernel
def product_2x2(comp, table):
    """The product of the factors of an operation, the last one leftmost."""
    a, c = 1.0 + 0j, 0j
    p, q = 0j, 1.0 + 0j
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        w, x, y, z = table[f, 0], table[f, 1], table[f, 2], table[f, 3]
        a, c, p, q = w * a + x * p, w * c + x * q, y * a + z * p, y * c + z * q
    return a, c, p, q


@row_kernel
def store(out, p, lane, value):
    """One complex coefficient as two real rows."""
    out[p, lane] = value.real
    out[p + 1, lane] = value.imag


@row_kernel
def compose_product(comp, factors, constants, shared, batched, first, table, out):
    """Coefficients of a fused operation for the samples from ``first`` on."""
    full = comp[COMP_TYPE] == PRODUCT
    u = v = w = x = 0j
    for lane in range(out.shape[1]):
        p = comp[COMP_PARAM]
        if refresh(comp, factors, constants, shared, batched, first + lane, lane == 0, table):
            u, v, w, x = product_2x2(comp, table)
        store(out, p, lane, u)
        if full:
            store(out, p + 2, lane, v)
            store(out, p + 4, lane, w)
            p += 4
        store(out, p + 2, lane, x)


@row_kernel
def compose_rotation(comp, factors, constants, shared, batched, first, out):
    """Cosine and sine of a Pauli rotation."""
    f, p, e = comp[COMP_FIRST], comp[COMP_PARAM], 0j
    scale = constants[factors[f, FACTOR_CONSTANTS]].real
    for lane in range(out.shape[1]):
        if lane == 0 or not is_repeated(factors, f, batched, first + lane, False):
            e = phase(scale * angle_of(factors, f, shared, batched, first + lane))
        store(out, p, lane, e)


@row_kernel
def compose_spectrum(comp, factors, constants, shared, batched, first, out):
    """Coefficients of ``sum_m exp(i lambda_m theta) A_m``."""
    f, p, size = comp[COMP_FIRST], comp[COMP_PARAM], comp[COMP_SIZE]
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    for lane in range(out.shape[1]):
        theta = angle_of(factors, f, shared, batched, first + lane)
        for q in range(2 * size):
            out[p + q, lane] = 0
        for m in range(terms):
            e = phase(constants[o + m].real * theta)
            for q in range(size):
                value = e * constants[o + terms + m * size + q]
                out[p + 2 * q, lane] += value.real
                out[p + 2 * q + 1, lane] += value.imag


@kernel
def compose(comps, factors, constants, shared, batched, c0, c1, table, ms, ml):
    """Coefficients of all operations that have angles, for the chunks ``c0 .. c1 - 1``; the shared ones with chunk 0.

    Args:
        comps, factors, constants: tables of the plan
        shared: angles ``(Ps,)``
        batched: angles ``(Pb, B)``
        table: ``(F, 8)``, receives values and derivatives of the shared 2x2 factors, for :func:`chain`
        ms: ``(K, 1)``, receives the shared coefficients
        ml: ``(C, K, L)``, receives those of each sample; lane ``t`` of chunk ``c`` is sample ``c * L + t``
    """
    comps, table, ms, ml = borrowed(comps), borrowed(table), borrowed(ms), borrowed(ml)
    shared_factors(comps, factors, constants, shared, table)
    for i in range(comps.shape[0]):
        comp = comps[i]
        own = comp[COMP_FORM] != SHARED
        for c in range(c0, c1 if own else min(c1, 1)):
            out, first = (ml[c], c * ml.shape[2]) if own else (ms, c)
            if comp[COMP_TYPE] == ROTATION:
                compose_rotation(comp, factors, constants, shared, batched, first, out)
            elif comp[COMP_TYPE] == SPECTRUM:
                compose_spectrum(comp, factors, constants, shared, batched, first, out)
            else:
                compose_product(comp, factors, constants, shared, batched, first, table, out)


# ------------------------------------------------------------------ back to angles


@row_kernel
def load(g, o, lane):
    """One complex cotangent from two real rows."""
    return complex(g[o, lane], g[o + 1, lane])


@row_kernel
def add_angle(factors, f, value, b, d_shared, d_batched):
    """Add to the cotangent of the angle of factor ``f``, for sample ``b`` if that is batched."""
    if factors[f, FACTOR_BATCHED] == 0:
        d_shared[factors[f, FACTOR_INDEX]] += value
    else:
        d_batched[factors[f, FACTOR_INDEX], b] += value


@row_kernel
def chain_product(comp, factors, constants, shared, batched, first, count, table, g, d_shared, d_batched):
    """Chain rule of ``U = F_k ... F_1`` for the ``count`` samples from ``first`` on.

    With ``U = F_k B``: ``dL = 2 Re sum (dF_k)_ab (G B^T)_ab + 2 Re sum dB_ab (F_k^T G)_ab``.
    """
    o, full = comp[COMP_COTANGENT], comp[COMP_TYPE] == PRODUCT
    va = vb = vc = vd = 0j
    for lane in range(count):
        b = first + lane
        ga, gb, gc, gd = load(g, o, lane), 0j, 0j, load(g, o + 2, lane)
        if full:
            gb, gc, gd = gd, load(g, o + 4, lane), load(g, o + 6, lane)
        if refresh(comp, factors, constants, shared, batched, b, lane == 0, table):
            va, vb, vc, vd = product_2x2(comp, table)
        ua, ub, uc, ud = va, vb, vc, vd
        for f in range(comp[COMP_LAST] - 1, comp[COMP_FIRST] - 1, -1):
            w, x, y, z = table[f, 0], table[f, 1], table[f, 2], table[f, 3]
            cw, cx, cy, cz = w.conjugate(), x.conjugate(), y.conjugate(), z.conjugate()
            ua, ub, uc, ud = cw * ua + cy * uc, cw * ub + cy * ud, cx * ua + cz * uc, cx * ub + cz * ud
            ha, hb, hc, hd = ga * ua + gb * ub, ga * uc + gb * ud, gc * ua + gd * ub, gc * uc + gd * ud
            total = table[f, 4] * ha + table[f, 5] * hb + table[f, 6] * hc + table[f, 7] * hd
            add_angle(factors, f, 2 * total.real, b, d_shared, d_batched)
            ga, gb, gc, gd = w * ga + y * gc, w * gb + y * gd, x * ga + z * gc, x * gb + z * gd


@row_kernel
def chain_rotation(comp, factors, constants, first, count, g, d_shared, d_batched):
    """Chain rule of ``cos x - i sin x P``, ``x = scale theta / 2``: ``dL = 2 dx Im <lambda|P|psi>``."""
    f, o = comp[COMP_FIRST], comp[COMP_COTANGENT]
    twice = 2 * constants[factors[f, FACTOR_CONSTANTS]].real
    for lane in range(count):
        add_angle(factors, f, twice * g[o, lane], first + lane, d_shared, d_batched)


@row_kernel
def chain_spectrum(comp, factors, constants, shared, batched, first, count, g, d_shared, d_batched):
    """Chain rule of ``sum_m exp(i lambda_m theta) A_m``."""
    f, size = comp[COMP_FIRST], comp[COMP_SIZE]
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    for lane in range(count):
        theta = angle_of(factors, f, shared, batched, first + lane)
        total = 0j
        for m in range(terms):
            x = constants[o + m].real
            q = 0j
            for i in range(size):
                q += constants[o + terms + m * size + i] * load(g, comp[COMP_COTANGENT] + 2 * i, lane)
            total += 1j * x * phase(x * theta) * q
        add_angle(factors, f, 2 * total.real, first + lane, d_shared, d_batched)


@kernel
def chain(comps, factors, constants, shared, batched, want, table, gs, gl, d_shared, d_batched):
    """Add the cotangents of the angles, given the matrix cotangents.

    Args:
        comps, factors, constants, shared, batched: as for :func:`compose`
        want: for each operation whether its matrix cotangent is there
        table: what :func:`compose` filled; used as scratch
        gs: shared matrix cotangents ``(K, 1)``
        gl: those of each sample ``(C, K, L)``
        d_shared: ``(Ps,)``
        d_batched: ``(Pb, B)``
    """
    comps, gs, gl = borrowed(comps), borrowed(gs), borrowed(gl)
    lanes = gl.shape[2]
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not want[comp[COMP_OP]]:
            continue
        own = comp[COMP_FORM] != SHARED
        for c in range(gl.shape[0] if own else 1):
            g, first = (gl[c], c * lanes) if own else (gs, c)
            count = max(0, min(lanes, batched.shape[1] - first)) if own else 1
            if comp[COMP_TYPE] == ROTATION:
                chain_rotation(comp, factors, constants, first, count, g, d_shared, d_batched)
            elif comp[COMP_TYPE] == SPECTRUM:
                chain_spectrum(comp, factors, constants, shared, batched, first, count, g, d_shared, d_batched)
            else:
                chain_product(comp, factors, constants, shared, batched, first, count, table, g, d_shared, d_batched)
