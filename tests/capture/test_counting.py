"""Counts against PennyLane's own, from the same samples."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest

import qhybrid
from qhybrid.capture.counting import counts, counts_outcomes


@pytest.mark.parametrize("all_outcomes", [False, True])
@pytest.mark.parametrize("shape", [(50, 3), (50, 1), (4, 20, 2), (1, 5, 2)])
def test_counts_are_pennylanes(shape, all_outcomes):
    samples = np.random.default_rng(0).integers(2, size=shape)
    wires = qml.wires.Wires(range(shape[-1]))
    measurement = qml.counts(wires=wires, all_outcomes=all_outcomes)
    assert counts_outcomes(measurement, len(wires))
    assert counts(samples, all_outcomes) == measurement.process_samples(samples, wires)


def test_counts_of_an_observable_are_left_to_pennylane():
    assert not counts_outcomes(qml.counts(qml.Z(0)), 1)
    assert not counts_outcomes(qml.sample(wires=[0]), 1)
    assert not counts_outcomes(qml.counts(wires=range(63)), 63)


def test_counts_of_a_circuit():
    @qhybrid.qnode(qhybrid.device("qhybrid.statevector", wires=["a", "b", "c"], seed=3))
    def circuit():
        qml.Hadamard("a")
        qml.CNOT(["a", "c"])
        return qml.counts(wires=["c", "b", "a"]), qml.counts(qml.Z("a") @ qml.Z("c")), qml.counts(all_outcomes=True)

    some, parity, all_ = qhybrid.set_shots(circuit, shots=1000)()
    assert set(some) == {"000", "101"}
    assert sum(some.values()) == 1000
    assert parity == {1.0: 1000}
    assert len(all_) == 8
    assert all_["101"] == some["101"]
