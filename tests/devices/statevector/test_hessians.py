"""All second derivatives by shared angles at once: against sweeps along directions, and central differences."""

from dataclasses import replace

import numpy as np
import pytest

from qhybrid.execution import Needs
from qhybrid.program import (
    Angle,
    Evolution,
    Expectation,
    Gate,
    Observable,
    Preparation,
    Probabilities,
    Slots,
    State,
    Term,
    Variance,
)
from qhybrid_devices.statevector import executable as module
from qhybrid_devices.statevector import hessians
from qhybrid_devices.statevector.angle_tangents import STATE
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.hessians import ANGLES_OF_DIRECTION, GateAngles, products
from qhybrid_devices.statevector.idle_angles import idle_angles
from qhybrid_devices.statevector.reference import ReferenceExecutable
from tests.devices.statevector.conftest import REGISTERS, SWEEPS, TILES
from tests.devices.statevector.test_directions import difference, random_like

KINDS = ["pauli", "spectral", "spectral-diagonal"]
XYZ = Observable((Term(0.8, ((0, "X"), (2, "Y"))), Term(-0.5, ((1, "Z"),)), Term(0.3)))
#: Those in which a state is one tile, in registers unless a matrix on two wires comes in the way.
ONE_TILE = {"tile": TILES, "registers": replace(REGISTERS, row_bits=2)}


@pytest.fixture(params=ONE_TILE)
def mode(request):
    return request.param


@pytest.fixture
def options(mode):
    return ONE_TILE[mode]


@pytest.fixture
def used(monkeypatch):
    """Numbers of angles whose second derivatives were all taken at once."""
    counts, original = [], module.curvature

    def curvature(p, angles, cotangents):
        counts.append(len(angles))
        return original(p, angles, cotangents)

    monkeypatch.setattr(module, "curvature", curvature)
    return counts


def directions_of(rng, slots, count, still=()):
    """Random directions of the shared angles but some."""
    shared = rng.normal(size=(count, len(slots.shared)))
    shared[:, list(still)] = 0
    return Slots(shared, None, (None,) * len(slots.arrays), slots.batch_size)


def assert_same(executable, slots, tangents, needs, monkeypatch, atol):
    """The same results as a sweep along the directions, also where the cotangents move."""
    rng = np.random.default_rng(5)
    cotangents = tuple(random_like(rng, r) for r in executable.run(slots))
    moving = tuple(random_like(rng, c, (len(tangents.shared),)) for c in cotangents)
    for given in (None, moving):
        got = executable.second_order(slots, cotangents, tangents, given, needs)
        with monkeypatch.context() as patch:
            patch.setattr(GateAngles, "angles_for", lambda *args: None)
            wanted = executable.second_order(slots, cotangents, tangents, given, needs)
        for a, b in zip(got.results, wanted.results, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, atol=atol)
        asked = [i for i in range(len(slots.shared)) if needs.wants(Angle(i))]
        for a, b in ((got.cotangents, wanted.cotangents), (got.tangents, wanted.tangents)):
            assert (a.shared is None) == (not needs.shared) == (b.shared is None)
            if needs.shared:
                assert a.shared.dtype == b.shared.dtype
                np.testing.assert_allclose(a.shared[..., asked], b.shared[..., asked], atol=atol)
            assert a.batched is None
            assert b.batched is None


