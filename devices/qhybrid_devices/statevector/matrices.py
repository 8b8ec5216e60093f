"""From angles to the coefficients of operations, and from matrix cotangents back to angles.

Every factor is ``F(theta) = sum_m exp(i lambda_m theta) A_m``. A fused operation is a product ``F_k ... F_1`` of 2x2
factors. Its cotangent ``G`` means ``dL = 2 Re sum_ab dU_ab G_ab``; the chain rule peels factors off from the left.

Samples are gone through a register at a time; shared coefficients are those of a single sample. A 2x2 matrix is a
tuple of its four entries, each of them a complex register.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid_devices.statevector._jit import kernel, row_kernel
from qhybrid_devices.statevector.complex_simd import (
    WIDTH,
    complex_of,
    conjugate,
    every,
    get,
    phase,
    put,
)
from qhybrid_devices.statevector.in_parts import PART, WORKER, in_parts
from qhybrid_devices.statevector.simd import borrowed, load, load_apart, save, splat, total
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
    ROTATION,
    SHARED,
    SPECTRUM,
)


class Scratch(NamedTuple):
    """Memory of a thread: a register, phases of a factor, factors of an operation with ``orders - 1`` derivatives."""

    buffer: NDArray
    phases: NDArray
    factors: NDArray
    orders: int


def scratch_memory(workers: int, most_terms: int, most_factors: int, orders: int) -> NDArray:
    """Memory of each thread for factors of so many terms, so many in an operation, ``orders`` of ``F, F', F''``.

    There is room behind it, so that no thread writes where the cache of another has something of its own.
    """
    return np.empty((workers, 2 * WIDTH * (2 + most_terms + 4 * most_factors * orders)))


@row_kernel
def scratch_in(memory, worker, most_terms, orders):
    """The parts of one thread's."""
    memory, row = borrowed(memory)[worker], 2 * WIDTH
    return Scratch(memory[:row], memory[row : (1 + most_terms) * row], memory[(1 + most_terms) * row :], orders)


# ------------------------------------------------------------------ samples and registers


class Rows(NamedTuple):
    """Numbers of all samples, whichever axis is first: number ``i`` of sample ``t`` is at ``i * row + t * lane``."""

    numbers: NDArray
    row: int
    lane: int
    samples: int


@row_kernel
def rows_of(array, samples_first):
    """The rows of an array ``(P, B)``, or ``(B, P)`` if samples come first, that is in one piece of memory."""
    one, many = array.shape[0] * 0 + 1, array.shape[1]  # not a literal
    numbers = array.reshape(array.size)
    if samples_first:
        return Rows(numbers, one, many, array.shape[0])
    return Rows(numbers, many, one, many)


@row_kernel
def row_of(g, p, lane, count, buffer):
    """Row ``p`` from ``lane`` on as a register, zero but for ``count`` lanes; a single one fills the register.

    Here and below, numbers of a row follow each other in memory, and those that are read are float64.
    """
    if count == 1:
        return splat(g[p, lane])
    if count == WIDTH:
        return load(g[p], lane)
    for t in range(WIDTH):
        buffer[t] = g[p, lane + t] if t < count else 0.0
    return load(buffer, 0)


@row_kernel
def numbers_of(rows, i, first, buffer):
    """Number ``i`` of the samples from ``first`` on, and any number beyond the last one."""
    start, count = i * rows.row + first * rows.lane, min(WIDTH, rows.samples - first)
    if rows.lane != 1 and count == WIDTH:
        return load_apart(rows.numbers, start, rows.lane)
    if count == 1:
        return splat(rows.numbers[start])
    if count == WIDTH:
        return load(rows.numbers, start)
    for t in range(WIDTH):
        buffer[t] = rows.numbers[start + t * rows.lane] if t < count else 0.0
    return load(buffer, 0)


@row_kernel
def add_numbers(rows, i, first, values, count, buffer):
    """Add to number ``i`` of ``count`` samples from ``first`` on."""
    start = i * rows.row + first * rows.lane
    if count == WIDTH and rows.lane == 1:
        save(rows.numbers, start, load(rows.numbers, start) + values)
        return
    save(buffer, 0, values)
    for t in range(count):
        rows.numbers[start + t * rows.lane] += buffer[t]


@row_kernel
def angles_of(factors, f, shared, batched, first, buffer):
    """The angles of factor ``f`` for the samples from ``first`` on; any number for lanes beyond the batch."""
    i = factors[f, FACTOR_INDEX]
    if factors[f, FACTOR_BATCHED] == 0:
        return splat(shared[i])
    return numbers_of(batched, i, first, buffer)


