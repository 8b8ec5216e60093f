"""Row kernels where lanes are amplitudes: one operation on a tile of one state, or in reverse with its cotangent.

A tile has ``n`` rows of one register. Row and lane number its amplitudes by bits, as the plan lays them out: ``(j, t)``
has partner ``(j ^ xmask, t ^ lane_xmask)``. Its sign, or its place in the pair, is the parity of its bits under
``zmask`` and ``lane_zmask`` and, for the whole tile, ``outer``, that of the tile under ``outer_zmask``. So an operation
on pairs is

    ``out[j] = D * v[j] + O * exchanged(v[j ^ xmask])``

with registers ``D`` and ``O`` that only depend on the parity of the row. Coefficients are ``m[p], m[p + 1], ...``, real
and imaginary parts interleaved. Names, what a reverse kernel does, and the order of a section are as in ``kernels.py``.
"""

from __future__ import annotations

from typing import NamedTuple

from qhybrid_devices.statevector._jit import row_kernel
from qhybrid_devices.statevector.kernels import bits_of, pair_at, parity, phase_at, spread, u2_cotangent
from qhybrid_devices.statevector.simd import exchange, exchanged, load, save, splat, total
from qhybrid_devices.statevector.table import (
    CMASK,
    COTANGENT,
    COUNT,
    CVAL,
    FIRST,
    FIX,
    LANE_CMASK,
    LANE_CVAL,
    LANE_XMASK,
    LANE_ZMASK,
    NUM_Y,
    PARAM,
    SECOND,
    TARGET,
    WIDTH,
    XMASK,
    ZMASK,
)

# ------------------------------------------------------------------ rows and lanes


@row_kernel
def insert_zero(x, below):
    """Make room for one bit of ``x`` above those of the mask ``below``; no room for -1."""
    return (x & below) | ((x & ~below) << 1)


class Walk(NamedTuple):
    """What the loops over rows need, read once: for all the compiler knows, a store to a plane may change the table."""

    first: int
    second: int
    fix: int
    xmask: int
    zmask: int
    cmask: int
    cval: int


@row_kernel
def walk_of(op):
    """The walk over the rows of an operation."""
    return Walk(op[FIRST], op[SECOND], op[FIX], op[XMASK], op[ZMASK], op[CMASK], op[CVAL])


@row_kernel
def paired_row(walk, q, odd):
    """Row ``q`` of those that stand for a pair, or for themselves, and have parity ``odd`` under ``ZMASK``.

    A bit of ``XMASK`` is kept at zero, and one of ``ZMASK`` makes the parity; if the partner has the other parity, the
    two change places instead.
    """
    j = insert_zero(insert_zero(q, walk.first), walk.second)
    return j ^ (walk.fix & -(parity(j & walk.zmask) ^ odd))


@row_kernel
def kinds_of_rows(op):
    """How many parities of rows to go through: one if both rows of each pair are met with the first."""
    return 1 if parity(op[XMASK] & op[ZMASK]) == 1 else 2


@row_kernel
def has_rows(op, odd):
    """Whether any row has that parity."""
    return op[FIX] != 0 or odd == 0


