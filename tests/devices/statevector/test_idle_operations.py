"""Operations that no result depends on are not run; all others are, and results and derivatives stay what they are."""

from dataclasses import replace

import numpy as np
import pytest

from qhybrid.execution import Needs
from qhybrid.program import Diagonal, Expectation, Gate, Matrix, Observable, Probabilities, Slots, State, Term, Variance
from qhybrid_devices.statevector.executable import StateVectorExecutable
from tests.devices.statevector.test_idle_angles import NOT, add, letters, mean


def num_operations(executable):
    """How many operations the executable runs for one sample."""
    (compiled,) = executable._compiled.values()
    return len(compiled.plan.operations)


@pytest.mark.parametrize(
    ("gates", "word", "kept"),
    [
        (["RY 0", "RY 1"], "ZI", 1),
        (["RY 0", "RY 1", "CNOT 0 1"], "ZI", 1),
        (["RY 0", "RY 1", "CNOT 0 1"], "IZ", 2),
        (["RX 0", "RXX 0 1", "RZ 2", "RZZ 0 2"], "ZZI", 1),
        (["RX 0", "RZZ 0 1", "RX 1"], "ZI", 1),  # what nobody measures leaves the light cone with what led to it
        (["RX 0", "RZZ 0 1", "RX 1"], "ZZ", 3),
        (["RY 0", "CRZ 0 1", "CRY 0 1", "CRZ 1 0"], "ZZ", 2),  # the second and the third are one operation
        (["RY 0", "RY 1", "RZ 2"], "III", 0),
    ],
)
def test_known_ones(rng, build, options, matches_reference, gates, word, kept):
    builder = build(rng, len(word), None)
    add(builder, *gates)
    executable = matches_reference(builder.program((mean(word),)), builder.values(), options)
    assert num_operations(executable) == kept


@pytest.mark.parametrize(("word", "kept"), [("ZZII", 6), ("ZIII", 5), ("IIZZ", 8)])
def test_strongly_entangling_layers(rng, build, options, matches_reference, word, kept):
    """Of the last layer those rotations remain that the word before its CNOTs reads."""
    builder = build(rng, 4, None)
    for distance in (1, 2):
        for w in range(4):
            add(builder, f"RZ {w}", f"RY {w}", f"RZ {w}")
        for w in range(4):
            add(builder, f"CNOT {w} {(w + distance) % 4}")
    executable = matches_reference(builder.program((mean(word),)), builder.values(), options)
    assert num_operations(executable) == kept


SEEDS = range(40)


def random_circuit(build, seed):
    """All kinds of gates, of which words on the first two wires see a part; and what is measured."""
    rng = np.random.default_rng(seed)
    wires = int(rng.integers(2, 6))
    builder = build(rng, wires, 3 if seed % 2 else None)
    for kind in rng.choice(["pauli", "pauli", "cnot", "spectral", "fixed", "diagonal", "matrix", "evolution"], size=12):
        if kind == "cnot":
            builder.add_fixed(NOT, *((int(w),) for w in rng.permutation(wires)[:2]), (True,))
        else:
            builder.add(str(kind), int(rng.integers(1, 3)), 0, bool(rng.integers(2)))
    word = "".join(rng.choice(list("XYZ"), 2)) + "I" * (wires - 2)
    scalars = (mean(word), Variance(Observable((Term(0.3, letters("I" + word[1:])), Term(1.0, letters(word))))))
    return builder, scalars, (Probabilities((1,)),) if seed % 3 else ()


@pytest.mark.parametrize("seed", SEEDS)
def test_results_and_derivatives(build, options, matches_reference, seed):
    builder, scalars, tensors = random_circuit(build, seed)
    program, values, rng = builder.program(scalars, tensors), builder.values(), builder.rng
    executable = matches_reference(program, values, options)
    results = executable.run(values)
    assert_forward_mode_agrees(executable, values, [rng.normal(size=r.shape) for r in results], rng)


@pytest.mark.parametrize("seed", SEEDS)
def test_second_derivatives(build, options, seed):
    """As if the state were measured too, for which nothing can be left out."""
    builder, scalars, tensors = random_circuit(build, seed)
    values, rng = builder.values(), builder.rng
    own, plenty = (
        StateVectorExecutable(builder.program(scalars, more), options=options)
        for more in (tensors, (*tensors, State()))
    )
    results = plenty.run(values)
    cotangents = [rng.normal(size=r.shape) for r in results[:-1]]
    tangents, needs = directions(values, 2, rng), Needs(arrays=(False,) * len(values.arrays))
    found = own.second_order(values, tuple(cotangents), tangents, None, needs)
    expected = plenty.second_order(values, (*cotangents, np.zeros_like(results[-1])), tangents, None, needs)
    for a, b in ((found.cotangents, expected.cotangents), (found.tangents, expected.tangents)):
        np.testing.assert_allclose(a.shared, b.shared, atol=1e-10)
        assert (a.batched is None) == (b.batched is None)
        if a.batched is not None:
            np.testing.assert_allclose(a.batched, b.batched, atol=1e-10)


