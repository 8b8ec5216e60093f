"""Kernels for measurements: moments of Pauli words, sums of Pauli words as operators, marginal probabilities.

States are ``(C, 2, N, L)``. Results of samples are ``(T, C * L)``, sample ``c * L + t`` for lane ``t`` of
chunk ``c``. A Pauli word is ``P|x> = i**ny (-1)**parity(x & z) |x ^ x_mask>``. Words that share the flip mask and
whether ``ny`` is odd form a group: they all need the same products of amplitudes, real or imaginary part.

The items that kernels share out among threads (``in_parts.py``) are pieces of states: item ``c * pieces + p`` is piece
``p`` of the rows of chunk ``c``.
"""

from __future__ import annotations

import numpy as np

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.in_parts import PART, in_parts
from qhybrid_devices.statevector.kernels import flat, parity
from qhybrid_devices.statevector.simd import borrowed, exchange, exchanged, load, save, splat, total

#: Rows whose moments are summed in the precision of the states before they join a sum in double precision.
BLOCK = 64


@row_kernel
def word_sign(k, z, ny):
    """The real sign of ``<k ^ x_mask|P|k>``, the factor i of an odd number of Y left out."""
    return 1 - 2 * (parity(k & z) ^ ((ny >> 1) & 1))


@row_kernel
def signs_of(k, words, first, end, signs):
    """:func:`word_sign` of the words ``first .. end - 1``."""
    for i in range(first, end):
        signs[i - first] = word_sign(k, words[i, 0], words[i, 1])


@row_kernel
def rows_of(item, pieces, n):
    """The chunk of an item, its first row, and the row after its last one; of ``n`` rows."""
    size = n // pieces
    start = (item % pieces) * size
    return item // pieces, start, start + size


@kernel
def moments(team, first, last, bra, ket, pieces, groups, words, out):
    """Add ``Re <bra|P_t|ket>`` over some rows of some chunks to ``out``.

    Args:
        team: as for ``in_parts``
        first, last: which items
        bra, ket: ``(C, 2, N, L)``, ``L`` a multiple of a register; one of them may have fewer chunks, to which those of
            the other then come in turn
        pieces: of a chunk, which divide its rows evenly
        groups: flip mask, first word, end of words, ``(G, 3)``
        words: sign mask and number of Y, ``(T, 2)``
        out: ``(parts, T, C * L)``, what each part adds; one for all of them if chunks are in one piece
    """
    if in_parts(team, first, last):
        return
    bra, ket, sums = borrowed(bra), borrowed(ket), borrowed(out)[team[PART] if pieces > 1 else 0]
    lanes = bra.shape[3]
    for item in range(first, last):
        c, j0, j1 = rows_of(item, pieces, bra.shape[2])
        b, k = c % bra.shape[0], c % ket.shape[0]
        br, bi, kr, ki = bra[b, 0], bra[b, 1], ket[k, 0], ket[k, 1]
        for g in range(groups.shape[0]):
            mask, begin, end = groups[g, 0], groups[g, 1], groups[g, 2]
            own = sums[:, c * lanes : (c + 1) * lanes]
            group_moments(flat(br), flat(bi), flat(kr), flat(ki), j0, j1, mask, words, begin, end, own)


@row_kernel
def group_moments(br, bi, kr, ki, j0, j1, mask, words, first, end, out):
    """Moments of words with one flip mask, summed in the precision of the states over ``BLOCK`` rows at a time."""
    lanes, step, odd = out.shape[1], 64 // br.itemsize, words[first, 1] & 1 == 1
    sums, signs = np.empty((end - first) * lanes, br.dtype), np.empty(end - first, br.dtype)
    for start in range(j0, j1, BLOCK):
        sums[:] = 0
        for j in range(start, min(start + BLOCK, j1)):
            k = j ^ mask
            signs_of(k, words, first, end, signs)
            for t in range(0, lanes, step):
                a, b = load(br, j * lanes + t), load(bi, j * lanes + t)
                x, y = load(kr, k * lanes + t), load(ki, k * lanes + t)
                w = b * x - a * y if odd else a * x + b * y
                for i in range(end - first):
                    o = i * lanes + t
                    save(sums, o, load(sums, o) + splat(signs[i]) * w)
        for i in range(end - first):
            for t in range(lanes):
                out[first + i, t] += sums[i * lanes + t]


