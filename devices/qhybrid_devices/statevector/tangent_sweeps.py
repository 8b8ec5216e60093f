"""Whole circuits on psi and its tangents, forward and in reverse: the entry points for second derivatives.

A work item is a chunk or a tile together with a group of directions, few enough for their tiles to stay in the cache.
So that any item can begin with psi, each has its own copy, and only the first group's goes back to memory.
"""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector import kernels, lane_kernels, tangent_kernels, tangent_lane_kernels
from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.in_parts import PART, WORKER, in_parts
from qhybrid_devices.statevector.kernels import flat, parity
from qhybrid_devices.statevector.product_tangents import product_dual_cotangents, product_duals
from qhybrid_devices.statevector.simd import borrowed, save, splat
from qhybrid_devices.statevector.sweeps import apply_one, copy, gather, scatter, sweep_one
from qhybrid_devices.statevector.table import (
    DENSE,
    DIAGONAL,
    FORM,
    FREE,
    KIND,
    LANES,
    OUTER_ZMASK,
    PARAM,
    PAULI,
    U2,
    WIDTH,
)
from qhybrid_devices.statevector.tangent_kernels import Directions, Sums, planes_at

# ------------------------------------------------------------------ directions


@row_kernel
def num_reals(op):
    """Real coefficients of an operation."""
    kind = op[KIND]
    if kind == U2:
        return 8
    if kind == PAULI:
        return 2
    if kind == DIAGONAL:
        return 2 << op[WIDTH]
    return 2 << 2 * op[WIDTH] if kind == DENSE else 0


@kernel
def moved_coefficients(ops, moving, dms, dml, out):
    """For each direction and operation whether any coefficient changes, to ``out`` of shape ``(k, num ops)``.

    Args:
        ops: table of the plan
        moving: for each operation whether its coefficients may change
        dms: derivatives of the shared coefficients ``(k, K)``
        dml: those of each sample's ``(k, C, K, L)``
        out: receives the answers
    """
    lanes = dml.shape[3]
    for i in range(out.shape[1]):
        first, size = ops[i, PARAM], num_reals(ops[i]) if moving[i] else 0
        for d in range(out.shape[0]):
            count = 0
            if ops[i, FORM] == LANES:
                for c in range(dml.shape[1]):
                    own = flat(dml[d, c])
                    for q in range(first * lanes, (first + size) * lanes):
                        count += own[q] != 0
            else:
                for q in range(first, first + size):
                    count += dms[d, q] != 0
            out[d, i] = count > 0


@kernel
def find_births(moved, births, by_birth):
    """For each direction the first operation that changes, or the number of operations; -1 stays.

    Args:
        moved: from :func:`moved_coefficients`
        births: -1 where a tangent is not zero before all operations; receives the others
        by_birth: receives all directions, the first one born first

    Returns:
        how many are born at all
    """
    born = 0
    for d in range(births.shape[0]):
        if births[d] >= 0:
            births[d] = 0
            while births[d] < moved.shape[1] and not moved[d, births[d]]:
                births[d] += 1
        born += births[d] < moved.shape[1]
        place = d
        while place > 0 and births[by_birth[place - 1]] > births[d]:
            by_birth[place] = by_birth[place - 1]
            place -= 1
        by_birth[place] = d
    return born


@kernel
def is_zero(x):
    """Whether all of a flat array is zero."""
    for first in range(0, x.shape[0], 1024):
        count = 0
        for i in range(first, min(first + 1024, x.shape[0])):
            count += x[i] != 0
        if count > 0:
            return False
    return True


