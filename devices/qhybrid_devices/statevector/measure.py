"""Kernels for measurements: moments of Pauli words, sums of Pauli words as operators, marginal probabilities.

States are ``(C, 2, N, L)``. Weights and results of samples are ``(T, C * L)``, sample ``c * L + t`` for lane ``t`` of
chunk ``c``. A Pauli word is ``P|x> = i**ny (-1)**parity(x & z) |x ^ x_mask>``. Words that share the flip mask and
whether ``ny`` is odd form a group: they all need the same products of amplitudes, real or imaginary part.
"""

from __future__ import annotations

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.kernels import bits_of, parity


@row_kernel
def word_sign(k, z, ny):
    """The real sign of ``<k ^ x_mask|P|k>``, the factor i of an odd number of Y left out."""
    return 1 - 2 * (parity(k & z) ^ ((ny >> 1) & 1))


@row_kernel
def pair_product(br, bi, kr, ki, odd, w):
    """``Re conj(bra) ket``, or ``Re i conj(bra) ket`` if ``odd``, of each lane."""
    for t in range(w.shape[0]):
        w[t] = bi[t] * kr[t] - br[t] * ki[t] if odd else br[t] * kr[t] + bi[t] * ki[t]


@kernel
def moments(bra, ket, c0, c1, j0, j1, groups, words, out, scratch):
    """Add ``Re <bra|P_t|ket>`` over the rows ``j0 .. j1 - 1`` of some chunks to ``out``.

    Args:
        bra, ket: ``(C, 2, N, L)``
        groups: flip mask, first word, end of words, ``(G, 3)``
        words: sign mask and number of Y, ``(T, 2)``
        out: ``(T, C * L)``
        scratch: ``(2, L)``
    """
    lanes, w = bra.shape[3], scratch[0]
    for c in range(c0, c1):
        br, bi, kr, ki = bra[c, 0], bra[c, 1], ket[c, 0], ket[c, 1]
        for g in range(groups.shape[0]):
            mask, first, end = groups[g, 0], groups[g, 1], groups[g, 2]
            odd = words[first, 1] & 1 == 1
            if lanes == 1:
                for i in range(first, end):
                    out[i, c] += single_moment(br, bi, kr, ki, j0, j1, mask, words[i, 0], words[i, 1])
                continue
            for j in range(j0, j1):
                k = j ^ mask
                pair_product(br[j], bi[j], kr[k], ki[k], odd, w)
                for i in range(first, end):
                    sign, o = word_sign(k, words[i, 0], words[i, 1]), out[i, c * lanes : (c + 1) * lanes]
                    for t in range(lanes):
                        o[t] += sign * w[t]


@row_kernel
def single_moment(br, bi, kr, ki, j0, j1, mask, z, ny):
    """One word's moment where a state has a single lane."""
    total = 0.0
    if ny & 1 == 1:
        for j in range(j0, j1):
            k = j ^ mask
            total += word_sign(k, z, ny) * (bi[j, 0] * kr[k, 0] - br[j, 0] * ki[k, 0])
    else:
        for j in range(j0, j1):
            k = j ^ mask
            total += word_sign(k, z, ny) * (br[j, 0] * kr[k, 0] + bi[j, 0] * ki[k, 0])
    return total


