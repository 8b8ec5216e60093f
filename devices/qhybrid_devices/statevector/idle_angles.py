"""Angles that no result depends on: those of the last rotations about Z before a measurement of Z, and the like.

An angle turns its state by ``exp(i theta P)``, up to a constant, with a Pauli word ``P``. No result changes with it

* if ``P`` commutes with all that is measured, and with all that comes after it and is not idle itself, or
* if the circuit starts at ``|0...0>``, an eigenstate of ``P``, and all that comes before it commutes with ``P``: then
  only the phase of the state changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qhybrid.program import Probabilities, Program
from qhybrid_devices.statevector.measurements import has_matrices
from qhybrid_devices.statevector.observables import word_of
from qhybrid_devices.statevector.operations import (
    Factor,
    Frame,
    LoweringOptions,
    Operation,
    Pauli,
    commute,
    lower_gates,
)


def idle_angles(program: Program) -> frozenset[int]:
    """Shared angles of rotations and other gates with one generator that no exact result depends on.

    Args:
        program: the circuit
    """
    frame, options = Frame.of_wires(program.num_wires), LoweringOptions(absorb=True, restore=False)
    operations, frame = lower_gates(program.gates, frame, program.arrays, options)
    measured = _measured(program, frame)
    if measured is None:
        return frozenset()
    places = {(i, j): f.angle for i, op in enumerate(operations) for j, f in enumerate(op.factors) if f.angle}
    found = set(_idle_before(operations, measured))
    if program.preparation is None:
        found |= set(_idle_after_zeros(operations))
    busy = {angle for place, angle in places.items() if place not in found}
    return frozenset(a.index for a in set(places.values()) - busy if not a.batched)


def _idle_before(operations: Sequence[Operation], measured: list[Pauli]) -> Iterator[tuple[int, int]]:
    """Operation and factor of those that nothing depends on which is measured."""
    met = [measured]
    for i, op in reversed([*enumerate(operations)]):
        if _commute_with(op.generators, met):
            yield from ((i, j) for j in range(len(op.factors)))
            continue
        later: list[Factor] = []
        for j, factor in reversed([*enumerate(op.factors)]):
            if _commute_with(op.generators_of([factor]), [op.generators_of(later), *met]):
                yield i, j
            else:
                later.append(factor)
        met.append(op.generators)


def _idle_after_zeros(operations: Sequence[Operation]) -> Iterator[tuple[int, int]]:
    """Operation and factor of those of which |0...0> is an eigenstate."""
    met: list[list[Pauli]] = []
    for i, op in enumerate(operations):
        earlier: list[Factor] = []
        for j, factor in enumerate(op.factors):
            own = op.generators_of([factor])
            if not any(x for x, _ in own) and _commute_with(own, [op.generators_of(earlier), *met]):
                yield i, j
            earlier.append(factor)
        met.append(op.generators)


def _commute_with(own: Sequence[Pauli], others: Sequence[Sequence[Pauli]]) -> bool:
    return all(commute(own, words) for words in others)


def _measured(program: Program, frame: Frame) -> list[Pauli] | None:
    """The Pauli words whose moments give all results; ``None`` if these are not enough."""
    outcomes = [t for t in program.tensors if isinstance(t, Probabilities) and not t.basis]
    if has_matrices(program) or len(outcomes) < len(program.tensors):
        return None
    words = [word_of(t, frame)[:2] for m in program.scalars for t in m.observable.terms]
    return words + [(0, frame.signs[w]) for t in outcomes for w in t.wires]
