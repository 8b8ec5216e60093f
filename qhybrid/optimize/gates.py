"""The metric of a circuit's gate angles: each occurrence of an angle by itself, and only within layers.

A layer is a run of gates none of which acts after another one of it, as in PennyLane's metric tensor: at the state
before the layer the metric of its angles is the covariance of its generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs
from qhybrid.gradients.lanes import rename_angles
from qhybrid.optimize.layout import shared_of
from qhybrid.optimize.states import PreparedState
from qhybrid.program import Angle, Gate, PauliRotation, Program, Slots


@dataclass(frozen=True, eq=False)
class Occurrences:
    """A program whose every occurrence of an angle in a gate has a row of its own.

    Args:
        program: the rewritten one; its rows are batched if the original is
        sources: for each row, the angle of the original that it copies
        owners: for each row, the position of its gate
    """

    program: Program
    sources: tuple[Angle, ...]
    owners: tuple[int, ...]

    @classmethod
    def of(cls, program: Program) -> Occurrences:
        """Rewrite a program."""
        sources: list[Angle] = []

        def rename(angle: Angle) -> Angle:
            sources.append(angle)
            return Angle(len(sources) - 1, program.is_batched)

        gates, _ = rename_angles(program, rename)
        shared, batched = (0, len(sources)) if program.is_batched else (len(sources), 0)
        owners = tuple(i for i, g in enumerate(program.gates) for _ in g.angles)
        return cls(replace(program, gates=gates, num_shared=shared, num_batched=batched), tuple(sources), owners)

    @cached_property
    def _index(self) -> tuple[tuple[NDArray, NDArray], ...]:
        """For shared and for batched angles: the rows that copy them, and which angle each copies."""
        flags = np.array([a.batched for a in self.sources], dtype=bool)
        index = np.array([a.index for a in self.sources], dtype=np.intp)
        return tuple((np.flatnonzero(flags == b), index[flags == b]) for b in (False, True))

    def spread(self, shared: NDArray, batched: NDArray | None, batch: int) -> NDArray:
        """Values of the rows, ``(rows, batch)``, from those of shared ``(Ps,)`` and batched angles ``(Pb, batch)``."""
        (shared_rows, shared_index), (batched_rows, batched_index) = self._index
        rows = np.zeros((len(self.sources), batch))
        rows[shared_rows] = shared[shared_index, None]
        if batched is not None:
            rows[batched_rows] = batched[batched_index]
        return rows

    def collect(self, rows: NDArray, like: Slots) -> Slots:
        """The transpose of :meth:`spread`, for rows ``(rows, batch)``."""
        (shared_rows, shared_index), (batched_rows, batched_index) = self._index
        shared = np.zeros(shared_of(like).shape)
        np.add.at(shared, shared_index, rows[shared_rows].sum(axis=1))
        batched = None
        if like.batched is not None:
            batched = np.zeros(like.batched.shape)
            np.add.at(batched, batched_index, rows[batched_rows])
        return Slots(shared, batched, (None,) * len(like.arrays), like.batch_size)

    def layers(self, moving: Sequence[int]) -> list[list[int]]:
        """The ``moving`` rows, parted into layers."""
        layers: list[list[int]] = [[]]
        behind: set[int] = set()  # wires on which something of the current layer has acted
        rows_of: dict[int, list[int]] = {}
        for row in moving:
            rows_of.setdefault(self.owners[row], []).append(row)
        for position, gate in enumerate(self.program.gates):
            wires = {*gate.wires, *gate.controls}
            depends = bool(wires & behind)
            if position in rows_of:
                if depends:
                    layers.append([])
                    behind = set()
                layers[-1] += rows_of[position]
            if depends or position in rows_of:
                behind |= wires
        return [layer for layer in layers if layer]


#: The occurrences of a circuit's angles, and the circuit in which each has a row.
_OCCURRENCES: WeakKeyDictionary[Circuit, tuple[Occurrences, Circuit]] = WeakKeyDictionary()


class GateMetric:
    """The metric of the gate angles of a circuit at one point.

    Args:
        circuit: its only result is the state
        state: the same circuit, run
        constant: angles that nobody trains
    """

    def __init__(self, circuit: Circuit, state: PreparedState, constant: frozenset[Angle]) -> None:
        found = _OCCURRENCES.get(circuit)
        if found is None:
            occurrences = Occurrences.of(circuit.program)
            found = _OCCURRENCES[circuit] = (occurrences, circuit.rewritten(occurrences.program))
        self.occurrences, rewritten = found
        slots, self._batch = state.slots, len(state.psi)
        values = self.occurrences.spread(shared_of(slots), slots.batched, self._batch)
        self._moving = [r for r, a in enumerate(self.occurrences.sources) if a not in constant]
        batched = circuit.program.is_batched
        rows = Slots(
            np.zeros(0) if batched else values[:, 0], values if batched else None, slots.arrays, slots.batch_size
        )
        needs = Needs(not batched, batched, (False,) * len(slots.arrays))
        self._state = PreparedState.at(rewritten, state.method, rows, needs)

    def layer_blocks(self) -> list[tuple[list[int], NDArray]]:
        """For each layer, its rows and their metric ``(batch, k, k)``."""
        found = []
        for layer in self.occurrences.layers(self._moving):
            tangents = np.concatenate([t for _, t in self._tangents(layer)])
            found.append((layer, np.einsum("ibn,jbn->bij", tangents.conj(), tangents).real))
        return found

    def diagonal(self) -> NDArray:
        """The metric of each angle with itself, ``(rows, batch)``; one reverse pass for all Pauli rotations."""
        found = np.zeros((len(self.occurrences.sources), self._batch))
        gates = [self.occurrences.program.gates[p] for p in self.occurrences.owners]
        simple = [r for r in self._moving if _squares_to_identity(gates[r])]
        if simple:
            # the imaginary part of <psi| d psi> is the mean of the generator, whose square is a number
            means = self._state.pullback(1j * self._state.psi)
            rows = shared_of(means)[:, None] if means.batched is None else means.batched
            squares = np.array([[gates[r].operator.scale ** 2 / 4] for r in simple])  # type: ignore[union-attr]
            found[simple] = squares - rows[simple] ** 2
        for part, tangents in self._tangents([r for r in self._moving if not _squares_to_identity(gates[r])]):
            found[part] = np.einsum("kbn,kbn->kb", tangents.conj(), tangents).real
        return np.maximum(found, 0.0)

    def _tangents(self, rows: list[int]) -> list[tuple[list[int], NDArray]]:
        """Tangents of the state along single rows, in parts."""
        size = self._state.directions_at_once
        return [(p, self._tangents_of(p)) for p in (rows[i : i + size] for i in range(0, len(rows), size))]

    def _tangents_of(self, rows: list[int]) -> NDArray:
        slots = self._state.slots
        units = np.zeros((len(rows), len(self.occurrences.sources)))
        units[np.arange(len(rows)), rows] = 1.0
        arrays = (None,) * len(slots.arrays)
        if slots.batched is None:
            return self._state.pushforward(Slots(units, None, arrays, slots.batch_size))
        batched = np.repeat(units[:, :, None], self._batch, axis=2)
        return self._state.pushforward(Slots(np.zeros((len(rows), 0)), batched, arrays, slots.batch_size))


def _squares_to_identity(gate: Gate) -> bool:
    """Whether the generator of a gate is a multiple of something whose square is the identity."""
    return isinstance(gate.operator, PauliRotation) and not gate.controls