@row_kernel
def add_angles(factors, f, values, first, count, d_shared, d_batched, buffer):
    """Add to the cotangents of the angle of factor ``f`` for ``count`` samples."""
    i = factors[f, FACTOR_INDEX]
    if factors[f, FACTOR_BATCHED] == 0:
        save(buffer, 0, values)
        d_shared[i] += buffer[0] if count == 1 else total(values)
    else:
        add_numbers(d_batched, i, first, values, count, buffer)


@row_kernel
def pair_of(g, p, lane, count, buffer):
    """One complex cotangent from two real rows."""
    real = row_of(g, p, lane, count, buffer)
    return complex_of(real, row_of(g, p + 1, lane, count, buffer))


@row_kernel
def write_row(out, p, lane, values, buffer):
    """Write a register to row ``p`` from ``lane`` on, as far as there are lanes."""
    if lane + WIDTH <= out.shape[1] and out.itemsize == 8:
        save(out[p], lane, values)
        return
    save(buffer, 0, values)
    for t in range(min(WIDTH, out.shape[1] - lane)):
        out[p, lane + t] = buffer[t]


@row_kernel
def write_pair(out, p, lane, z, buffer):
    """One complex coefficient as two real rows."""
    write_row(out, p, lane, z.real, buffer)
    write_row(out, p + 1, lane, z.imag, buffer)


@row_kernel
def write_2x2(comp, u, lane, out, buffer):
    """Write the coefficients of a fused operation."""
    p = comp[COMP_PARAM]
    write_pair(out, p, lane, u[0], buffer)
    if comp[COMP_TYPE] == PRODUCT:
        write_pair(out, p + 2, lane, u[1], buffer)
        write_pair(out, p + 4, lane, u[2], buffer)
        p += 4
    write_pair(out, p + 2, lane, u[3], buffer)


@row_kernel
def cotangent_2x2(comp, g, lane, count, buffer):
    """The matrix cotangent of a fused operation; zeros beside the diagonal of a diagonal one."""
    o, zero = comp[COMP_COTANGENT], every(0j)
    a, d = pair_of(g, o, lane, count, buffer), pair_of(g, o + 2, lane, count, buffer)
    if comp[COMP_TYPE] == PRODUCT:
        return a, d, pair_of(g, o + 4, lane, count, buffer), pair_of(g, o + 6, lane, count, buffer)
    return a, zero, zero, d


# ------------------------------------------------------------------ 2x2 matrices


@row_kernel
def identity():
    """The unit matrix."""
    return every(1 + 0j), every(0j), every(0j), every(1 + 0j)


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
def transposed(a):
    """The transpose."""
    return a[0], a[2], a[1], a[3]


@row_kernel
def inverse(a):
    """The conjugate transpose."""
    return conjugate(a[0]), conjugate(a[2]), conjugate(a[1]), conjugate(a[3])


@row_kernel
def contracted(a, b):
    """``sum_ij a_ij b_ij``."""
    return (a[0] * b[0] + a[1] * b[1]) + (a[2] * b[2] + a[3] * b[3])


# ------------------------------------------------------------------ factors


@row_kernel
def phases_of(factors, f, constants, theta, scratch):
    """``exp(i lambda_m theta)`` for all terms of factor ``f``, to ``scratch.phases``."""
    o = factors[f, FACTOR_CONSTANTS]
    e = every(1 + 0j)
    for m in range(factors[f, FACTOR_TERMS]):
        x = constants[o + m].real
        if m > 0 and x == -constants[o + m - 1].real:
            e = conjugate(e)
        else:
            e = phase(splat(x) * theta, scratch.buffer)
        put(scratch.phases, m, e)


@row_kernel
def write_factor(factors, f, constants, theta, place, scratch):
    """Matrix number ``place`` of ``scratch.factors`` becomes ``F``, and the next ones its derivatives."""
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    if terms == 2 and constants[o + 1].real == -constants[o].real:
        write_rotation(constants, o, theta, place, scratch)
        return
    phases_of(factors, f, constants, theta, scratch)
    for q in range(4):
        value = slope = bend = every(0j)
        for m in range(terms):
            x = constants[o + m].real
            part = get(scratch.phases, m) * every(constants[o + terms + 4 * m + q])
            value = value + part
            slope = slope + part * splat(x)
            bend = bend - part * splat(x * x)
        put(scratch.factors, 4 * place + q, value)
        if scratch.orders > 1:
            put(scratch.factors, 4 * place + 4 + q, complex_of(-slope.imag, slope.real))
        if scratch.orders > 2:
            put(scratch.factors, 4 * place + 8 + q, bend)


