"""From angles to the coefficients of operations, and from matrix cotangents back to angles.

Every factor is ``F(theta) = sum_m exp(i lambda_m theta) A_m``. A fused operation is a product ``F_k ... F_1`` of 2x2
factors. Its cotangent ``G`` means ``dL = 2 Re sum_ab dU_ab G_ab``; the chain rule peels factors off from the left.
"""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector._jit import kernel, row_kernel
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
)


@row_kernel
def angle_of(factor, shared, batched, b):
    """The angle of a factor for sample ``b``; zero for lanes beyond the batch."""
    if factor[FACTOR_BATCHED] == 0:
        return shared[factor[FACTOR_INDEX]]
    if b < batched.shape[1]:
        return batched[factor[FACTOR_INDEX], b]
    return 0.0


@row_kernel
def phase(x):
    """``exp(i x)``."""
    return complex(np.cos(x), np.sin(x))


@row_kernel
def factor_2x2(factor, constants, theta, out):
    """``F`` and ``dF/dtheta`` of a 2x2 factor to ``out`` of shape ``(8,)``."""
    o, terms = factor[FACTOR_CONSTANTS], factor[FACTOR_TERMS]
    for q in range(8):
        out[q] = 0
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
            out[q] += value
            out[4 + q] += complex(-x * value.imag, x * value.real)


@row_kernel
def shared_factors(comps, factors, constants, shared):
    """``F`` and ``dF/dtheta`` of every 2x2 factor with a shared angle, ``(F, 8)``."""
    out = np.empty((factors.shape[0], 8), np.complex128)
    for i in range(comps.shape[0]):
        if comps[i, COMP_TYPE] == PRODUCT or comps[i, COMP_TYPE] == PRODUCT_DIAGONAL:
            for f in range(comps[i, COMP_FIRST], comps[i, COMP_LAST]):
                if factors[f, FACTOR_BATCHED] == 0:
                    factor_2x2(factors[f], constants, shared[factors[f, FACTOR_INDEX]], out[f])
    return out


@row_kernel
def product_2x2(comp, factors, constants, shared, batched, b, table):
    """The product of the factors of an operation, the last one leftmost; fills the rows of batched factors."""
    a, c = 1.0 + 0j, 0j
    p, q = 0j, 1.0 + 0j
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        if factors[f, FACTOR_BATCHED] != 0:
            factor_2x2(factors[f], constants, angle_of(factors[f], shared, batched, b), table[f])
        w, x, y, z = table[f, 0], table[f, 1], table[f, 2], table[f, 3]
        a, c, p, q = w * a + x * p, w * c + x * q, y * a + z * p, y * c + z * q
    return a, c, p, q


@row_kernel
def store(out, p, lane, value):
    """One complex coefficient as two real rows."""
    out[p, lane] = value.real
    out[p + 1, lane] = value.imag


@row_kernel
def compose_one(comp, factors, constants, shared, batched, b, table, out, lane):
    """Coefficients of one operation for sample ``b`` into column ``lane`` of ``out``."""
    p, kind = comp[COMP_PARAM], comp[COMP_TYPE]
    if kind == PRODUCT or kind == PRODUCT_DIAGONAL:
        u, v, w, x = product_2x2(comp, factors, constants, shared, batched, b, table)
        store(out, p, lane, u)
        if kind == PRODUCT:
            store(out, p + 2, lane, v)
            store(out, p + 4, lane, w)
            p += 4
        store(out, p + 2, lane, x)
        return
    factor = factors[comp[COMP_FIRST]]
    theta = angle_of(factor, shared, batched, b)
    o, terms, size = factor[FACTOR_CONSTANTS], factor[FACTOR_TERMS], comp[COMP_SIZE]
    if kind == ROTATION:
        store(out, p, lane, phase(constants[o].real * theta))
        return
    for q in range(2 * size):
        out[p + q, lane] = 0
    for m in range(terms):
        e = phase(constants[o + m].real * theta)
        for q in range(size):
            value = e * constants[o + terms + m * size + q]
            out[p + 2 * q, lane] += value.real
            out[p + 2 * q + 1, lane] += value.imag


