"""Hessians from shifted executions."""

import numpy as np
import pytest

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs
from qhybrid.gradients import Adjoint, CircuitFunction, ParameterShift, hessian_executions, shift_hessian
from qhybrid.program import (
    Angle,
    Expectation,
    Gate,
    Observable,
    PauliRotation,
    Program,
    Samples,
    Slots,
    Term,
    Variance,
)
from qhybrid.testing import check_jvp, check_vjp
from tests.gradients.circuits import ANGLES, BASE, ZZ, B, assert_unbiased, compile_fast, expval, random_inputs, rx

MIXED = ("product", "diagonal")


def slots_of(program, inputs):
    shared = inputs[0] if program.num_shared else np.empty(0)
    batched = inputs[-1] if program.num_batched else None
    return Slots(shared, batched, (), None if batched is None else batched.shape[1])


def along(u, gradient, hessian):
    """First and second derivative along a direction ``(angles, batch)``, or ``(angles,)`` without a batch."""
    b = "b" * (u.ndim - 1)
    return (
        np.einsum(f"p{b},p{b}...->{b}...", u, gradient),
        np.einsum(f"p{b},q{b},pq{b}...->{b}...", u, u, hessian),
    )


@pytest.mark.parametrize("mixed", MIXED)
@pytest.mark.parametrize("name", ANGLES)
def test_derivatives_are_exact(name, mixed):
    """Against the adjoint derivative of each result, and central differences of it along a direction."""
    program, inputs = ANGLES[name], random_inputs(ANGLES[name])
    slots = slots_of(program, inputs)
    found = shift_hessian(Circuit(program, compile_fast), slots, mixed=mixed)
    rng, batch = np.random.default_rng(0), slots.batch_size
    shared, batched = rng.normal(size=program.num_shared), rng.normal(size=(program.num_batched, batch or 0))
    u = shared if batch is None else np.concatenate([np.repeat(shared[:, None], batch, axis=1), batched])

    def values(h):
        moved = None if slots.batched is None else slots.batched + h * batched
        return compile_fast(program).run(Slots(slots.shared + h * shared, moved, (), batch))

    h = 3e-3
    points = [values(k * h) for k in (-2, -1, 0, 1, 2)]
    for k, (first, second) in enumerate(zip(found.gradients, found.hessians, strict=True)):
        m2, m1, at, p1, p2 = (p[k] for p in points)
        np.testing.assert_allclose(found.values[k], at, atol=1e-12)
        slope, bend = along(u, first, second)
        np.testing.assert_allclose(slope, (8 * (p1 - m1) - (p2 - m2)) / (12 * h), atol=1e-8)
        curvature = (16 * (p1 + m1) - (p2 + m2) - 30 * at) / (12 * h**2)
        np.testing.assert_allclose(bend, curvature, atol=1e-7)
        np.testing.assert_allclose(second, second.swapaxes(0, 1), atol=1e-12)


def rotations(count, gate=None):
    gates = [(gate or rx)(Angle(k), k % 2, "XYZ"[k % 3]) for k in range(count)]
    return Program(2, (*BASE, *gates), (Expectation(ZZ),), num_shared=count)


def controlled(angle, wire, letter):
    return Gate("CR" + letter, (wire,), PauliRotation(letter, angle), (1 - wire,), (True,))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_numbers_of_executions(count):
    """Those of the paper: the diagonal comes with the gradient, mixed ones take ``4 R^2`` or ``4 R - 1``."""
    pairs = count * (count - 1) // 2
    for frequencies, program in ((1, rotations(count)), (2, rotations(count, controlled))):
        first = 1 + 2 * frequencies * count
        assert hessian_executions(program) == first + 4 * frequencies**2 * pairs
        assert hessian_executions(program, "diagonal") == first + (4 * frequencies - 1) * pairs
    assert hessian_executions(rotations(count)) == 2 * count**2 + 1