@row_kernel
def write_rotation(constants, o, theta, place, scratch):
    """The same for ``F = exp(i x) A + exp(-i x) B = cos x (A + B) + sin x i(A - B)``, ``x = lambda theta``."""
    rate = constants[o].real
    e = phase(splat(rate) * theta, scratch.buffer)
    for q in range(4):
        a, b = constants[o + 2 + q], constants[o + 6 + q]
        even, odd = every(a + b), every(1j * (a - b))
        value = even * e.real + odd * e.imag
        put(scratch.factors, 4 * place + q, value)
        if scratch.orders > 1:
            put(scratch.factors, 4 * place + 4 + q, (odd * e.real - even * e.imag) * splat(rate))
        if scratch.orders > 2:
            put(scratch.factors, 4 * place + 8 + q, value * splat(-rate * rate))


@row_kernel
def write_factors(comp, factors, constants, shared, batched, first, scratch):
    """All factors of an operation, with derivatives, for the samples from ``first`` on."""
    for f in range(comp[COMP_FIRST], comp[COMP_LAST]):
        theta = angles_of(factors, f, shared, batched, first, scratch.buffer)
        write_factor(factors, f, constants, theta, (f - comp[COMP_FIRST]) * scratch.orders, scratch)


@row_kernel
def entries(scratch, place):
    """Matrix number ``place`` of ``scratch.factors``."""
    p, table = 4 * place, scratch.factors
    return get(table, p), get(table, p + 1), get(table, p + 2), get(table, p + 3)


@row_kernel
def product_of(comp, scratch):
    """The product of the factors of an operation, the last one leftmost."""
    u = entries(scratch, 0)
    for i in range(1, comp[COMP_LAST] - comp[COMP_FIRST]):
        u = times(entries(scratch, i * scratch.orders), u)
    return u


# ------------------------------------------------------------------ to coefficients


@row_kernel
def compose_rotation(comp, factors, constants, shared, batched, first, lane, out, scratch):
    """Cosine and sine of a Pauli rotation."""
    f, buffer = comp[COMP_FIRST], scratch.buffer
    scale = constants[factors[f, FACTOR_CONSTANTS]].real
    theta = angles_of(factors, f, shared, batched, first, buffer)
    write_pair(out, comp[COMP_PARAM], lane, phase(splat(scale) * theta, buffer), buffer)


@row_kernel
def compose_spectrum(comp, factors, constants, shared, batched, first, lane, out, scratch):
    """Coefficients of ``sum_m exp(i lambda_m theta) A_m``."""
    f, size = comp[COMP_FIRST], comp[COMP_SIZE]
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    phases_of(factors, f, constants, angles_of(factors, f, shared, batched, first, scratch.buffer), scratch)
    for q in range(size):
        value = every(0j)
        for m in range(terms):
            value = value + get(scratch.phases, m) * every(constants[o + terms + m * size + q])
        write_pair(out, comp[COMP_PARAM] + 2 * q, lane, value, scratch.buffer)


@row_kernel
def compose_one(comp, factors, constants, shared, batched, first, lane, out, scratch):
    """Coefficients of one operation for the samples from ``first`` on; of a product, factors stay in ``scratch``."""
    if comp[COMP_TYPE] == ROTATION:
        compose_rotation(comp, factors, constants, shared, batched, first, lane, out, scratch)
    elif comp[COMP_TYPE] == SPECTRUM:
        compose_spectrum(comp, factors, constants, shared, batched, first, lane, out, scratch)
    else:
        write_factors(comp, factors, constants, shared, batched, first, scratch)
        write_2x2(comp, product_of(comp, scratch), lane, out, scratch.buffer)


@kernel
def compose(
    team, c0, c1, comps, factors, constants, shared, batched, samples_first, memory, most_terms, orders, ms, ml
):  # fmt: skip
    """Coefficients of all operations that have angles, for some chunks of samples; the shared ones with chunk 0.

    Args:
        team: as for ``in_parts``
        c0, c1: which chunks
        comps, factors, constants: tables of the plan
        shared: angles ``(Ps,)``
        batched, samples_first: angles as :func:`rows_of` takes them
        memory, most_terms, orders: scratch, from :func:`scratch_memory`, for one order
        ms: ``(K, 1)``, receives the shared coefficients
        ml: ``(C, K, L)``, receives those of each sample; lane ``t`` of chunk ``c`` is sample ``c * L + t``
    """
    if in_parts(team, c0, c1):
        return
    comps, batched, ms, ml = borrowed(comps), rows_of(borrowed(batched), samples_first), borrowed(ms), borrowed(ml)
    scratch = scratch_in(memory, team[WORKER], most_terms, orders)
    for i in range(comps.shape[0]):
        comp = comps[i]
        own = comp[COMP_FORM] != SHARED
        for c in range(c0, c1 if own else min(c1, 1)):
            out = ml[c] if own else ms
            for lane in range(0, out.shape[1], WIDTH):
                compose_one(comp, factors, constants, shared, batched, c * out.shape[1] + lane, lane, out, scratch)