@kernel
def compose(comps, factors, constants, shared, batched, ms, ml):
    """Coefficients of all operations that have angles.

    Args:
        comps, factors, constants: tables of the plan
        shared: angles ``(Ps,)``
        batched: angles ``(Pb, B)``
        ms: ``(K, 1)``, receives the shared coefficients
        ml: ``(C, K, L)``, receives those of each sample; lane ``t`` of chunk ``c`` is sample ``c * L + t``
    """
    lanes, width = ml.shape[2], ml.shape[0] * ml.shape[2]
    table = shared_factors(comps, factors, constants, shared)
    for i in range(comps.shape[0]):
        shared_form = comps[i, COMP_FORM] == SHARED
        for b in range(1 if shared_form else width):
            out, lane = (ms, b) if shared_form else (ml[b // lanes], b % lanes)
            compose_one(comps[i], factors, constants, shared, batched, b, table, out, lane)


# ------------------------------------------------------------------ back to angles


@row_kernel
def load(g, o, lane):
    """One complex cotangent from two real rows."""
    return complex(g[o, lane], g[o + 1, lane])


@row_kernel
def add_angle(factor, value, b, d_shared, d_batched):
    if factor[FACTOR_BATCHED] == 0:
        d_shared[factor[FACTOR_INDEX]] += value
    else:
        d_batched[factor[FACTOR_INDEX], b] += value


@row_kernel
def chain_product(comp, factors, constants, shared, batched, b, table, g, lane, d_shared, d_batched):
    """Chain rule of ``U = F_k ... F_1``.

    With ``U = F_k B``: ``dL = 2 Re sum (dF_k)_ab (G B^T)_ab + 2 Re sum dB_ab (F_k^T G)_ab``.
    """
    o = comp[COMP_COTANGENT]
    if comp[COMP_TYPE] == PRODUCT:
        ga, gb, gc, gd = load(g, o, lane), load(g, o + 2, lane), load(g, o + 4, lane), load(g, o + 6, lane)
    else:
        ga, gb, gc, gd = load(g, o, lane), 0j, 0j, load(g, o + 2, lane)
    ua, ub, uc, ud = product_2x2(comp, factors, constants, shared, batched, b, table)
    for f in range(comp[COMP_LAST] - 1, comp[COMP_FIRST] - 1, -1):
        w, x, y, z = table[f, 0], table[f, 1], table[f, 2], table[f, 3]
        cw, cx, cy, cz = w.conjugate(), x.conjugate(), y.conjugate(), z.conjugate()
        ua, ub, uc, ud = cw * ua + cy * uc, cw * ub + cy * ud, cx * ua + cz * uc, cx * ub + cz * ud
        ha, hb, hc, hd = ga * ua + gb * ub, ga * uc + gb * ud, gc * ua + gd * ub, gc * uc + gd * ud
        total = table[f, 4] * ha + table[f, 5] * hb + table[f, 6] * hc + table[f, 7] * hd
        add_angle(factors[f], 2 * total.real, b, d_shared, d_batched)
        ga, gb, gc, gd = w * ga + y * gc, w * gb + y * gd, x * ga + z * gc, x * gb + z * gd


@row_kernel
def chain_spectrum(comp, factor, constants, theta, g, lane):
    """``dL/dtheta`` of ``sum_m exp(i lambda_m theta) A_m``."""
    o, terms, size = factor[FACTOR_CONSTANTS], factor[FACTOR_TERMS], comp[COMP_SIZE]
    total = 0j
    for m in range(terms):
        x = constants[o + m].real
        q = 0j
        for i in range(size):
            q += constants[o + terms + m * size + i] * load(g, comp[COMP_COTANGENT] + 2 * i, lane)
        total += 1j * x * phase(x * theta) * q
    return 2 * total.real


@row_kernel
def chain_one(comp, factors, constants, shared, batched, b, table, g, lane, d_shared, d_batched):
    """Chain rule of one operation for sample ``b``."""
    if comp[COMP_TYPE] == PRODUCT or comp[COMP_TYPE] == PRODUCT_DIAGONAL:
        chain_product(comp, factors, constants, shared, batched, b, table, g, lane, d_shared, d_batched)
        return
    factor = factors[comp[COMP_FIRST]]
    if comp[COMP_TYPE] == ROTATION:
        # U = cos x - i sin x P with x = scale theta / 2, so dL = 2 dx Im <lambda|P|psi>
        value = 2 * constants[factor[FACTOR_CONSTANTS]].real * g[comp[COMP_COTANGENT], lane]
    else:
        value = chain_spectrum(comp, factor, constants, angle_of(factor, shared, batched, b), g, lane)
    add_angle(factor, value, b, d_shared, d_batched)


@kernel
def chain(comps, factors, constants, shared, batched, want, gs, gl, d_shared, d_batched):
    """Add the cotangents of the angles, given the matrix cotangents.

    Args:
        comps, factors, constants, shared, batched: as for :func:`compose`
        want: for each operation whether its matrix cotangent is there
        gs: shared matrix cotangents ``(K, 1)``
        gl: those of each sample ``(C, K, L)``
        d_shared: ``(Ps,)``
        d_batched: ``(Pb, B)``
    """
    lanes, count = gl.shape[2], batched.shape[1]
    table = shared_factors(comps, factors, constants, shared)
    for i in range(comps.shape[0]):
        if not want[comps[i, COMP_OP]]:
            continue
        shared_form = comps[i, COMP_FORM] == SHARED
        for b in range(1 if shared_form else count):
            g, lane = (gs, b) if shared_form else (gl[b // lanes], b % lanes)
            chain_one(comps[i], factors, constants, shared, batched, b, table, g, lane, d_shared, d_batched)
