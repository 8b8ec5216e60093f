"""From tangents of angles to tangents of coefficients, and from those of matrix cotangents back to those of angles.

The same products as in ``matrices.py`` with dual numbers in place of numbers: ``U + eps dU`` along each of ``k``
directions of the angles. Where an operation is the same for all samples, the lanes of a register are directions.
"""

from __future__ import annotations

from typing import NamedTuple

from numpy.typing import NDArray

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.complex_simd import WIDTH, complex_of, every, get, phase
from qhybrid_devices.statevector.in_parts import WORKER, in_parts
from qhybrid_devices.statevector.matrices import (
    Rows,
    add_angles,
    add_numbers,
    angles_of,
    compose_one,
    contracted,
    cotangent_2x2,
    entries,
    identity,
    inverse,
    numbers_of,
    pair_of,
    phases_of,
    product_of,
    row_of,
    rows_of,
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
    FACTOR_BATCHED,
    FACTOR_CONSTANTS,
    FACTOR_INDEX,
    FACTOR_TERMS,
    ROTATION,
    SHARED,
    SPECTRUM,
)


class Moves(NamedTuple):
    """Tangents of angles: of the shared ones ``(Ps,)``, and ``lanes``.

    Those are the ones of the batched angles, of each sample, or of the shared ones along each direction if lanes are
    directions.
    """

    across: bool
    shared: NDArray
    lanes: Rows


@row_kernel
def rows_along(array):
    """The rows of an array ``(k, P, B)``, those of one direction after those of another."""
    return rows_of(array.reshape(array.shape[0] * array.shape[1], array.shape[2]), False)


@row_kernel
def moves_along(k, across, shared, batched, lanes):
    """The tangents along direction ``k``; if lanes are directions, along all of them.

    Args:
        shared: ``(k, Ps)``
        batched: from :func:`rows_along`
        lanes: rows of the transpose of ``shared``
    """
    if across:
        return Moves(across, shared[k], lanes)
    size = batched.numbers.shape[0] // shared.shape[0]
    numbers = batched.numbers[k * size : (k + 1) * size]
    return Moves(across, shared[k], Rows(numbers, batched.row, batched.lane, batched.samples))


@row_kernel
def moves_of(factors, f, moves, first, buffer):
    """The tangents of the angle of factor ``f`` for the lanes from ``first`` on."""
    if not moves.across:
        return angles_of(factors, f, moves.shared, moves.lanes, first, buffer)
    return numbers_of(moves.lanes, factors[f, FACTOR_INDEX], first, buffer)


@row_kernel
def add_moves(factors, f, values, first, count, moves, buffer):
    """Add to the tangents of the cotangents of the angle of factor ``f``, ``count`` lanes of them."""
    if not moves.across:
        add_angles(factors, f, values, first, count, moves.shared, moves.lanes, buffer)
        return
    add_numbers(moves.lanes, factors[f, FACTOR_INDEX], first, values, count, buffer)