@pytest.mark.parametrize("c_dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("batch", [None, 11])
@pytest.mark.parametrize("seed", range(4))
def test_many_directions(build, mode, used, monkeypatch, seed, batch, c_dtype):
    """Gates of every kind, shared and batched, with controls; constant matrices, coefficients and repeated angles."""
    rng = np.random.default_rng(300 + seed)
    builder = build(rng, 5, batch)
    repeated = builder.angle()
    options = replace(ONE_TILE[mode], register_bits=3 if c_dtype == np.complex128 else 4, tile_bytes=1)
    for kind in rng.permutation([*KINDS, *KINDS, *KINDS, "fixed", "matrix", "diagonal", "evolution", "repeated"]):
        if kind == "repeated":
            for wire in (0, 2):
                operator = replace(builder.operator("pauli", 1, False), angle=repeated)
                builder.gates.append(Gate("repeated", (wire,), operator))
        else:
            width = 1 if mode == "registers" and kind != "pauli" else int(rng.integers(1, 3))
            builder.add(str(kind), width, int(rng.integers(0, 3)), bool(rng.integers(2)))
    number = builder.angle()
    scalars = (Expectation(XYZ), Variance(XYZ), Expectation(Observable((Term(number, ((3, "Y"),)),))))
    program, slots = builder.program(scalars, (Probabilities((1, 3)), State())), builder.values()
    still = sorted(GateAngles.of(program).others)
    assert {repeated.index, number.index} <= set(still)
    needs = Needs(batched=False, arrays=(False,) * len(program.arrays), constant=frozenset(map(Angle, still)))
    executable = StateVectorExecutable(program, c_dtype, options)
    count = len(GateAngles.of(program).ordered)
    assert_same(
        executable, slots, directions_of(rng, slots, count, still), needs, monkeypatch,
        1e-11 if c_dtype == np.complex128 else 2e-4,
    )  # fmt: skip
    assert used == [count, count]


@pytest.mark.parametrize("batch", [None, 3])
def test_against_differences(rng, build, options, used, batch):
    """The Hessian of a sum of results, by differences of the reference's gradients."""
    builder = build(rng, 5, batch)
    for _ in range(3):
        for wire in range(5):
            builder.gates.append(Gate("pauli", (wire,), builder.operator("pauli", 1, False)))
        builder.add("pauli", 2, 1)
        builder.add_fixed([[0, 1], [1, 0]], (1,), (0,), (True,))
        builder.add("pauli", 1, 0, batched=True)
    program, slots = builder.program((Expectation(XYZ), Variance(XYZ))), builder.values()
    executable, reference = StateVectorExecutable(program, options=options), ReferenceExecutable(program)
    needs, k = Needs(batched=False), len(slots.shared)
    cotangents = tuple(np.ones_like(r) for r in executable.run(slots))
    every = Slots(np.eye(k), None, (), slots.batch_size)

    def gradient(i, x):
        return (reference.vjp(replace(slots, shared=slots.shared + x * np.eye(k)[i]), cotangents, needs).shared,)

    got = executable.second_order(slots, cotangents, every, None, needs)
    assert used == [k - len(idle_angles(program))]
    for i in range(k):
        np.testing.assert_allclose(got.tangents.shared[i], difference(lambda x: gradient(i, x))[0], atol=1e-8)
    np.testing.assert_array_equal(got.tangents.shared, got.tangents.shared.T)
    np.testing.assert_allclose(got.cotangents.shared, gradient(0, 0.0)[0], atol=1e-12)


@pytest.mark.parametrize("batch", [None, 2])
def test_prepared_states(rng, build, options, used, monkeypatch, batch):
    builder = build(rng, 5, batch)
    amplitudes = random_like(rng, np.zeros(8, complex))
    ref = builder.array(lambda: amplitudes / np.linalg.norm(amplitudes), batched=True)
    for _ in range(6):
        builder.add("pauli", 2, 1)
    program, slots = builder.program((Expectation(XYZ),), (), Preparation((3, 0, 1), ref)), builder.values()
    executable = StateVectorExecutable(program, options=options)
    assert_same(executable, slots, directions_of(rng, slots, 6), Needs(False, False, (False,)), monkeypatch, 1e-12)
    assert_same(executable, slots, directions_of(rng, slots, 6), Needs(True, False, (False,)), monkeypatch, 1e-12)
    assert used == [6] * 4


def test_groups_of_samples(rng, build, used, monkeypatch):
    """Each group adds to the Hessian; a budget for fewer tangents leaves it to sweeps along directions."""
    builder = build(rng, 4, 5)
    for i in range(6):
        builder.add("pauli", 2, 0)
        builder.add("pauli", 1, 0, batched=i % 2 == 0)
    program, slots = builder.program((Expectation(XYZ),)), builder.values()
    tangents, needs = directions_of(rng, slots, len(slots.shared)), Needs(batched=False)
    for group, times in ((18 * 256, 3), (1, 0)):  # two samples, whose 9 tangents have 256 bytes each; none
        used.clear()
        executable = StateVectorExecutable(program, options=replace(TILES, group_bytes=group))
        assert_same(executable, slots, tangents, needs, monkeypatch, 1e-12)
        assert len(used) == 2 * times


@pytest.mark.parametrize("why", ["few directions", "batched", "arrays", "repeated", "evolution", "observable", "tiles"])
def test_left_to_sweeps_along_directions(rng, build, used, why):
    """Where it would be slower, or would not hold."""
    builder = build(rng, 5, 3)
    for _ in range(3):
        builder.add("pauli", 1, 0)
        builder.add("pauli", 1, 0, batched=True)
        builder.add("matrix", 1, 0)
    term = Term(builder.angle() if why == "observable" else 0.5, ((0, "Z"),))
    if why == "repeated":
        builder.gates.append(builder.gates[0])
    if why == "evolution":
        builder.add("evolution", 1, 0)
    program, slots = builder.program((Expectation(Observable((term,))),)), builder.values()
    needs = Needs(batched=why == "batched", arrays=(why == "arrays",) * len(program.arrays))
    executable = StateVectorExecutable(program, options=SWEEPS if why == "tiles" else TILES)
    count = -(-len(slots.shared) // ANGLES_OF_DIRECTION) - (why == "few directions")
    tangents = directions_of(rng, slots, max(count, 0))
    executable.second_order(slots, tuple(np.ones_like(r) for r in executable.run(slots)), tangents, None, needs)
    assert not used
    if why in ("batched", "arrays"):
        executable.second_order(
            slots, tuple(np.ones_like(r) for r in executable.run(slots)), tangents, None, replace(
                needs, batched=False, arrays=(False,) * len(program.arrays)
            ),
        )  # fmt: skip
        assert used


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 9, 5), (4, 8, 4), (6, 1, 17), (13, 0, 2), (5, 1200, 7)])
def test_products_of_rows(rng, shape):
    n, size, m = shape
    a, b = rng.normal(size=(n, size)), rng.normal(size=(m, size))
    np.testing.assert_allclose(products(a, b), a @ b.T, atol=1e-11)
    np.testing.assert_allclose(products(np.asfortranarray(a), b[:, ::-1]), a @ b[:, ::-1].T, atol=1e-11)


