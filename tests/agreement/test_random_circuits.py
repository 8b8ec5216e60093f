"""Random circuits, batched or not: values and gradients against ``default.qubit``; the same seed, the same circuits."""

from __future__ import annotations

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import qhybrid

ONE = [qml.RX, qml.RY, qml.RZ, qml.PhaseShift]
TWO = [qml.IsingXX, qml.IsingYY, qml.IsingZZ, qml.CRX, qml.CRY, qml.CRZ, qml.ControlledPhaseShift, qml.SingleExcitation]
FIXED_ONE = [qml.Hadamard, qml.S, qml.T, qml.SX, qml.X, qml.Y]
FIXED_TWO = [qml.CNOT, qml.CZ, qml.CY, qml.SWAP, qml.ISWAP, qml.ECR]
PAULI = {"I": None, "X": qml.X, "Y": qml.Y, "Z": qml.Z}


@st.composite
def circuits(draw):
    """Instructions for a circuit: (operation, wires, angle index or None, controls), then words to measure."""
    num_wires = draw(st.integers(2, 5))
    wires = st.permutations(range(num_wires))
    instructions = []
    for _ in range(draw(st.integers(3, 18))):
        order = draw(wires)
        pool, width, angle = draw(st.sampled_from([(ONE, 1, 1), (TWO, 2, 1), (FIXED_ONE, 1, 0), (FIXED_TWO, 2, 0)]))
        controls = order[width : width + draw(st.integers(0, min(1, num_wires - width)))]
        values = draw(st.tuples(*[st.booleans()] * len(controls)))
        index = draw(st.integers(0, 3)) if angle else None
        instructions.append((draw(st.sampled_from(pool)), order[:width], index, controls, values, draw(st.booleans())))
    words = draw(st.lists(st.text("IXYZ", min_size=num_wires, max_size=num_wires), min_size=1, max_size=3))
    return num_wires, instructions, words


def _function(num_wires, instructions, words):
    def circuit(x):
        for w in range(num_wires):
            qml.RY(0.4 + 0.3 * w, wires=w)
        for op, wires, index, controls, values, inverted in instructions:
            make = qml.adjoint(op) if inverted else op
            if controls:
                make = qml.ctrl(make, control=controls, control_values=values)
            make(wires=wires) if index is None else make(x[..., index], wires=wires)
        return [
            qml.expval(qml.prod(qml.Identity(0), *(PAULI[c](w) for w, c in enumerate(word) if c != "I")))
            for word in words
        ] + [qml.probs(wires=[num_wires - 1, 0])]

    return circuit


def _loss(results, batch):
    total = 0.0
    for k, r in enumerate(map(torch.real, results)):  # default.qubit gives complex values for products
        weights = torch.linspace(0.5, 1.5, r.shape[-1], dtype=r.dtype) if r.ndim > (1 if batch else 0) else 1.0
        total = total + (k + 1) * (r * weights).sum()
    return total


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift"])
@pytest.mark.parametrize("batch", [None, 3])
@seed(2024)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(circuits())
def test_random_circuit(method, batch, drawn):
    num_wires, instructions, words = drawn
    circuit = _function(num_wires, instructions, words)
    x = np.random.default_rng(len(instructions)).uniform(-3, 3, (4,) if batch is None else (batch, 4))
    found = []
    for make, device in ((qhybrid.QNode, "qhybrid.statevector"), (qml.QNode, "default.qubit")):
        options = {"diff_method": method} if make is qhybrid.QNode else {"diff_method": "backprop"}
        node = make(circuit, qml.device(device, wires=num_wires), **options)
        t = torch.tensor(x, requires_grad=True)
        if make is qml.QNode and batch is not None:
            loss = sum(_loss(node(row), False) for row in t)
        else:
            loss = _loss(node(t), batch is not None and any(i[2] is not None for i in instructions))
        loss = torch.as_tensor(loss)
        if loss.requires_grad:
            loss.backward()
        factor = batch if make is qhybrid.QNode and batch and not any(i[2] is not None for i in instructions) else 1
        found.append((loss.item() * factor, np.zeros_like(x) if t.grad is None else t.grad.numpy()))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-9)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-9)
