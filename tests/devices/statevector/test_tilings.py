"""How states are cut into tiles, and which operations share a sweep."""

from __future__ import annotations

import numpy as np
import pytest

from qhybrid.program import Angle, Constant, Fixed, Gate, PauliRotation
from qhybrid_devices.statevector.operations import Frame, LoweringOptions, Operation, lower_gates
from qhybrid_devices.statevector.plan import PlanOptions, _pairs, build_plan
from qhybrid_devices.statevector.table import DENSE, DIAGONAL, U2
from qhybrid_devices.statevector.tilings import Span, Tiling, schedule, sums

X = np.array([[0, 1], [1, 0]], complex)


def random_operations(rng, wires, count):
    """2x2 operations in a random frame, with some diagonals and dense matrices between them."""
    out = []
    for _ in range(count):
        kind = rng.choice([U2, U2, U2, DIAGONAL, DENSE])
        a, b = (int(w) for w in rng.permutation(wires)[:2])
        if kind == U2:
            x = int(rng.integers(1, 1 << wires))
            z = int(rng.integers(1 << wires))
            z ^= 0 if (x & z).bit_count() & 1 else x & -x
            out.append(Operation(U2, (a,), xmask=x, zmask=z))
        else:
            out.append(Operation(int(kind), (a, b)))
    return out


def commute(a, b):
    return all(((x & v).bit_count() + (z & u).bit_count()) % 2 == 0 for x, z in a.generators for u, v in b.generators)


@pytest.mark.parametrize("seed", range(8))
def test_span_is_the_space_of_sums(seed):
    vectors = np.random.default_rng(seed).integers(1, 64, 4).tolist()
    span = Span(vectors)
    everything = set(sums(vectors).tolist())
    assert len(everything) == 2 ** len(span)
    assert {v for v in range(64) if span.reduced(v) == 0} == everything
    basis = span.echelon()
    assert set(sums(basis).tolist()) == everything
    for v in basis:
        assert [u >> (v.bit_length() - 1) & 1 for u in basis] == [int(u == v) for u in basis]


@pytest.mark.parametrize("seed", range(8))
def test_schedules_keep_the_order_of_what_does_not_commute(seed):
    wires, row_bits = 7, 3
    operations = random_operations(np.random.default_rng(seed), wires, 40)
    sweeps = schedule(operations, wires, row_bits, register_bits=2)
    ordered = [op for _, own in sweeps for op in own]
    assert sorted(map(id, ordered)) == sorted(map(id, operations))
    place = {id(op): i for i, op in enumerate(ordered)}
    for i, a in enumerate(operations):
        for b in operations[i + 1 :]:
            assert commute(a, b) or place[id(a)] < place[id(b)]
    for tiling, own in sweeps:
        assert len(tiling.basis) == row_bits
        assert len(tiling.lane_bits) == 2
        index = (tiling.rows[:, None, None] ^ tiling.lanes[:, None] ^ tiling.tiles).reshape(-1)
        np.testing.assert_array_equal(np.sort(index), np.arange(2**wires))
        for x in (x for op in own for x in op.flips):
            assert tiling.rows[tiling.row(x)] ^ tiling.lanes[tiling.lane(x)] == x
        for op in own:
            if op.kind == DENSE:
                assert all(tiling.row(1 << b).bit_count() == 1 and not tiling.lane(1 << b) for b in op.targets)


def test_row_signs_are_parities():
    tiling = Tiling(6, Span([0b110100, 0b011000, 0b100100]).echelon(), (0, 1))
    for z in range(64):
        signs = tiling.row_signs(z)
        for j, index in enumerate(tiling.rows.tolist()):
            assert (j & signs).bit_count() % 2 == (index & z).bit_count() % 2


def test_a_dense_matrix_on_many_bits_gets_a_wider_tile_with_fewer_lanes():
    ((tiling, _),) = schedule([Operation(DENSE, (4, 3, 1, 0))], 5, row_bits=2, register_bits=3)
    assert (tiling.lane_bits, len(tiling.basis)) == ((2,), 4)


@pytest.mark.parametrize("x", range(8))
@pytest.mark.parametrize("z", range(8))
def test_every_pair_of_rows_is_met_once(x, z):
    first, second, fix, count = _pairs(x, z, 3)

    def row(q, odd):
        for below in (first, second):
            q = (q & below) | ((q & ~below) << 1)
        return q ^ (fix if (q & z).bit_count() % 2 != odd else 0)

    swaps = (x & z).bit_count() % 2 == 1
    seen = []
    for odd in range(1 if swaps else 2 if fix else 1):
        rows = [row(q, odd) for q in range(count)]
        assert all((j & z).bit_count() % 2 == odd for j in rows)
        seen += rows if x == 0 else [j for r in rows for j in (r, r ^ x)]
    assert sorted(seen) == list(range(8))


def test_few_sweeps():
    """Twenty wires, four entangling layers: the state is read a few times, not once a gate."""
    gates = []
    for layer in range(4):
        gates += [Gate("R", (w,), PauliRotation("Y", Angle(20 * layer + w))) for w in range(20)]
        gates += [Gate("C", ((w + layer + 1) % 20,), Fixed(Constant(X)), (w,), (True,)) for w in range(20)]
    operations, _ = lower_gates(gates, Frame.of_wires(20), (), LoweringOptions(absorb=True, restore=False))
    plan = build_plan(operations, 20, PlanOptions())
    assert len(plan.operations) == 80
    assert len(plan.sweeps) <= 5
