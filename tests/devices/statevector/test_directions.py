"""Derivatives along directions: against central differences of the dense reference, and against shift rules."""

from dataclasses import replace

import numpy as np
import pytest

from qhybrid.errors import DeviceError
from qhybrid.execution import Circuit, Needs, Wanted
from qhybrid.gradients import Adjoint
from qhybrid.gradients.base import shifted_jvp, shifted_second_order
from qhybrid.program import (
    Angle,
    Constant,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Observable,
    PauliRotation,
    Preparation,
    Probabilities,
    Slots,
    State,
    Term,
    Variance,
)
from qhybrid_devices.statevector import engine, hessians, measurement_tangents, memory, preparation
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.plan import PlanOptions
from qhybrid_devices.statevector.reference import ReferenceExecutable
from qhybrid_devices.statevector.sample_gradients import gradients_pay
from tests.devices.statevector.conftest import MODES

KINDS = ["fixed", "pauli", "spectral", "spectral-diagonal", "evolution", "matrix", "diagonal"]
ANGLE_KINDS = ["fixed", "pauli", "spectral", "spectral-diagonal"]
XYZ = Observable((Term(0.8, ((0, "X"), (2, "Y"))), Term(-0.5, ((1, "Z"),)), Term(0.3)))
SWAP = np.eye(4)[[0, 2, 1, 3]]


def random_like(rng, array, lead=()):
    shape = (*lead, *np.shape(array))
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if np.iscomplexobj(array) else 0)


def random_tangents(rng, slots, k):
    batched = None if slots.batched is None else random_like(rng, slots.batched, (k,))
    arrays = tuple(random_like(rng, np.asarray(a, complex), (k,)) for a in slots.arrays)
    return Slots(random_like(rng, slots.shared, (k,)), batched, arrays, slots.batch_size)


def one_direction(tangents, i):
    batched = None if tangents.batched is None else tangents.batched[i : i + 1]
    return Slots(tangents.shared[i : i + 1], batched, tuple(a[i : i + 1] for a in tangents.arrays), tangents.batch_size)


def shifted(slots, tangents, i, step):
    batched = slots.batched if tangents.batched is None else slots.batched + step * tangents.batched[i]
    arrays = [a if t is None else a + step * t[i] for a, t in zip(slots.arrays, tangents.arrays, strict=True)]
    return Slots(slots.shared + step * tangents.shared[i], batched, tuple(arrays), slots.batch_size)


def difference(function, h=1e-4):
    """The derivative of a tuple of arrays at zero, exact to the fourth order."""
    parts = zip(*(function(x * h) for x in (1, -1, 2, -2)), strict=True)
    return [None if a is None else (8 * (a - b) - (c - d)) / (12 * h) for a, b, c, d in parts]


def flat(slots):
    return (slots.shared, slots.batched, *slots.arrays)


def assert_tangents(got, wanted, atol):
    """Direction ``i`` of the arrays ``got`` is in the list ``wanted[i]``."""
    for i, arrays in enumerate(wanted):
        for a, b in zip(got, arrays, strict=True):
            assert a is None or len(a) == len(wanted)
            assert (a is None) == (b is None)
            if a is not None:
                assert a[i].shape == b.shape
                np.testing.assert_allclose(a[i], b, atol=atol)


