"""Angles that no result depends on: those of the last rotations about Z before a measurement of Z, and the like.

An angle turns its state by ``exp(i theta P)``, up to a constant, with a Pauli word ``P``. No result changes with it

* if ``P`` commutes with all that is measured, and with all that comes after it and is not idle itself, or
* if the circuit starts at ``|0...0>``, an eigenstate of ``P``, and all that comes before it commutes with ``P``: then
  only the phase of the state changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qhybrid.program import Program
from qhybrid_devices.statevector.idle_operations import measured_words
from qhybrid_devices.statevector.operations import Factor, Frame, LoweringOptions, Operation, commute, lower_gates
from qhybrid_devices.statevector.pauli_span import PauliSpan


def idle_angles(program: Program) -> frozenset[int]:
    """Shared angles of rotations and other gates with one generator that no exact result depends on.

    Args:
        program: the circuit
    """
    frame, options = Frame.of_wires(program.num_wires), LoweringOptions(absorb=True, restore=False)
    operations, frame = lower_gates(program.gates, frame, program.arrays, options)
    measured = measured_words(program, frame)
    if measured is None:
        return frozenset()
    places = {(i, j): f.angle for i, op in enumerate(operations) for j, f in enumerate(op.factors) if f.angle}
    found = set(_idle_before(operations, PauliSpan(program.num_wires, measured)))
    if program.preparation is None:
        found |= set(_idle_after_zeros(operations, PauliSpan(program.num_wires)))
    busy = {angle for place, angle in places.items() if place not in found}
    return frozenset(a.index for a in set(places.values()) - busy if not a.batched)


def _idle_before(operations: Sequence[Operation], met: PauliSpan) -> Iterator[tuple[int, int]]:
    """Operation and factor of those that nothing depends on which is measured, which is what is met first."""
    for i, op in reversed([*enumerate(operations)]):
        if met.commutes_with(op.generators):
            yield from ((i, j) for j in range(len(op.factors)))
            continue
        later: list[Factor] = []
        for j, factor in reversed([*enumerate(op.factors)]):
            own = op.generators_of([factor])
            if commute(own, op.generators_of(later)) and met.commutes_with(own):
                yield i, j
            else:
                later.append(factor)
        met.add(op.generators)


def _idle_after_zeros(operations: Sequence[Operation], met: PauliSpan) -> Iterator[tuple[int, int]]:
    """Operation and factor of those of which |0...0> is an eigenstate; nothing is met before."""
    for i, op in enumerate(operations):
        earlier: list[Factor] = []
        for j, factor in enumerate(op.factors):
            own = op.generators_of([factor])
            diagonal = not any(x for x, _ in own)
            if diagonal and commute(own, op.generators_of(earlier)) and met.commutes_with(own):
                yield i, j
            earlier.append(factor)
        met.add(op.generators)
