"""Statistics of samples at five standard errors, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from qhybrid.errors import CircuitError
from qhybrid.program import (
    Constant,
    Expectation,
    Fixed,
    Gate,
    Observable,
    Probabilities,
    Samples,
    State,
    Term,
    Variance,
)
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.reference import ReferenceExecutable

SHOTS = 20000
HADAMARD = Gate("H", (1,), Fixed(Constant(np.array([[1, 1], [1, -1]]) / np.sqrt(2))))
MATRIX = Constant(np.array([[0.5, 1 - 1j], [1 + 1j, -0.5]]))


@pytest.fixture(params=[None, 3])
def builder(rng, build, request):
    out = build(rng, 3, request.param)
    out.mix()
    out.add("pauli", 2, batched=True)
    out.mix()
    return out


def test_statistics(builder, options):
    ref = builder.array(lambda: np.array([[1, 2], [2, 0.3]]), batched=True)
    compatible = Observable((Term(0.5, ((0, "X"),)), Term(0.7, ((0, "X"), (2, "Y"))), Term(0.2)))
    mixed = Observable((Term(0.5, ((0, "X"),)), Term(builder.angle(), ((0, "Z"),)), Term(0.3, (), (((1,), ref),))))
    product = Observable((Term(1.0, ((0, "Y"),), (((2,), MATRIX),)),))
    scalars = (Expectation(mixed), Expectation(product), Variance(compatible), Variance(product))
    program = builder.program(scalars, (Probabilities((2, 0)), Probabilities((1, 2), (HADAMARD,))))
    slots = builder.values()
    exact = ReferenceExecutable(program).run(slots)
    drawn = StateVectorExecutable(program, options=options).sample(slots, SHOTS, np.random.default_rng(3))
    for a, b in zip(drawn, exact, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=5 * 6 / np.sqrt(SHOTS))  # eigenvalues squared are below 6
    for a, b in zip(drawn[1:], exact[1:], strict=True):
        np.testing.assert_array_less(np.abs(a - b), 5 * np.sqrt(b * (1 - b) / SHOTS) + 1e-12)


def test_samples_are_bits(builder, options):
    program = builder.program((), (Samples((2, 0)),))
    slots = builder.values()
    executable = StateVectorExecutable(program, options=options)
    bits = executable.sample(slots, SHOTS, np.random.default_rng(5))[1]
    again = executable.sample(slots, SHOTS, np.random.default_rng(5))[1]
    assert bits.dtype == np.int64
    assert set(np.unique(bits)) <= {0, 1}
    np.testing.assert_array_equal(bits, again)
    exact = ReferenceExecutable(builder.program((), (Probabilities((2, 0)),))).run(slots)[1]
    outcomes = 2 * bits[..., 0] + bits[..., 1]
    for outcome in range(4):
        p = exact[..., outcome]
        frequency = (outcomes == outcome).mean(-1)
        np.testing.assert_array_less(np.abs(frequency - p), 5 * np.sqrt(p * (1 - p) / SHOTS) + 1e-12)


def test_compatible_terms_share_samples(rng, build):
    """Z0 - Z0 Z1 Z1 ... measured together: the variance of a sum that is always zero is exactly zero."""
    builder = build(rng, 2, None)
    builder.add_fixed([[0, 1], [1, 0]], (1,))
    observable = Observable((Term(1.0, ((0, "Z"),)), Term(1.0, ((0, "Z"), (1, "Z")))))
    program = builder.program((Variance(observable), Expectation(observable)))
    result = StateVectorExecutable(program).sample(builder.values(), 10, np.random.default_rng(0))[0]
    np.testing.assert_array_equal(result, [0, 0])


def test_outcomes_of_probability_zero_never_occur(rng, build, options):
    builder = build(rng, 3, None)
    builder.add_fixed([[0, 1], [1, 0]], (1,))
    bits = StateVectorExecutable(builder.program((), (Samples((0, 1, 2)),)), options=options).sample(
        builder.values(), 1000, np.random.default_rng(0)
    )[1]
    np.testing.assert_array_equal(bits, np.broadcast_to([0, 1, 0], (1000, 3)))


def test_refusals(rng, build):
    builder = build(rng, 2, None)
    mixed = Observable((Term(1.0, ((0, "Z"),)), Term(1.0, ((0, "X"),))))
    for program, message in (
        (builder.program((Variance(mixed),)), "Measure the terms separately"),
        (builder.program((), (State(),)), "only known exactly"),
    ):
        with pytest.raises(CircuitError, match=message):
            StateVectorExecutable(program).sample(builder.values(), 10, np.random.default_rng(0))


def test_empty_batch(rng, build):
    builder = build(rng, 2, 0)
    builder.add("pauli", 1, batched=True)
    program = builder.program((Expectation(Observable((Term(1.0, ((0, "Z"),)),))),), (Samples((0, 1)),))
    results = StateVectorExecutable(program).sample(builder.values(), 7, np.random.default_rng(0))
    assert [r.shape for r in results] == [(0, 1), (0, 7, 2)]
