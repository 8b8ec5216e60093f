"""TensorFlow Quantum: its adjoint differentiator in a ``tf.function`` of the whole step."""

from __future__ import annotations

from collections.abc import Callable

import cirq
import numpy as np
import sympy
import tensorflow as tf
import tensorflow_quantum as tfq

from benchmarks.peers.ansatz import gates


def circuit_of(layers: int, qubits: int) -> tuple[cirq.Circuit, list[str]]:
    """Embedding and StronglyEntanglingLayers, and the names of the inputs and weights, in this order."""
    wires = cirq.GridQubit.rect(1, qubits)
    inputs = [f"x{i}" for i in range(qubits)]
    circuit = cirq.Circuit(cirq.rx(sympy.Symbol(name))(wire) for name, wire in zip(inputs, wires, strict=True))
    weights = []
    for name, where in gates(layers, qubits):
        if name == "CNOT":
            circuit.append(cirq.CNOT(*(wires[i] for i in where)))
        else:
            weights.append(f"w{len(weights)}")
            circuit.append(getattr(cirq, name.lower())(sympy.Symbol(weights[-1]))(wires[where[0]]))
    return circuit, inputs + weights


def w1(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """The hybrid classifier, in single precision, which is all it has."""
    del precision
    features, labels = tf.constant(problem["features"], tf.float32), tf.constant(problem["labels"])
    parameters = [tf.Variable(problem[f"parameter {i}"], dtype=tf.float32) for i in range(5)]
    layers, qubits, _ = problem["parameter 2"].shape
    batch = len(problem["labels"])
    circuit, names = circuit_of(layers, qubits)
    circuits, symbols = tf.repeat(tfq.convert_to_tensor([circuit]), batch), tf.constant(names)
    heights = tfq.convert_to_tensor([[cirq.Z(wire) for wire in cirq.GridQubit.rect(1, qubits)]])
    observables = tf.repeat(heights, batch, axis=0)
    expectation = tfq.differentiators.Adjoint().generate_differentiable_op(analytic_op=tfq.get_expectation_op())

    def model():
        into, into_bias, weights, out, out_bias = parameters
        angles = tf.linalg.matmul(features, into, transpose_b=True) + into_bias
        shared = tf.repeat(tf.reshape(weights, (1, -1)), batch, axis=0)
        found = expectation(circuits, symbols, tf.concat([angles, shared], 1), observables)
        return tf.linalg.matmul(found, out, transpose_b=True) + out_bias

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model()))
        return tape.gradient(loss, parameters)

    forward = tf.function(model)
    return {"step": step, "forward": lambda: [forward()]}
