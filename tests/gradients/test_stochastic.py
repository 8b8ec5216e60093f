"""Methods with random numbers: unbiased, with the variance that they state, and the same for the same seed."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pennylane as qml
import pytest
import torch

import qhybrid
from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit
from qhybrid.gradients import (
    SPSA,
    Adjoint,
    CircuitFunction,
    DoublyStochasticShift,
    ForwardGradient,
    ParameterShift,
    resolve,
)
from qhybrid.gradients.stochastic import Draws
from qhybrid.program import (
    Expectation,
    Gate,
    Observable,
    PauliRotation,
    Probabilities,
    Program,
    Slots,
    Term,
    Variance,
)
from qhybrid_devices.statevector.reference import ReferenceExecutable
from tests.gradients.circuits import (
    ANGLES,
    ARRAYS,
    BASE,
    ZZ,
    B,
    assert_unbiased,
    compile_fast,
    draws,
    exact_gradient,
    function,
    random_inputs,
    rx,
)

ENERGY = Observable((Term(1.0, ((0, "Z"), (1, "Z"))), Term(-0.6, ((0, "X"),)), Term(0.4, ((1, "Y"),)), Term(2.0)))
GATES = (
    *BASE,
    rx(B(0)),
    Gate("CRX", (1,), PauliRotation("X", B(1)), (0,), (True,)),
    rx(B(2), 1, "Y"),
    rx(B(3), 0, "Y"),
)
PROGRAM = Program(2, GATES, (Expectation(ENERGY),), num_batched=4)
POINT = (0.4, 1.3, -0.7, 0.9)
REPEATS = 4000


def gradients(method, program=PROGRAM, shots=None, repeats=400, point=POINT, seed=0):
    """Gradients ``(repeats, angles)`` of the sum of all results from one call each."""
    rng = np.random.default_rng(seed)
    f = function(program, method, compile_fast, shots=shots, rng=lambda: rng).pullback((True,))
    x = np.array(point)[:, None]
    cotangents = [np.ones(shape) for shape, _ in function(program, method, compile_fast).output_types([x])]
    return np.array([f(x, *cotangents)[0][:, 0] for _ in range(repeats)])


# ------------------------------------------------------------------ unbiased


def test_spsa_is_unbiased_for_small_steps():
    assert_unbiased(draws(PROGRAM, SPSA(2, seed=1), None, REPEATS, POINT), exact_gradient(PROGRAM, POINT))


def test_spsa_is_biased_by_the_square_of_its_step():
    """As documented: for one angle the difference is ``sin(h) / h`` of the derivative."""
    program = Program(
        2, (*BASE, rx(B(0))), (Expectation(Observable((Term(1.0, ((0, "Z"), (1, "Z"))),))),), num_batched=1
    )
    got = draws(program, SPSA(h=0.5, seed=0), None, 1, [0.8])[0]
    np.testing.assert_allclose(got, exact_gradient(program, [0.8]) * np.sin(0.5) / 0.5, atol=1e-12)


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
def test_forward_gradients_are_unbiased(distribution):
    method = ForwardGradient(2, 5, distribution)
    assert_unbiased(draws(PROGRAM, method, None, REPEATS, POINT), exact_gradient(PROGRAM, POINT))


@pytest.mark.parametrize("shots", [None, 3])
@pytest.mark.parametrize(
    "method",
    [DoublyStochasticShift(2, seed=1), DoublyStochasticShift(num_terms=2, seed=2), DoublyStochasticShift(1, 1, seed=3)],
    ids=["parameters", "terms", "both"],
)
def test_doubly_stochastic_shifts_are_unbiased(method, shots):
    assert_unbiased(gradients(method, shots=shots), exact_gradient(PROGRAM, POINT))


@pytest.mark.parametrize("measured", [Variance(Observable(ENERGY.terms[:1])), Expectation(ZZ)])
def test_other_measurements_are_unbiased(measured):
    program = Program(2, GATES, (measured,), num_batched=4)
    expected = exact_gradient(program, POINT)
    assert_unbiased(gradients(DoublyStochasticShift(2, seed=1), program, 3), expected)
    for method in (SPSA(seed=4), ForwardGradient(seed=4)):
        assert_unbiased(draws(program, method, None, REPEATS, POINT), expected)


@pytest.mark.parametrize("method", [SPSA(400, seed=3), ForwardGradient(400, seed=2)], ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["batched and shared", "coefficients", "probabilities", "state and more", "spectral"])
def test_many_directions_approach_the_gradient(name, method):
    """Shared, batched and tied angles and every measurement."""
    program, inputs = ANGLES[name], random_inputs(ANGLES[name])
    exact = function(program, Adjoint(), compile_fast)
    rng = np.random.default_rng(5)
    c = [rng.normal(size=y.shape) + (1j * rng.normal(size=y.shape) if y.dtype.kind == "c" else 0)
         for y in exact(*inputs)]  # fmt: skip
    needs = (True,) * len(inputs)
    expected = exact.pullback(needs)(*inputs, *c)
    scale = sum(np.sum(e**2) for e in expected) ** 0.5
    for got, e in zip(function(program, method, compile_fast).pullback(needs)(*inputs, *c), expected, strict=True):
        assert np.abs(got - e).max() < 5 * scale / 20 + 1e-12


# ------------------------------------------------------------------ the stated variances


def variance_of(estimates):
    """The sample variance and its standard error."""
    squares = (estimates - estimates.mean(0)) ** 2
    return squares.mean(0), squares.std(0) / len(squares) ** 0.5


def assert_variance(estimates, expected):
    got, error = variance_of(estimates)
    assert (np.abs(got - expected) <= 5 * error + 1e-9).all(), f"{got} is not {expected}"


@pytest.mark.parametrize("count", [1, 3])
def test_variance_of_directions(count):
    g = exact_gradient(PROGRAM, POINT)
    square = np.sum(g**2)
    for method, expected in (
        (SPSA(count, seed=0), square - g**2),
        (ForwardGradient(count, 0), square - g**2),
        (ForwardGradient(count, 0, "normal"), square + g**2),
    ):
        assert_variance(draws(PROGRAM, method, None, REPEATS, POINT), expected / count)


def test_variance_of_spsa_with_shots():
    """Outcomes of ``X`` after rotations about it are plus and minus one, with no slope: only the noise is left."""
    program = Program(2, (rx(B(0)), rx(B(1))), (Expectation(Observable((Term(1.0, ((0, "Z"),)),))),), num_batched=2)
    point = (np.pi / 4, np.pi / 4)
    g = exact_gradient(program, point)
    h, shots = 0.2, 40
    outcomes = 1 - np.mean([np.cos(sum(point) + s * 2 * h) ** 2 for s in (1, 1, 0, 0, -1, -1, 0, 0)])
    slope = np.sin(2 * h) / (2 * h)  # along both, of which half of the directions are
    estimates = draws(program, SPSA(h=h, seed=0), shots, 20000, point)
    expected = outcomes / shots / (2 * h**2) + (2 * slope**2 - 1 * slope**2) * g**2
    got, _ = variance_of(estimates)
    np.testing.assert_allclose(got, expected, rtol=0.1)


@pytest.mark.parametrize(("parameters", "terms"), [(2, None), (None, 2), (2, 1), (3, 3)])
def test_variance_of_doubly_stochastic_shifts(parameters, terms):
    g = exact_gradient(PROGRAM, POINT)
    parts = np.array([
        exact_gradient(Program(2, GATES, (Expectation(Observable((t,))),), num_batched=4), POINT)
        for t in ENERGY.terms[:3]
    ])  # fmt: skip
    p = np.array([1.0, 0.6, 0.4]) / 2
    t = 0 if terms is None else ((parts**2 / p[:, None]).sum(0) - g**2) / terms
    ratio = 1 if parameters is None else 4 / parameters
    method = DoublyStochasticShift(parameters, terms, seed=11)
    assert_variance(gradients(method, repeats=1500), ratio * (g**2 + t) - g**2)


def test_variance_of_doubly_stochastic_shifts_with_shots():
    parameters, terms, shots = 2, 2, 5
    g, p = exact_gradient(PROGRAM, POINT), np.array([1.0, 0.6, 0.4]) / 2
    singles = [Program(2, GATES, (Expectation(Observable((t,))),), num_batched=4) for t in ENERGY.terms[:3]]
    parts = np.array([exact_gradient(s, POINT) for s in singles])
    noise = np.array([draws(s, ParameterShift(), shots, 20000, POINT).var(0) for s in singles])
    t = ((parts**2 / p[:, None]).sum(0) - g**2) / terms
    t = t + (noise * (1 + (1 - p) / (terms * p))[:, None]).sum(0)
    method = DoublyStochasticShift(parameters, terms, seed=12)
    assert_variance(gradients(method, shots=shots, repeats=2000), 4 / parameters * (g**2 + t) - g**2)


# ------------------------------------------------------------------ what is executed


class Counting:
    """A compiler whose executables note the size of each batch."""

    def __init__(self, base=compile_fast):
        self.calls, self.base = [], base

    def __call__(self, program):
        executable, calls = self.base(program), self.calls

        class Counted(type(executable)):
            def run(self, slots):
                calls.append(slots.batch_size)
                return super().run(slots)

        return Counted(program)


def test_all_directions_are_one_device_call():
    counting = Counting()
    f = CircuitFunction(Circuit(PROGRAM, counting), SPSA(7, seed=0))
    f.pullback((True,))(np.ones((4, 3)), np.ones((3, 1)))
    assert counting.calls == [7 * 2 * 3]
    assert SPSA(7).executions(PROGRAM, 3) == 42


def test_chosen_parameters_and_terms_are_what_is_executed():
    counting = Counting()
    f = CircuitFunction(Circuit(PROGRAM, counting), DoublyStochasticShift(1, 1, seed=0))
    seen = []
    for _ in range(30):
        counting.calls.clear()
        f.pullback((True,))(np.ones((4, 3)), np.ones((3, 1)))
        seen += counting.calls
        assert len(counting.calls) == 1
    assert set(seen) == {2 * 3, 4 * 3}
    assert DoublyStochasticShift(1, 1).executions(PROGRAM, 3) == 12
    assert DoublyStochasticShift(2).executions(PROGRAM, 3) == (4 + 2) * 3
    assert DoublyStochasticShift(None, 2).executions(PROGRAM, 1) == 2 * 10
    assert DoublyStochasticShift(None, 9).executions(PROGRAM, 1) == 3 * 10
    assert DoublyStochasticShift().executions(Program(2, GATES, (Variance(ZZ),), num_batched=4), 1) == 11


class WithForwardMode(ReferenceExecutable):
    """Tangents by central differences."""

    has_jvp = True
    calls = 0

    def jvp(self, slots, tangents):
        type(self).calls += 1
        h = 1e-4
        out = []
        for k in range(len(tangents.shared)):

            def moved(s, k=k):
                batched = slots.batched
                if tangents.batched is not None:
                    batched = batched + s * h * tangents.batched[k]
                return Slots(slots.shared + s * h * tangents.shared[k], batched, slots.arrays, slots.batch_size)

            plus, minus = self.run(moved(1)), self.run(moved(-1))
            out.append([(p - m) / (2 * h) for p, m in zip(plus, minus, strict=True)])
        return tuple(np.array(r) for r in zip(*out, strict=True))


class WithoutForwardMode(ReferenceExecutable):
    """A device that can only be executed."""

    has_jvp = False


@pytest.mark.parametrize("name", ["one rotation", "batched and shared", "probabilities"])
def test_forward_mode_of_the_device_is_used(name):
    program, inputs = ANGLES[name], random_inputs(ANGLES[name])
    needs, calls = (True,) * len(inputs), WithForwardMode.calls
    c = [np.ones_like(y) * 0.7 for y in function(program, Adjoint())(*inputs)]
    fake, native, differences = (
        function(program, ForwardGradient(3, seed=8), compiler).pullback(needs)(*inputs, *c)
        for compiler in (WithForwardMode, compile_fast, WithoutForwardMode)
    )
    for a, b, d in zip(fake, native, differences, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_allclose(d, b, atol=1e-9)
    assert WithForwardMode.calls == calls + 1


def test_angles_that_are_not_needed_stay_put():
    program = ANGLES["batched and shared"]
    inputs, lanes, moves = random_inputs(program), [], []

    def compile_and_look(program):
        executable = compile_fast(program)

        class Seen(type(executable)):
            def run(self, slots):
                lanes.append(slots.batched)
                return super().run(slots)

            def jvp(self, slots, tangents):
                moves.append(tangents.batched)
                return super().jvp(slots, tangents)

        return Seen(program)

    for method in (SPSA(3, seed=0), ForwardGradient(3, seed=0)):
        f = CircuitFunction(Circuit(program, compile_and_look), method)
        (got,) = f.pullback((False, True))(*inputs, np.ones((2, 1)))
        assert got.shape == (1, 2)
    assert (lanes[0][:2] == inputs[0][:, None]).all()
    assert not moves[0][:, :2].any()
    assert moves[0][:, 2].all()


@pytest.mark.parametrize(
    "method", [SPSA(seed=0), ForwardGradient(seed=0), DoublyStochasticShift(1, 1, seed=0)], ids=lambda m: m.name
)
def test_empty_batch(method):
    (got,) = function(PROGRAM, method, compile_fast).pullback((True,))(np.empty((4, 0)), np.empty((0, 1)))
    assert got.shape == (4, 0)


# ------------------------------------------------------------------ seeds

MAKERS = [lambda s: SPSA(2, seed=s), lambda s: ForwardGradient(2, s), lambda s: DoublyStochasticShift(2, 1, s)]


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_gives_the_same_sequence(make):
    one, two, other = (gradients(make(s), repeats=4) for s in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


@pytest.mark.parametrize("make", MAKERS)
def test_pickles_and_copies(make):
    method = make(3)
    gradients(method, repeats=3)
    loaded, copied = pickle.loads(pickle.dumps(method)), copy.deepcopy(method)
    expected = gradients(method, repeats=3)
    np.testing.assert_array_equal(gradients(loaded, repeats=3), expected)
    np.testing.assert_array_equal(gradients(copied, repeats=3), expected)
    assert loaded != method  # two sequences


def test_without_a_seed_no_two_objects_agree():
    assert not np.array_equal(gradients(SPSA(8), repeats=2), gradients(SPSA(8), repeats=2))


def test_threads_never_share_a_draw():
    shared = Draws(3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: shared.next().random(), range(200)))
    alone = Draws(3)
    assert sorted(found) == sorted(alone.next().random() for _ in range(200))


@pytest.mark.parametrize("make", MAKERS)
def test_hosts_see_the_same_sequence(make):
    def circuit(x):
        qml.RX(x[0], 0)
        qml.CRY(x[1], [0, 1])
        return qml.expval(qml.Hamiltonian([1.0, 0.5], [qml.Z(0) @ qml.Z(1), qml.X(1)]))

    x = np.array([0.3, 0.8])
    ours = [qhybrid.QNode(circuit, qml.device("qhybrid.statevector"), diff_method=make(7)) for _ in range(2)]
    tensor = torch.tensor(x, requires_grad=True)
    array = qml.numpy.array(x, requires_grad=True)
    for _ in range(3):
        (in_torch,) = torch.autograd.grad(ours[0](tensor), tensor)
        np.testing.assert_array_equal(in_torch.numpy(), qml.grad(ours[1])(array))
    assert ours[0].explain(tensor).method == make(7).name


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SPSA(0), "num_directions=0"),
        (lambda: SPSA(h=0.0), "h=0.0"),
        (lambda: ForwardGradient(-1), "num_directions=-1"),
        (lambda: ForwardGradient(distribution="uniform"), 'choose "rademacher" or "normal"'),
        (lambda: DoublyStochasticShift(0), "num_parameters=0"),
        (lambda: DoublyStochasticShift(1, 1.5), "num_terms=1.5"),
    ],
)
def test_options_are_checked(make, match):
    with pytest.raises(DifferentiationError, match=match):
        make()


@pytest.mark.parametrize("make", MAKERS)
def test_arrays_are_refused_by_name(make):
    inputs = random_inputs(ARRAYS["unitary"])
    f = function(ARRAYS["unitary"], make(0), compile_fast)
    with pytest.raises(DifferentiationError, match=r"U on wires \[0\].*adjoint"):
        f.pullback((True, True))(*inputs, np.ones(1))


def test_forward_gradients_with_shots_name_what_works():
    with pytest.raises(DifferentiationError, match=r"shots=10.*SPSA or DoublyStochasticShift"):
        resolve(ForwardGradient(), True, 10)
    with pytest.raises(DifferentiationError, match="SPSA or DoublyStochasticShift"):
        gradients(ForwardGradient(), shots=10, repeats=1)


def test_small_steps_of_spsa_with_shots_are_refused():
    with pytest.raises(DifferentiationError, match=r"h=0.01.*SPSA\(h=...\) with at least h=0.1"):
        resolve("spsa", True, 10, {"h": 0.01})
    assert resolve("spsa", True, 10, {"num_directions": 4, "seed": 1})[0].num_directions == 4


@pytest.mark.parametrize(
    "program",
    [
        Program(2, GATES, (Variance(ZZ),), num_batched=4),
        Program(2, GATES, (Expectation(ZZ),), (Probabilities((0,)),), num_batched=4),
        Program(2, GATES, (Expectation(Observable((Term(B(0), ((0, "Z"),)),))),), num_batched=4),
    ],
)
def test_terms_of_something_else_are_refused(program):
    with pytest.raises(DifferentiationError, match=r"num_terms=\.\.\..*Leave num_terms out"):
        gradients(DoublyStochasticShift(num_terms=1), program, repeats=1)
    assert gradients(DoublyStochasticShift(1, seed=0), program, repeats=1).shape == (1, 4)