def test_all_executions_are_one_device_call():
    calls = []

    def compile_and_count(program):
        executable = compile_fast(program)

        class Counted(type(executable)):
            def run(self, slots):
                calls.append(slots.batch_size)
                return super().run(slots)

        return Counted(program)

    program = rotations(5)
    found = shift_hessian(Circuit(program, compile_and_count), Slots(np.linspace(0, 1, 5)))
    assert calls == [51]
    assert found.executions == 51


def test_agrees_with_the_second_pullback():
    program, x = rotations(5), np.linspace(0.2, 1.3, 5)
    pulled = CircuitFunction(Circuit(program, compile_fast), Adjoint()).pullback((True,))
    columns = [pulled.pullback((True, False))(x, np.ones(1), u)[0] for u in np.eye(5)]
    found = shift_hessian(Circuit(program, compile_fast), Slots(x))
    np.testing.assert_allclose(found.hessians[0][:, :, 0], np.array(columns), atol=1e-12)


@pytest.mark.parametrize("mixed", MIXED)
@pytest.mark.parametrize("measured", [Expectation(ZZ), Variance(Observable(ZZ.terms[:1]))])
def test_every_entry_from_shots_is_unbiased(mixed, measured):
    gates = (*BASE, rx(B(0)), Gate("CRX", (1,), PauliRotation("X", B(1)), (0,), (True,)), rx(B(2), 1, "Y"))
    program = Program(2, gates, (measured,), num_batched=3)
    repeats, rng = 1000, np.random.default_rng(0)
    angles = np.repeat([[0.4], [1.3], [-0.7]], repeats, axis=1)
    sampled = Circuit(program, compile_fast, 4, lambda: rng)
    found = shift_hessian(sampled, Slots(np.empty(0), angles, (), repeats), mixed=mixed)
    exact = shift_hessian(Circuit(program, compile_fast), Slots(np.empty(0), angles[:, :1], (), 1))
    for got, expected in zip(
        (*found.values, *found.gradients, *found.hessians),
        (*exact.values, *exact.gradients, *exact.hessians),
        strict=True,
    ):
        error = got.std(axis=-2, ddof=1) / np.sqrt(repeats)
        assert (np.abs(got.mean(axis=-2) - expected[..., 0, :]) <= 5 * error + 1e-9).all()


def test_noise_of_mixed_derivatives():
    """Products have the sum of squares 1/4 for Pauli rotations, diagonals 7/8: 3.5 times as much."""
    x = Observable((Term(1.0, ((1, "X"),)),))
    program = Program(2, (rx(B(0), 0), rx(B(1), 0)), (Expectation(x),), num_batched=2)  # every outcome has variance one
    rng, repeats = np.random.default_rng(0), 4000
    slots = Slots(np.empty(0), np.zeros((2, repeats)), (), repeats)
    noise = [
        shift_hessian(Circuit(program, compile_fast, 50, lambda: rng), slots, mixed=m).hessians[0][0, 1, :, 0].var()
        for m in MIXED
    ]
    assert noise[0] == pytest.approx(0.25 / 50, rel=0.1)
    assert noise[1] / noise[0] == pytest.approx(3.5, rel=0.15)


def test_needs_leave_angles_out():
    program = ANGLES["batched and shared"]
    inputs = random_inputs(program)
    slots, circuit = slots_of(program, inputs), Circuit(program, compile_fast)
    whole = shift_hessian(circuit, slots)
    part = shift_hessian(circuit, slots, needs=Needs(batched=False))
    assert part.executions < whole.executions
    np.testing.assert_allclose(part.hessians[0][:2, :2], whole.hessians[0][:2, :2], atol=1e-12)
    assert not part.hessians[0][2].any()
    nothing = shift_hessian(circuit, slots, needs=Needs(False, False))
    assert nothing.executions == 1
    np.testing.assert_allclose(nothing.values[0], whole.values[0])


