"""StronglyEntanglingLayers, for peers that have no such template."""

from __future__ import annotations

from collections.abc import Iterator

#: Of each qubit in each layer, before the CNOTs of the layer: one weight each.
ROTATIONS = ("RZ", "RY", "RZ")


def gates(layers: int, qubits: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and wires of the gates; those that are not CNOTs take one weight each, in the order of the weights.

    >>> list(gates(1, 2))[-3:]
    [('RZ', (1,)), ('CNOT', (0, 1)), ('CNOT', (1, 0))]
    """
    for layer in range(layers):
        for wire in range(qubits):
            yield from ((name, (wire,)) for name in ROTATIONS)
        yield from (("CNOT", wires) for wires in cnots(layer, qubits))


def cnots(layer: int, qubits: int) -> list[tuple[int, int]]:
    """Control and target of the CNOTs of a layer.

    >>> cnots(1, 4)
    [(0, 2), (1, 3), (2, 0), (3, 1)]
    """
    if qubits == 1:
        return []
    distance = layer % (qubits - 1) + 1
    return [(wire, (wire + distance) % qubits) for wire in range(qubits)]
