"""From tangents of angles to tangents of coefficients, and from those of matrix cotangents back to those of angles.

The same products as in ``matrices.py`` with dual numbers in place of numbers: ``U + eps dU`` along each of ``k``
directions of the angles.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.complex_simd import WIDTH, complex_of, every, get, phase
from qhybrid_devices.statevector.matrices import (
    add_angles,
    angles_of,
    contracted,
    cotangent_2x2,
    entries,
    identity,
    inverse,
    pair_of,
    phases_of,
    product_of,
    row_of,
    scratch_in,
    times,
    transposed,
    write_2x2,
    write_factors,
    write_pair,
)
from qhybrid_devices.statevector.simd import borrowed, splat
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
    ROTATION,
    SHARED,
    SPECTRUM,
)


@row_kernel
def plus(a, b):
    """The sum of two matrices."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@row_kernel
def scaled(a, v):
    """A matrix times a real number of each sample."""
    return a[0] * v, a[1] * v, a[2] * v, a[3] * v


@row_kernel
def tangent_of(comp, factors, d_shared, d_batched, first, orders, scratch):
    """The tangent of the product of the factors of an operation, along one direction of the angles."""
    u = identity()
    du = scaled(u, splat(0.0))
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        place = (f - comp[COMP_FIRST]) * orders
        factor, v = entries(scratch, place), angles_of(factors, f, d_shared, d_batched, first, scratch.buffer)
        du = plus(times(factor, du), scaled(times(entries(scratch, place + 1), u), v))
        u = times(factor, u)
    return du


# ------------------------------------------------------------------ to coefficients


@row_kernel
def compose_rotation_tangent(comp, factors, constants, shared, batched, d_shared, d_batched, first, lane, out, scratch):
    """Tangents of the cosine and sine of a Pauli rotation."""
    f, buffer = comp[COMP_FIRST], scratch.buffer
    scale = splat(constants[factors[f, FACTOR_CONSTANTS]].real)
    e = phase(scale * angles_of(factors, f, shared, batched, first, buffer), buffer)
    v = scale * angles_of(factors, f, d_shared, d_batched, first, buffer)
    write_pair(out, comp[COMP_PARAM], lane, complex_of(-(v * e.imag), v * e.real), buffer)


@row_kernel
def compose_spectrum_tangent(comp, factors, constants, shared, batched, d_shared, d_batched, first, lane, out, scratch):
    """Tangents of the coefficients of ``sum_m exp(i lambda_m theta) A_m``."""
    f, size, buffer = comp[COMP_FIRST], comp[COMP_SIZE], scratch.buffer
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    phases_of(factors, f, constants, angles_of(factors, f, shared, batched, first, buffer), scratch)
    v = angles_of(factors, f, d_shared, d_batched, first, buffer)
    for q in range(size):
        slope = every(0j)
        for m in range(terms):
            slope = slope + get(scratch.phases, m) * every(constants[o + m].real * constants[o + terms + m * size + q])
        write_pair(out, comp[COMP_PARAM] + 2 * q, lane, complex_of(-(slope.imag * v), slope.real * v), buffer)


@kernel
def compose_tangents(
    comps, factors, constants, shared, batched, d_shared, d_batched, moving, c0, c1, memory, most_terms, dms, dml
):
    """Tangents of the coefficients of all moving operations that have angles, for the chunks ``c0 .. c1 - 1``.

    Args:
        comps, factors, constants, shared, batched: as for ``compose``
        d_shared: tangents of the angles ``(k, Ps)``
        d_batched: ``(k, Pb, B)``
        moving: for each operation whether any of its parameters changes
        memory, most_terms: scratch for two orders
        dms: ``(k, 1, K, 1)``, receives those of the shared coefficients, with chunk 0
        dml: ``(k, C, K, L)``, receives those of each sample
    """
    comps, dms, dml = borrowed(comps), borrowed(dms), borrowed(dml)
    d_shared, d_batched = borrowed(d_shared), borrowed(d_batched)
    scratch = scratch_in(memory, most_terms)
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not moving[comp[COMP_OP]]:
            continue
        own = comp[COMP_FORM] != SHARED
        for c in range(c0, c1 if own else min(c1, 1)):
            for lane in range(0, dml.shape[3] if own else 1, WIDTH):
                first = c * dml.shape[3] + lane if own else 0
                inputs = (comp, factors, constants, shared, batched)
                is_product = comp[COMP_TYPE] != ROTATION and comp[COMP_TYPE] != SPECTRUM
                if is_product:
                    write_factors(*inputs, first, 2, scratch)
                for k in range(dms.shape[0]):
                    ds, db, out = d_shared[k], d_batched[k], dml[k, c] if own else dms[k, 0]
                    if is_product:
                        du = tangent_of(comp, factors, ds, db, first, 2, scratch)
                        write_2x2(comp, du, lane, out, scratch.buffer)
                    elif comp[COMP_TYPE] == ROTATION:
                        compose_rotation_tangent(*inputs, ds, db, first, lane, out, scratch)
                    else:
                        compose_spectrum_tangent(*inputs, ds, db, first, lane, out, scratch)


# ------------------------------------------------------------------ back to angles