@row_kernel
def plus(a, b):
    """The sum of two matrices."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@row_kernel
def scaled(a, v):
    """A matrix times a real number of each lane."""
    return a[0] * v, a[1] * v, a[2] * v, a[3] * v


@row_kernel
def tangent_of(comp, factors, moves, first, scratch):
    """The tangent of the product of the factors of an operation."""
    u = identity()
    du = scaled(u, splat(0.0))
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        place = (f - comp[COMP_FIRST]) * scratch.orders
        factor, v = entries(scratch, place), moves_of(factors, f, moves, first, scratch.buffer)
        du = plus(times(factor, du), scaled(times(entries(scratch, place + 1), u), v))
        u = times(factor, u)
    return du


# ------------------------------------------------------------------ to coefficients


@row_kernel
def compose_rotation_tangent(comp, factors, constants, shared, batched, moves, first, lane, out, scratch):
    """Tangents of the cosine and sine of a Pauli rotation."""
    f, buffer = comp[COMP_FIRST], scratch.buffer
    scale = splat(constants[factors[f, FACTOR_CONSTANTS]].real)
    e = phase(scale * angles_of(factors, f, shared, batched, first, buffer), buffer)
    v = scale * moves_of(factors, f, moves, first, buffer)
    write_pair(out, comp[COMP_PARAM], lane, complex_of(-(v * e.imag), v * e.real), buffer)


@row_kernel
def compose_spectrum_tangent(comp, factors, constants, shared, batched, moves, first, lane, out, scratch):
    """Tangents of the coefficients of ``sum_m exp(i lambda_m theta) A_m``."""
    f, size, buffer = comp[COMP_FIRST], comp[COMP_SIZE], scratch.buffer
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    phases_of(factors, f, constants, angles_of(factors, f, shared, batched, first, buffer), scratch)
    v = moves_of(factors, f, moves, first, buffer)
    for q in range(size):
        slope = every(0j)
        for m in range(terms):
            slope = slope + get(scratch.phases, m) * every(constants[o + m].real * constants[o + terms + m * size + q])
        write_pair(out, comp[COMP_PARAM] + 2 * q, lane, complex_of(-(slope.imag * v), slope.real * v), buffer)


@row_kernel
def changes(factors, f, d_shared, d_batched):
    """Whether the angle of factor ``f`` changes along any direction."""
    r, count = factors[f, FACTOR_INDEX], 0
    for k in range(d_shared.shape[0]):
        if factors[f, FACTOR_BATCHED] == 0:
            count += d_shared[k, r] != 0
        else:
            for t in range(d_batched.shape[2]):
                count += d_batched[k, r, t] != 0
        if count > 0:
            return True
    return False


@kernel
def moving_compositions(comps, factors, d_shared, d_batched, moving):
    """Mark the operations with an angle that changes along any direction.

    Args:
        comps, factors: tables of the plan
        d_shared, d_batched: as for :func:`compose_duals`
        moving: of all operations, changed in place
    """
    for i in range(comps.shape[0]):
        for f in range(comps[i, COMP_FIRST], comps[i, COMP_LAST]):
            if changes(factors, f, d_shared, d_batched):
                moving[comps[i, COMP_OP]] = True
                break


@row_kernel
def compose_tangent(comp, factors, constants, shared, batched, moves, first, lane, out, scratch):
    """Tangents of the coefficients of one operation, after :func:`~.matrices.compose_one` for the same samples."""
    if comp[COMP_TYPE] == ROTATION:
        compose_rotation_tangent(comp, factors, constants, shared, batched, moves, first, lane, out, scratch)
    elif comp[COMP_TYPE] == SPECTRUM:
        compose_spectrum_tangent(comp, factors, constants, shared, batched, moves, first, lane, out, scratch)
    else:
        write_2x2(comp, tangent_of(comp, factors, moves, first, scratch), lane, out, scratch.buffer)


@kernel
def compose_duals(
    team, c0, c1, comps, factors, constants, shared, batched, samples_first, d_shared, d_batched, d_across, moving,
    memory, most_terms, orders, ms, ml, dms, dml,
):  # fmt: skip
    """Coefficients of all operations that have angles, and tangents of those that move, for some chunks of samples.

    Args:
        team, c0, c1: as for ``compose``
        comps, factors, constants, shared, batched, samples_first, ms, ml: as for ``compose``
        d_shared: tangents of the angles ``(k, Ps)``
        d_batched: ``(k, Pb, B)``
        d_across: the transpose of ``d_shared``, ``(Ps, k)``
        moving: for each operation whether any of its parameters changes
        memory, most_terms, orders: scratch for two orders
        dms: ``(K, k)``, receives the tangents of the shared coefficients, with chunk 0
        dml: ``(k, C, K, L)``, receives those of each sample
    """
    if in_parts(team, c0, c1):
        return
    comps, batched, ms, ml = borrowed(comps), rows_of(borrowed(batched), samples_first), borrowed(ms), borrowed(ml)
    directed = borrowed(d_shared), rows_along(borrowed(d_batched)), rows_of(borrowed(d_across), False)
    dms, dml, scratch = borrowed(dms), borrowed(dml), scratch_in(memory, team[WORKER], most_terms, orders)
    for i in range(comps.shape[0]):
        comp = comps[i]
        inputs, moves_at_all = (comp, factors, constants, shared, batched), moving[comp[COMP_OP]]
        if comp[COMP_FORM] == SHARED and c0 == 0:
            compose_one(*inputs, 0, 0, ms, scratch)
            for k in range(0, dms.shape[1] if moves_at_all else 0, WIDTH):
                compose_tangent(*inputs, moves_along(0, True, *directed), k, k, dms, scratch)
        for c in range(c0, c0 if comp[COMP_FORM] == SHARED else c1):
            for lane in range(0, ml.shape[2], WIDTH):
                first = c * ml.shape[2] + lane
                compose_one(*inputs, first, lane, ml[c], scratch)
                for k in range(dml.shape[0] if moves_at_all else 0):
                    compose_tangent(*inputs, moves_along(k, False, *directed), first, lane, dml[k, c], scratch)


# ------------------------------------------------------------------ back to angles


class Cotangents(NamedTuple):
    """Matrix cotangents of some lanes and their tangents, rows of real numbers.

    ``count`` lanes from ``lane`` on, in ``g`` too unless lanes are directions: then ``g`` has a single one.
    """

    g: NDArray
    dg: NDArray
    lane: int
    count: int
    across: bool


@row_kernel
def in_g(cotangents):
    """First lane and number of lanes in ``cotangents.g``."""
    return (0, 1) if cotangents.across else (cotangents.lane, cotangents.count)


@row_kernel
def chain_product_tangent(comp, factors, moves, first, cotangents, out, scratch):
    """Chain rule of ``U = F_k ... F_1`` and its tangent; see ``chain_product``."""
    buffer, count = scratch.buffer, cotangents.count
    u, du = product_of(comp, scratch), tangent_of(comp, factors, moves, first, scratch)
    h = cotangent_2x2(comp, cotangents.g, *in_g(cotangents), buffer)
    dh = cotangent_2x2(comp, cotangents.dg, cotangents.lane, count, buffer)
    for f in range(comp[COMP_LAST] - 1, comp[COMP_FIRST] - 1, -1):
        place, v = scratch.orders * (f - comp[COMP_FIRST]), moves_of(factors, f, moves, first, buffer)
        factor, slope = entries(scratch, place), entries(scratch, place + 1)
        du = plus(times(inverse(factor), du), scaled(times(inverse(slope), u), v))
        u = times(inverse(factor), u)
        own = times(h, transposed(u))
        d_own = plus(times(dh, transposed(u)), times(h, transposed(du)))
        bend = contracted(entries(scratch, place + 2), own).real
        value = splat(2.0) * (v * bend + contracted(slope, d_own).real)
        add_moves(factors, f, value, first, count, out, buffer)
        dh = plus(times(transposed(factor), dh), scaled(times(transposed(slope), h), v))
        h = times(transposed(factor), h)


@row_kernel
def chain_rotation_tangent(comp, factors, constants, first, cotangents, out, scratch):
    """Chain rule of a Pauli rotation: its angle's cotangent is linear in ``g``."""
    f, buffer, count = comp[COMP_FIRST], scratch.buffer, cotangents.count
    twice = splat(2 * constants[factors[f, FACTOR_CONSTANTS]].real)
    values = twice * row_of(cotangents.dg, comp[COMP_COTANGENT], cotangents.lane, count, buffer)
    add_moves(factors, f, values, first, count, out, buffer)