# ------------------------------------------------------------------ back to angles


@row_kernel
def chain_product(comp, factors, constants, shared, batched, first, lane, count, g, d_shared, d_batched, scratch):
    """Chain rule of ``U = F_k ... F_1`` for the ``count`` samples from ``first`` on.

    With ``U = F_k B``: ``dL = 2 Re sum (dF_k)_ab (G B^T)_ab + 2 Re sum dB_ab (F_k^T G)_ab``.
    """
    write_factors(comp, factors, constants, shared, batched, first, scratch)
    u, h = product_of(comp, scratch), cotangent_2x2(comp, g, lane, count, scratch.buffer)
    for f in range(comp[COMP_LAST] - 1, comp[COMP_FIRST] - 1, -1):
        place = scratch.orders * (f - comp[COMP_FIRST])
        factor = entries(scratch, place)
        u = times(inverse(factor), u)
        value = splat(2.0) * contracted(entries(scratch, place + 1), times(h, transposed(u))).real
        add_angles(factors, f, value, first, count, d_shared, d_batched, scratch.buffer)
        h = times(transposed(factor), h)


@row_kernel
def chain_rotation(comp, factors, constants, first, lane, count, g, d_shared, d_batched, scratch):
    """Chain rule of ``cos x - i sin x P``, ``x = scale theta / 2``: ``dL = 2 dx Im <lambda|P|psi>``."""
    f, buffer = comp[COMP_FIRST], scratch.buffer
    twice = splat(2 * constants[factors[f, FACTOR_CONSTANTS]].real)
    values = twice * row_of(g, comp[COMP_COTANGENT], lane, count, buffer)
    add_angles(factors, f, values, first, count, d_shared, d_batched, buffer)


@row_kernel
def chain_spectrum(comp, factors, constants, shared, batched, first, lane, count, g, d_shared, d_batched, scratch):
    """Chain rule of ``sum_m exp(i lambda_m theta) A_m``."""
    f, size, buffer = comp[COMP_FIRST], comp[COMP_SIZE], scratch.buffer
    o, terms = factors[f, FACTOR_CONSTANTS], factors[f, FACTOR_TERMS]
    phases_of(factors, f, constants, angles_of(factors, f, shared, batched, first, buffer), scratch)
    values = splat(0.0)
    for m in range(terms):
        q = every(0j)
        for i in range(size):
            entry = pair_of(g, comp[COMP_COTANGENT] + 2 * i, lane, count, buffer)
            q = q + entry * every(constants[o + terms + m * size + i])
        values = values - splat(2 * constants[o + m].real) * (get(scratch.phases, m) * q).imag
    add_angles(factors, f, values, first, count, d_shared, d_batched, buffer)


@kernel
def chain(
    team, c0, c1, comps, factors, constants, shared, batched, samples_first, want, memory, most_terms, orders,
    gs, gl, d_shared, d_batched,
):  # fmt: skip
    """Add the cotangents of the angles for some chunks of samples, given the matrix cotangents.

    Args:
        team, c0, c1, comps, factors, constants, shared, batched, samples_first: as for :func:`compose`
        want: for each operation whether its matrix cotangent is there
        memory, most_terms, orders: scratch for two orders
        gs: shared matrix cotangents ``(K, 1)``, gone through with chunk 0
        gl: those of each sample ``(C, K, L)``
        d_shared: ``(parts, Ps)``, what each part adds
        d_batched: laid out as ``batched``
    """
    if in_parts(team, c0, c1):
        return
    comps, batched, gs, gl = borrowed(comps), rows_of(borrowed(batched), samples_first), borrowed(gs), borrowed(gl)
    d_shared, d_batched = borrowed(d_shared)[team[PART]], rows_of(borrowed(d_batched), samples_first)
    scratch = scratch_in(memory, team[WORKER], most_terms, orders)
    for i in range(comps.shape[0]):
        comp = comps[i]
        if not want[comp[COMP_OP]]:
            continue
        own = comp[COMP_FORM] != SHARED
        for c in range(c0, c1 if own else min(c1, 1)):
            g = gl[c] if own else gs
            for lane in range(0, g.shape[1], WIDTH):
                first = c * g.shape[1] + lane
                count = min(WIDTH, batched.samples - first, g.shape[1] - lane) if own else 1
                if count < 1:
                    break
                inputs = (comp, factors, constants, shared, batched)
                if comp[COMP_TYPE] == ROTATION:
                    chain_rotation(comp, factors, constants, first, lane, count, g, d_shared, d_batched, scratch)
                elif comp[COMP_TYPE] == SPECTRUM:
                    chain_spectrum(*inputs, first, lane, count, g, d_shared, d_batched, scratch)
                else:
                    chain_product(*inputs, first, lane, count, g, d_shared, d_batched, scratch)