@kernel
def apply_words(team, first, last, psi, out, pieces, groups, words, weights, add):
    """``out = sum_t weights[t] P_t psi`` on some rows of some chunks, added to ``out`` if ``add``.

    Args:
        team: as for ``in_parts``
        first, last: which items
        psi, out: ``(C, 2, N, L)``, different arrays
        weights: ``(C, T, L)``, of the same precision; ``psi`` and ``weights`` may have fewer chunks, as for
            :func:`moments`
        others: as for :func:`moments`
    """
    if in_parts(team, first, last):
        return
    psi, out, weights = borrowed(psi), borrowed(out), borrowed(weights)
    for item in range(first, last):
        c, j0, j1 = rows_of(item, pieces, psi.shape[2])
        p, w = c % psi.shape[0], c % weights.shape[0]
        re, im, ro, io = psi[p, 0], psi[p, 1], out[c, 0], out[c, 1]
        if not add:
            ro[j0:j1] = 0
            io[j0:j1] = 0
        for g in range(groups.shape[0]):
            mask, begin, end = groups[g, 0], groups[g, 1], groups[g, 2]
            f, h, o, q, own, lanes = flat(re), flat(im), flat(ro), flat(io), flat(weights[w]), psi.shape[3]
            apply_group(f, h, o, q, lanes, j0, j1, mask, words, begin, end, own)


@row_kernel
def apply_group(re, im, ro, io, lanes, j0, j1, mask, words, first, end, weights):
    """Add the words of one group, each lane with its own weights."""
    step, odd = 64 // re.itemsize, words[first, 1] & 1 == 1
    signs = np.empty(end - first, re.dtype)
    for j in range(j0, j1):
        k = j ^ mask
        signs_of(k, words, first, end, signs)
        for t in range(0, lanes, step):
            w = splat(re.dtype.type(0))
            for i in range(first, end):
                w = w + splat(signs[i - first]) * load(weights, i * lanes + t)
            o, x, y = j * lanes + t, load(re, k * lanes + t), load(im, k * lanes + t)
            save(ro, o, load(ro, o) + (-w * y if odd else w * x))
            save(io, o, load(io, o) + (w * x if odd else w * y))


# ------------------------------------------------------------------ words where lanes are amplitudes


@row_kernel
def low_signs(mask, words, first, end, step, signs):
    """:func:`word_sign` as far as it depends on the bits within a register, a register for each word."""
    for i in range(first, end):
        for t in range(step):
            signs[(i - first) * step + t] = word_sign((t ^ mask) & (step - 1), words[i, 0], words[i, 1])


@kernel
def amplitude_moments(team, first, last, bra, ket, pieces, groups, words, out):
    """:func:`moments` where ``L`` is 1, and a piece is a whole number of registers."""
    if in_parts(team, first, last):
        return
    bra, ket, sums = borrowed(bra), borrowed(ket), borrowed(out)[team[PART] if pieces > 1 else 0]
    for item in range(first, last):
        c, j0, j1 = rows_of(item, pieces, bra.shape[2])
        b, k = c % bra.shape[0], c % ket.shape[0]
        br, bi, kr, ki = flat(bra[b, 0]), flat(bra[b, 1]), flat(ket[k, 0]), flat(ket[k, 1])
        for g in range(groups.shape[0]):
            mask, begin, end = groups[g, 0], groups[g, 1], groups[g, 2]
            amplitude_group_moments(br, bi, kr, ki, j0, j1, mask, words, begin, end, sums[:, c])


@row_kernel
def amplitude_group_moments(br, bi, kr, ki, j0, j1, mask, words, first, end, out):
    """:func:`group_moments` of :func:`amplitude_moments`."""
    step, odd = 64 // br.itemsize, words[first, 1] & 1 == 1
    order, size = exchange(br, mask & (step - 1)), (end - first) * step
    sums, signs = np.empty(size, br.dtype), np.empty(size, br.dtype)
    low_signs(mask, words, first, end, step, signs)
    for start in range(j0, j1, BLOCK * step):
        sums[:] = 0
        for j in range(start, min(start + BLOCK * step, j1), step):
            k = (j ^ mask) & -step
            a, b = load(br, j), load(bi, j)
            x, y = exchanged(load(kr, k), order), exchanged(load(ki, k), order)
            w = b * x - a * y if odd else a * x + b * y
            for i in range(end - first):
                o, high = i * step, splat(br.dtype.type(word_sign(k, words[first + i, 0], 0)))
                save(sums, o, load(sums, o) + high * load(signs, o) * w)
        for i in range(end - first):
            out[first + i] += total(load(sums, i * step))


