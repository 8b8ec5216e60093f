"""Many executions as one: programs whose parameters all vary from lane to lane.

A lane is one sample of a batch. Shifted parameters and mapped axes become further lanes of the same device call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Needs
from qhybrid.gradients.shift_rules import (
    LINEAR_RULE,
    QUADRATIC_RULE,
    Measured,
    ShiftRule,
    frequencies,
    shift_rule,
)
from qhybrid.program import (
    Angle,
    Evolution,
    Gate,
    Observable,
    PauliRotation,
    Program,
    Samples,
    Scalar,
    Slots,
    SpectralRotation,
    Variance,
)

#: Numbers that the lanes of one device call may hold, in and out; more lanes are split over several calls.
MAX_NUMBERS_A_CALL = 2**25

Rename = Callable[[Angle], Angle]


# ------------------------------------------------------------------ rewriting programs


def rename_angles(program: Program, rename: Rename) -> tuple[tuple[Gate, ...], tuple[Scalar, ...]]:
    """Gates and scalars with every angle replaced; ``rename`` is called once an occurrence, in order."""
    gates = tuple(_rename_gate(g, rename) for g in program.gates)
    return gates, tuple(replace(m, observable=_rename_observable(m.observable, rename)) for m in program.scalars)


def _rename_gate(gate: Gate, rename: Rename) -> Gate:
    op = gate.operator
    if isinstance(op, PauliRotation | SpectralRotation):
        return replace(gate, operator=replace(op, angle=rename(op.angle)))
    if isinstance(op, Evolution):
        time = rename(op.time) if isinstance(op.time, Angle) else op.time
        coefficients = tuple(rename(c) if isinstance(c, Angle) else c for c in op.coefficients)
        return replace(gate, operator=replace(op, time=time, coefficients=coefficients))
    return gate


def _rename_observable(observable: Observable, rename: Rename) -> Observable:
    if not any(isinstance(t.coefficient, Angle) for t in observable.terms):
        return observable
    return Observable(
        tuple(
            replace(t, coefficient=rename(t.coefficient)) if isinstance(t.coefficient, Angle) else t
            for t in observable.terms
        )
    )


@lru_cache(maxsize=256)
def all_batched(program: Program, arrays: tuple[bool, ...]) -> Program:
    """``program`` with shared angles as the first batched rows, and ``arrays[i]`` saying which arrays are batched."""

    def rename(angle: Angle) -> Angle:
        return Angle(angle.index + program.num_shared if angle.batched else angle.index, True)

    gates, scalars = rename_angles(program, rename)
    slots = tuple(replace(a, batched=b) for a, b in zip(program.arrays, arrays, strict=True))
    rows = program.num_shared + program.num_batched
    return replace(program, gates=gates, scalars=scalars, num_shared=0, num_batched=rows, arrays=slots)


@lru_cache(maxsize=256)
def without_samples(program: Program) -> Program:
    """``program`` without raw samples, which have no derivative."""
    return replace(program, tensors=tuple(m for m in program.tensors if not isinstance(m, Samples)))


# ------------------------------------------------------------------ one row an occurrence


@dataclass(frozen=True, eq=False)
class Untied:
    """A program in which every occurrence of an angle has a batched row of its own.

    Args:
        original: the program that was rewritten
        program: the rewritten one, all of whose angles are batched
        sources: for each row, the angle of ``original`` that it copies
        origins: for each row, where it occurs: a gate and the number of its angle, or a measurement
    """

    original: Program
    program: Program
    sources: tuple[Angle, ...]
    origins: tuple[tuple[Gate, int] | Scalar, ...]

    @cached_property
    def _index(self) -> tuple[tuple[NDArray, NDArray], ...]:
        """For shared and for batched angles: the rows that copy them, and which angle each copies."""
        flags = np.array([a.batched for a in self.sources], dtype=bool)
        index = np.array([a.index for a in self.sources], dtype=np.intp)
        return tuple((np.flatnonzero(flags == b), index[flags == b]) for b in (False, True))

    def rows(self, slots: Slots) -> NDArray:
        """Values of the rows, ``(rows, batch)`` (batch 1 if the program has none); missing angles give zeros."""
        values = np.zeros((len(self.sources), batch_of(slots)))
        for (rows, index), source in zip(self._index, (slots.shared, slots.batched), strict=True):
            if source is not None and len(source) and len(rows):
                values[rows] = source[index] if source.ndim == 2 else source[index, None]
        return values

    def moves(self, slots: Slots, tangents: Slots) -> NDArray:
        """How far each row moves along each of several directions of the slots, ``(directions, rows, batch)``."""
        assert tangents.shared is not None
        steps = [
            Slots(shared, None if tangents.batched is None else tangents.batched[k], (), slots.batch_size)
            for k, shared in enumerate(tangents.shared)
        ]
        return np.array([self.rows(s) for s in steps]).reshape(len(steps), len(self.sources), batch_of(slots))

    def collect(self, rows: NDArray, needs: Needs) -> tuple[NDArray | None, NDArray | None]:
        """Cotangents of shared and batched angles, given those of the rows ``(rows, batch)``."""
        (shared_rows, shared_index), (batched_rows, batched_index) = self._index
        shared = batched = None
        if needs.shared and self.original.num_shared:
            shared = np.zeros(self.original.num_shared)
            np.add.at(shared, shared_index, rows[shared_rows].sum(axis=1))
        if needs.batched and self.original.num_batched:
            batched = np.zeros((self.original.num_batched, rows.shape[1]))
            np.add.at(batched, batched_index, rows[batched_rows])
        return shared, batched

    def needed_rows(self, needs: Needs) -> list[int]:
        """Rows that copy an angle whose cotangent is wanted."""
        return [r for r, a in enumerate(self.sources) if needs.wants(a)]

    def rule(self, row: int) -> ShiftRule:
        """The exact shift rule of a row.

        Raises:
            DifferentiationError: there is none
        """
        origin = self.origins[row]
        if isinstance(origin, tuple):
            return shift_rule(frequencies(*origin, Measured.by(self.program)))
        return QUADRATIC_RULE if isinstance(origin, Variance) else LINEAR_RULE

    @cached_property
    def _rules(self) -> dict[int, ShiftRule]:
        return {}

    def shifts(self, rows: list[int], rule: ShiftRule | None = None) -> Shifts:
        """All shifts of ``rows``, each by its exact rule, or by ``rule``."""
        for r in rows if rule is None else ():
            if r not in self._rules:
                self._rules[r] = self.rule(r)
        return Shifts.by(rows, [rule or self._rules[r] for r in rows])


@dataclass(frozen=True, eq=False)
class Shifts:
    """Shifted executions: number ``t`` adds ``shifts[t]`` to row ``rows[t]`` and counts ``coefficients[t]`` times."""

    rows: NDArray
    shifts: NDArray
    coefficients: NDArray

    @classmethod
    def by(cls, rows: Sequence[int], rules: Sequence[ShiftRule]) -> Shifts:
        """All shifts of ``rows``, each by its rule."""
        return cls(
            np.repeat(np.array(rows, dtype=np.intp), [len(r.shifts) for r in rules]),
            np.array([s for r in rules for s in r.shifts], dtype=float),
            np.array([c for r in rules for c in r.coefficients], dtype=float),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | NDArray) -> Shifts:
        """Some of them."""
        return Shifts(self.rows[part], self.shifts[part], self.coefficients[part])

    def chunks(self, program: Program, batch: int) -> Iterator[Shifts]:
        """Parts that fit into one device call each; nearly always one."""
        size = executions_a_call(program, batch)
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def apply(self, untied: Untied, slots: Slots) -> Slots:
        """Slots of the untied program: lane ``t * batch + b`` is sample ``b`` of execution ``t``."""
        count, batch = len(self), batch_of(slots)
        lanes = np.repeat(untied.rows(slots)[:, None, :], count, axis=1)
        lanes[self.rows, np.arange(count)] += self.shifts[:, None]
        arrays = tiled_arrays(untied.original, slots, count)
        return Slots(np.empty(0), lanes.reshape(len(lanes), count * batch), arrays, count * batch)


def executions_a_call(program: Program, batch: int) -> int:
    """How many executions of ``batch`` samples one device call takes; nearly always more than are wanted."""
    width = 2**program.num_wires if program.tensors else 0
    numbers = max(1, batch * (program.num_batched + len(program.scalars) + width))
    return max(1, MAX_NUMBERS_A_CALL // numbers)


def tiled_arrays(program: Program, slots: Slots, count: int) -> tuple[NDArray | None, ...]:
    """Array slots of ``count`` executions as lanes of one."""
    return tuple(
        np.tile(a, (count,) + (1,) * (a.ndim - 1)) if slot.batched and a is not None else a
        for a, slot in zip(slots.arrays, program.arrays, strict=True)
    )


def contract(results: Sequence[NDArray], cotangents: Sequence[NDArray], count: int) -> NDArray:
    """``Re <cotangent, result>`` of every lane, ``(count, batch)``.

    Args:
        results: of ``count`` executions as lanes of one
        cotangents: of one execution, the batch in front
        count: number of executions
    """
    total = np.zeros((count, len(cotangents[0])))
    for result, cotangent in zip(results, cotangents, strict=True):
        size = prod(cotangent.shape[1:])
        lanes = result.reshape(*total.shape, size)
        total += np.einsum("tbk,bk->tb", lanes, cotangent.reshape(len(cotangent), size).conj()).real
    return total


@lru_cache(maxsize=256)
def untie(program: Program) -> Untied:
    """Give each occurrence of an angle in a gate or an observable a row of its own.

    Copies of a gate for different outcomes of measurements share one: only one of them acts in each run, so that
    shifting them together is exact.
    """
    sources: list[Angle] = []
    origins: list[tuple[Gate, int] | Scalar] = []
    copies: dict[Any, list[tuple[Angle, list[Gate]]]] = {}

    def add(angle: Angle, origin: tuple[Gate, int] | Scalar) -> Angle:
        sources.append(angle)
        origins.append(origin)
        return Angle(len(sources) - 1, True)

    def add_once(angle: Angle, gate: Gate, position: int) -> Angle:
        if not gate.classical:
            return add(angle, (gate, position))
        found = copies.setdefault((position, _without_outcomes(gate)), [])
        for row, others in found:
            if all(_exclude(gate, other) for other in others):
                others.append(gate)
                return row
        found.append((add(angle, (gate, position)), [gate]))
        return found[-1][0]

    gates = []
    for gate in program.gates:
        positions = count()
        gates.append(_rename_gate(gate, lambda angle, g=gate, k=positions: add_once(angle, g, next(k))))  # type: ignore[misc]
    scalars = []
    for m in program.scalars:
        observable = _rename_observable(m.observable, lambda angle, m=m: add(angle, m))  # type: ignore[misc]
        scalars.append(replace(m, observable=observable))
    rewritten = replace(program, gates=tuple(gates), scalars=tuple(scalars), num_shared=0, num_batched=len(sources))
    return Untied(program, rewritten, tuple(sources), tuple(origins))


def _without_outcomes(gate: Gate) -> Gate:
    controls, values = gate.controls[gate.classical :], gate.control_values[gate.classical :]
    return replace(gate, name="", controls=controls, control_values=values, classical=0)


def _exclude(a: Gate, b: Gate) -> bool:
    """Whether no outcomes let both gates act."""
    outcomes = dict(zip(a.controls[: a.classical], a.control_values, strict=False))
    return any(outcomes.get(w, v) != v for w, v in zip(b.controls[: b.classical], b.control_values, strict=False))


def angles_of(program: Program) -> list[Angle]:
    """All angles of a program: the shared ones, then the batched ones."""
    shared = [Angle(i) for i in range(program.num_shared)]
    return shared + [Angle(i, True) for i in range(program.num_batched)]


def batch_of(slots: Slots) -> int:
    """Lanes of an execution: its batch size, or 1 without a batch."""
    return 1 if slots.batch_size is None else slots.batch_size


def per_lane(results: tuple[NDArray, ...], slots: Slots) -> tuple[NDArray, ...]:
    """Arrays shaped like results, with a batch axis in front in any case."""
    return results if slots.batch_size is not None else tuple(r[None] for r in results)
