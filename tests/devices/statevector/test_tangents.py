"""Tangents of states and of matrix cotangents against dense matrices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from qhybrid.program import Diagonal, Matrix
from qhybrid_devices.externals import Values
from qhybrid_devices.statevector.engine import (
    CoefficientTangents,
    apply_plan,
    apply_tangents,
    coefficients,
    reverse_plan,
    reverse_tangents,
)
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, lower_gates
from qhybrid_devices.statevector.plan import build_plan
from qhybrid_devices.statevector.table import (
    COTANGENT,
    DENSE,
    DIAGONAL,
    FLIP,
    FORM,
    FREE,
    KIND,
    LANES,
    PARAM,
    PAULI,
    U2,
)

KINDS = ["fixed", "pauli", "spectral", "spectral-diagonal", "evolution", "matrix", "diagonal"]


# ------------------------------------------------------------------ the reference


def met(op, j):
    return j & op.cmask == op.cval


def parity(x):
    return x.bit_count() & 1


def entries(op, n):
    """Row, column and number of the coefficient of each entry that depends on one."""
    out = []
    for j in filter(lambda j: met(op, j), range(1 << n)):
        if op.kind in (DIAGONAL, DENSE):
            b = int("0" + "".join(str(j >> t & 1) for t in op.targets), 2)
            if op.kind == DIAGONAL:
                out.append((j, j, b))
                continue
            k, rest = len(op.targets), j & ~sum(1 << t for t in op.targets)
            for a in range(1 << k):
                row = rest | sum((a >> (k - 1 - i) & 1) << t for i, t in enumerate(op.targets))
                out.append((row, j, a << k | b))
        else:
            second = parity(j & op.zmask)
            out += [(j, j, 3 * second), (j, j ^ op.xmask, 1 + second)]
    return np.array(out).T


def word(op, n):
    """The Pauli word of a rotation, zero where controls are not met."""
    out = np.zeros((1 << n, 1 << n), complex)
    for j in filter(lambda j: met(op, j), range(1 << n)):
        out[j ^ op.xmask, j] = 1j**op.num_y * (-1) ** parity(j & op.zmask)
    return out


def matrix(op, numbers, n, change=False):
    """The matrix of an operation, or how it changes with its coefficients."""
    z = np.ascontiguousarray(numbers, float).view(complex)
    out = np.diag([0j if change or met(op, j) else 1 for j in range(1 << n)])
    if op.kind == PAULI:
        within = np.diag([complex(met(op, j)) for j in range(1 << n)])
        return out + z[0].real * within - 1j * z[0].imag * word(op, n)
    rows, columns, which = entries(op, n)
    if op.kind == FLIP:
        z = np.array([0, 1, 1, 0]) * (not change)
    out[rows, columns] = z[which]
    return out


def cotangent(op, bra, ket, n):
    """The matrix cotangent, real numbers."""
    if op.kind == PAULI:
        return np.array([np.vdot(bra, word(op, n) @ ket).imag])
    rows, columns, which = entries(op, n)
    out = np.zeros(op.num_coefficients, complex)
    np.add.at(out, which, bra[rows].conj() * ket[columns])
    return out.view(float)


# ------------------------------------------------------------------ a case


@dataclass
class Case:
    """A plan with coefficients and ``k`` random derivatives of them."""

    plan: object
    layout: object
    coef: object
    dcoef: CoefficientTangents
    moving: np.ndarray
    want: np.ndarray
    rng: np.random.Generator

    @property
    def n(self):
        return self.layout.num_wires

    @property
    def k(self):
        return len(self.dcoef.shared)

    def numbers(self, i, sample, direction=None):
        """Coefficients of operation ``i``, or their derivatives; zero for those that do not move."""
        row, source = self.plan.ops[i], self.coef if direction is None else self.dcoef
        part = slice(row[PARAM], row[PARAM] + 2 * self.plan.operations[i].num_coefficients)
        c, t = divmod(sample, self.layout.lanes)
        if direction is None:
            return source.lanes[c, part, t] if row[FORM] == LANES else source.shared[part]
        got = source.lanes[direction, c, part, t] if row[FORM] == LANES else source.shared[direction, part]
        return got * self.moving[i]

    def matrices(self, sample):
        return [matrix(op, self.numbers(i, sample), self.n) for i, op in enumerate(self.plan.operations)]

    def changes(self, sample, direction):
        return [
            matrix(op, self.numbers(i, sample, direction), self.n, change=True)
            for i, op in enumerate(self.plan.operations)
        ]

    def random(self, *front):
        out = np.zeros((*front, *self.layout.shape), self.layout.dtype)
        return self.write(out, self.rng.normal(size=(*front, self.layout.count, 1 << self.n, 2)) @ [1, 1j])

    def write(self, out, states):
        for s in range(self.layout.count):
            c, t = divmod(s, self.layout.lanes)
            out[..., c, 0, :, t] = states[..., s, :].real
            out[..., c, 1, :, t] = states[..., s, :].imag
        return out

    def read(self, planes):
        """States ``(..., samples, 2**n)``."""
        z = planes[..., 0, :, :] + 1j * planes[..., 1, :, :]  # (..., C, N, L)
        z = np.moveaxis(z, -1, -2)
        return z.reshape(*z.shape[:-3], -1, 1 << self.n)[..., : self.layout.count, :]

    def g(self, i, cotangents, sample):
        """The matrix cotangent of operation ``i``; of a shared one, that of all samples."""
        row, op = self.plan.ops[i], self.plan.operations[i]
        part = slice(row[COTANGENT], row[COTANGENT] + (1 if op.kind == PAULI else 2 * op.num_coefficients))
        c, t = divmod(sample, self.layout.lanes)
        return cotangents.lanes[..., c, part, t] if row[FORM] == LANES else cotangents.shared[..., part]

    def seen(self, i, g, sample):
        """What changes of operation ``i`` can see of a matrix cotangent: with a 2x2 that stays unitary, only a part."""
        if self.plan.ops[i, KIND] != U2 or self.plan.ops[i, FREE]:
            return g
        u, z = (two_by_two(x) for x in (self.numbers(i, sample), g))
        m = z @ u.T
        return (m - m.conj().T) @ u.conj() / 2

    def seen_tangent(self, i, g, dg, direction, sample):
        """The tangent of :meth:`seen` along a direction."""
        if self.plan.ops[i, KIND] != U2 or self.plan.ops[i, FREE]:
            return dg
        u, du, z, dz = (two_by_two(x) for x in (self.numbers(i, sample), self.numbers(i, sample, direction), g, dg))
        m, dm = z @ u.T, dz @ u.T + z @ du.T
        return ((dm - dm.conj().T) @ u.conj() + (m - m.conj().T) @ du.conj()) / 2


def two_by_two(numbers):
    """Real and imaginary parts as a matrix."""
    return np.ascontiguousarray(numbers, float).view(complex).reshape(2, 2)


def derivatives(plan, coef, k, rng):
    """Random derivatives of coefficients: of rotations along their angle, of given arrays in any direction."""
    shapes = (k, *coef.shared.shape), (k, *coef.lanes.shape)
    out = [rng.normal(size=shape).astype(coef.shared.dtype) for shape in shapes]
    for row, op in zip(plan.ops, plan.operations, strict=True):
        m, dm = (coef.lanes, out[1]) if row[FORM] == LANES else (coef.shared[None, :, None], out[0][:, None, :, None])
        part = slice(row[PARAM], row[PARAM] + 2 * op.num_coefficients)
        if isinstance(op.external, Matrix | Diagonal) or op.composition is op.external is None:
            continue
        dim = op.num_coefficients if op.kind in (PAULI, DIAGONAL) else 1 << len(op.targets)
        z = np.moveaxis(m[:, part], 1, -1)
        z = np.ascontiguousarray(z, float).view(complex)  # (C, L, entries)
        h = rng.normal(size=(k, *z.shape[:2], dim, dim, 2)) @ [1, 1j]
        h = h + np.swapaxes(h.conj(), -1, -2)
        if op.kind in (PAULI, DIAGONAL):
            dz = 1j * np.diagonal(h, axis1=-2, axis2=-1).real * z
        else:
            dz = (1j * h @ z.reshape(*z.shape[:2], dim, dim)).reshape(k, *z.shape)
        dm[:, :, part] = np.moveaxis(np.ascontiguousarray(dz).view(float), -1, 2)
    return CoefficientTangents(*out)


def make(builder, k, options, c_dtype=np.complex128, from_zeros=False):
    program, slots = builder.program(), builder.values()
    executable = StateVectorExecutable(program, c_dtype, replace(options, parallel_work=0))
    values, count = Values.of(program, slots)
    layout = executable._layout(count)
    tiles = None if layout.tile else options
    lowering = LoweringOptions(absorb=True, restore=False, fuse_mixed=not layout.tile)
    operations, _ = lower_gates(program.gates, Frame.of_wires(program.num_wires), program.arrays, lowering)
    plan = build_plan(operations, program.num_wires, tiles, from_zeros)
    coef = coefficients(plan, layout, values)
    rng, parametric = builder.rng, [op.composition is not None or op.external is not None for op in plan.operations]
    moving = np.array(parametric, bool) & (rng.random(len(parametric)) < 0.9)
    want = np.array(parametric, bool) & (rng.random(len(parametric)) < 0.9)
    return Case(plan, layout, coef, derivatives(plan, coef, k, rng), moving, want, rng)


def forward(case, psi, chi):
    """The reference for ``apply_tangents``."""
    for s in range(case.layout.count):
        us = case.matrices(s)
        for d in range(case.k):
            state, tangent = psi[s], chi[d, s]
            for u, du in zip(us, case.changes(s, d), strict=True):
                state, tangent = u @ state, u @ tangent + du @ state
            chi[d, s] = tangent
        for u in us:
            psi[s] = u @ psi[s]


def assert_forward(case, atol, zeros=False):
    psi, chi = case.random(), case.random(case.k)
    if zeros:
        psi[...], chi[...] = 0, 0
        psi[:, 0, 0] = 1
    plain = psi.copy()
    expected = case.read(psi), case.read(chi)
    forward(case, *expected)
    apply_plan(case.plan, case.layout, plain, case.coef)
    if zeros:
        chi[...] = np.nan
    given, free = (case.coef, case.dcoef, case.moving, zeros), (psi.copy(), chi.copy())
    apply_tangents(case.plan, case.layout, psi, chi, *given)
    np.testing.assert_allclose(case.read(psi), expected[0], atol=atol)
    np.testing.assert_allclose(case.read(chi), expected[1], atol=atol)
    np.testing.assert_allclose(psi, plain, atol=atol)
    apply_tangents(case.plan, case.layout, *free, *given, phase_free=True)
    np.testing.assert_allclose(free[0], psi, atol=atol)
    kets, left_out = case.read(psi), case.read(chi) - case.read(free[1])
    phases = (kets.conj() * left_out).sum(-1).imag / (abs(kets) ** 2).sum(-1)
    np.testing.assert_allclose(left_out, 1j * phases[..., None] * kets, atol=atol)


def assert_reverse(case, atol, stop=0):
    n, count, total, want = case.n, case.layout.count, len(case.plan.operations), case.want
    psi, chi, lam, dlam = case.random(), case.random(case.k), case.random(), case.random(case.k)
    kets, tangents, bras, changes = (case.read(x) for x in (psi, chi, lam, dlam))
    product = stop < len(case.plan.product_bits)  # from zeros; the states are used up
    if product:
        kets[...], tangents[...] = np.eye(1 << n)[0], 0
    shared, own = {}, {}
    for s in range(count):
        us = case.matrices(s)
        # States at each position: psi and chi forward from ``stop``, lambda and its tangents backward to it.
        along = [kets[s]]
        for u in us[stop:]:
            along.append(u @ along[-1])
        back = [bras[s]]
        for u in us[stop:][::-1]:
            back.append(u.conj().T @ back[-1])
        back.reverse()
        for d in range(case.k):
            dus = case.changes(s, d)
            chis = [tangents[d, s]]
            for i in range(stop, total):
                chis.append(us[i] @ chis[-1] + dus[i] @ along[i - stop])
            dlams = [changes[d, s]]
            for i in range(total - 1, stop - 1, -1):
                dlams.append(us[i].conj().T @ dlams[-1] + dus[i].conj().T @ back[i + 1 - stop])
            dlams.reverse()
            for i in np.flatnonzero(want[stop:]) + stop:
                op, at = case.plan.operations[i], i - stop + (case.plan.operations[i].kind == PAULI)
                g = cotangent(op, back[i - stop + 1], along[at], n)
                dg = cotangent(op, dlams[i - stop + 1], along[at], n)
                dg = dg + cotangent(op, back[i - stop + 1], chis[at], n)
                if case.plan.ops[i, FORM] == LANES:
                    own[i, s, d] = g, dg
                else:
                    before = shared.get((i, d), (0, 0))
                    shared[i, d] = before[0] + g, before[1] + dg
            _put(case, chi[d], s, chis[-1])
            changes[d, s] = dlams[0]
        _put(case, psi, s, along[-1])
        bras[s] = back[0]
    alone = psi.copy(), lam.copy()
    g, dg = reverse_tangents(
        case.plan, case.layout, psi, chi, lam, dlam, case.coef, case.dcoef, case.moving, want, stop,
        np.full(len(chi), -1),
    )  # fmt: skip
    for got, wanted in () if product else ((psi, kets), (chi, tangents), (lam, bras), (dlam, changes)):
        np.testing.assert_allclose(case.read(got), wanted, atol=atol)
    everything = [((i, 0, d), pair) for (i, d), pair in shared.items()] + [*own.items()]
    for (i, s, d), (first, second) in everything:
        found, tangent = case.g(i, g, s), case.g(i, dg, s)[d]
        np.testing.assert_allclose(case.seen(i, found, s), case.seen(i, first, s), atol=4 * atol)
        got, wanted = case.seen_tangent(i, found, tangent, d, s), case.seen_tangent(i, first, second, d, s)
        np.testing.assert_allclose(got, wanted, atol=4 * atol)
    plain = reverse_plan(case.plan, case.layout, *alone, case.coef, want, stop)
    for i, s in itertools.product(np.flatnonzero(want[stop:]) + stop, range(count)):
        got, expected = (case.seen(i, case.g(i, found, s), s) for found in (plain, g))
        np.testing.assert_allclose(got, expected, atol=4 * atol)


def assert_births(case, atol):
    """Tangents that begin as zeros need not be un-computed to where they began."""
    psi, chi = case.random(), case.random(case.k)
    psi[...], chi[...] = 0, 0
    psi[:, 0, 0] = 1
    births = apply_tangents(case.plan, case.layout, psi, chi, case.coef, case.dcoef, case.moving, from_zeros=True)
    ends, given = (psi, chi, case.random(), case.random(case.k)), (case.coef, case.dcoef, case.moving, case.want, 0)

    def reverse(births):
        return reverse_tangents(case.plan, case.layout, *[x.copy() for x in ends], *given, births)

    (all_g, all_dg), (g, dg) = reverse(np.full(case.k, -1)), reverse(births)
    for s, (i, d) in itertools.product(range(case.layout.count), np.ndindex(len(case.plan.operations), case.k)):
        if case.want[i]:
            one, two = ((case.g(i, x, s), case.g(i, dx, s)[d]) for x, dx in ((g, dg), (all_g, all_dg)))
            np.testing.assert_allclose(case.seen(i, one[0], s), case.seen(i, two[0], s), atol=atol)
            got, wanted = (case.seen_tangent(i, *pair, d, s) for pair in (one, two))
            np.testing.assert_allclose(got, wanted, atol=atol)
    return births


def _put(case, planes, sample, state):
    c, t = divmod(sample, case.layout.lanes)
    planes[c, 0, :, t], planes[c, 1, :, t] = state.real, state.imag


# ------------------------------------------------------------------ tests


@pytest.fixture(params=[None, "4096"], ids=["one group", "groups"])
def groups(request, monkeypatch):
    """A cache for all directions, or for one at a time."""
    if request.param:
        monkeypatch.setenv("QHYBRID_CACHE_BYTES", request.param)


@pytest.mark.parametrize("batched", [None, False, True])
@pytest.mark.parametrize("controls", [0, 2])
@pytest.mark.parametrize("width", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_gate_kinds(rng, build, options, kind, width, controls, batched):
    """Every operator, with any controls, shared or of each sample."""
    builder = build(rng, 5, None if batched is None else 3)
    builder.add(kind, width, controls, bool(batched))
    builder.mix()
    builder.add(kind, width, controls, bool(batched))
    case = make(builder, 2, options)
    assert_forward(case, 1e-11)
    assert_reverse(case, 1e-11)


@pytest.mark.parametrize("c_dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("batch", [None, 11])
def test_random_programs(build, options, groups, batch, k, c_dtype):
    rng = np.random.default_rng(k)
    builder = build(rng, 4, batch)
    for _ in range(14):
        builder.add(str(rng.choice(KINDS)), int(rng.integers(0, 3)), int(rng.integers(0, 2)), bool(rng.integers(2)))
    case = make(builder, k, options, c_dtype)
    atol = 1e-10 if c_dtype == np.complex128 else 2e-3
    assert_forward(case, atol)
    assert_reverse(case, atol)
    assert_reverse(case, atol, stop=len(case.plan.operations) // 2)


@pytest.mark.parametrize("batch", [None, 11])
@pytest.mark.parametrize("from_zeros", [False, True])
def test_zeros_to_begin_with(build, options, groups, from_zeros, batch):
    """Each direction moves one operation, as in a Jacobian; the last one moves all of them, the first nothing."""
    rng = np.random.default_rng(5)
    builder, k = build(rng, 4, batch), 10
    for kind, width in zip((*KINDS, "pauli"), (1, 1, 1, 1, 1, 2, 2, 1), strict=True):
        builder.add(kind, width, 0, bool(rng.integers(2)))
    case = make(builder, k, options, from_zeros=from_zeros)
    assert (len(case.plan.product_bits) > 2) == (from_zeros and case.layout.tile)
    for row, i in zip(case.plan.ops, range(len(case.plan.ops)), strict=True):
        others = ~np.isin(np.arange(k), (1 + i, k - 1))
        part = slice(row[PARAM], row[PARAM] + 2 * case.plan.operations[i].num_coefficients)
        if row[FORM] == LANES:
            case.dcoef.lanes[others, :, part] = 0
        else:
            case.dcoef.shared[others, part] = 0
    assert_forward(case, 1e-11, zeros=True)
    assert_reverse(case, 1e-11)
    births = assert_births(case, 1e-11)
    assert len(set(births)) > 4


@pytest.mark.parametrize("batch", [None, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_products(build, options, groups, kind, batch):
    """Operations of one kind on one bit each, shared and of each sample, and something after them."""
    builder = build(np.random.default_rng(6), 3, batch)
    for batched in (False, True, True, False):
        builder.add(kind, 1, 0, batched)
    builder.mix()
    case = make(builder, 2, options, from_zeros=True)
    assert_forward(case, 1e-11, zeros=True)
    assert_reverse(case, 1e-11)


def test_no_operations(rng, build, options):
    case = make(build(rng, 3, None), 2, options)
    assert_forward(case, 0)
    assert_reverse(case, 0)
    assert_forward(case, 0, zeros=True)