@kernel
def apply_words_to_amplitudes(team, first, last, psi, out, pieces, groups, words, weights, add):
    """:func:`apply_words` where ``L`` is 1, and a piece is a whole number of registers."""
    if in_parts(team, first, last):
        return
    psi, out, weights = borrowed(psi), borrowed(out), borrowed(weights)
    for item in range(first, last):
        c, j0, j1 = rows_of(item, pieces, psi.shape[2])
        p, w = c % psi.shape[0], c % weights.shape[0]
        re, im, ro, io, own = flat(psi[p, 0]), flat(psi[p, 1]), flat(out[c, 0]), flat(out[c, 1]), flat(weights[w])
        if not add:
            ro[j0:j1] = 0
            io[j0:j1] = 0
        for g in range(groups.shape[0]):
            mask, begin, end = groups[g, 0], groups[g, 1], groups[g, 2]
            apply_group_to_amplitudes(re, im, ro, io, j0, j1, mask, words, begin, end, own)


@row_kernel
def apply_group_to_amplitudes(re, im, ro, io, j0, j1, mask, words, first, end, weights):
    """:func:`apply_group` of :func:`apply_words_to_amplitudes`."""
    step, odd = 64 // re.itemsize, words[first, 1] & 1 == 1
    order, signs = exchange(re, mask & (step - 1)), np.empty((end - first) * step, re.dtype)
    low_signs(mask, words, first, end, step, signs)
    for i in range(first, end):
        for t in range(step):
            signs[(i - first) * step + t] *= weights[i]
    for j in range(j0, j1, step):
        k = (j ^ mask) & -step
        w = splat(re.dtype.type(0))
        for i in range(first, end):
            w = w + splat(re.dtype.type(word_sign(k, words[i, 0], 0))) * load(signs, (i - first) * step)
        x, y = exchanged(load(re, k), order), exchanged(load(im, k), order)
        save(ro, j, load(ro, j) + (-w * y if odd else w * x))
        save(io, j, load(io, j) + (w * x if odd else w * y))


@kernel
def few_moments(team, first, last, bra, ket, pieces, groups, words, out):
    """:func:`amplitude_moments` for any rows: states that do not fill registers."""
    if in_parts(team, first, last):
        return
    sums = out[team[PART] if pieces > 1 else 0]
    for item in range(first, last):
        c, j0, j1 = rows_of(item, pieces, bra.shape[2])
        b, k = c % bra.shape[0], c % ket.shape[0]
        for g in range(groups.shape[0]):
            for i in range(groups[g, 1], groups[g, 2]):
                for j in range(j0, j1):
                    h = j ^ groups[g, 0]
                    p, q, x, y = bra[b, 0, j, 0], bra[b, 1, j, 0], ket[k, 0, h, 0], ket[k, 1, h, 0]
                    product = q * x - p * y if words[i, 1] & 1 == 1 else p * x + q * y
                    sums[i, c] += word_sign(h, words[i, 0], words[i, 1]) * product


@kernel
def apply_words_to_few(team, first, last, psi, out, pieces, groups, words, weights, add):
    """:func:`apply_words_to_amplitudes` for any rows: states that do not fill registers."""
    if in_parts(team, first, last):
        return
    for item in range(first, last):
        c, j0, j1 = rows_of(item, pieces, psi.shape[2])
        p, w = c % psi.shape[0], c % weights.shape[0]
        if not add:
            out[c, :, j0:j1] = 0
        for g in range(groups.shape[0]):
            for i in range(groups[g, 1], groups[g, 2]):
                for j in range(j0, j1):
                    h = j ^ groups[g, 0]
                    weight = weights[w, i, 0] * word_sign(h, words[i, 0], words[i, 1])
                    if words[i, 1] & 1 == 1:
                        out[c, 0, j, 0] -= weight * psi[p, 1, h, 0]
                        out[c, 1, j, 0] += weight * psi[p, 0, h, 0]
                    else:
                        out[c, 0, j, 0] += weight * psi[p, 0, h, 0]
                        out[c, 1, j, 0] += weight * psi[p, 1, h, 0]


