"""Small runs give what the machinery for all sizes gives, to the last bit, and are used where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from qhybrid.execution import Needs
from qhybrid.program import Angle, Expectation, Observable, Probabilities, Slots, Term, Variance
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.plan import PlanOptions
from qhybrid_devices.statevector.small import SmallRun

SUM = Observable((Term(0.8, ((0, "X"), (2, "Y"))), Term(-0.5, ((1, "Z"),)), Term(0.3)))
WORD = Observable((Term(1.0, ((0, "Z"), (1, "Y"))),))
MEANS = (Expectation(SUM), Expectation(WORD))
KINDS = ["pauli", "spectral", "fixed", "spectral-diagonal"]


def random_program(build, wires, batch, tensors=(), scalars=MEANS):
    """Gates of all kinds that small runs take, and values for their slots.

    Where lanes are amplitudes, from six wires on, dense gates need states in another order, and so more than one sweep.
    """
    rng = np.random.default_rng(wires + 10 * (batch or 0))
    builder = build(rng, wires, batch)
    builder.mix()
    for i in range(12):
        kind = KINDS[i % len(KINDS)] if wires < 6 else "pauli"
        builder.add(kind, int(rng.integers(1, 3)), int(rng.integers(0, 2)), batch is not None and i % 3 == 0)
    builder.mix()
    return builder.program(scalars, tensors), builder.values()


def results_and_cotangents(program, values, needs, c_dtype):
    """Results, cotangents after the run, and cotangents without one."""
    exe = StateVectorExecutable(program, c_dtype)
    results, residual = exe.run_with_residual(values)
    cotangents = tuple(np.cos(np.arange(r.size)).reshape(r.shape) for r in results)
    again = [exe.vjp(values, cotangents, needs, residual=residual) for _ in range(4)]
    found = [*again, exe.vjp(values, cotangents, needs)]
    return [*results, *exe.run(values), *(getattr(c, name) for c in found for name in ("shared", "batched"))]


@pytest.mark.parametrize("c_dtype", [np.complex128, np.complex64])
@pytest.mark.parametrize("needs", [Needs(), Needs(batched=False), Needs(shared=False), Needs(False, False)])
@pytest.mark.parametrize(("wires", "batch"), [(3, None), (3, 1), (3, 21), (7, None), (7, 2), (7, 5)])
def test_same_bits(build, monkeypatch, wires, batch, needs, c_dtype):
    program, values = random_program(build, wires, batch)
    made = []

    def spy(compiled, layout, copied_bytes):
        made.append(original(compiled, layout, copied_bytes))
        return made[-1]

    original = SmallRun.of
    monkeypatch.setattr(SmallRun, "of", spy)
    found = results_and_cotangents(program, values, needs, c_dtype)
    assert made, "nothing asked for a small run"
    assert made[0] is not None
    monkeypatch.setattr(SmallRun, "of", lambda *_: None)
    expected = results_and_cotangents(program, values, needs, c_dtype)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_residuals_of_another_layout(build, monkeypatch):
    """The number of threads may change between a run and its derivative, and what is known of a batch be forgotten."""
    program, values = random_program(build, 5, 512)
    exe = StateVectorExecutable(program)
    monkeypatch.setenv("QHYBRID_NUM_THREADS", "8")
    results, residual = exe.run_with_residual(values)
    cotangents = tuple(np.cos(np.arange(r.size)).reshape(r.shape) for r in results)
    expected = exe.vjp(values, cotangents, Needs())
    for threads in ("1", "1", "8", "1"):  # the first takes the state, the second leaves one in another layout
        monkeypatch.setenv("QHYBRID_NUM_THREADS", threads)
        exe._small.clear()
        found = exe.vjp(values, cotangents, Needs(), residual=residual)
        np.testing.assert_allclose(found.batched, expected.batched, atol=1e-12)
        np.testing.assert_allclose(found.shared, expected.shared, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_cotangents_of_any_kind(build, monkeypatch, seed):
    """Sums over scalars go through a BLAS, which rounds by how its arrays lie."""
    rng = np.random.default_rng(seed)
    sums = [Observable(tuple(Term(float(c), ((w, "Z"),)) for w, c in enumerate(rng.normal(size=3)))) for _ in range(3)]
    program, values = random_program(build, 3, 13, scalars=tuple(map(Expectation, sums)))
    cotangents = (rng.normal(size=(13, 3)).astype(np.float32),)
    found = StateVectorExecutable(program).vjp(values, cotangents, Needs())
    monkeypatch.setattr(SmallRun, "of", lambda *_: None)
    expected = StateVectorExecutable(program).vjp(values, cotangents, Needs())
    np.testing.assert_array_equal(found.shared, expected.shared)


def is_small(program, count, options=None):
    """Whether an executable runs so many samples of a program as a small run."""
    return StateVectorExecutable(program, options=options).direct(count) is not None


def test_which_runs_are_small(build):
    """Those on few amplitudes with nothing but Pauli words to measure; all others have more to it."""
    assert is_small(random_program(build, 4, 16)[0], 16)
    assert not is_small(random_program(build, 4, 16, (Probabilities((0,)),))[0], 16)
    assert not is_small(random_program(build, 4, 16, (), (Variance(WORD),))[0], 16)
    of_angle = Expectation(Observable((Term(Angle(0), ((0, "Z"),)),)))
    assert not is_small(random_program(build, 4, 16, (), (of_angle,))[0], 16)
    assert not is_small(random_program(build, 4, 0)[0], 0)
    assert not is_small(random_program(build, 16, None)[0], 1)
    busy = PlanOptions(parallel_work=1, tile_bytes=1 << 10, tile_lanes=1)
    assert not is_small(random_program(build, 4, 64)[0], 64, busy)


def test_samples_of_several_sizes_are_kept_apart(build):
    """An executable meets batches of any size, an empty one too."""
    program, values = random_program(build, 3, 21)
    exe = StateVectorExecutable(program)
    whole = exe.run(values)[0]
    for count in (1, 7, 21, 0):
        part = Slots(values.shared, values.batched[:, :count], (), count)
        np.testing.assert_array_equal(exe.run(part)[0], whole[:count])