@row_kernel
def lane_signs(fr, op, signs):
    """1 or -1 by the parity of a lane."""
    return load(signs, op[LANE_ZMASK] * (64 // fr.itemsize))


@row_kernel
def lane_controls(fr, op, buffer):
    """1 where a lane meets the controls, else 0."""
    width = 64 // fr.itemsize
    for t in range(width):
        buffer[t] = 1 if t & op[LANE_CMASK] == op[LANE_CVAL] else 0
    return load(buffer, 0)


@row_kernel
def is_met(walk, j, rows, tile):
    """Whether a row meets the controls."""
    return walk.cmask == 0 or (rows[j] ^ tile) & walk.cmask == walk.cval


# ------------------------------------------------------------------ 2 x 2
#
# Formula:   psi'_a = sum_b U_ab psi_b for each pair; G_ab = sum conj(lambda'_a) psi_b; for M see ``kernels.py``, as for
#            the three products of a complex one.
# Shapes:    U: 4 complex coefficients; G: 4 complex cotangents.
# Layout:    an amplitude of even parity comes first in its pair: there D = U_00, O = U_01, elsewhere U_11 and U_10.
# Reference: ``apply`` and ``outer``.


@row_kernel
def u2_numbers(m, p, undo):
    """The eight coefficients of a 2x2, or of its inverse."""
    a, b, c, d, e, f, g, h = m[p], m[p + 1], m[p + 2], m[p + 3], m[p + 4], m[p + 5], m[p + 6], m[p + 7]
    return (a, -b, e, -f, c, -d, g, -h) if undo else (a, b, c, d, e, f, g, h)


@row_kernel
def places(fr, op, signs, odd):
    """1 in the lanes that come first in their pair, and 1 in those that come second, for rows of one parity."""
    one, half = splat(fr.dtype.type(1)), splat(fr.dtype.type(0.5))
    sign = lane_signs(fr, op, signs)
    first = half * (one - sign) if odd else half * (one + sign)
    return first, one - first


@row_kernel
def u2_lanes(fr, op, signs, m, odd, buffer, undo):
    """``D`` and ``O`` of the rows of one parity, as four registers, or those of the inverse.

    In a lane of even parity with the row they are the first diagonal and off-diagonal entry of the matrix.
    """
    p, one = op[PARAM], splat(fr.dtype.type(1))
    first, second = places(fr, op, signs, odd)
    a, b = first * splat(m[p]) + second * splat(m[p + 6]), first * splat(m[p + 1]) + second * splat(m[p + 7])
    c, d = first * splat(m[p + 2]) + second * splat(m[p + 4]), first * splat(m[p + 3]) + second * splat(m[p + 5])
    if undo:
        b = -b
        c = first * splat(m[p + 4]) + second * splat(m[p + 2])
        d = -(first * splat(m[p + 5]) + second * splat(m[p + 3]))
    if op[LANE_CMASK] != 0:
        met = lane_controls(fr, op, buffer)
        return met * a + (one - met), met * b, met * c, met * d
    return a, b, c, d


@row_kernel
def mixed(u, x, y, z, w):
    """``D (x + i y) + O (z + i w)``."""
    a, b, c, d = u
    s = a * (x + y) + c * (z + w)
    return s - (a + b) * y - (c + d) * w, s + (b - a) * x + (d - c) * z


@row_kernel
def u2_moved(psi, order, u, v):
    """A 2x2 on two registers ``(x + i y, z + i w)``, each of which has its partners in the other."""
    x, y, z, w = psi
    p, q = mixed(u, x, y, exchanged(z, order), exchanged(w, order))
    r, s = mixed(v, z, w, exchanged(x, order), exchanged(y, order))
    return p, q, r, s


@row_kernel
def save_rows(fr, fi, i, k, psi):
    """Write the registers at ``i`` and ``k``, which may be the same: then the first."""
    save(fr, i, psi[0])
    save(fi, i, psi[1])
    if i != k:
        save(fr, k, psi[2])
        save(fi, k, psi[3])


@row_kernel
def u2_pair(fr, fi, i, k, order, u, v):
    """A 2x2 on the registers at ``i`` and ``k``, which may be the same; what they are then."""
    psi = u2_moved(pair_at(fr, fi, i, k), order, u, v)
    save_rows(fr, fi, i, k, psi)
    return psi


@row_kernel
def u2(fr, fi, op, rows, tile, outer, signs, m, buffer, undo):
    """A 2x2 on pairs of amplitudes."""
    if op[LANE_XMASK] == 0:  # the case that most often occurs has a loop of its own, without permutations
        u2_rows(fr, fi, op, rows, tile, outer, signs, None, m, buffer, undo)
    else:
        u2_rows(fr, fi, op, rows, tile, outer, signs, exchange(fr, op[LANE_XMASK]), m, buffer, undo)


@row_kernel
def u2_rows(fr, fi, op, rows, tile, outer, signs, order, m, buffer, undo):
    """The same with lanes exchanged by ``order``."""
    width, kinds, walk, count = 64 // fr.itemsize, kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        u = u2_lanes(fr, op, signs, m, odd ^ outer, buffer, undo)
        v = u2_lanes(fr, op, signs, m, odd ^ outer ^ (2 - kinds), buffer, undo)
        for q in range(count):
            j = paired_row(walk, q, odd)
            if is_met(walk, j, rows, tile):
                u2_pair(fr, fi, j * width, (j ^ walk.xmask) * width, order, u, v)


@row_kernel
def overlap(x, y, p, q):
    """``conj(p + i q) (x + i y)``."""
    return p * x + q * y, p * y - q * x


@row_kernel
def u2_reverse(fr, fi, gr, gi, op, rows, tile, outer, signs, m, totals, buffer):
    """Un-compute a 2x2 and add its matrix cotangent, as far as a U that stays unitary can tell."""
    if op[LANE_XMASK] == 0:
        u2_reverse_rows(fr, fi, gr, gi, op, rows, tile, outer, signs, None, m, totals, buffer)
    else:
        order = exchange(fr, op[LANE_XMASK])
        u2_reverse_rows(fr, fi, gr, gi, op, rows, tile, outer, signs, order, m, totals, buffer)


@row_kernel
def u2_reverse_rows(fr, fi, gr, gi, op, rows, tile, outer, signs, order, m, totals, buffer):
    """The same with lanes exchanged by ``order``."""
    width, kinds, walk, count = 64 // fr.itemsize, kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        u = u2_lanes(fr, op, signs, m, odd ^ outer, buffer, bool(1))
        v = u2_lanes(fr, op, signs, m, odd ^ outer ^ (2 - kinds), buffer, bool(1))
        a = b = c = d = e = f = splat(fr.dtype.type(0))
        for q in range(count):
            j = paired_row(walk, q, odd)
            if not is_met(walk, j, rows, tile):
                continue
            i, k = j * width, (j ^ walk.xmask) * width
            x, y, z, w = pair_at(fr, fi, i, k)
            p0, q0, p1, q1 = pair_at(gr, gi, i, k)
            own, real, imag = turned_row(fr, fi, gr, gi, i, order, u, (x, y, z, w), (p0, q0, p1, q1))
            a, b, c = a + own, b + real, c + imag
            if i != k:
                own, real, imag = turned_row(fr, fi, gr, gi, k, order, v, (z, w, x, y), (p1, q1, p0, q0))
                d, e, f = d + own, e + real, f + imag
        u2_add(fr, op, signs, odd ^ outer, m, totals, (a, b, c), buffer)
        u2_add(fr, op, signs, odd ^ outer ^ (2 - kinds), m, totals, (d, e, f), buffer)


@row_kernel
def turned_row(fr, fi, gr, gi, i, order, u, psi, lam):
    """Write the row at ``i`` of psi and lambda, un-computed; what it adds to M, its own part and that of its partner.

    Args:
        u: ``D`` and ``O`` of the inverse
        psi, lam: the row and its partner, as four registers
    """
    x, y, z, w = psi[0], psi[1], exchanged(psi[2], order), exchanged(psi[3], order)
    p, q = lam[0], lam[1]
    s, t = mixed(u, x, y, z, w)
    save(fr, i, s)
    save(fi, i, t)
    s, t = mixed(u, p, q, exchanged(lam[2], order), exchanged(lam[3], order))
    save(gr, i, s)
    save(gi, i, t)
    real, imag = overlap(z, w, p, q)
    return p * y - q * x, real, imag


@row_kernel
def u2_add(fr, op, signs, odd, m, totals, sums, buffer):
    """Add sums over the rows of one parity, what each lane has to say of M, to the entries of the matrix cotangent."""
    first, second = places(fr, op, signs, odd)
    if op[LANE_CMASK] != 0:
        met = lane_controls(fr, op, buffer)
        first, second = met * first, met * second
    own, real, imag = sums
    half, o = fr.dtype.type(0.5), op[COTANGENT]
    real, imag = half * total((first - second) * real), half * total((first + second) * imag)
    g = u2_cotangent(u2_numbers(m, op[PARAM], bool(1)), total(first * own), real, imag, total(second * own))
    totals[o] += g[0]
    totals[o + 1] += g[1]
    totals[o + 2] += g[2]
    totals[o + 3] += g[3]
    totals[o + 4] += g[4]
    totals[o + 5] += g[5]
    totals[o + 6] += g[6]
    totals[o + 7] += g[7]


@row_kernel
def u2_overlap(gr, gi, fr, fi, op, rows, tile, outer, signs, totals, buffer):
    """Add the whole matrix cotangent of a 2x2, lambda after and psi before it."""
    order, width = exchange(fr, op[LANE_XMASK]), 64 // fr.itemsize
    kinds, walk, count = kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        a = b = c = d = e = f = g = h = splat(fr.dtype.type(0))
        for q in range(count):
            j = paired_row(walk, q, odd)
            if not is_met(walk, j, rows, tile):
                continue
            i, k = j * width, (j ^ walk.xmask) * width
            x, y, z, w = load(fr, i), load(fi, i), load(fr, k), load(fi, k)
            p0, q0, p1, q1 = load(gr, i), load(gi, i), load(gr, k), load(gi, k)
            s, t = overlap(x, y, p0, q0)
            a, b = a + s, b + t
            s, t = overlap(exchanged(z, order), exchanged(w, order), p0, q0)
            c, d = c + s, d + t
            if i != k:
                s, t = overlap(exchanged(x, order), exchanged(y, order), p1, q1)
                e, f = e + s, f + t
                s, t = overlap(z, w, p1, q1)
                g, h = g + s, h + t
        u2_deposit(fr, op, signs, odd ^ outer, totals, (a, b, c, d), buffer)
        u2_deposit(fr, op, signs, odd ^ outer ^ (2 - kinds), totals, (g, h, e, f), buffer)


@row_kernel
def u2_deposit(fr, op, signs, odd, totals, sums, buffer):
    """Add sums over the rows of one parity to the entries of the matrix."""
    o = op[COTANGENT]
    first, second = places(fr, op, signs, odd)
    if op[LANE_CMASK] != 0:
        met = lane_controls(fr, op, buffer)
        first, second = met * first, met * second
    a, b, c, d = sums
    totals[o] += total(first * a)
    totals[o + 1] += total(first * b)
    totals[o + 2] += total(first * c)
    totals[o + 3] += total(first * d)
    totals[o + 4] += total(second * c)
    totals[o + 5] += total(second * d)
    totals[o + 6] += total(second * a)
    totals[o + 7] += total(second * b)


# ------------------------------------------------------------------ flips
#
# Formula:   psi'_a = psi_b, psi'_b = psi_a for each pair.
# Shapes:    no coefficients.
# Layout:    as above; lanes that do not meet the controls are kept.
# Reference: ``apply`` with a ``controlled`` X.


@row_kernel
def flip(fr, fi, op, rows, tile, buffer):
    """Swap the amplitudes of each pair: a (controlled) X."""
    order, width = exchange(fr, op[LANE_XMASK]), 64 // fr.itemsize
    met = lane_controls(fr, op, buffer)
    kept = splat(fr.dtype.type(1)) - met
    walk, count = walk_of(op), op[COUNT]
    for odd in range(kinds_of_rows(op)):
        if not has_rows(op, odd):
            continue
        for q in range(count):
            j = paired_row(walk, q, odd)
            if not is_met(walk, j, rows, tile):
                continue
            i, k = j * width, (j ^ walk.xmask) * width
            x, y, z, w = load(fr, i), load(fi, i), load(fr, k), load(fi, k)
            save(fr, i, met * exchanged(z, order) + kept * x)
            save(fi, i, met * exchanged(w, order) + kept * y)
            if i != k:
                save(fr, k, met * exchanged(x, order) + kept * z)
                save(fi, k, met * exchanged(y, order) + kept * w)


# ------------------------------------------------------------------ Pauli rotations
#
# Formula:   psi' = (cos - i sin P) psi; g = Im <lambda|P|psi>.
# Shapes:    cosine and sine; one real cotangent.
# Layout:    D = cos, and O = -i sin <a|P|partner>, real for an odd number of Y, else imaginary.
# Reference: ``word_matrix`` in ``gate_matrix``, and ``gate_cotangent``.


@row_kernel
def pauli_signs(fr, op, signs, odd, buffer):
    """Signs of ``<j|P|partner>`` for the rows whose partner has parity ``odd``; zero where controls are not met."""
    sign = exchanged(lane_signs(fr, op, signs), exchange(fr, op[LANE_XMASK]))
    if op[LANE_CMASK] != 0:
        sign = lane_controls(fr, op, buffer) * sign
    return -sign if odd ^ ((op[NUM_Y] >> 1) & 1) else sign


@row_kernel
def pauli_cosine(fr, op, c, buffer):
    """The cosine, and one where controls are not met."""
    if op[LANE_CMASK] == 0:
        return splat(c)
    one, met = splat(fr.dtype.type(1)), lane_controls(fr, op, buffer)
    return met * splat(c) + (one - met)


@row_kernel
def turned(z, w, order, real):
    """``-i P`` on the partner ``z + i w`` for a positive sign; real for an odd number of Y."""
    z, w = exchanged(z, order), exchanged(w, order)
    return (z, w) if real else (w, -z)


@row_kernel
def pauli_pair(fr, fi, i, k, order, real, c, v, h):
    """``cos - i sin P`` on the registers at ``i`` and ``k``, perhaps the same, with signed sines ``v`` and ``h``."""
    x, y, z, w = load(fr, i), load(fi, i), load(fr, k), load(fi, k)
    s, t = turned(z, w, order, real)
    save(fr, i, c * x + v * s)
    save(fi, i, c * y + v * t)
    if i != k:
        s, t = turned(x, y, order, real)
        save(fr, k, c * z + h * s)
        save(fi, k, c * w + h * t)


@row_kernel
def is_phase(op):
    """Whether a word has letters Z only: its rotation moves nothing."""
    return op[XMASK] == 0 and op[LANE_XMASK] == 0


@row_kernel
def row_sign(fr, walk, j, outer):
    """1 or -1 by the parity of a row."""
    return splat(fr.dtype.type(1 - 2 * (parity(j & walk.zmask) ^ outer)))


@row_kernel
def phases(fr, fi, n, op, rows, tile, outer, signs, m, buffer, undo):
    """A rotation of letters Z: rows in memory order, ``cos - i sin`` or ``cos + i sin``."""
    width, walk = 64 // fr.itemsize, walk_of(op)
    c, s = pauli_cosine(fr, op, m[op[PARAM]], buffer), splat(-m[op[PARAM] + 1] if undo else m[op[PARAM] + 1])
    v = s * pauli_signs(fr, op, signs, 0, buffer)
    for j in range(n):
        if is_met(walk, j, rows, tile):
            phase_at(fr, fi, j * width, c, -row_sign(fr, walk, j, outer) * v)


@row_kernel
def phases_reverse(fr, fi, gr, gi, n, op, rows, tile, outer, signs, m, totals, buffer):
    """Un-compute a rotation of letters Z and add ``Im <lambda|P|psi>``."""
    width, walk = 64 // fr.itemsize, walk_of(op)
    c, s = pauli_cosine(fr, op, m[op[PARAM]], buffer), -splat(m[op[PARAM] + 1])
    sign = pauli_signs(fr, op, signs, 0, buffer)
    v, g = s * sign, splat(fr.dtype.type(0))
    for j in range(n):
        if is_met(walk, j, rows, tile):
            i, mine = j * width, row_sign(fr, walk, j, outer)
            _, t = overlap(load(fr, i), load(fi, i), load(gr, i), load(gi, i))
            g = g + mine * t
            phase_at(fr, fi, i, c, -mine * v)
            phase_at(gr, gi, i, c, -mine * v)
    totals[op[COTANGENT]] += total(sign * g)


@row_kernel
def pauli(fr, fi, op, rows, tile, outer, signs, m, buffer, undo):
    """``cos - i sin P``; cosine and sine are coefficients ``p`` and ``p + 1``."""
    order, width, real = exchange(fr, op[LANE_XMASK]), 64 // fr.itemsize, op[NUM_Y] & 1 == 1
    c, s = pauli_cosine(fr, op, m[op[PARAM]], buffer), splat(-m[op[PARAM] + 1] if undo else m[op[PARAM] + 1])
    kinds, walk, count = kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        v = s * pauli_signs(fr, op, signs, odd ^ outer ^ (2 - kinds), buffer)
        h = s * pauli_signs(fr, op, signs, odd ^ outer, buffer)
        for q in range(count):
            j = paired_row(walk, q, odd)
            if is_met(walk, j, rows, tile):
                pauli_pair(fr, fi, j * width, (j ^ walk.xmask) * width, order, real, c, v, h)


@row_kernel
def pauli_reverse(fr, fi, gr, gi, op, rows, tile, outer, signs, m, totals, buffer):
    """Un-compute a Pauli rotation and add ``Im <lambda|P|psi>``."""
    order, width, real = exchange(fr, op[LANE_XMASK]), 64 // fr.itemsize, op[NUM_Y] & 1 == 1
    c, s = pauli_cosine(fr, op, m[op[PARAM]], buffer), -splat(m[op[PARAM] + 1])
    kinds, walk, count = kinds_of_rows(op), walk_of(op), op[COUNT]
    for odd in range(kinds):
        if not has_rows(op, odd):
            continue
        one = pauli_signs(fr, op, signs, odd ^ outer ^ (2 - kinds), buffer)
        two = pauli_signs(fr, op, signs, odd ^ outer, buffer)
        v, h = s * one, s * two
        g = g2 = splat(fr.dtype.type(0))
        for q in range(count):
            j = paired_row(walk, q, odd)
            if not is_met(walk, j, rows, tile):
                continue
            i, k = j * width, (j ^ walk.xmask) * width
            x, y, z, w = load(fr, i), load(fi, i), load(fr, k), load(fi, k)
            e, f = turned(z, w, order, real)
            g = g + load(gr, i) * e + load(gi, i) * f
            if i != k:
                e, f = turned(x, y, order, real)
                g2 = g2 + load(gr, k) * e + load(gi, k) * f
            pauli_pair(fr, fi, i, k, order, real, c, v, h)
            pauli_pair(gr, gi, i, k, order, real, c, v, h)
        totals[op[COTANGENT]] += total(one * g + two * g2)


# ------------------------------------------------------------------ diagonals and global phases
#
# Formula:   psi'_a = d_a psi_a; G_a = sum conj(lambda'_a) psi_a.
# Shapes:    d: 2**k complex coefficients, one for k = 0; G the same. Four registers a slot: phases and sums.
# Layout:    entry ``bits_of(index)``: what the row selects, changed by what the lane selects.
# Reference: ``apply`` and ``outer`` with a diagonal matrix.


@row_kernel
def diagonal_entry(op, bits, index):
    """The entry that the target bits of an index select."""
    return bits_of(index, bits, op[TARGET], op[WIDTH])


@row_kernel
def fill_phases(fr, op, bits, lanes, m, entry, buffer, slot, undo):
    """The coefficients of each lane of a row that selects ``entry``, to two registers; then zero if all are one."""
    width = 64 // fr.itemsize
    matters = False
    for t in range(width):
        mine = op[PARAM] + 2 * (entry ^ diagonal_entry(op, bits, lanes[t & (lanes.shape[0] - 1)]))
        a, b = m[mine], -m[mine + 1] if undo else m[mine + 1]
        if t & op[LANE_CMASK] != op[LANE_CVAL]:
            a, b = 1, 0
        buffer[4 * slot * width + t] = a
        buffer[(4 * slot + 1) * width + t] = b
        matters = matters or a != 1 or b != 0
    buffer[(4 * slot + 2) * width] = 1 if matters else 0


@row_kernel
def clear_sums(fr, buffer, slot):
    """Two registers of sums beside the phases."""
    width = 64 // fr.itemsize
    save(buffer, (4 * slot + 2) * width, splat(fr.dtype.type(0)))
    save(buffer, (4 * slot + 3) * width, splat(fr.dtype.type(0)))


@row_kernel
def deposit_sums(fr, op, bits, lanes, entry, buffer, slot, totals):
    """Add the sums of a row that selects ``entry`` to the cotangents of its lanes' entries."""
    width = 64 // fr.itemsize
    for t in range(width):
        if t & op[LANE_CMASK] == op[LANE_CVAL]:
            mine = op[COTANGENT] + 2 * (entry ^ diagonal_entry(op, bits, lanes[t & (lanes.shape[0] - 1)]))
            totals[mine] += buffer[(4 * slot + 2) * width + t]
            totals[mine + 1] += buffer[(4 * slot + 3) * width + t]


@row_kernel
def diagonal(fr, fi, n, op, rows, tile, bits, lanes, m, buffer, undo):
    """Multiply each amplitude by the diagonal entry that its target bits select; few entries are laid out first."""
    width, size = 64 // fr.itemsize, 1 << op[WIDTH]
    few, walk = size <= n, walk_of(op)
    for entry in range(size if few else 0):
        fill_phases(fr, op, bits, lanes, m, entry, buffer, entry, undo)
    for j in range(n):
        if not is_met(walk, j, rows, tile):
            continue
        entry = diagonal_entry(op, bits, rows[j] ^ tile)
        slot = entry if few else 0
        if not few:
            fill_phases(fr, op, bits, lanes, m, entry, buffer, slot, undo)
        o = 4 * slot * width
        if buffer[o + 2 * width] != 0:
            phase_at(fr, fi, j * width, load(buffer, o), load(buffer, o + width))


@row_kernel
def diagonal_reverse(fr, fi, gr, gi, n, op, rows, tile, bits, lanes, m, totals, buffer):
    """Un-compute a diagonal and add ``conj(lambda_a) psi_a`` to its entries."""
    width, size = 64 // fr.itemsize, 1 << op[WIDTH]
    few, walk = size <= n, walk_of(op)
    for entry in range(size if few else 0):
        fill_phases(fr, op, bits, lanes, m, entry, buffer, entry, bool(1))
        clear_sums(fr, buffer, entry)
    for j in range(n):
        if not is_met(walk, j, rows, tile):
            continue
        entry = diagonal_entry(op, bits, rows[j] ^ tile)
        slot = entry if few else 0
        if not few:
            fill_phases(fr, op, bits, lanes, m, entry, buffer, slot, bool(1))
            clear_sums(fr, buffer, slot)
        i, o = j * width, 4 * slot * width
        a, b = load(buffer, o), load(buffer, o + width)
        phase_at(fr, fi, i, a, b)
        s, t = overlap(load(fr, i), load(fi, i), load(gr, i), load(gi, i))
        save(buffer, o + 2 * width, load(buffer, o + 2 * width) + s)
        save(buffer, o + 3 * width, load(buffer, o + 3 * width) + t)
        phase_at(gr, gi, i, a, b)
        if not few:
            deposit_sums(fr, op, bits, lanes, entry, buffer, slot, totals)
    for entry in range(size if few else 0):
        deposit_sums(fr, op, bits, lanes, entry, buffer, entry, totals)


# ------------------------------------------------------------------ dense 2**k x 2**k
#
# Formula:   psi'_a = sum_b U_ab psi_b; G_ab = sum conj(lambda'_a) psi_b.
# Shapes:    U and G: 4**k complex numbers, row by row.
# Layout:    entry ``spread(a)`` of the rows that have the target bits at zero; targets are never lanes.
# Reference: ``apply`` and ``outer``.


@row_kernel
def dense(fr, fi, n, op, rows, tile, bits, m, buffer, undo):
    """A dense matrix on ``k`` row bits; ``buffer`` holds ``2 * 2**k`` registers and the lanes' controls."""
    k, first, p = op[WIDTH], op[TARGET], op[PARAM]
    dim, width = 1 << k, 64 // fr.itemsize
    mask, zero = spread(dim - 1, bits, first, k), splat(fr.dtype.type(0))
    met, walk = lane_controls(fr, op, buffer), walk_of(op)
    kept = splat(fr.dtype.type(1)) - met
    for base in range(n):
        if base & mask or not is_met(walk, base, rows, tile):
            continue
        for b in range(dim):
            i = (base | spread(b, bits, first, k)) * width
            save(buffer, 2 * b * width, load(fr, i))
            save(buffer, (2 * b + 1) * width, load(fi, i))
        for a in range(dim):
            x = y = zero
            for b in range(dim):
                q = p + 2 * (b * dim + a if undo else a * dim + b)
                u, v = splat(m[q]), splat(-m[q + 1] if undo else m[q + 1])
                z, w = load(buffer, 2 * b * width), load(buffer, (2 * b + 1) * width)
                x = x + u * z - v * w
                y = y + u * w + v * z
            i = (base | spread(a, bits, first, k)) * width
            if op[LANE_CMASK] != 0:
                x, y = met * x + kept * load(fr, i), met * y + kept * load(fi, i)
            save(fr, i, x)
            save(fi, i, y)


@row_kernel
def dense_cotangent(fr, fi, gr, gi, n, op, rows, tile, bits, totals, buffer):
    """Add the matrix cotangent of a dense gate; psi before and lambda after it."""
    k, first, width = op[WIDTH], op[TARGET], 64 // fr.itemsize
    dim, met, walk = 1 << k, lane_controls(fr, op, buffer), walk_of(op)
    mask = spread(dim - 1, bits, first, k)
    for a in range(dim):
        for b in range(dim):
            o, row_a, row_b = op[COTANGENT] + 2 * (a * dim + b), spread(a, bits, first, k), spread(b, bits, first, k)
            u = v = splat(fr.dtype.type(0))
            for base in range(n):
                if base & mask == 0 and is_met(walk, base, rows, tile):
                    i, h = (base | row_a) * width, (base | row_b) * width
                    s, t = overlap(load(fr, h), load(fi, h), load(gr, i), load(gi, i))
                    u, v = u + s, v + t
            totals[o] += total(met * u)
            totals[o + 1] += total(met * v)
