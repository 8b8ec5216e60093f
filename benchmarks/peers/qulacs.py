"""Qulacs: backpropagation through one state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import qulacs

from benchmarks.peers.ansatz import gates


def w2(problem: dict[str, np.ndarray], precision: str) -> dict[str, Callable[[], list]]:
    """Value and gradient of ``<Z0 Z1>``.

    Rotations of Qulacs turn the other way. ``backprop`` gives no value; its parts do, in the time of the whole.
    """
    del precision  # there is one
    weights = problem["weights"]
    layers, qubits, _ = weights.shape
    circuit = qulacs.ParametricQuantumCircuit(qubits)
    for name, wires in gates(layers, qubits):
        if name == "CNOT":
            circuit.add_CNOT_gate(*wires)
        else:
            getattr(circuit, f"add_parametric_{name}_gate")(*wires, 0.0)
    observable = qulacs.Observable(qubits)
    observable.add_operator(1.0, "Z 0 Z 1")
    state, bra, work = (qulacs.QuantumState(qubits) for _ in range(3))

    def value_and_gradient() -> list:
        for i, angle in enumerate(weights.ravel().tolist()):
            circuit.set_parameter(i, -angle)
        state.set_zero_state()
        circuit.update_quantum_state(state)
        observable.apply_to_state(work, state, bra)
        value = qulacs.state.inner_product(state, bra).real
        bra.multiply_coef(2)
        return [value, -np.array(circuit.backprop_inner_product(bra)).reshape(weights.shape)]

    return {"gradient": value_and_gradient}