def test_empty_batch_and_samples():
    program = expval(rx(B(0)), num_batched=1, tensors=())
    found = shift_hessian(Circuit(program, compile_fast), Slots(np.ones(1), np.empty((1, 0)), (), 0))
    assert found.hessians[0].shape == (2, 2, 0, 1)
    sampled = Program(2, rotations(2).gates, rotations(2).scalars, (Samples((0,)),), num_shared=2)
    found = shift_hessian(Circuit(sampled, compile_fast, 10), Slots(np.ones(2)))
    assert len(found.values) == 1


def test_what_is_refused():
    with pytest.raises(DifferentiationError, match=r'mixed=.fewest.; choose "product" or "diagonal"'):
        hessian_executions(rotations(2), "fewest")
    program = Program(2, rotations(2).gates, (Variance(Observable(ZZ.terms[:1])),), num_shared=2)
    with pytest.raises(DifferentiationError, match="at least two shots"):
        shift_hessian(Circuit(program, compile_fast, 1), Slots(np.ones(2)))


# ------------------------------------------------------------------ second derivatives of hosts


class Lanes:
    """A compiler that notes the executions of each device call."""

    def __init__(self):
        self.calls = []

    def __call__(self, program):
        executable, calls = compile_fast(program), self.calls

        class Counted(type(executable)):
            def run(self, slots):
                calls.append(slots.batch_size)
                return super().run(slots)

        return Counted(program)


def test_a_hessian_of_a_host_shares_its_executions():
    """All rows in one call, ``2 P^2 + 1`` executions; one row takes no more than two gradients."""
    count, lanes = 5, Lanes()
    x = np.linspace(0.2, 1.3, count)
    f = CircuitFunction(Circuit(rotations(count), lanes), ParameterShift())
    exact = shift_hessian(Circuit(rotations(count), compile_fast), Slots(x)).hessians[0][:, :, 0]
    pulled = f.pullback((True,))
    columns = pulled.pushforward((True, False)).vmap(count, (False, False, True))
    np.testing.assert_allclose(columns(x, np.ones(1), np.eye(count))[0], exact, atol=1e-12)
    assert lanes.calls == [2 * count**2 + 1]
    lanes.calls.clear()
    column = pulled.pushforward((True, False))(x, np.ones(1), np.eye(count)[2])[0]
    np.testing.assert_allclose(column, exact[2], atol=1e-12)
    assert lanes.calls == [1 + 2 + 4 * (count - 1)]


GIVEN = [(name, (0.3, 1.1, 1.9)) for name in ("batched and shared", "controlled rotation", "spectral", "probabilities")]


@pytest.mark.parametrize(("name", "shifts"), [*((n, None) for n in ANGLES), *GIVEN])
def test_second_derivatives_of_hosts_are_exact(name, shifts):
    f = CircuitFunction(Circuit(ANGLES[name], compile_fast), ParameterShift(shifts))
    check_vjp(f, random_inputs(ANGLES[name]), order=2)
    check_jvp(f, random_inputs(ANGLES[name]), order=2)


def test_second_derivatives_of_hosts_from_shots_are_unbiased():
    gates = (*BASE, rx(B(0)), Gate("CRX", (1,), PauliRotation("X", B(1)), (0,), (True,)), rx(B(2), 1, "Y"))
    program, repeats = Program(2, gates, (Expectation(ZZ),), num_batched=3), 4000
    x, u = (np.repeat(np.array(v)[:, None], repeats, axis=1) for v in ((0.4, 1.3, -0.7), (0.5, -1.0, 0.7)))
    c, v = np.ones((repeats, 1)), np.full((repeats, 1), 0.4)
    rng = np.random.default_rng(0)
    sampled, exact = (
        CircuitFunction(circuit, ParameterShift()).pullback((True,)).pushforward((True, True))
        for circuit in (Circuit(program, compile_fast, 4, lambda: rng), Circuit(program, compile_fast))
    )
    assert_unbiased(sampled(x, c, u, v)[0].T, exact(x[:, :1], c[:1], u[:, :1], v[:1])[0].T[0])