def test_some_are_left_out(build):
    """Otherwise the two tests above show nothing."""
    fewer = 0
    for seed in SEEDS:
        builder, scalars, tensors = random_circuit(build, seed)
        counts = []
        for more in (tensors, (*tensors, State())):
            executable = StateVectorExecutable(builder.program(scalars, more))
            executable.run(builder.values())
            counts.append(num_operations(executable))
        assert counts[0] <= counts[1]
        fewer += counts[0] < counts[1]
    assert fewer > len(SEEDS) // 4


def directions(values, count, rng):
    """Random tangents of all angles, and none of arrays."""
    batched = None if values.batched is None else rng.normal(size=(count, *values.batched.shape))
    still = tuple(np.zeros((count, *np.shape(a)), complex) for a in values.arrays)
    return Slots(rng.normal(size=(count, *values.shared.shape)), batched, still, values.batch_size)


def assert_forward_mode_agrees(executable, values, cotangents, rng):
    """``<cotangent, J tangent>`` is the same from tangents of the results and from cotangents of the angles."""
    tangents = directions(values, 1, rng)
    found = executable.jvp(values, tangents)
    forward = sum(np.vdot(c, t) for c, t in zip(cotangents, found, strict=True))
    own = executable.vjp(values, tuple(cotangents), Needs(arrays=(False,) * len(values.arrays)))
    reverse = np.vdot(own.shared, tangents.shared) + (
        0 if tangents.batched is None else np.vdot(own.batched, tangents.batched)
    )
    assert forward == pytest.approx(reverse, abs=1e-10)


@pytest.mark.parametrize(("kind", "operator"), [("matrix", Matrix), ("diagonal", Diagonal)])
def test_a_matrix_of_the_users_stays(rng, build, options, matches_reference, kind, operator):
    """It commutes with what is measured as long as it is unitary; its derivative is along any matrix."""
    builder = build(rng, 2, None)
    add(builder, "RY 0", "RY 1")
    builder.gates.append(Gate(kind, (1,), builder.operator(kind, 1, False)))
    assert isinstance(builder.gates[-1].operator, operator)
    executable = matches_reference(builder.program((mean("ZI"),)), builder.values(), options)
    assert num_operations(executable) == 3
    (found,) = executable.vjp(builder.values(), (np.ones(1),), Needs(arrays=(True,))).arrays
    assert np.abs(found).max() > 0.1


def test_what_needs_the_whole_state(rng, build, options, matches_reference):
    builder = build(rng, 2, None)
    add(builder, "RY 0", "RY 1")
    matrix = builder.array(lambda: np.diag([1.0, -1.0]))
    observable = Observable((Term(1.0, (), (((0,), matrix),)),))
    for scalars, tensors in [((), (State(),)), ((Expectation(observable),), ())]:
        executable = matches_reference(builder.program(scalars, tensors), builder.values(), options)
        assert num_operations(executable) == 2


def test_samples(rng, build):
    """Estimates have the exact mean, where words are measured from the same outcomes too."""
    builder = build(rng, 3, None)
    builder.mix()
    add(builder, "RXX 0 1", "RX 2", "RZZ 0 1")
    scalars = (mean("ZZI"), mean("XXI"), Variance(Observable((Term(1.0, letters("ZZI")),))))
    plenty = StateVectorExecutable(builder.program(scalars, (State(),)))
    plenty.run(builder.values())
    program = builder.program(scalars)
    values, shots, rounds = builder.values(), 2000, 200
    executable = StateVectorExecutable(program)
    exact, generator = executable.run(values)[0], np.random.default_rng(11)
    assert num_operations(executable) < num_operations(plenty)
    samples = np.array([executable.sample(values, shots, generator)[0] for _ in range(rounds)])
    error = samples.std(0) / np.sqrt(rounds)
    # A variance is estimated from as many shots, which makes it smaller by 1 / shots.
    np.testing.assert_array_less(np.abs(samples.mean(0) - exact), 5 * error + 1 / shots)


def test_nothing_left(rng, build, options):
    """All derivatives of a circuit of which no gate matters."""
    builder = build(rng, 3, 4)
    builder.add("pauli", 1, batched=True)
    builder.gates[0] = replace(builder.gates[0], wires=(2,))
    add(builder, "RY 1", "RY 2")
    program, values = builder.program((mean("ZII"),)), builder.values()
    executable = StateVectorExecutable(program, options=options)
    np.testing.assert_array_equal(executable.run(values)[0], np.full((4, 1), 0.5))
    assert num_operations(executable) == 0
    tangents = Slots(np.ones((1, 2)), np.ones((1, 1, 4)), (), 4)
    np.testing.assert_array_equal(executable.jvp(values, tangents)[0], np.zeros((1, 4, 1)))
    found = executable.vjp(values, (np.ones((4, 1)),), Needs())
    second = executable.second_order(values, (np.ones((4, 1)),), tangents, None, Needs())
    for slots in (found, second.cotangents):
        np.testing.assert_array_equal(slots.shared, np.zeros(2))
        np.testing.assert_array_equal(slots.batched, np.zeros((1, 4)))
