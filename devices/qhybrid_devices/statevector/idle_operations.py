"""Operations that no result depends on: those outside of the light cone of what is measured, and the like.

An operation changes no result if it commutes with all that is measured, and with all that comes after it and is not
left out itself: with ``U`` moved behind the others, ``<w> = <U^dagger w U> = <w>``. What it commutes with is known from
the Pauli words that generate it, whatever its angles.
"""

from __future__ import annotations

from collections.abc import Sequence

from qhybrid.program import Probabilities, Program
from qhybrid_devices.statevector.measurements import has_matrices
from qhybrid_devices.statevector.observables import word_of
from qhybrid_devices.statevector.operations import Frame, Operation, Pauli
from qhybrid_devices.statevector.pauli_span import PauliSpan


def without_idle(operations: Sequence[Operation], program: Program, frame: Frame) -> list[Operation]:
    """The operations on which any result of a program, or any derivative of one, may depend.

    Args:
        operations: of the program
        program: the circuit
        frame: what bits mean after the operations
    """
    measured = measured_words(program, frame)
    if measured is None:
        return list(operations)
    met, kept = PauliSpan(program.num_wires, measured), []
    for op in reversed(operations):
        # Of a matrix of the user's, derivatives are wanted where it is not unitary.
        if op.is_free or not met.commutes_with(op.generators):
            met.add(op.generators)
            kept.append(op)
    return kept[::-1]


def measured_words(program: Program, frame: Frame) -> list[Pauli] | None:
    """The Pauli words whose moments give all results; ``None`` if these are not enough."""
    outcomes = [t for t in program.tensors if isinstance(t, Probabilities) and not t.basis]
    if has_matrices(program) or len(outcomes) < len(program.tensors):
        return None
    words = [word_of(t, frame)[:2] for m in program.scalars for t in m.observable.terms]
    return words + [(0, frame.signs[w]) for t in outcomes for w in t.wires]