def test_angles_in_the_order_of_their_gates(rng, build):
    builder = build(rng, 3, 2)
    first, second, third = (builder.angle() for _ in range(3))
    for angle in (third, first, second, first):
        builder.gates.append(Gate("pauli", (0,), replace(builder.operator("pauli", 1, True), angle=angle)))
    time = builder.angle()
    terms = builder.operator("evolution", 1, False).terms
    builder.gates.append(Gate("evolve", (1,), Evolution(terms, time, (0.3, builder.angle(batched=True)))))
    found = GateAngles.of(builder.program((Expectation(XYZ),)))
    assert found.ordered.tolist() == [third.index, second.index]
    assert found.others == {first.index, time.index}


def test_all_tangents_of_lambda_end_in_the_middle(rng, build, options, used, monkeypatch):
    """Where so much comes after the last angle that it pays for all; and few sets of angles are remembered."""
    builder = build(rng, 4, None)
    builder.mix()
    for wire in range(4):
        builder.gates.append(Gate("pauli", (wire,), builder.operator("pauli", 1, False)))
    for _ in range(6):
        builder.mix()
    program, slots = builder.program((Expectation(XYZ),)), builder.values()
    executable = StateVectorExecutable(program, options=options)
    monkeypatch.setattr(hessians, "MOST_SCHEDULES", 2)
    for still in ((), (0,), (1,), (2,)):
        count = 4 - len(still)
        needs = Needs(batched=False, constant=frozenset(map(Angle, still)))
        assert_same(executable, slots, directions_of(rng, slots, count, still), needs, monkeypatch, 1e-12)
        assert used[-2:] == [count, count]
        (compiled,) = [c for c in executable._compiled.values() if c.schedules]
        assert len(compiled.schedules) <= 2
        assert [*compiled.schedules.values()][-1].early == count


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_tangents_that_end_in_the_middle(rng, build, options, used, monkeypatch, layers):
    """In deep circuits those of lambda along the first angles do; it is the same Hessian."""
    builder = build(rng, 5, None)
    for _ in range(layers):
        builder.mix()
        for wire in range(5):
            builder.gates.append(Gate("pauli", (wire,), builder.operator("pauli", 1, False)))
    if layers > 1:
        builder.mix()
    program, slots = builder.program((Expectation(XYZ),)), builder.values()
    executable, k = StateVectorExecutable(program, options=options), len(GateAngles.of(program).ordered)
    assert_same(executable, slots, directions_of(rng, slots, 5 * layers), Needs(batched=False), monkeypatch, 1e-12)
    assert used == [k, k]
    (compiled,) = [c for c in executable._compiled.values() if c.schedules]
    (schedule,) = compiled.schedules.values()
    assert (schedule.early > 0) == (layers > 1)
    assert schedule.early < k
    spared = (schedule.before.table[:, STATE] == 1).sum()
    assert spared == schedule.early
    assert len(schedule.after.table) == 2 * k - spared


def test_default_options(rng, build, used, monkeypatch):
    """As users run it: a state is one tile of registers, its lowest bits in lanes."""
    builder = build(rng, 7, None)
    for _ in range(3):
        for wire in range(7):
            builder.gates.append(Gate("pauli", (wire,), builder.operator("pauli", 1, False)))
            builder.add_fixed([[0, 1], [1, 0]], ((wire + 1) % 7,), (wire,), (True,))
        builder.add("pauli", 1, 2)
        builder.add("spectral", 1, 1)
    program, slots = builder.program((Expectation(XYZ), Variance(XYZ)), (Probabilities((5, 6)),)), builder.values()
    for c_dtype, atol in ((np.complex128, 1e-11), (np.complex64, 3e-4)):
        executable = StateVectorExecutable(program, c_dtype)
        count = len(slots.shared)
        assert_same(executable, slots, directions_of(rng, slots, count), Needs(), monkeypatch, atol)
        assert used == [count - len(idle_angles(program))] * 2
        used.clear()