@row_kernel
def clear(x, first, last):
    """Fill part of a flat array with zeros, a whole number of registers."""
    for i in range(first, last, 64 // x.itemsize):
        save(x, i, splat(x.dtype.type(0)))


@row_kernel
def split_directions(i, dirs, first, last, births, moved, planes, plane, base, stride, source, step, at, shift, plain):
    """Which directions of a group operation ``i`` changes, and which it only acts on; none before their births.

    Args:
        i: number of the operation
        dirs, first, last: the group is ``dirs[first:last]``
        births: for each direction the first operation after which its tangent is not zero, -1 if it never was
        moved: from :func:`moved_coefficients`
        planes, plane: as in :class:`Directions`
        base, stride: the tangent of direction ``d`` is at ``base + d * stride``, or if ``base < 0`` that of number
            ``s`` of the group at ``s * stride``
        source, step: the coefficients of direction ``d`` are at ``source + d * step``
        at, shift: receive the places of tangents and coefficients of those that it changes
        plain: receives the places of the others

    Returns:
        how many of both there are
    """
    changed = others = 0
    for s in range(first, last):
        d = dirs[s]
        place = (s - first) * stride if base < 0 else base + d * stride
        if i < births[d]:
            continue
        if moved[d, i]:
            at[changed] = place
            shift[changed] = source + d * step
            changed += 1
        else:
            plain[others] = place
            others += 1
    return changed, others


@row_kernel
def be_born(i, dirs, first, last, births, planes, plane, base, stride):
    """Fill the tangents of a group that are born with operation ``i`` with zeros; see :func:`split_directions`."""
    for s in range(first, last):
        if births[dirs[s]] == i:
            place = (s - first) * stride if base < 0 else base + dirs[s] * stride
            clear(planes, place, place + 2 * plane)


@row_kernel
def all_directions(i, dirs, first, last, moved, base, stride, source, step, at, shift):
    """Places of all tangents of a group and of coefficients as in :func:`split_directions`, -1 for those that stay."""
    for s in range(first, last):
        d = dirs[s]
        at[s - first] = base + d * stride
        shift[s - first] = source + d * step if moved[d, i] else -1


@row_kernel
def last_birth(births, never):
    """The last operation before which any tangent is not there yet; what is born at ``never`` is there, as zeros."""
    last = -1
    for d in range(births.shape[0]):
        if births[d] < never:
            last = max(last, births[d])
    return last


@row_kernel
def group_places(dirs, first, last, births, before, c, chunks, plane, at, which):
    """Directions of a group whose tangents of chunk ``c`` are born before an operation, to ``which``, and their places.

    Args:
        dirs, first, last, births: as for :func:`split_directions`
        before: number of the operation
        c, chunks, plane: the tangent of direction ``d`` is at ``2 * (d * chunks + c) * plane``
        at, which: receive places and directions

    Returns:
        how many there are
    """
    count = 0
    for s in range(first, last):
        d = dirs[s]
        if births[d] < before:
            at[count], which[count] = 2 * (d * chunks + c) * plane, d
            count += 1
    return count


# ------------------------------------------------------------------ lanes are samples


@row_kernel
def advance(op, bits, fr, fi, d, plain, others, n, lanes, shared, m, ml, buffer, undo):
    """One operation on psi, on the tangents ``d`` that it changes and on ``others`` at ``plain``."""
    kind, done = op[KIND], 0
    if d.count > 0 and kind == U2:
        tangent_kernels.u2_tangent(fr, fi, d, lanes, op, shared, m, ml, undo)
        done = 1
    elif d.count > 0 and kind == PAULI:
        tangent_kernels.pauli_tangent(fr, fi, d, lanes, op, shared, m, ml, undo)
        done = 1
    elif d.count > 0 and kind == DIAGONAL:
        tangent_kernels.diagonal_tangent(fr, fi, d, n, lanes, op, bits, shared, m, ml, undo)
    elif d.count > 0:
        tangent_kernels.dense_tangent(fr, fi, d, n, lanes, op, bits, shared, m, ml, buffer, undo)
    for s in range(others + 1 - done):
        xr, xi = planes_at(d.planes, plain[s], d.plane) if s < others else (fr, fi)
        apply_one(op, bits, xr, xi, n, lanes, shared, m, ml, buffer, undo)


@row_kernel
def overlap_one(op, bits, gr, gi, fr, fi, n, lanes, shared, totals, out):
    """Add the matrix cotangent of one operation, for any bra and ket."""
    kind = op[KIND]
    if kind == U2:
        tangent_kernels.u2_overlap(gr, gi, fr, fi, lanes, op, shared, totals, out)
    elif kind == PAULI:
        tangent_kernels.pauli_overlaps(gr, gi, fr, fi, lanes, op, shared, totals, out)
    elif kind == DIAGONAL:
        tangent_kernels.diagonal_overlap(gr, gi, fr, fi, n, lanes, op, bits, shared, totals, out)
    else:
        kernels.dense_cotangent(fr, fi, gr, gi, n, lanes, op, bits, shared, totals, out)


@kernel
def tangent_forward(
    team, i0, i1, psi, target, chi, dirs, edges, births, moved, ops, product, order, bits, ms, ml, dms, dml,
    phase_free, scratch, buffers,
):  # fmt: skip
    """Operations on the work items ``i0 .. i1 - 1``: on psi, and in place on its tangents.

    Args:
        team: as for ``in_parts``
        psi: ``(C, 2, N, L)``
        target: receives psi; ``psi`` itself if there is one group
        chi: tangents ``(k, C, 2, N, L)``; what is there before a birth does not matter
        dirs, edges: group ``g`` of directions is ``dirs[edges[g] : edges[g + 1]]``; item ``c * groups + g`` is that
            group and chunk ``c``
        births, moved: as for :func:`split_directions`
        ops, bits: tables of the plan
        product: the bit of each product operation; if there are any they overwrite all states before all others
        order: the other operations to apply, in this order
        ms: shared coefficients ``(K,)``
        ml: coefficients of each sample ``(C, K, L)``
        dms, dml: derivatives of both, ``(k, K)`` and ``(k, C, K, L)``
        phase_free: whether real multiples of ``i psi`` may be left out of the tangents
        scratch: ``(threads, 2, N L)``, not used if there is one group
        buffers: scratch registers, a row for each thread
    """
    if in_parts(team, i0, i1):
        return
    psi, target, chi, ops = borrowed(psi), borrowed(target), borrowed(chi), borrowed(ops)
    ms, ml, dms, dml = borrowed(ms), borrowed(ml), borrowed(dms), borrowed(dml)
    tile, buffer = borrowed(scratch)[team[WORKER]], borrowed(buffers)[team[WORKER]]
    n, lanes, chunks, groups = psi.shape[2], psi.shape[3], psi.shape[0], edges.shape[0] - 1
    plane, planes, derivatives, own_derivatives = n * lanes, flat(chi), flat(dms), flat(dml)
    at, shift, plain = np.empty_like(dirs), np.empty_like(dirs), np.empty_like(dirs)
    for item in range(i0, i1):
        c, g = item // groups, item % groups
        own, pr, pi = flat(ml[c]), flat(psi[c, 0]), flat(psi[c, 1])
        fr, fi = (pr, pi) if groups == 1 else (tile[0], tile[1])
        if product.shape[0] > 0:
            count = group_places(dirs, edges[g], edges[g + 1], births, product.shape[0], c, chunks, plane, at, plain)
            product_duals(fr, fi, planes, at, plain, count, c, ops, product, moved, ms, own, dms, dml)
        elif groups > 1:
            copy(pr, fr)
            copy(pi, fi)
        for i in order:
            shared = ops[i, FORM] != LANES
            step = dms.shape[1] if shared else chunks * dml.shape[2]
            be_born(i, dirs, edges[g], edges[g + 1], births, planes, plane, 2 * c * plane, 2 * chunks * plane)
            changed, others = split_directions(
                i, dirs, edges[g], edges[g + 1], births, moved, planes, plane, 2 * c * plane, 2 * chunks * plane,
                0 if shared else c * dml.shape[2], step, at, shift, plain,
            )  # fmt: skip
            d = Directions(planes, plane, at, shift, changed, derivatives, own_derivatives, phase_free)
            advance(ops[i], bits, fr, fi, d, plain, others, n, lanes, shared, ms, own, buffer, bool(0))
        if groups > 1 and g == 0:
            copy(fr, flat(target[c, 0]))
            copy(fi, flat(target[c, 1]))


@kernel
def tangent_backward(
    team, i0, i1, psi, lam, psi_target, lam_target, chi, dlam, dirs, edges, births, moved, ops, product,
    order, want, bits, ms, ml, dms, dml, ums, uml, gs, gl, dgs, dgl, scratch, buffers,
):  # fmt: skip
    """Un-compute psi, lambda and the tangents of both, and add the wanted matrix cotangents and their tangents.

    Args:
        lam, dlam: lambda ``(C, 2, N, L)`` and its tangents ``(k, C, 2, N, L)``
        psi_target, lam_target: receive psi and lambda; the same arrays if there is one group
        births: for each direction the last operation that is undone on the tangent of psi, which is zero before it
        product: the bit of each product operation; if there are any, theirs are added at the end and use up the states
        order: the other operations to undo, the last one first
        want: for each operation whether its cotangent is wanted
        dms, dml: derivatives of coefficients, for lambda
        ums, uml: what takes their place for psi, see ``tangent.md``
        gs: cotangents of shared operations, what each part adds: ``(parts, K)``
        gl: cotangents of each sample's operations ``(C, K, L)``
        dgs, dgl: tangents of both, ``(parts, k, K)`` and ``(k, C, K, L)``
        scratch: ``(threads, 4, N L)``, not used if there is one group
        others: as for :func:`tangent_forward`
    """
    if in_parts(team, i0, i1):
        return
    psi, lam, chi, dlam, ops, ms, ml = (
        borrowed(psi), borrowed(lam), borrowed(chi), borrowed(dlam), borrowed(ops), borrowed(ms), borrowed(ml),
    )  # fmt: skip
    psi_target, lam_target, dms, dml = borrowed(psi_target), borrowed(lam_target), borrowed(dms), borrowed(dml)
    ums, uml, gl, dgl = borrowed(ums), borrowed(uml), borrowed(gl), borrowed(dgl)
    sums, d_sums = borrowed(gs)[team[PART]], borrowed(dgs)[team[PART]]
    tile, buffer = borrowed(scratch)[team[WORKER]], borrowed(buffers)[team[WORKER]]
    n, lanes, chunks, groups = psi.shape[2], psi.shape[3], psi.shape[0], edges.shape[0] - 1
    plane, kets, bras = n * lanes, flat(chi), flat(dlam)
    dm, own_dm, um, own_um, undo = flat(dms), flat(dml), flat(ums), flat(uml), bool(1)
    at, shift, plain = np.empty_like(dirs), np.empty_like(dirs), np.empty_like(dirs)
    always = np.full_like(births, -1)  # the births of lambda's tangents
    born = last_birth(births, ops.shape[0])  # all groups must add the same part of a cotangent, and of its tangents
    for item in range(i0, i1):
        c, g = item // groups, item % groups
        own, first, last = flat(ml[c]), edges[g], edges[g + 1]
        pr, pi, qr, qi = flat(psi[c, 0]), flat(psi[c, 1]), flat(lam[c, 0]), flat(lam[c, 1])
        fr, fi, gr, gi = (pr, pi, qr, qi) if groups == 1 else (tile[0], tile[1], tile[2], tile[3])
        if groups > 1:
            copy(pr, fr)
            copy(pi, fi)
            copy(qr, gr)
            copy(qi, gi)
        for i in order:
            shared = ops[i, FORM] != LANES
            step, source = dms.shape[1] if shared else chunks * dml.shape[2], 0 if shared else c * dml.shape[2]
            base, stride = 2 * c * plane, 2 * chunks * plane
            in_one = want[i] and ops[i, KIND] == U2 and ops[i, FREE] == 0 and i >= born
            if in_one:
                all_directions(i, dirs, first, last, moved, base, stride, source, step, at, shift)
                tangents = Directions(kets, plane, at, shift, last - first, dm, own_dm, bool(0))
                tangent_kernels.u2_overlaps(
                    fr, fi, gr, gi, tangents, bras, lanes, ops[i], shared, ms, own, g == 0, (sums, flat(gl[c])),
                    Sums(d_sums, dgl, c, borrowed(dirs)[first:last]),
                )  # fmt: skip
            for side in range(2):  # psi and its tangents, then lambda and its own
                if want[i] and not in_one and side == (0 if ops[i, KIND] == PAULI else 1):
                    for s in range(2 * (last - first) + (1 if g == 0 else 0)):
                        d = dirs[first + s // 2] if s < 2 * (last - first) else -1
                        if d >= 0 and s % 2 == 1 and i < births[d]:
                            continue
                        o = 2 * (d * chunks + c) * plane
                        br, bi = planes_at(bras, o, plane) if d >= 0 and s % 2 == 0 else (gr, gi)
                        kr, ki = planes_at(kets, o, plane) if d >= 0 and s % 2 == 1 else (fr, fi)
                        totals = d_sums[d] if d >= 0 else sums
                        out = flat(dgl[d, c]) if d >= 0 else flat(gl[c])
                        overlap_one(ops[i], bits, br, bi, kr, ki, n, lanes, shared, totals, out)
                xr, xi, planes = (fr, fi, kets) if side == 0 else (gr, gi, bras)
                change, own_change = (um, own_um) if side == 0 else (dm, own_dm)
                changed, others = split_directions(
                    i, dirs, first, last, births if side == 0 else always, moved, planes, plane, base, stride, source,
                    step, at, shift, plain,
                )  # fmt: skip
                there = Directions(planes, plane, at, shift, changed, change, own_change, bool(0))
                advance(ops[i], bits, xr, xi, there, plain, others, n, lanes, shared, ms, own, buffer, undo)
        if product.shape[0] > 0:
            count = group_places(dirs, first, last, always, product.shape[0], c, chunks, plane, at, plain)
            product_dual_cotangents(
                fr, fi, gr, gi, kets, bras, at, plain, count, g == 0, c, ops, product, want, moved, ms, own, dms, dml,
                sums, flat(gl[c]), d_sums, dgl,
            )  # fmt: skip
        if groups > 1 and g == 0:
            copy(fr, flat(psi_target[c, 0]))
            copy(fi, flat(psi_target[c, 1]))
            copy(gr, flat(lam_target[c, 0]))
            copy(gi, flat(lam_target[c, 1]))


# ------------------------------------------------------------------ lanes are amplitudes


@row_kernel
def sweep_advance(op, bits, fr, fi, d, plain, others, n, rows, lanes, tile, signs, m, buffer, undo):
    """One operation on tiles of psi, of the tangents ``d`` that it changes and of ``others`` at ``plain``."""
    kind, outer, done = op[KIND], parity(tile & op[OUTER_ZMASK]), 0
    if d.count > 0 and kind == U2:
        tangent_lane_kernels.u2_tangent(fr, fi, d, op, rows, tile, outer, signs, m, buffer, undo)
        done = 1
    elif d.count > 0 and kind == PAULI and lane_kernels.is_phase(op):
        tangent_lane_kernels.phases_tangent(fr, fi, d, n, op, rows, tile, outer, signs, m, buffer, undo)
        done = 1
    elif d.count > 0 and kind == PAULI:
        tangent_lane_kernels.pauli_tangent(fr, fi, d, op, rows, tile, outer, signs, m, buffer, undo)
        done = 1
    elif d.count > 0 and kind == DIAGONAL:
        tangent_lane_kernels.diagonal_tangent(fr, fi, d, n, op, rows, tile, bits, lanes, m, buffer, undo)
    elif d.count > 0:
        tangent_lane_kernels.dense_tangent(fr, fi, d, n, op, rows, tile, bits, m, buffer, undo)
    for s in range(others + 1 - done):
        xr, xi = planes_at(d.planes, plain[s], d.plane) if s < others else (fr, fi)
        sweep_one(op, bits, xr, xi, n, rows, lanes, tile, signs, m, buffer, undo)


@row_kernel
def sweep_overlap(op, bits, gr, gi, fr, fi, n, rows, lanes, tile, signs, totals, buffer):
    """Add what a tile contributes to the matrix cotangent of one operation, for any bra and ket."""
    kind, outer = op[KIND], parity(tile & op[OUTER_ZMASK])
    if kind == U2:
        lane_kernels.u2_overlap(gr, gi, fr, fi, op, rows, tile, outer, signs, totals, buffer)
    elif kind == PAULI:
        tangent_lane_kernels.pauli_overlaps(gr, gi, fr, fi, op, rows, tile, outer, signs, totals, buffer)
    elif kind == DIAGONAL:
        tangent_lane_kernels.diagonal_overlap(gr, gi, fr, fi, n, op, rows, tile, bits, lanes, totals, buffer)
    else:
        lane_kernels.dense_cotangent(fr, fi, gr, gi, n, op, rows, tile, bits, totals, buffer)


@row_kernel
def move_tiles(states, c, dirs, first, last, births, until, tile, rows, lanes, scratch, plane, back):
    """Copy one tile of each direction of a group that is born before operation ``until`` to scratch memory, or back."""
    for s in range(first, last):
        if births[dirs[s]] >= until:
            continue
        o = 2 * (s - first) * plane
        for half in range(2):
            here, there = flat(states[dirs[s], c, half]), scratch[o + half * plane : o + (half + 1) * plane]
            if back:
                scatter(here, tile, rows, lanes, there)
            else:
                gather(here, tile, rows, lanes, there)


@kernel
def tangent_sweep_forward(
    team, i0, i1, psi, target, chi, dirs, edges, births, moved, ops, order, bits, rows, lanes, tiles, signs,
    ms, ml, dms, dml, whole, scratch, chi_scratch, buffers,
):  # fmt: skip
    """Operations on the work items ``i0 .. i1 - 1``: on psi, and in place on its tangents.

    Args:
        psi: ``(C, 2, N, 1)``
        target: receives psi; ``psi`` itself if there is one group
        chi: tangents ``(k, C, 2, N, 1)``; what is there before a birth does not matter
        dirs, edges: group ``g`` of directions is ``dirs[edges[g] : edges[g + 1]]``; item
            ``(c * len(tiles) + i) * groups + g`` is that group and tile ``i`` of chunk ``c``
        rows, lanes, tiles, signs: as for ``sweep_forward``
        ml: coefficients of each sample ``(C, K, 1)``
        dms, dml: derivatives of coefficients ``(k, K)`` and ``(k, C, K, 1)``
        whole: whether a tile is a state as it lies in memory; otherwise it is copied
        scratch: ``(threads, 2, R)``, not used if ``whole`` with one group; lanes beyond ``len(lanes)`` are zero
        chi_scratch: as much for each direction of a group, ``(threads, k 2 R)``; not used if ``whole``
        others: as for :func:`tangent_forward`
    """
    if in_parts(team, i0, i1):
        return
    psi, target, chi, ops = borrowed(psi), borrowed(target), borrowed(chi), borrowed(ops)
    ms, ml, dms, dml = borrowed(ms), borrowed(ml), borrowed(dms), borrowed(dml)
    copied, chi_copied = borrowed(scratch)[team[WORKER]], borrowed(chi_scratch)[team[WORKER]]
    buffer = borrowed(buffers)[team[WORKER]]
    chunks, groups, n = psi.shape[0], edges.shape[0] - 1, rows.shape[0]
    in_place = whole and groups == 1
    plane = psi.shape[2] if whole else n * (64 // psi.itemsize)
    planes, derivatives, own_derivatives = flat(chi) if whole else chi_copied, flat(dms), flat(dml)
    at, shift, plain = np.empty_like(dirs), np.empty_like(dirs), np.empty_like(dirs)
    for item in range(i0, i1):
        g, place = item % groups, item // groups
        c, tile = place // tiles.shape[0], tiles[place % tiles.shape[0]]
        own, pr, pi, first, last = flat(ml[c]), flat(psi[c, 0]), flat(psi[c, 1]), edges[g], edges[g + 1]
        fr, fi = (pr, pi) if in_place else (copied[0], copied[1])
        if not in_place:
            gather(pr, tile, rows, lanes, fr)
            gather(pi, tile, rows, lanes, fi)
        if not whole:
            move_tiles(chi, c, dirs, first, last, births, order[0], tile, rows, lanes, planes, plane, bool(0))
        base, stride = (2 * c * plane, 2 * chunks * plane) if whole else (-1, 2 * plane)
        for i in order:
            mine = ops[i, FORM] == LANES
            m, dm = (own, own_derivatives) if mine else (ms, derivatives)
            be_born(i, dirs, first, last, births, planes, plane, base, stride)
            changed, others = split_directions(
                i, dirs, first, last, births, moved, planes, plane, base, stride, c * dml.shape[2] if mine else 0,
                chunks * dml.shape[2] if mine else dms.shape[1], at, shift, plain,
            )  # fmt: skip
            d = Directions(planes, plane, at, shift, changed, dm, dm, bool(0))
            sweep_advance(ops[i], bits, fr, fi, d, plain, others, n, rows, lanes, tile, signs, m, buffer, bool(0))
        if not in_place and g == 0:
            scatter(flat(target[c, 0]), tile, rows, lanes, fr)
            scatter(flat(target[c, 1]), tile, rows, lanes, fi)
        if not whole:
            move_tiles(chi, c, dirs, first, last, births, order[-1] + 1, tile, rows, lanes, planes, plane, bool(1))


@kernel
def tangent_sweep_backward(
    team, i0, i1, psi, lam, psi_target, lam_target, chi, dlam, dirs, edges, births, moved, ops, order, want,
    bits, rows, lanes, tiles, signs, ms, ml, dms, dml, ums, uml, gs, gc, dgs, dgc, whole, scratch, chi_scratch,
    dlam_scratch, buffers,
):  # fmt: skip
    """Un-compute psi, lambda and the tangents of both, and add the wanted matrix cotangents and their tangents.

    Args:
        lam, dlam: lambda ``(C, 2, N, 1)`` and its tangents ``(k, C, 2, N, 1)``
        psi_target, lam_target: receive psi and lambda; the same arrays if there is one group
        births: as for :func:`tangent_backward`
        order: the operations to undo, the last one first
        want: for each operation whether its cotangent is wanted
        dms, dml: derivatives of coefficients, for lambda
        ums, uml: what takes their place for psi, see ``tangent.md``
        gs: cotangents of shared operations, what each part adds: ``(parts, K)``
        gc: cotangents of each sample's operations, likewise ``(parts, C, K)``
        dgs, dgc: tangents of both, ``(parts, k, K)`` and ``(parts, k, C, K)``
        scratch: ``(threads, 4, R)``
        dlam_scratch: like ``chi_scratch``
        others: as for :func:`tangent_sweep_forward`
    """
    if in_parts(team, i0, i1):
        return
    psi, lam, chi, dlam, ops, ms, ml = (
        borrowed(psi), borrowed(lam), borrowed(chi), borrowed(dlam), borrowed(ops), borrowed(ms), borrowed(ml),
    )  # fmt: skip
    psi_target, lam_target, dms, dml = borrowed(psi_target), borrowed(lam_target), borrowed(dms), borrowed(dml)
    ums, uml, part, worker = borrowed(ums), borrowed(uml), team[PART], team[WORKER]
    sums, own_sums, d_sums, d_own = borrowed(gs)[part], borrowed(gc)[part], borrowed(dgs)[part], borrowed(dgc)[part]
    copied, chi_copied, dlam_copied = (
        borrowed(scratch)[worker], borrowed(chi_scratch)[worker], borrowed(dlam_scratch)[worker],
    )  # fmt: skip
    buffer = borrowed(buffers)[worker]
    chunks, groups, n = psi.shape[0], edges.shape[0] - 1, rows.shape[0]
    in_place = whole and groups == 1
    plane = psi.shape[2] if whole else n * (64 // psi.itemsize)
    kets, bras = (flat(chi), flat(dlam)) if whole else (chi_copied, dlam_copied)
    dm, own_dm, um, own_um, undo = flat(dms), flat(dml), flat(ums), flat(uml), bool(1)
    at, shift, plain = np.empty_like(dirs), np.empty_like(dirs), np.empty_like(dirs)
    always = np.full_like(births, -1)  # the births of lambda's tangents
    for item in range(i0, i1):
        g, place = item % groups, item // groups
        c, tile = place // tiles.shape[0], tiles[place % tiles.shape[0]]
        own, first, last = flat(ml[c]), edges[g], edges[g + 1]
        pr, pi, qr, qi = flat(psi[c, 0]), flat(psi[c, 1]), flat(lam[c, 0]), flat(lam[c, 1])
        fr, fi, gr, gi = (pr, pi, qr, qi) if in_place else (copied[0], copied[1], copied[2], copied[3])
        if not in_place:
            gather(pr, tile, rows, lanes, fr)
            gather(pi, tile, rows, lanes, fi)
            gather(qr, tile, rows, lanes, gr)
            gather(qi, tile, rows, lanes, gi)
        if not whole:
            move_tiles(chi, c, dirs, first, last, births, order[0] + 1, tile, rows, lanes, kets, plane, bool(0))
            move_tiles(dlam, c, dirs, first, last, always, order[0] + 1, tile, rows, lanes, bras, plane, bool(0))
        base, stride = (2 * c * plane, 2 * chunks * plane) if whole else (-1, 2 * plane)
        for i in order:
            mine = ops[i, FORM] == LANES
            m = own if mine else ms
            for side in range(2):  # psi and its tangents, then lambda and its own
                if want[i] and side == (0 if ops[i, KIND] == PAULI else 1):
                    for s in range(2 * (last - first) + (1 if g == 0 else 0)):
                        number = s // 2 if s < 2 * (last - first) else -1
                        d = dirs[first + number] if number >= 0 else 0
                        if number >= 0 and s % 2 == 1 and i < births[d]:
                            continue
                        o = number * stride if base < 0 else base + d * stride
                        br, bi = planes_at(bras, o, plane) if number >= 0 and s % 2 == 0 else (gr, gi)
                        kr, ki = planes_at(kets, o, plane) if number >= 0 and s % 2 == 1 else (fr, fi)
                        if number >= 0:
                            totals = d_own[d, c] if mine else d_sums[d]
                        else:
                            totals = own_sums[c] if mine else sums
                        sweep_overlap(ops[i], bits, br, bi, kr, ki, n, rows, lanes, tile, signs, totals, buffer)
                xr, xi, planes = (fr, fi, kets) if side == 0 else (gr, gi, bras)
                if side == 0:
                    change = own_um if mine else um
                else:
                    change = own_dm if mine else dm
                changed, others = split_directions(
                    i, dirs, first, last, births if side == 0 else always, moved, planes, plane, base, stride,
                    c * dml.shape[2] if mine else 0, chunks * dml.shape[2] if mine else dms.shape[1], at, shift, plain,
                )  # fmt: skip
                there = Directions(planes, plane, at, shift, changed, change, change, bool(0))
                sweep_advance(ops[i], bits, xr, xi, there, plain, others, n, rows, lanes, tile, signs, m, buffer, undo)
        if not in_place and g == 0:
            scatter(flat(psi_target[c, 0]), tile, rows, lanes, fr)
            scatter(flat(psi_target[c, 1]), tile, rows, lanes, fi)
            scatter(flat(lam_target[c, 0]), tile, rows, lanes, gr)
            scatter(flat(lam_target[c, 1]), tile, rows, lanes, gi)
        if not whole:
            move_tiles(chi, c, dirs, first, last, births, order[0] + 1, tile, rows, lanes, kets, plane, bool(1))
            move_tiles(dlam, c, dirs, first, last, always, order[0] + 1, tile, rows, lanes, bras, plane, bool(1))