@row_kernel
def chain_spectrum_tangent(comp, factors, constants, shared, batched, moves, first, cotangents, out, scratch):
    """Chain rule of ``sum_m exp(i lambda_m theta) A_m`` and its tangent."""
    f, size, p, buffer = comp[COMP_FIRST], comp[COMP_SIZE], comp[COMP_COTANGENT], scratch.buffer
    o, terms, count = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS], cotangents.count
    phases_of(factors, f, constants, angles_of(factors, f, shared, batched, first, buffer), scratch)
    v = moves_of(factors, f, moves, first, buffer)
    values = splat(0.0)
    for m in range(terms):
        x = splat(constants[o + m].real)
        q = dq = every(0j)
        for i in range(size):
            a = every(constants[o + terms + m * size + i])
            q = q + a * pair_of(cotangents.g, p + 2 * i, *in_g(cotangents), buffer)
            dq = dq + a * pair_of(cotangents.dg, p + 2 * i, cotangents.lane, count, buffer)
        e = get(scratch.phases, m)
        values = values - splat(2.0) * x * ((e * dq).imag + x * v * (e * q).real)
    add_moves(factors, f, values, first, count, out, buffer)


@kernel
def chain_tangents(
    comps, factors, constants, shared, batched, samples_first, d_shared, d_batched, d_across, want,
    memory, most_terms, orders,
    gs, gl, dgs, dgl, out_shared, out_batched, out_across,
):  # fmt: skip
    """Add the tangents of the cotangents of the angles.

    Args:
        comps, factors, constants, shared, batched, samples_first: as for ``compose``
        d_shared, d_batched: tangents of the angles, ``(k, Ps)`` and ``(k, Pb, B)``
        d_across: the transpose of ``d_shared``, ``(Ps, k)``
        want: for each operation whether its matrix cotangent is there
        memory, most_terms, orders: scratch for three orders
        gs: shared matrix cotangents ``(K, 1)``
        gl: those of each sample ``(C, K, L)``
        dgs, dgl: their tangents, ``(K, k)`` and ``(k, C, K, L)``
        out_shared, out_batched, out_across: shaped as ``d_shared``, ``d_batched`` and ``d_across``; what belongs to the
            shared angles is the sum of the first and the last
    """
    comps, batched, gs, gl = borrowed(comps), rows_of(borrowed(batched), samples_first), borrowed(gs), borrowed(gl)
    dgs, dgl = borrowed(dgs), borrowed(dgl)
    directed = borrowed(d_shared), rows_along(borrowed(d_batched)), rows_of(borrowed(d_across), False)
    outs = borrowed(out_shared), rows_along(borrowed(out_batched)), rows_of(borrowed(out_across), False)
    scratch, directions = scratch_in(memory, 0, most_terms, orders), dgs.shape[1]
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not want[comp[COMP_OP]] or directions == 0:
            continue
        across = comp[COMP_FORM] == SHARED
        inputs = (comp, factors, constants, shared, batched)
        is_product = comp[COMP_TYPE] != ROTATION and comp[COMP_TYPE] != SPECTRUM
        for c in range(1 if across else gl.shape[0]):
            g, lanes = (gs, directions) if across else (gl[c], gl.shape[2])
            for lane in range(0, lanes, WIDTH):
                first = lane if across else c * lanes + lane
                count = min(WIDTH, lanes - lane) if across else min(WIDTH, batched.samples - first, lanes - lane)
                if count < 1:
                    break
                if is_product and not (across and lane > 0):
                    write_factors(*inputs, first, scratch)
                for k in range(1 if across else directions):
                    moves, out = moves_along(k, across, *directed), moves_along(k, across, *outs)
                    cotangents = Cotangents(g, dgs if across else dgl[k, c], lane, count, across)
                    if is_product:
                        chain_product_tangent(comp, factors, moves, first, cotangents, out, scratch)
                    elif comp[COMP_TYPE] == ROTATION:
                        chain_rotation_tangent(comp, factors, constants, first, cotangents, out, scratch)
                    else:
                        chain_spectrum_tangent(*inputs, moves, first, cotangents, out, scratch)
