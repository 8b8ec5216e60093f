"""The conformance suite through simulated primitives, exact and with shots, and on a backend that has shots only."""

from __future__ import annotations

import functools

import pytest

import qhybrid as qml
from qhybrid.testing import Status, device_conformance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Qiskit backend .* has no QubitProperties:UserWarning"),
]

CLAIMS = {"gates.several_wires", "gates.preparations", "batches.inputs", "shots.samples", "seeds.same"}


@pytest.mark.parametrize("on_backend", [False, True])
def test_device_conforms(on_backend, make_line):
    options = {"backend": make_line()} if on_backend else {}
    report = device_conformance(functools.partial(qml.device, "qhybrid.qiskit", **options))
    report.raise_if_failed()
    claimed = CLAIMS if on_backend else {*CLAIMS, "gradients.parameter_shift", "values.probabilities", "threads.exact"}
    assert all(report[name].status is Status.PASSED for name in claimed)
