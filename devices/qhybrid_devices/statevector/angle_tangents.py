"""Tangents along single angles: the derivative of one operation, and later ones on that.

States on the way are kept in one run. Each tangent then goes alone through what is left of the circuit, by the kernels
of plain states and in the first-level cache if it fits. It begins where the first operation comes that does not commute
with its own: there its own is undone and its derivative is applied instead, or both at once.

A table says what is done, one row a tangent: where it is written; which state it begins with, and the place of that
among those kept; the operation that it is a derivative of, and along which of the directions, -1 for a tangent that
goes on from where it is; and the first operation that is applied, and the one before which it ends.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.in_parts import WORKER, in_parts
from qhybrid_devices.statevector.kernels import flat
from qhybrid_devices.statevector.lane_kernels import is_met, lane_controls, u2_numbers, walk_of
from qhybrid_devices.statevector.simd import borrowed, load, save, splat
from qhybrid_devices.statevector.sweeps import apply_one, copy, sweep_one
from qhybrid_devices.statevector.table import CMASK, CVAL, FORM, KIND, LANE_CMASK, LANES, PARAM, U2
from qhybrid_devices.statevector.tangent_kernels import u2_change

#: Columns of the table.
ROW, STATE, PLACE, DIRECTION, MOVER, FIRST, LAST = range(7)


@row_kernel
def is_turned(op):
    """Whether the derivative of an operation is applied to the state after it: a 2x2 that all samples share."""
    return op[KIND] == U2 and op[FORM] != LANES


@kernel
def turn_derivatives(ops, moving, ms, dms):
    """The coefficients of ``dU U^dagger`` in place of those of ``dU``, where :func:`is_turned`.

    Args:
        ops: table of the plan
        moving: for each operation whether it has a derivative
        ms: shared coefficients ``(K,)``
        dms: their derivatives along some directions ``(k, K)``, changed in place
    """
    for i in range(ops.shape[0]):
        if moving[i] and is_turned(ops[i]):
            p = ops[i, PARAM]
            for d in range(dms.shape[0]):
                change = u2_change(u2_numbers(ms, p, False), u2_numbers(dms[d], p, False))
                for q in range(8):
                    dms[d, p + q] = change[q]


@row_kernel
def steps_of_own(row, ops):
    """How many steps it takes to undo the own operation of a tangent and to apply the derivative."""
    if row[DIRECTION] < 0:
        return 0
    return 1 if is_turned(ops[row[MOVER]]) else 2


@row_kernel
def keep_one(psi, kept, places, c, i, now):
    """Copy chunk ``c`` of ``psi`` to its place before operation ``i``, if it has one and this is the time."""
    if now and places[i] >= 0:
        copy(flat(psi[c]), flat(kept[places[i], c]))


# ------------------------------------------------------------------ lanes are samples


@row_kernel
def clear_unmet(op, fr, fi, n, lanes):
    """Zeros where the controls are not met."""
    zero = splat(fr.dtype.type(0))
    for j in range(n):
        if j & op[CMASK] != op[CVAL]:
            for i in range(j * lanes, (j + 1) * lanes, 64 // fr.itemsize):
                save(fr, i, zero)
                save(fi, i, zero)


@kernel
def keep_states(team, c0, c1, psi, kept, places, order, ops, bits, ms, ml, undo, buffers):
    """Operations on the chunks ``c0 .. c1 - 1`` of ``psi`` in place, and copies of the states between some of them.

    Args:
        team: as for ``in_parts``
        psi: ``(C, 2, N, L)``
        kept: receives states, ``(S, C, 2, N, L)``
        places: where to keep the state before each operation, and that after the last one; -1 not to
        undo: whether to apply the inverses
        buffers: the registers that each thread works in
        others: as for ``forward``
    """
    if in_parts(team, c0, c1):
        return
    psi, kept, ops, ms, ml = borrowed(psi), borrowed(kept), borrowed(ops), borrowed(ms), borrowed(ml)
    buffer = borrowed(buffers)[team[WORKER]]
    for c in range(c0, c1):
        own, fr, fi = flat(ml[c]), flat(psi[c, 0]), flat(psi[c, 1])
        keep_one(psi, kept, places, c, ops.shape[0], undo)
        for i in order:
            shared = ops[i, FORM] != LANES
            keep_one(psi, kept, places, c, i, not undo)
            apply_one(ops[i], bits, fr, fi, psi.shape[2], psi.shape[3], shared, ms, own, buffer, undo)
            keep_one(psi, kept, places, c, i, undo)
        keep_one(psi, kept, places, c, ops.shape[0], not undo)


@kernel
def grow_tangents(team, first, last, kept, out, table, ops, bits, ms, ml, dms, dml, buffers):
    """Tangents along angles of one operation each, on their way to the end of the circuit.

    Args:
        team: as for ``in_parts``
        first, last: which items; item ``r * C + c`` is chunk ``c`` of row ``r`` of the table
        kept: of two states, ``(2, S, C, 2, N, L)``; see :func:`keep_states`
        out: receives the tangents ``(K, C, 2, N, L)``
        table: what is done
        dms, dml: derivatives of coefficients ``(k, K)`` and ``(k, C, K, L)``; see :func:`turn_derivatives`
        buffers: the registers that each thread works in
        others: as for ``forward``
    """
    if in_parts(team, first, last):
        return
    kept, out, ops, ms, ml = borrowed(kept), borrowed(out), borrowed(ops), borrowed(ms), borrowed(ml)
    dms, dml, table, buffer = borrowed(dms), borrowed(dml), borrowed(table), borrowed(buffers)[team[WORKER]]
    chunks, n, lanes = out.shape[1], out.shape[3], out.shape[4]
    for item in range(first, last):
        row, c = table[item // chunks], item % chunks
        d, begin = row[DIRECTION], row[FIRST]
        fr, fi = flat(out[row[ROW], c, 0]), flat(out[row[ROW], c, 1])
        if d >= 0:
            copy(flat(kept[row[STATE], row[PLACE], c]), flat(out[row[ROW], c]))
        for t in range(begin - steps_of_own(row, ops), row[LAST]):
            undoing, moving = t == begin - 2, t == begin - 1
            i = row[MOVER] if undoing or moving else t
            m, own = (dms[d], flat(dml[d, c])) if moving else (ms, flat(ml[c]))
            apply_one(ops[i], bits, fr, fi, n, lanes, ops[i, FORM] != LANES, m, own, buffer, undoing)
            if moving and ops[i, CMASK] != 0:
                clear_unmet(ops[i], fr, fi, n, lanes)


# ------------------------------------------------------------------ lanes are amplitudes


@row_kernel
def clear_unmet_lanes(op, fr, fi, rows, buffer):
    """Zeros where the controls are not met."""
    walk, width, zero = walk_of(op), 64 // fr.itemsize, splat(fr.dtype.type(0))
    met = lane_controls(fr, op, buffer)
    for j in range(rows.shape[0]):
        factor = met if is_met(walk, j, rows, 0) else zero
        save(fr, j * width, factor * load(fr, j * width))
        save(fi, j * width, factor * load(fi, j * width))


@kernel
def sweep_keep_states(team, c0, c1, psi, kept, places, order, ops, bits, rows, lanes, signs, ms, ml, undo, buffers):
    """:func:`keep_states` where a state is one tile; others as for ``sweep_forward``."""
    if in_parts(team, c0, c1):
        return
    psi, kept, ops, ms, ml = borrowed(psi), borrowed(kept), borrowed(ops), borrowed(ms), borrowed(ml)
    buffer = borrowed(buffers)[team[WORKER]]
    for c in range(c0, c1):
        own, fr, fi = flat(ml[c]), flat(psi[c, 0]), flat(psi[c, 1])
        keep_one(psi, kept, places, c, ops.shape[0], undo)
        for i in order:
            m = own if ops[i, FORM] == LANES else ms
            keep_one(psi, kept, places, c, i, not undo)
            sweep_one(ops[i], bits, fr, fi, rows.shape[0], rows, lanes, 0, signs, m, buffer, undo)
            keep_one(psi, kept, places, c, i, undo)
        keep_one(psi, kept, places, c, ops.shape[0], not undo)


@kernel
def sweep_grow_tangents(team, first, last, kept, out, table, ops, bits, rows, lanes, signs, ms, ml, dms, dml, buffers):
    """:func:`grow_tangents` where a state is one tile; others as for ``sweep_forward``."""
    if in_parts(team, first, last):
        return
    kept, out, ops, ms, ml = borrowed(kept), borrowed(out), borrowed(ops), borrowed(ms), borrowed(ml)
    dms, dml, table, buffer = borrowed(dms), borrowed(dml), borrowed(table), borrowed(buffers)[team[WORKER]]
    chunks, n = out.shape[1], rows.shape[0]
    for item in range(first, last):
        row, c = table[item // chunks], item % chunks
        d, begin = row[DIRECTION], row[FIRST]
        fr, fi = flat(out[row[ROW], c, 0]), flat(out[row[ROW], c, 1])
        if d >= 0:
            copy(flat(kept[row[STATE], row[PLACE], c]), flat(out[row[ROW], c]))
        for t in range(begin - steps_of_own(row, ops), row[LAST]):
            undoing, moving = t == begin - 2, t == begin - 1
            i = row[MOVER] if undoing or moving else t
            mine = ops[i, FORM] == LANES
            if moving:
                m = flat(dml[d, c]) if mine else dms[d]
            else:
                m = flat(ml[c]) if mine else ms
            sweep_one(ops[i], bits, fr, fi, n, rows, lanes, 0, signs, m, buffer, undoing)
            if moving and (ops[i, CMASK] != 0 or ops[i, LANE_CMASK] != 0):
                clear_unmet_lanes(ops[i], fr, fi, rows, buffer)