@kernel
def apply_words(psi, out, c0, c1, j0, j1, groups, words, weights, add, scratch):
    """``out = sum_t weights[t] P_t psi`` on some rows of some chunks, added to ``out`` if ``add``.

    Args:
        psi, out: ``(C, 2, N, L)``, different arrays
        weights: ``(T, C * L)``
        others: as for :func:`moments`
    """
    lanes, w = psi.shape[3], scratch[0]
    for c in range(c0, c1):
        re, im = psi[c, 0], psi[c, 1]
        if lanes == 1:
            apply_single(re, im, out[c, 0], out[c, 1], j0, j1, groups, words, weights[:, c], add)
            continue
        for j in range(j0, j1):
            ro, io = out[c, 0, j], out[c, 1, j]
            if not add:
                ro[:] = 0
                io[:] = 0
            for g in range(groups.shape[0]):
                k = j ^ groups[g, 0]
                first, end = groups[g, 1], groups[g, 2]
                w[:] = 0
                for i in range(first, end):
                    sign, v = word_sign(k, words[i, 0], words[i, 1]), weights[i, c * lanes : (c + 1) * lanes]
                    for t in range(lanes):
                        w[t] += sign * v[t]
                r1, i1 = re[k], im[k]
                if words[first, 1] & 1 == 1:
                    for t in range(lanes):
                        ro[t] -= w[t] * i1[t]
                        io[t] += w[t] * r1[t]
                else:
                    for t in range(lanes):
                        ro[t] += w[t] * r1[t]
                        io[t] += w[t] * i1[t]


@row_kernel
def apply_single(re, im, ro, io, j0, j1, groups, words, weights, add):
    """``apply_words`` where a state has a single lane: one pass for each word."""
    if not add:
        for j in range(j0, j1):
            ro[j, 0] = 0
            io[j, 0] = 0
    for g in range(groups.shape[0]):
        mask = groups[g, 0]
        for i in range(groups[g, 1], groups[g, 2]):
            z, ny, weight = words[i, 0], words[i, 1], weights[i]
            if ny & 1 == 1:
                for j in range(j0, j1):
                    w = weight * word_sign(j ^ mask, z, ny)
                    ro[j, 0] -= w * im[j ^ mask, 0]
                    io[j, 0] += w * re[j ^ mask, 0]
            else:
                for j in range(j0, j1):
                    w = weight * word_sign(j ^ mask, z, ny)
                    ro[j, 0] += w * re[j ^ mask, 0]
                    io[j, 0] += w * im[j ^ mask, 0]


@kernel
def marginals(psi, c0, c1, bits, out):
    """Add the probabilities of the outcomes of ``bits`` to ``out`` of shape ``(2**k, C * L)``."""
    lanes = psi.shape[3]
    for c in range(c0, c1):
        for j in range(psi.shape[2]):
            re, im = psi[c, 0, j], psi[c, 1, j]
            o = out[bits_of(j, bits, 0, bits.shape[0]), c * lanes : (c + 1) * lanes]
            for t in range(lanes):
                o[t] += re[t] * re[t] + im[t] * im[t]


@kernel
def weigh_outcomes(psi, c0, c1, bits, weights):
    """Multiply each amplitude by the weight of its outcome, ``weights`` of shape ``(2**k, C * L)``, in place."""
    lanes = psi.shape[3]
    for c in range(c0, c1):
        for j in range(psi.shape[2]):
            re, im = psi[c, 0, j], psi[c, 1, j]
            w = weights[bits_of(j, bits, 0, bits.shape[0]), c * lanes : (c + 1) * lanes]
            for t in range(lanes):
                re[t] *= w[t]
                im[t] *= w[t]


@kernel
def accumulate(weights):
    """Cumulative sums down each column of ``weights``, in place."""
    for j in range(1, weights.shape[0]):
        for b in range(weights.shape[1]):
            weights[j, b] += weights[j - 1, b]


@kernel
def draw(cumulative, uniforms, out):
    """Outcomes by inverse distribution function.

    Args:
        cumulative: ``(N, W)``, column ``b`` for sample ``b``; need not end at 1
        uniforms: numbers in ``[0, 1)``, ``(B, shots)``
        out: receives the outcomes ``(B, shots)``
    """
    last = cumulative.shape[0] - 1
    for b in range(uniforms.shape[0]):
        for s in range(uniforms.shape[1]):
            u = uniforms[b, s] * cumulative[last, b]
            low, high = 0, last
            while low < high:
                middle = (low + high) >> 1
                if cumulative[middle, b] > u:
                    high = middle
                else:
                    low = middle + 1
            while low > 0 and cumulative[low, b] == cumulative[low - 1, b]:  # never an outcome of probability zero
                low -= 1
            out[b, s] = low
