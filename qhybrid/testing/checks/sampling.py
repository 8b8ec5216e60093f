"""Shots and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pennylane as qml

from qhybrid.testing.checks.circuits import angles, entangle, measuring
from qhybrid.testing.subject import Subject, table, within


def _exact(subject: Subject, measure: Callable[[], Any]) -> Any:
    return qml.QNode(measuring(measure), qml.device("default.qubit", wires=3))(angles(subject))


def _sampled(subject: Subject, measure: Callable[[], Any], shots: Any = None) -> Any:
    return subject.node(measuring(measure), shots=shots or subject.shots)(angles(subject))


def _bits(subject: Subject, bits: Any, probabilities: Any, shots: int) -> None:
    bits = np.asarray(bits)
    assert bits.shape == (shots, 2), f"samples of shape {bits.shape} in place of {(shots, 2)}"
    assert np.isin(bits, (0, 1)).all(), f"samples {np.unique(bits)} in place of bits"
    frequencies = np.bincount((bits @ [2, 1]).astype(int), minlength=4) / shots
    within(frequencies, probabilities, np.sqrt(probabilities * (1 - probabilities) / shots), shots)


def samples(subject: Subject) -> None:
    """Samples are bits, a row a shot, and as frequent as they are probable."""
    got = _sampled(subject, lambda: qml.sample(wires=[2, 0]))
    _bits(subject, got, _exact(subject, lambda: qml.probs(wires=[2, 0])), subject.shots)


def counts(subject: Subject) -> None:
    """Counts are of bit strings, add up to the shots, and are as frequent as they are probable."""
    got = _sampled(subject, lambda: qml.counts(wires=[2, 0]))
    assert sum(got.values()) == subject.shots, f"{sum(got.values())} counts in place of {subject.shots}"
    unknown = set(got) - {"00", "01", "10", "11"}
    assert not unknown, f"counts of {sorted(map(str, unknown))}, which are no strings of two bits"
    p = _exact(subject, lambda: qml.probs(wires=[2, 0]))
    frequencies = np.array([got.get(f"{i:02b}", 0) for i in range(4)]) / subject.shots
    within(frequencies, p, np.sqrt(p * (1 - p) / subject.shots), subject.shots)


def probabilities(subject: Subject) -> None:
    """Probabilities from shots are right, in a rotated basis too, and add up to 1."""
    for measure in (lambda: qml.probs(wires=[2, 0]), lambda: qml.probs(op=qml.X(1) @ qml.Y(0))):
        got, p = _sampled(subject, measure), _exact(subject, measure)
        within(got, p, np.sqrt(p * (1 - p) / subject.shots), subject.shots)
        assert abs(np.sum(got) - 1) < 1e-6, f"probabilities add up to {np.sum(got):.6g}"


def expectations(subject: Subject) -> None:
    """Expectation values from shots are right, of words in different bases and of a sum."""

    def measure() -> Any:
        return [
            qml.expval(qml.X(0) @ qml.Y(1)),
            qml.expval(qml.Z(2)),
            qml.expval(0.5 * qml.X(0) @ qml.Z(1) - 1.2 * qml.Y(2) + 0.3 * qml.Z(1)),
        ]

    got, mean = np.asarray(_sampled(subject, measure)), np.asarray(_exact(subject, measure))
    within(got, mean, np.array([1, 1, 2.0]) / np.sqrt(subject.shots), subject.shots)
    assert np.abs(got - mean).max() > 0, "estimates from shots without any noise"


def variances(subject: Subject) -> None:
    """Variances from shots are right."""
    got, expected = (f(subject, lambda: qml.var(qml.X(0) @ qml.Z(2))) for f in (_sampled, _exact))
    mean = np.sqrt(max(0.0, 1 - float(expected)))
    within(got, expected, 2 * mean * np.sqrt(float(expected) / subject.shots), subject.shots)


def shot_vector(subject: Subject) -> None:
    """Several numbers of shots give one result each, shaped by it."""
    shots = (subject.shots, 10, 10)
    got = _sampled(subject, lambda: qml.sample(wires=[2, 0]), shots)
    assert len(got) == 3, f"{len(got)} results for 3 numbers of shots"
    assert [np.shape(g) for g in got[1:]] == [(10, 2)] * 2, f"shapes {[np.shape(g) for g in got]} for shots {shots}"
    _bits(subject, got[0], _exact(subject, lambda: qml.probs(wires=[2, 0])), shots[0])


def batch(subject: Subject) -> None:
    """A batch has samples of its own for every sample of the input."""

    def circuit(x: Any) -> Any:
        qml.RY(x, wires=0)
        return qml.expval(qml.Z(0)), qml.sample(wires=[0, 1])

    x = np.array([0.0, np.pi, np.pi / 2, np.pi / 2])
    values, bits = subject.node(circuit, shots=subject.shots)(x)
    within(values, np.cos(x), np.abs(np.sin(x)) / np.sqrt(subject.shots), subject.shots)
    assert np.shape(bits) == (4, subject.shots, 2), f"samples of shape {np.shape(bits)}"
    assert not np.array_equal(bits[2], bits[3]), "two equal inputs of a batch have the very same samples"


def clifford(subject: Subject) -> None:
    """Samples of a GHZ state agree on all wires, and are 0 and 1 equally often."""

    def circuit() -> Any:
        qml.Hadamard(1)
        qml.CNOT([1, 0])
        qml.CNOT([0, 2])
        return qml.sample(wires=[0, 1, 2])

    bits = np.asarray(subject.node(circuit, shots=subject.shots)())
    assert bits.shape == (subject.shots, 3), f"samples of shape {bits.shape} in place of {(subject.shots, 3)}"
    assert (bits == bits[:, :1]).all(), "wires of a GHZ state read differently in one shot"
    within(bits[:, 0].mean(), 0.5, 0.5 / np.sqrt(subject.shots), subject.shots)


SHOTS = table(
    "shots",
    clifford,
    samples,
    counts,
    probabilities,
    expectations,
    variances,
    shot_vector,
    batch,
    samples="SampleMP",
    counts="CountsMP",
)


def _drawn(subject: Subject, seed: int, calls: int = 3) -> np.ndarray:
    """Samples of several calls on a new device."""

    def circuit(x: Any) -> Any:
        entangle(x)
        return qml.sample(wires=[0, 1, 2])

    node = subject.node(circuit, shots=50, device=subject.seeded(seed))
    return np.stack([node(angles(subject)) for _ in range(calls)])


def same(subject: Subject) -> None:
    """The same seed gives the same samples, call by call."""
    one, other = (_drawn(subject, subject.seed) for _ in range(2))
    assert np.array_equal(one, other), "two devices with the same seed give different samples"


def others(subject: Subject) -> None:
    """Another seed gives other samples."""
    one, other = (_drawn(subject, subject.seed + k) for k in range(2))
    assert not np.array_equal(one, other), "two devices with different seeds give the same samples"


def calls(subject: Subject) -> None:
    """Each call draws new samples."""
    drawn = _drawn(subject, subject.seed)
    assert not np.array_equal(drawn[0], drawn[1]), "two calls give the same samples"


SEEDS = table("seeds", same, others, calls)