def check(program, slots, *modes, k=1, c_dtype=np.complex128, atol=1e-8):
    """Everything along ``k`` random directions agrees with differences of the reference, in each mode."""
    rng = np.random.default_rng(11)
    reference, tangents = ReferenceExecutable(program), random_tangents(rng, slots, k)
    cotangents = tuple(random_like(rng, r) for r in reference.run(slots))
    d_cotangents = tuple(random_like(rng, c, (k,)) for c in cotangents)
    needs = Needs(arrays=(True,) * len(program.arrays))

    def gradient(i, x):
        own = tuple(c + x * dc[i] for c, dc in zip(cotangents, d_cotangents, strict=True))
        return flat(reference.vjp(shifted(slots, tangents, i, x), own, needs))

    results = [difference(lambda x: reference.run(shifted(slots, tangents, i, x))) for i in range(k)]
    gradients = [difference(lambda x: gradient(i, x)) for i in range(k)]
    for options in modes or MODES.values():
        executable = StateVectorExecutable(program, c_dtype, options)
        assert_tangents(executable.jvp(slots, tangents), results, atol)
        values, moves = executable.run_with_tangents(slots, tangents)
        assert_tangents(moves, results, atol)
        for a, b in zip(values, reference.run(slots), strict=True):
            np.testing.assert_allclose(a, b, atol=atol)
        got = executable.second_order(slots, cotangents, tangents, d_cotangents, needs)
        assert_tangents(got.results, results, atol)
        assert_tangents(flat(got.tangents), gradients, atol)
        first = [None if a is None else a[None] for a in flat(got.cotangents)]
        assert_tangents(first, [gradient(0, 0.0)], atol)


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("width", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_gate_kinds(rng, build, kind, width, batch):
    """Every operator, with and without controls, shared and batched."""
    builder = build(rng, 4, batch)
    builder.mix()
    builder.add(kind, width, 0)
    builder.add(kind, width, 1, batched=True)
    builder.mix()
    builder.add(kind, width, 2, batched=True)
    check(builder.program((Expectation(XYZ),), (State(),)), builder.values())


@pytest.mark.parametrize(("batch", "k"), [(None, 3), (1, 1), (9, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_random_programs(build, seed, batch, k):
    """Everything at once: gates, arrays, coefficients, all kinds of measurements."""
    rng = np.random.default_rng(seed)
    builder = build(rng, 3, batch)
    for _ in range(8):
        builder.add(str(rng.choice(KINDS)), int(rng.integers(0, 3)), int(rng.integers(0, 2)), bool(rng.integers(2)))
        if rng.random() < 0.3:
            builder.add_fixed(SWAP, tuple(int(w) for w in rng.permutation(3)[:2]))
    number = builder.angle(batched=bool(seed % 2))
    matrix = builder.array(lambda: np.diag(rng.normal(size=2)), batched=bool(seed % 3))
    observable = Observable((Term(number, ((2, "Z"), (1, "Y"))), Term(0.5, ((0, "X"),), (((2,), matrix),))))
    scalars = (Expectation(observable), Variance(observable), Variance(Observable((Term(number, ((0, "Z"),)),))))
    check(builder.program(scalars, (Probabilities((2, 0)), State())), builder.values(), k=k)


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_cnots_between_everything(build, seed, batch):
    """CNOTs may be absorbed into the meaning of bits; measured are words only, so that nothing need be restored."""
    rng = np.random.default_rng(100 + seed)
    builder = build(rng, 4, batch)
    for _ in range(8):
        builder.add(str(rng.choice(["pauli", "matrix"])), int(rng.integers(1, 3)), 0, bool(rng.integers(2)))
        control, target = (int(w) for w in rng.permutation(4)[:2])
        builder.add_fixed([[0, 1], [1, 0]], (target,), (control,), (bool(rng.random() < 0.9),))
    number = builder.angle(batched=True)
    words = tuple(Term(number, tuple(zip(range(4), rng.choice(list("XYZ"), 4), strict=True))) for _ in range(2))
    observables = Observable((Term(0.8, ((1, "Y"), (3, "Z"))), *words)), Observable(words[:1])
    scalars = [m(o) for o in observables for m in (Expectation, Variance)]
    check(builder.program(scalars), builder.values(), k=2)


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_one_qubit_gates(rng, build, kind, batch):
    """Fused products of shared and batched factors; a product state to the end."""
    builder = build(rng, 3, batch)
    for wire in (0, 1, 2, 1, 2):
        for batched in (True, False):
            builder.gates.append(Gate(kind, (wire,), builder.operator(kind, 1, batched)))
            builder.gates.append(Gate("fixed", (wire,), builder.operator("fixed", 1, batched)))
    observable = Observable((Term(0.7, ((0, "Z"), (1, "X"), (2, "Y"))),))
    check(builder.program((Expectation(observable), Variance(observable))), builder.values(), k=2)


@pytest.mark.parametrize("batch", [None, 2])
def test_evolution_with_equal_energies(rng, build, batch):
    """Divided differences of close and of equal eigenvalues."""
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    builder = build(rng, 2, batch)
    builder.mix()
    for terms in ([np.kron(z, z), np.kron(x, x)], [np.kron(z, np.eye(2)), 1e-7 * np.kron(x, z)]):
        time, first, second = builder.angle(), builder.angle(batched=True), builder.angle()
        builder.gates.append(Gate("evolve", (1, 0), Evolution(Constant(np.array(terms)), time, (first, second))))
    observable = Observable((Term(0.7, ((0, "Y"),)), Term(0.4, ((0, "X"), (1, "Z")))))
    check(builder.program((Expectation(observable),)), builder.values(), k=2)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("wires", [(0, 1, 2, 3), (2,), (3, 1)])
def test_preparation(rng, build, wires, batch):
    builder = build(rng, 4, batch)
    amplitudes = random_like(rng, np.zeros(2 ** len(wires), complex))
    ref = builder.array(lambda: amplitudes / np.linalg.norm(amplitudes), batched=True)
    for gates in (False, True):
        if gates:
            builder.add("pauli", 2, 1, batched=True)
            builder.add_fixed(SWAP, (0, 3))
        program = builder.program((Expectation(XYZ),), (State(),), Preparation(wires, ref))
        check(program, builder.values(), k=2)


@pytest.mark.parametrize("batch", [None, 3])
def test_observables(rng, build, batch):
    """Words, matrices, trainable coefficients and matrices, expectation values and variances."""
    builder = build(rng, 4, batch)
    builder.mix()
    builder.add("pauli", 2, batched=True)
    hermitian = np.array([[1.0, 2 - 1j], [2 + 1j, -0.5]])
    ref = builder.array(lambda: np.kron(hermitian, hermitian) / 5 + np.diag(rng.normal(size=4)), batched=True)
    small = builder.array(lambda: hermitian + np.diag(rng.normal(size=2)))
    terms = (
        Term(builder.angle(), ((0, "X"), (3, "Y"))),
        Term(builder.angle(batched=True), ((1, "Z"),), (((2,), Constant(hermitian)),)),
        Term(0.4, (), (((3, 0), ref), ((1,), small), ((2,), small))),
        Term(-1.5),
    )
    scalars = [Expectation(Observable(terms)), Variance(Observable(terms))]
    scalars += [m(Observable((t,))) for t in terms for m in (Expectation, Variance)]
    check(builder.program(scalars), builder.values(), k=2, atol=1e-6)


def test_probabilities_in_a_basis(rng, build):
    builder = build(rng, 3, 2)
    builder.mix()
    builder.add("pauli", 1, batched=True)
    builder.mix()
    hadamard = Gate("b", (0,), Fixed(Constant(np.array([[1, 1], [1, -1]]) / np.sqrt(2))))
    tensors = (Probabilities((2, 0)), Probabilities((0, 1), (hadamard,)), Probabilities((0, 1, 2)))
    check(builder.program((), tensors), builder.values(), k=2)


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("seed", range(4))
def test_shift_rules(build, options, seed, batch):
    """Angles and coefficients: exact to rounding."""
    rng = np.random.default_rng(seed)
    builder = build(rng, 4, batch)
    for _ in range(12):
        kind = str(rng.choice(ANGLE_KINDS))
        builder.add(kind, int(rng.integers(1, 3)), int(rng.integers(0, 2)), bool(rng.integers(2)))
    number = builder.angle(batched=True)
    observable = Observable((Term(number, ((0, "X"), (2, "Y"))), Term(-0.5, ((1, "Z"),))))
    scalars = (Expectation(observable), Variance(observable), Variance(Observable((Term(number, ((3, "X"),)),))))
    program, slots = builder.program(scalars, (Probabilities((1, 3)), State())), builder.values()
    executable = StateVectorExecutable(program, options=options)
    tangents = random_tangents(rng, slots, 2)
    cotangents = tuple(random_like(rng, r) for r in executable.run(slots))
    needs = Needs()
    got = executable.second_order(slots, cotangents, tangents, None, needs)
    circuit = Circuit(program, lambda p: StateVectorExecutable(p, options=options))
    wanted = shifted_second_order(
        Adjoint(), circuit, slots, cotangents, tangents, None, needs, Wanted(False, False)
    ).tangents
    for results in (got.results, executable.jvp(slots, tangents)):
        for a, b in zip(results, shifted_jvp(circuit, slots, tangents), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)
    np.testing.assert_allclose(got.tangents.shared, wanted.shared, atol=1e-10)
    if slots.batched is not None:
        np.testing.assert_allclose(got.tangents.batched, wanted.batched, atol=1e-10)


@pytest.mark.parametrize("c_dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("seed", range(2))
def test_few_results_along_many_directions(build, options, seed, batch, c_dtype):
    """By way of gradients, the same as one direction at a time, which is not."""
    rng = np.random.default_rng(200 + seed)
    builder = build(rng, 4, batch)
    for kind in (*KINDS, *KINDS):
        builder.add(kind, int(rng.integers(0, 3)), int(rng.integers(0, 2)), bool(rng.integers(2)))
    hermitian = Constant(np.array([[1.0, 2 - 1j], [2 + 1j, -0.5]]))
    matrices = Observable((Term(0.5, ((0, "X"),), (((2,), hermitian),)), Term(0.3, ((1, "Z"),))))
    program, slots = builder.program((Expectation(XYZ), Variance(XYZ), Expectation(matrices))), builder.values()
    tangents = random_tangents(rng, slots, 9)
    tangents.shared[:, 0] = 0  # some gates may not move
    assert gradients_pay(program, 9)
    assert not gradients_pay(program, 1)
    executable = StateVectorExecutable(program, c_dtype, options)
    (got,) = executable.jvp(slots, tangents)
    assert got.dtype == executable.real_dtype
    for i in range(9):
        (wanted,) = executable.jvp(slots, one_direction(tangents, i))
        np.testing.assert_allclose(got[i], wanted[0], atol=1e-10 if c_dtype == np.complex128 else 3e-4)


@pytest.mark.parametrize("batch", [None, 5])
def test_nothing_moves(rng, build, options, batch):
    builder = build(rng, 3, batch)
    builder.mix()
    builder.add("pauli", 1, batched=True)
    program, slots = builder.program((Expectation(XYZ),)), builder.values()
    tangents = Slots(np.zeros((4, *slots.shared.shape)))
    (got,) = StateVectorExecutable(program, options=options).jvp(slots, tangents)
    np.testing.assert_array_equal(got, np.zeros((4, 1) if batch is None else (4, batch, 1)))


@pytest.mark.parametrize("batch", [None, 5])
def test_a_direction_along_which_nothing_moves(rng, build, options, batch):
    """It has no cotangents, and takes nothing from those of the others."""
    builder = build(rng, 3, batch)
    builder.mix()
    for _ in range(6):
        builder.add("pauli", 1)
    program, slots = builder.program((Expectation(XYZ),)), builder.values()
    executable = StateVectorExecutable(program, options=options)
    cotangents = tuple(random_like(rng, r) for r in executable.run(slots))
    moves = random_like(rng, slots.shared, (3,))
    moves[1] = 0

    def along(directions):
        return executable.second_order(slots, cotangents, Slots(directions, None, (), batch), None, Needs())

    got, others = along(moves), along(moves[[0, 2]])
    np.testing.assert_array_equal(got.tangents.shared[1], 0)
    np.testing.assert_allclose(got.tangents.shared[[0, 2]], others.tangents.shared, atol=1e-13)
    np.testing.assert_allclose(got.results[0][[0, 2]], others.results[0], atol=1e-13)


@pytest.fixture
def guarded(monkeypatch):
    """Memory of states with a margin on both sides, which nothing may write to; gives what was allocated."""
    margin, given = 2048, []

    def allocate(shape, dtype):
        room = np.full(int(np.prod(shape)) + 2 * margin, 7.25, dtype)
        given.append(room)
        return room[margin:-margin].reshape(shape)

    for module in (engine, hessians, measurement_tangents, preparation):
        monkeypatch.setattr(module, "register_array", allocate)
    yield
    assert given
    for room in given:
        assert np.all(room[:margin] == 7.25)
        assert np.all(room[-margin:] == 7.25)


@pytest.mark.parametrize(("wires", "batch"), [(5, 40), (6, 24), (6, 72), (7, 20)])
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.usefixtures("guarded")
def test_numbers_of_registers_that_are_no_power_of_two(rng, build, monkeypatch, wires, batch, threads):
    """Neighbouring rows are treated together, as many as fit the cache and no more than belong together."""
    monkeypatch.setenv("QHYBRID_NUM_THREADS", threads)
    builder = build(rng, wires, batch)
    for kind in (*ANGLE_KINDS, *ANGLE_KINDS):
        builder.add("pauli", 1, 0, batched=True)
        builder.add(kind, 1, 0)
        builder.add(kind, 2, 0)
        builder.add(kind, 1, 1)
    word = PauliRotation("ZZ", builder.angle())
    for wire in range(wires - 1):
        builder.gates.append(Gate("ZZ", (wire + 1, wire), replace(word, angle=builder.angle())))
        builder.gates.append(Gate("X", (wire,), builder.operator("pauli", 1, False)))
    program, slots = builder.program((Expectation(XYZ), Variance(XYZ)), (Probabilities((1, 2)),)), builder.values()
    executable = StateVectorExecutable(program)
    cotangents = tuple(random_like(rng, r) for r in executable.run(slots))
    needs, k = Needs(), 3
    tangents = random_tangents(rng, slots, k)
    for i, moved in enumerate(executable.jvp(slots, tangents)[0]):
        wanted = difference(lambda x: executable.run(shifted(slots, tangents, i, x)))
        np.testing.assert_allclose(moved, wanted[0], atol=1e-8)
    got = executable.second_order(slots, cotangents, tangents, None, needs)
    for i in range(k):
        wanted = difference(lambda x: flat(executable.vjp(shifted(slots, tangents, i, x), cotangents, needs)))
        np.testing.assert_allclose(got.tangents.shared[i], wanted[0], atol=1e-6)


def small_program(rng, build, batch, wires=3):
    builder = build(rng, wires, batch)
    builder.mix()
    for batched in (False, True):
        builder.add("pauli", 2, batched=batched)
        builder.add("pauli", 1, batched=batched)
        builder.add("matrix", 1, batched=batched)
    return builder.program((Expectation(XYZ), Variance(XYZ)), (Probabilities((1,)), State())), builder.values()


def test_single_precision(rng, build, options):
    program, slots = small_program(rng, build, 3)
    check(program, slots, options, k=2, c_dtype=np.complex64, atol=3e-4)
    executable = StateVectorExecutable(program, np.complex64, options)
    tangents = random_tangents(rng, slots, 2)
    results = executable.jvp(slots, tangents)
    assert [r.dtype for r in results] == [np.float32, np.float32, np.complex64]
    cotangents = tuple(random_like(rng, r[0]) for r in results)
    got = executable.second_order(slots, cotangents, tangents, None, Needs(arrays=(True, True)))
    assert [r.dtype for r in got.results] == [np.float32, np.float32, np.complex64]
    for part in (got.cotangents, got.tangents):
        assert [a.dtype for a in flat(part)] == [np.float32, np.float32, np.complex64, np.complex64]


@pytest.mark.parametrize("group_bytes", [1, 512])
def test_groups_of_samples_and_directions(rng, build, group_bytes):
    """What does not fit at once gives the same numbers, with cotangents counted once."""
    program, slots = small_program(rng, build, 5)
    check(program, slots, PlanOptions(group_bytes=group_bytes), PlanOptions(directions=2), k=3)


def test_missing_tangents_are_zero(rng, build, options):
    program, slots = small_program(rng, build, 2)
    full = random_tangents(rng, slots, 2)
    some = replace(full, batched=None, arrays=(None, full.arrays[1]))
    zeros = replace(full, batched=0 * full.batched, arrays=(0 * full.arrays[0], full.arrays[1]))
    executable = StateVectorExecutable(program, options=options)
    for a, b in zip(executable.jvp(slots, some), executable.jvp(slots, zeros), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_no_directions(rng, build, options):
    program, slots = small_program(rng, build, 2)
    executable, tangents = StateVectorExecutable(program, options=options), random_tangents(rng, slots, 0)
    values = executable.run(slots)
    for found, moves in ((values, executable.jvp(slots, tangents)), executable.run_with_tangents(slots, tangents)):
        assert [r.shape for r in moves] == [(0, 2, 2), (0, 2, 2), (0, 2, 8)]
        for a, b in zip(found, values, strict=True):
            np.testing.assert_array_equal(a, b)
    cotangents = tuple(map(np.ones_like, values))
    needs = Needs(arrays=(True, False))
    got = executable.second_order(slots, cotangents, tangents, None, needs)
    for a, b in zip(flat(got.cotangents), flat(executable.vjp(slots, cotangents, needs)), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-12)
    assert [None if a is None else len(a) for a in flat(got.tangents)] == [0, 0, 0, None]


def test_empty_batch(rng, build, options):
    program, slots = small_program(rng, build, 0)
    executable, tangents = StateVectorExecutable(program, options=options), random_tangents(rng, slots, 3)
    results = executable.jvp(slots, tangents)
    assert [r.shape for r in results] == [(3, 0, 2), (3, 0, 2), (3, 0, 8)]
    values, moves = executable.run_with_tangents(slots, tangents)
    assert [r.shape for r in values + moves] == [r.shape for r in executable.run(slots) + results]
    needs = Needs(arrays=(True, True))
    got = executable.second_order(slots, executable.run(slots), tangents, None, needs)
    assert [r.shape for r in got.results] == [(3, 0, 2), (3, 0, 2), (3, 0, 8)]
    assert got.tangents.batched.shape == (3, 2, 0)
    assert not got.tangents.shared.any()
    assert not got.cotangents.arrays[0].any()


def test_needs_are_respected(rng, build, options):
    program, slots = small_program(rng, build, 2)
    executable, tangents = StateVectorExecutable(program, options=options), random_tangents(rng, slots, 2)
    cotangents = tuple(map(np.ones_like, executable.run(slots)))
    full = executable.second_order(slots, cotangents, tangents, None, Needs(arrays=(True, True)))
    for needs in (Needs(False, True), Needs(True, False), Needs(False, False, (True, False)), Needs(False, False)):
        got = executable.second_order(slots, cotangents, tangents, None, needs)
        wanted = (needs.shared, needs.batched, *(needs.arrays or (False, False)))
        for part, whole in ((got.cotangents, full.cotangents), (got.tangents, full.tangents)):
            for a, b, w in zip(flat(part), flat(whole), wanted, strict=True):
                assert (a is not None) == w
                if w:
                    np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("batch", [None, 9])
@pytest.mark.parametrize("seed", range(3))
def test_half_of_a_hessian_gives_the_other(build, options, seed, batch):
    """Along unit vectors the Hessian is known to be symmetric; along others it is computed whole."""
    rng = np.random.default_rng(seed)
    builder = build(rng, 3, batch)
    number = builder.angle()
    builder.mix()
    for kind in ("pauli", "spectral", "evolution", "spectral-diagonal", "pauli", "fixed", "pauli"):
        builder.add(kind, int(rng.integers(1, 3)), int(rng.integers(0, 2)))
    builder.gates.append(builder.gates[int(rng.integers(len(builder.gates) - 3, len(builder.gates)))])  # angles again
    observable = Observable((Term(number, ((2, "Z"), (1, "Y"))), Term(0.5, ((0, "X"),))))
    program, slots = builder.program((Expectation(observable), Variance(XYZ)), (Probabilities((1,)),)), builder.values()
    executable, k = StateVectorExecutable(program, options=options), len(slots.shared)
    cotangents = tuple(random_like(rng, r) for r in executable.run(slots))

    def second_order(directions, constant=frozenset()):
        tangents = Slots(directions, None, (), batch)
        return executable.second_order(slots, cotangents, tangents, None, Needs(constant=constant)).tangents.shared

    order, mixture = rng.permutation(k), random_like(rng, np.eye(k))
    half = second_order(np.eye(k)[order])
    np.testing.assert_allclose(mixture @ half[np.argsort(order)], second_order(mixture), atol=1e-12)
    np.testing.assert_allclose(half[:, order], half[:, order].T, atol=1e-15)
    some = second_order(np.eye(k)[1:], frozenset({Angle(0)}))
    np.testing.assert_allclose(some[:, 1:], half[np.argsort(order)][1:, 1:], atol=1e-12)
    np.testing.assert_allclose(second_order(np.eye(k)[1:]), half[np.argsort(order)][1:], atol=1e-12)


def test_memory_is_refused_before_allocation(build, rng, monkeypatch):
    builder = build(rng, 26, None)
    builder.add("pauli", 1)
    program = builder.program((Expectation(Observable((Term(1.0, ((0, "Z"),)),))),))
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**30)
    slots, tangents = builder.values(), Slots(np.ones((5, 1)))
    with pytest.raises(DeviceError, match=r"26 wires needs 2\.0 GiB for states and their tangents along 1 direction,"):
        StateVectorExecutable(program).jvp(slots, tangents)
    with pytest.raises(DeviceError, match=r"26 wires needs 4\.0 GiB"):
        StateVectorExecutable(program).second_order(slots, (np.ones(1),), tangents, None, Needs())
