"""Random circuits on devices of others: values and gradients against ``default.qubit`` in PennyLane."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings

import qhybrid
from tests.agreement.test_random_circuits import _function, _loss, circuits


@pytest.mark.parametrize(
    ("name", "examples"),
    [("lightning.qubit", 40), ("default.qubit", 40), ("default.mixed", 8), ("reference.qubit", 4)],
)
@pytest.mark.parametrize("batch", [None, 3])
def test_random_circuit(name, examples, batch):
    @seed(77)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(circuits())
    def check(drawn):
        num_wires, instructions, words = drawn
        circuit = _function(num_wires, instructions, words)
        x = np.random.default_rng(len(instructions)).uniform(-3, 3, (4,) if batch is None else (batch, 4))
        node = qhybrid.QNode(circuit, qml.device(name, wires=num_wires))
        plain = qml.QNode(circuit, qml.device("default.qubit", wires=num_wires), diff_method="backprop")
        t = torch.tensor(x, requires_grad=True)
        loss = _loss(node(t), batch is not None and any(i[2] is not None for i in instructions))
        s = torch.tensor(x, requires_grad=True)
        expected = _loss(plain(s), False) if batch is None else sum(_loss(plain(row), False) for row in s)
        if loss.requires_grad:
            loss.backward()
            expected.backward()
            np.testing.assert_allclose(t.grad, s.grad, atol=1e-7)
            np.testing.assert_allclose(loss.detach(), expected.detach(), atol=1e-8)

    check()
