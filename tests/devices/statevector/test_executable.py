"""Results and derivatives of the engine against the dense reference and against invariants."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numba
import numpy as np
import pytest

from qhybrid.errors import DeviceError
from qhybrid.execution import Needs
from qhybrid.program import (
    ArrayRef,
    Constant,
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
from qhybrid_devices.statevector import engine, memory
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.matrices import chain, compose
from qhybrid_devices.statevector.matrix_tangents import chain_tangents, compose_duals
from qhybrid_devices.statevector.plan import PlanOptions

KINDS = ["fixed", "pauli", "spectral", "spectral-diagonal", "evolution", "matrix", "diagonal"]
XYZ = Observable((Term(0.8, ((0, "X"), (2, "Y"))), Term(-0.5, ((1, "Z"),)), Term(0.3)))
SWAP = np.eye(4)[[0, 2, 1, 3]]


@pytest.mark.parametrize("batched", [None, False, True])
@pytest.mark.parametrize("controls", [0, 1, 2])
@pytest.mark.parametrize("width", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gate_kinds(rng, build, options, matches_reference, kind, width, controls, batched):
    """Every operator, with any controls, shared or batched, in both modes."""
    builder = build(rng, 5, None if batched is None else 3)
    builder.mix()
    builder.add(kind, width, controls, bool(batched))
    builder.mix()
    builder.add(kind, width, controls, bool(batched))
    program = builder.program((Expectation(XYZ),), (State(),))
    matches_reference(program, builder.values(), options)


@pytest.mark.parametrize("batch", [None, 1, 9])
@pytest.mark.parametrize("seed", range(6))
def test_random_programs(build, options, matches_reference, seed, batch):
    rng = np.random.default_rng(seed)
    builder = build(rng, 4, batch)
    for _ in range(20):
        width = int(rng.integers(0, 3))
        builder.add(str(rng.choice(KINDS)), width, int(rng.integers(0, 3)), bool(rng.integers(2)))
        if rng.random() < 0.3:
            builder.add_fixed(SWAP, tuple(int(w) for w in rng.permutation(4)[:2]))
    number = builder.angle(batched=bool(seed % 2))
    matrix = builder.array(lambda: np.diag(rng.normal(size=4)), batched=bool(seed % 3))
    observable = Observable((Term(number, ((3, "Z"), (1, "Y"))), Term(0.5, ((0, "X"),), (((2, 1), matrix),))))
    scalars = (Expectation(observable), Variance(observable), Variance(Observable((Term(number, ((0, "Z"),)),))))
    program = builder.program(scalars, (Probabilities((2, 0)), State()))
    matches_reference(program, builder.values(), options)


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("seed", range(12))
def test_cnots_between_everything(build, options, matches_reference, seed, batch):
    """CNOTs may be absorbed into the meaning of bits; measured are words only, so that nothing need be restored."""
    rng = np.random.default_rng(100 + seed)
    builder = build(rng, 5, batch)
    kinds, most_controls = (["fixed", "pauli", "matrix"], 0) if seed % 3 else (KINDS, 2)
    for _ in range(16):
        builder.add(str(rng.choice(kinds)), int(rng.integers(1, 3)), int(rng.integers(most_controls + 1)), True)
        for _ in range(int(rng.integers(4))):
            control, target = (int(w) for w in rng.permutation(5)[:2])
            builder.add_fixed([[0, 1], [1, 0]], (target,), (control,), (bool(rng.random() < 0.9),))
        if rng.random() < 0.1:
            builder.add_fixed(SWAP, tuple(int(w) for w in rng.permutation(5)[:2]))
    number = builder.angle(batched=True)
    words = tuple(Term(number, tuple(zip(range(5), rng.choice(list("XYZ"), 5), strict=True))) for _ in range(2))
    observables = Observable((Term(0.8, ((1, "Y"), (4, "Z"))), *words)), Observable(words[:1])
    scalars = [m(o) for o in observables for m in (Expectation, Variance)]
    matches_reference(builder.program(scalars), builder.values(), options, atol=1e-9)


@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_one_qubit_gates(rng, build, options, matches_reference, kind, batch):
    """A product state to the end; wire 4 has no gate, wire 0 only constant ones."""
    builder = build(rng, 5, batch)
    for wire in (1, 2, 3, 1, 2):
        for batched in (True, False):
            builder.gates.append(Gate(kind, (wire,), builder.operator(kind, 1, batched)))
    builder.add_fixed([[0, 1], [1, 0]], (0,))
    words = [tuple(zip(range(5), letters, strict=True)) for letters in ("ZXYZZ", "ZYXYZ")]
    scalars = [m(Observable((Term(0.7, w),))) for w in words for m in (Expectation, Variance)]
    matches_reference(builder.program(scalars), builder.values(), options)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("wires", [(0, 1, 2, 3), (2,), (3, 1)])
def test_preparation(rng, build, options, matches_reference, wires, batch):
    builder = build(rng, 4, batch)
    size = 2 ** len(wires)
    ref = builder.array(lambda: unitary_column(rng, size), batched=True)
    builder.add("pauli", 2, 1, batched=True)
    builder.add_fixed(SWAP, (0, 3))
    preparation = Preparation(wires, ref)
    matches_reference(builder.program((Expectation(XYZ),), (State(),), preparation), builder.values(), options)


def unitary_column(rng, size):
    column = rng.normal(size=size) + 1j * rng.normal(size=size)
    return column / np.linalg.norm(column)


@pytest.mark.parametrize("batch", [None, 3])
def test_observables(rng, build, options, matches_reference, batch):
    """Words, matrices, trainable coefficients and matrices, expectation values and variances."""
    builder = build(rng, 4, batch)
    builder.mix()
    builder.add("pauli", 2, batched=True)
    hermitian = np.array([[1.0, 2 - 1j], [2 + 1j, -0.5]])
    ref = builder.array(lambda: np.kron(hermitian, hermitian) + np.diag(rng.normal(size=4)), batched=True)
    terms = (
        Term(builder.angle(), ((0, "X"), (3, "Y"))),
        Term(builder.angle(batched=True), ((1, "Z"),), (((2,), Constant(hermitian)),)),
        Term(0.4, (), (((3, 0), ref), ((1,), Constant(hermitian)))),
        Term(-1.5),
    )
    scalars = [Expectation(Observable(terms)), Variance(Observable(terms))]
    scalars += [m(Observable((t,))) for t in terms for m in (Expectation, Variance)]
    matches_reference(builder.program(scalars), builder.values(), options, atol=1e-9)


def test_probabilities_in_a_basis(rng, build, options, matches_reference):
    builder = build(rng, 3, 2)
    builder.mix()
    builder.add("pauli", 1, batched=True)
    builder.mix()
    flip, swap = (
        Gate("b", (0,), Fixed(Constant(np.array([[1, 1], [1, -1]]) / np.sqrt(2)))),
        Gate("s", (0, 2), Fixed(Constant(SWAP))),
    )
    tensors = (Probabilities((2, 0)), Probabilities((0, 1), (flip, swap)), Probabilities((0, 1, 2)))
    matches_reference(builder.program((), tensors), builder.values(), options)


def test_wide_pauli_rotation_needs_no_wide_tile(rng, build, matches_reference):
    builder = build(rng, 6, None)
    builder.mix()
    angle = builder.angle()
    builder.gates.append(Gate("PauliRot", (0, 1, 2, 3, 4, 5), PauliRotation("XYZXYX", angle, 1.3)))
    options = PlanOptions(tile_wires=0, sweep_wires=1, row_bits=3)
    executable = matches_reference(builder.program((Expectation(XYZ),), (State(),)), builder.values(), options)
    assert all(len(s.tiling.rows) <= 8 for s in executable._compile(False).plan.sweeps)


@pytest.mark.parametrize("wires", [7, 9])
def test_default_layouts_agree(rng, build, matches_reference, wires):
    """Unbatched sweeps and batched tiles with ragged chunks, at the default sizes."""
    for batch in (None, 2, 21):
        builder = build(rng, wires, batch)
        for _ in range(2):
            builder.mix()
            for k in (1, 2):
                builder.add("pauli", k, batched=True)
                builder.add("spectral", k, 1)
        options = PlanOptions(tile_bytes=1 << 14, parallel_work=1)
        matches_reference(builder.program((Expectation(XYZ), Variance(XYZ))), builder.values(), options)


def test_single_precision(rng, build, options, matches_reference):
    builder = build(rng, 4, 3)
    for kind in KINDS:
        builder.add(kind, 2, 0, batched=True)
    program = builder.program((Expectation(XYZ), Variance(XYZ)), (Probabilities((1, 3)), State()))
    executable = matches_reference(program, builder.values(), options, np.complex64, atol=1e-5)
    results = executable.run(builder.values())
    assert [r.dtype for r in results] == [np.float32, np.float32, np.complex64]


def test_groups_of_samples(rng, build, matches_reference):
    """A batch that does not fit at once gives the same results."""
    builder = build(rng, 3, 11)
    builder.add("pauli", 2, batched=True)
    builder.add("matrix", 1, batched=True)
    program = builder.program((Expectation(XYZ),), (State(),))
    matches_reference(program, builder.values(), PlanOptions(group_bytes=512))


#: How a host may keep rows of angles: samples last or first, with gaps, backwards, protected.
LAYOUTS = {
    "samples last": np.ascontiguousarray,
    "samples first": np.asfortranarray,
    "with gaps": lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
    "backwards": lambda rows: np.ascontiguousarray(rows[::-1, ::-1])[::-1, ::-1],
    "protected": lambda rows: np.frombuffer(rows.tobytes()).reshape(rows.shape),
}


def of_each_sample(rng, build, batch, *kinds):
    """A program with gates that differ from sample to sample, and its values."""
    builder = build(rng, 3, batch)
    builder.mix()
    for kind in kinds:
        builder.add(kind, 1, batched=True)
        builder.add(kind, 2, batched=True)
    return builder.program((Expectation(XYZ), Variance(XYZ))), builder.values()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3, 8, 21])
@pytest.mark.parametrize(
    "options",
    [PlanOptions(group_bytes=512), PlanOptions(), PlanOptions(parallel_work=1, tile_bytes=512)],
    ids=["groups", "at once", "threads"],
)
def test_layouts_of_angles(rng, build, batch, layout, options):
    """However angles lie in memory, results and derivatives are the same."""
    program, values = of_each_sample(rng, build, batch, "pauli", "spectral", "evolution", "spectral-diagonal")
    other = replace(values, batched=LAYOUTS[layout](values.batched))
    np.testing.assert_array_equal(other.batched, values.batched)
    executable = StateVectorExecutable(program, options=options)
    cotangents = tuple(rng.normal(size=r.shape) for r in executable.run(values))
    tangents = Slots(
        rng.normal(size=(2, program.num_shared)), rng.normal(size=(2, *values.batched.shape)), (), values.batch_size
    )

    def everything(slots):
        results, residual = executable.run_with_residual(slots)
        again = executable.vjp(slots, cotangents, Needs(), residual)
        first = executable.vjp(slots, cotangents, Needs())
        second = executable.second_order(slots, cotangents, tangents, None, Needs())
        parts = [
            s for found in (first, again, second.cotangents, second.tangents) for s in (found.shared, found.batched)
        ]
        return [*results, *executable.jvp(slots, tangents), *parts, *second.results]

    for got, wanted in zip(everything(other), everything(values), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_compiled_anew_for_a_layout(rng, build, layout):
    """Angles, and those of the parts of a batch, reach kernels in one piece of memory that may be written to."""
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled")
    program, values = of_each_sample(rng, build, 11, "pauli")
    values = replace(values, batched=LAYOUTS[layout](values.batched))
    executable = StateVectorExecutable(program, options=PlanOptions(group_bytes=512))
    results = executable.run(values)
    ones = tuple(np.broadcast_to(np.ones(()), r.shape) for r in results)
    tangents = Slots(np.ones((1, 0)), LAYOUTS[layout](values.batched)[None], (), 11)
    executable.vjp(values, ones, Needs())
    executable.jvp(values, tangents)
    executable.second_order(values, ones, tangents, None, Needs())
    for kernel in (compose, chain, compose_duals, chain_tangents):
        arrays = [a for signature in kernel.signatures for a in signature if isinstance(a, numba.types.Array)]
        assert arrays
        assert {(a.layout, a.mutable) for a in arrays} == {("C", True)}


@pytest.mark.parametrize("batch", [None, 3])
def test_a_large_residual_is_used_up(rng, build, matches_reference, batch):
    """The first derivative takes the kept state, a second one runs the circuit again: same numbers."""
    builder = build(rng, 4, batch)
    builder.mix()
    builder.add("pauli", 2, batched=True)
    matches_reference(builder.program((Expectation(XYZ),)), builder.values(), PlanOptions(copied_bytes=0))


@pytest.mark.parametrize(("copied_bytes", "runs"), [(1 << 22, [0, 1, 0, 0]), (0, [0, 1, 1, 1])])
def test_how_often_derivatives_of_one_run_run_it_again(rng, build, monkeypatch, copied_bytes, runs):
    """The first never does; of further ones each does if the state is large, else only the first of them."""
    builder = build(rng, 12, 16)
    builder.mix()
    builder.add("pauli", 2, batched=True)
    options = PlanOptions(copied_bytes=copied_bytes)
    executable, values = StateVectorExecutable(builder.program((Expectation(XYZ),)), options=options), builder.values()
    (scalars,), residual = executable.run_with_residual(values)
    again = []
    forward = StateVectorExecutable._forward
    monkeypatch.setattr(StateVectorExecutable, "_forward", lambda *a: again.append(a) or forward(*a))
    found = []
    for expected in runs:
        again.clear()
        found.append(executable.vjp(values, (np.ones_like(scalars),), Needs(), residual))
        assert len(again) == expected
    for later in found[1:]:
        np.testing.assert_array_equal(later.shared, found[0].shared)
        np.testing.assert_array_equal(later.batched, found[0].batched)


def test_shared_angles_of_gates_that_differ_by_sample(rng, build, matches_reference, monkeypatch):
    """Several threads add to the cotangents of the same angles."""
    monkeypatch.setattr(engine, "PARALLEL_COEFFICIENTS", 0)
    monkeypatch.setenv("QHYBRID_NUM_THREADS", "3")
    builder = build(rng, 3, 40)
    for batched in (False, True, False):
        for _ in range(4):
            builder.add("pauli", 1, batched=batched)
    program = builder.program((Expectation(XYZ),))
    parts, run = [], engine.run_kernel

    def spy(kernel, count, workers, *arguments):
        if kernel is chain:
            parts.append(arguments[-2].shape[0])
        run(kernel, count, workers, *arguments)

    monkeypatch.setattr(engine, "run_kernel", spy)
    matches_reference(program, builder.values(), PlanOptions(tile_wires=0, sweep_wires=1))
    assert max(parts) > 1


@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize("outputs", [1, 5])
def test_a_gradient_holds_two_states(rng, build, depth, outputs):
    """Psi and lambda, whatever the depth and the outputs, and 10 % for all the rest."""
    builder = build(rng, 19, None)
    for _ in range(depth):
        builder.mix()
    program = builder.program((Expectation(XYZ),) * outputs)
    executable, slots = StateVectorExecutable(program), builder.values()
    tracemalloc.start()
    try:
        results, residual = executable.run_with_residual(slots)
        executable.vjp(slots, tuple(map(np.ones_like, results)), Needs(), residual)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * (16 << 19)


def test_batch_of_one_is_unbatched(rng, build, options):
    builder = build(rng, 3, 1)
    builder.mix()
    builder.add("pauli", 2, batched=True)
    batched = builder.program((Expectation(XYZ),), (State(),))
    slots = builder.values()
    gate = builder.gates[-1]
    shared_gate = replace(gate, operator=replace(gate.operator, angle=replace(gate.operator.angle, batched=False)))
    shared = replace(batched, gates=(*batched.gates[:-1], shared_gate), num_shared=1, num_batched=0)
    alone = StateVectorExecutable(shared, options=options).run(Slots(slots.batched[:, 0]))
    for a, b in zip(StateVectorExecutable(batched, options=options).run(slots), alone, strict=True):
        np.testing.assert_allclose(a[0], b, atol=1e-12)


def test_empty_batch(rng, build, options):
    builder = build(rng, 3, 0)
    builder.add("pauli", 2, batched=True)
    builder.add("matrix", 1)
    program = builder.program((Expectation(XYZ),), (Probabilities((1,)), State()))
    executable = StateVectorExecutable(program, options=options)
    results = executable.run(builder.values())
    assert [r.shape for r in results] == [(0, 1), (0, 2), (0, 8)]
    slots = executable.vjp(builder.values(), results, Needs(arrays=(True,)))
    assert slots.batched.shape == (1, 0)
    assert np.all(slots.arrays[0] == 0)


def test_needs_are_respected(rng, build, options):
    builder = build(rng, 3, 2)
    builder.add("pauli", 2)
    builder.add("pauli", 1, batched=True)
    builder.add("matrix", 1)
    executable = StateVectorExecutable(builder.program((Expectation(XYZ),)), options=options)
    slots, cot = builder.values(), (np.ones((2, 1)),)
    full = executable.vjp(slots, cot, Needs(arrays=(True,)))
    for needs in (Needs(False, True, (False,)), Needs(True, False, (False,)), Needs(False, False, (True,)), Needs()):
        part = executable.vjp(slots, cot, needs)
        for name in ("shared", "batched"):
            value = getattr(part, name)
            assert (value is not None) == getattr(needs, name)
            if value is not None:
                np.testing.assert_allclose(value, getattr(full, name), atol=1e-12)
        assert (part.arrays[0] is not None) == any(needs.arrays)


def test_long_circuit_keeps_the_norm(rng, build, options):
    builder = build(rng, 4, 2)
    for _ in range(300):
        builder.add(str(rng.choice(KINDS)), int(rng.integers(1, 3)), int(rng.integers(0, 2)), bool(rng.integers(2)))
    state = StateVectorExecutable(builder.program((), (State(),)), options=options).run(builder.values())[1]
    np.testing.assert_allclose(np.linalg.norm(state, axis=1), 1, atol=1e-12)


def test_gate_then_inverse_is_the_identity(rng, build, options):
    builder = build(rng, 4, None)
    for kind in KINDS:
        builder.add(kind, 2, 1)
    forward = StateVectorExecutable(builder.program((), (State(),)), options=options)
    state = forward.run(builder.values())[1]
    # <psi|psi> = 1 has zero cotangents for every unitary parameter.
    slots = forward.vjp(builder.values(), (np.zeros(0), 2 * state), Needs())
    np.testing.assert_allclose(slots.shared, 0, atol=1e-12)


def test_threads_and_pickling(rng, build, options):
    builder = build(rng, 5, 40)
    for _ in range(3):
        builder.mix()
        builder.add("pauli", 2, batched=True)
        builder.add("spectral", 2)
    program, slots = builder.program((Expectation(XYZ),)), builder.values()
    executable = StateVectorExecutable(program, options=replace(options, parallel_work=1, tile_bytes=1 << 10))
    wanted = executable.run(slots)[0]
    gradient = executable.vjp(slots, (np.ones((40, 1)),), Needs())
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(executable.run, slots) for _ in range(8)]
        vjps = [pool.submit(executable.vjp, slots, (np.ones((40, 1)),), Needs()) for _ in range(8)]
        for future in runs:
            np.testing.assert_allclose(future.result()[0], wanted, atol=1e-12)
        for future in vjps:
            np.testing.assert_allclose(future.result().shared, gradient.shared, atol=1e-12)
    clone = pickle.loads(pickle.dumps(executable))
    assert clone.program == program
    np.testing.assert_allclose(clone.run(slots)[0], wanted, atol=1e-12)


def test_memory_is_refused_before_allocation(build, rng, monkeypatch):
    builder = build(rng, 26, None)
    builder.add("pauli", 1)
    executable = StateVectorExecutable(builder.program((Expectation(Observable((Term(1.0, ((0, "Z"),)),))),)))
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**30)
    message = r"26 wires needs 2\.0 GiB for 2 states in memory.* 0\.9 GiB are available.*complex64"
    with pytest.raises(DeviceError, match=message):
        executable.vjp(builder.values(), (np.ones(1),), Needs())
    with pytest.raises(DeviceError, match=r"needs 1\.0 GiB"):
        executable.run(builder.values())


def test_states_that_fit_are_allowed(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 24 * 2**30)
    memory.require(2 * 16 << 26, 26, "the state and its adjoint")


def test_array_used_twice(rng, build, options, matches_reference):
    builder = build(rng, 3, 2)
    builder.mix()
    builder.add("matrix", 1, 1, batched=True)
    gate = builder.gates[-1]
    builder.gates.append(replace(gate, wires=((gate.wires[0] + 1) % 3,), controls=(), control_values=()))
    assert gate.operator.ref == ArrayRef(0)
    matches_reference(builder.program((Expectation(XYZ),)), builder.values(), options)