@row_kernel
def chain_product_tangent(
    comp, factors, d_shared, d_batched, first, lane, count, g, dg, out_shared, out_batched, scratch
):
    """Chain rule of ``U = F_k ... F_1`` and its tangent; see ``chain_product``."""
    buffer = scratch.buffer
    u, du = product_of(comp, 3, scratch), tangent_of(comp, factors, d_shared, d_batched, first, 3, scratch)
    h, dh = cotangent_2x2(comp, g, lane, count, buffer), cotangent_2x2(comp, dg, lane, count, buffer)
    for f in range(comp[COMP_LAST] - 1, comp[COMP_FIRST] - 1, -1):
        place, v = 3 * (f - comp[COMP_FIRST]), angles_of(factors, f, d_shared, d_batched, first, buffer)
        factor, slope = entries(scratch, place), entries(scratch, place + 1)
        du = plus(times(inverse(factor), du), scaled(times(inverse(slope), u), v))
        u = times(inverse(factor), u)
        own = times(h, transposed(u))
        d_own = plus(times(dh, transposed(u)), times(h, transposed(du)))
        bend = contracted(entries(scratch, place + 2), own).real
        value = splat(2.0) * (v * bend + contracted(slope, d_own).real)
        add_angles(factors, f, value, first, count, out_shared, out_batched, buffer)
        dh = plus(times(transposed(factor), dh), scaled(times(transposed(slope), h), v))
        h = times(transposed(factor), h)


@row_kernel
def chain_rotation_tangent(comp, factors, constants, first, lane, count, dg, out_shared, out_batched, scratch):
    """Chain rule of a Pauli rotation: its angle's cotangent is linear in ``g``."""
    f, buffer = comp[COMP_FIRST], scratch.buffer
    twice = splat(2 * constants[factors[f, FACTOR_CONSTANTS]].real)
    values = twice * row_of(dg, comp[COMP_COTANGENT], lane, count, buffer)
    add_angles(factors, f, values, first, count, out_shared, out_batched, buffer)


@row_kernel
def chain_spectrum_tangent(
    comp, factors, constants, shared, batched, d_shared, d_batched, first, lane, count, g, dg,
    out_shared, out_batched, scratch,
):  # fmt: skip
    """Chain rule of ``sum_m exp(i lambda_m theta) A_m`` and its tangent."""
    f, size, p, buffer = comp[COMP_FIRST], comp[COMP_SIZE], comp[COMP_COTANGENT], scratch.buffer
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    phases_of(factors, f, constants, angles_of(factors, f, shared, batched, first, buffer), scratch)
    v = angles_of(factors, f, d_shared, d_batched, first, buffer)
    values = splat(0.0)
    for m in range(terms):
        x = splat(constants[o + m].real)
        q = dq = every(0j)
        for i in range(size):
            a = every(constants[o + terms + m * size + i])
            q = q + a * pair_of(g, p + 2 * i, lane, count, buffer)
            dq = dq + a * pair_of(dg, p + 2 * i, lane, count, buffer)
        e = get(scratch.phases, m)
        values = values - splat(2.0) * x * ((e * dq).imag + x * v * (e * q).real)
    add_angles(factors, f, values, first, count, out_shared, out_batched, buffer)


@kernel
def chain_tangents(
    comps, factors, constants, shared, batched, d_shared, d_batched, want, memory, most_terms, gs, gl, dgs, dgl,
    out_shared, out_batched,
):  # fmt: skip
    """Add the tangents of the cotangents of the angles.

    Args:
        comps, factors, constants, shared, batched: as for ``compose``
        d_shared, d_batched: tangents of the angles, ``(k, Ps)`` and ``(k, Pb, B)``
        want: for each operation whether its matrix cotangent is there
        memory, most_terms: scratch for three orders
        gs: shared matrix cotangents ``(1, K, 1)``
        gl: those of each sample ``(C, K, L)``
        dgs, dgl: their tangents, ``(k, 1, K, 1)`` and ``(k, C, K, L)``
        out_shared, out_batched: shaped as ``d_shared`` and ``d_batched``
    """
    comps, gs, gl, dgs, dgl = borrowed(comps), borrowed(gs), borrowed(gl), borrowed(dgs), borrowed(dgl)
    d_shared, d_batched, out_shared, out_batched = (
        borrowed(d_shared), borrowed(d_batched), borrowed(out_shared), borrowed(out_batched),
    )  # fmt: skip
    scratch = scratch_in(memory, most_terms)
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not want[comp[COMP_OP]]:
            continue
        own = comp[COMP_FORM] != SHARED
        for c in range(gl.shape[0] if own else 1):
            g = gl[c] if own else gs[0]
            for lane in range(0, g.shape[1], WIDTH):
                first = c * g.shape[1] + lane
                count = min(WIDTH, batched.shape[1] - first, g.shape[1] - lane) if own else 1
                if count < 1:
                    break
                inputs = (comp, factors, constants, shared, batched)
                is_product = comp[COMP_TYPE] != ROTATION and comp[COMP_TYPE] != SPECTRUM
                if is_product:
                    write_factors(*inputs, first, 3, scratch)
                for k in range(dgs.shape[0]):
                    ds, db, dg = d_shared[k], d_batched[k], dgl[k, c] if own else dgs[k, 0]
                    outputs = (out_shared[k], out_batched[k], scratch)
                    if is_product:
                        chain_product_tangent(comp, factors, ds, db, first, lane, count, g, dg, *outputs)
                    elif comp[COMP_TYPE] == ROTATION:
                        chain_rotation_tangent(comp, factors, constants, first, lane, count, dg, *outputs)
                    else:
                        chain_spectrum_tangent(*inputs, ds, db, first, lane, count, g, dg, *outputs)