# ------------------------------------------------------------------ probabilities and samples


@row_kernel
def parities_of(index, masks):
    """The parities of an index under some masks as a number, the first one most significant."""
    out = 0
    for i in range(masks.shape[0]):
        out = (out << 1) | parity(index & masks[i])
    return out


@kernel
def marginals(psi, c0, c1, masks, out):
    """Add the probabilities of the outcomes, parities under ``masks``, to ``out`` of shape ``(2**k, C * L)``."""
    psi, out = borrowed(psi), borrowed(out)
    lanes = psi.shape[3]
    for c in range(c0, c1):
        for j in range(psi.shape[2]):
            re, im = psi[c, 0, j], psi[c, 1, j]
            o = out[parities_of(j, masks), c * lanes : (c + 1) * lanes]
            for t in range(lanes):
                o[t] += re[t] * re[t] + im[t] * im[t]


@kernel
def marginal_overlaps(psi, chi, c0, c1, masks, out):
    """Add ``2 Re conj(psi) chi`` of each outcome, the tangent of its probability, to ``out``; see :func:`marginals`.

    ``psi`` may have fewer chunks than ``chi``, as for :func:`moments`.
    """
    psi, chi, out = borrowed(psi), borrowed(chi), borrowed(out)
    lanes = psi.shape[3]
    for c in range(c0, c1):
        p = c % psi.shape[0]
        for j in range(psi.shape[2]):
            re, im, u, v = psi[p, 0, j], psi[p, 1, j], chi[c, 0, j], chi[c, 1, j]
            o = out[parities_of(j, masks), c * lanes : (c + 1) * lanes]
            for t in range(lanes):
                o[t] += 2 * (re[t] * u[t] + im[t] * v[t])


@kernel
def weigh_outcomes(psi, c0, c1, masks, weights):
    """Multiply each amplitude by the weight of its outcome, ``weights`` of shape ``(2**k, C * L)``, in place."""
    psi, weights = borrowed(psi), borrowed(weights)
    lanes = psi.shape[3]
    for c in range(c0, c1):
        for j in range(psi.shape[2]):
            re, im = psi[c, 0, j], psi[c, 1, j]
            w = weights[parities_of(j, masks), c * lanes : (c + 1) * lanes]
            for t in range(lanes):
                re[t] *= w[t]
                im[t] *= w[t]


@kernel
def cumulative_weights(psi, out):
    """Cumulative sums of the squared amplitudes of each sample to ``out`` of shape ``(C * L, N)``."""
    lanes = psi.shape[3]
    for c in range(psi.shape[0]):
        re, im = psi[c, 0], psi[c, 1]
        for t in range(lanes):
            sums, total = out[c * lanes + t], 0.0
            for j in range(re.shape[0]):
                total += re[j, t] * re[j, t] + im[j, t] * im[j, t]
                sums[j] = total


@kernel
def draw(cumulative, spacings, out):
    """Outcomes in ascending order: sorted uniform numbers meet the cumulative distribution, in one pass over both.

    The partial sums of ``m + 1`` exponential spacings, divided by their total, are ``m`` sorted uniform numbers.
    L. Devroye, "Non-Uniform Random Variate Generation" (1986), section V.3.1.

    Args:
        cumulative: ``(W, N)``, a row for each sample; need not end at 1
        spacings: exponentially distributed, ``(B, shots + 1)``
        out: receives the outcomes ``(B, shots)``
    """
    last = cumulative.shape[1] - 1
    for b in range(out.shape[0]):
        sums, most = cumulative[b], last
        while most > 0 and sums[most] == sums[most - 1]:  # never an outcome of probability zero
            most -= 1
        scale, u, j = sums[last] / spacings[b].sum(), 0.0, 0
        for s in range(out.shape[1]):
            u += spacings[b, s] * scale
            while j < most and sums[j] <= u:
                j += 1
            out[b, s] = j
