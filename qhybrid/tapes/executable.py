"""A program on a PennyLane device: each call is one batch of tapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pennylane.operation import Operator
from pennylane.tape import QuantumScript

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Executable, Needs
from qhybrid.gradients.base import array_owner, shifted_vjp
from qhybrid.program import Probabilities, Program, Samples, Slots, State
from qhybrid.tapes.measurements import Measured, Varying, measured
from qhybrid.tapes.operations import TapeOperation, tape_operations
from qhybrid.tapes.parameters import Parameter, SlotCotangents
from qhybrid.tapes.reverse import reverse
from qhybrid.tapes.template import KeptTapes, kept, plain_tape, with_data

if TYPE_CHECKING:
    from qhybrid.tapes.backend import TapeBackend

#: Amplitudes that one broadcast tape may hold.
MAX_BROADCAST_AMPLITUDES = 2**22
#: Numbers that one batch of tapes may return.
MAX_RESULT_NUMBERS = 2**25
#: Operations that the tapes of one call of the device may hold.
MAX_OPERATIONS = 2**19

Part: TypeAlias = tuple[int, list[Any]]
Run: TypeAlias = Callable[[Sequence[QuantumScript]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Point:
    """The data of one execution.

    Args:
        gates: data of each operation with a parameter
        varying: for each measurement that varies, data of its parameters
        lanes: how many tapes, or samples of a broadcast tape, there are
    """

    gates: tuple[Any, ...]
    varying: tuple[tuple[Any, ...], ...]
    lanes: int


class TapeExecutable(Executable):
    """A program compiled for a PennyLane device.

    Args:
        program: the circuit
        backend: the device

    Raises:
        CaptureError: a gate has no PennyLane operation
    """

    def __init__(self, program: Program, backend: TapeBackend) -> None:
        super().__init__(program)
        self.backend = backend
        labels = backend.labels(program.num_wires)
        self.operations: list[TapeOperation] = tape_operations(program, labels, backend.expands_words)
        self.parameters: tuple[Parameter, ...] = tuple(o.parameter for o in self.operations if o.parameter is not None)
        self.measured: Measured = measured(program, labels, backend.paulis_only, backend.measures_apart)
        self.varying = [m for s in self.measured.settings for m in s.measurements if isinstance(m, Varying)]
        self._checked: set[int | None] = set()
        self._kept: dict[Any, tuple[KeptTapes | None, ...]] = {}

    @property
    def has_vjp(self) -> bool:  # type: ignore[override]
        """Whether the device has a derivative of its own; where that does not apply, shifts take its place."""
        return self.backend.has_vjp

    # ------------------------------------------------------------------ running

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results."""
        return self._results(slots, None)

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results from shots; their random numbers are the device's own."""
        return self._results(slots, shots)

    def _results(self, slots: Slots, shots: int | None) -> tuple[NDArray, ...]:
        count = slots.batch_size if self.program.is_batched else 1
        assert count is not None
        if count == 0:
            return self.no_results(shots)
        values, tensors = self._measure(slots, count, shots)
        scalars = self.measured.scalars(values, slots)
        results = (scalars, *tensors)
        return results if self.program.is_batched else tuple(r[0] for r in results)

    def _measure(self, slots: Slots, count: int, shots: int | None) -> tuple[NDArray, list[NDArray]]:
        """Values ``(count, M)``, and each tensor with ``count`` entries."""
        fast = self.backend.direct(self) if shots is None else None
        point = self.point(slots, count if shots is not None else None)
        if fast is not None:
            return np.broadcast_to(self._direct_values(fast, point), (count, self.measured.num_values)), []
        values, tensors = self.collected(self.execute(point, shots), point.lanes)
        if point.lanes != count:  # nothing of the circuit varies: one execution answers for all samples
            values = np.broadcast_to(values, (count, *values.shape[1:]))
            tensors = [np.broadcast_to(t, (count, *t.shape[1:])) for t in tensors]
        return values, tensors

    def point(self, slots: Slots, lanes: int | None = None) -> Point:
        """The data of all operations and measurements; as few lanes as are different, or as many as are given."""
        gates = tuple(p.values(slots) for p in self.parameters)
        varying = tuple(tuple(p.values(slots) for p in m.parameters) for m in self.varying)
        if lanes is None:
            lanes = slots.batch_size if self.batched else 1
        assert lanes is not None
        return Point(gates, varying, lanes)

    def circuits_per_execution(self, shots: int | None) -> int:
        """Tapes of one sample: one for each setting, unless the device makes more of it."""
        return sum(1 if t is None else len(t.tapes) for t in self.templates(shots))

    @cached_property
    def batched(self) -> bool:
        """Whether an operation or a measurement varies from sample to sample."""
        return any(p.batched for p in (*self.parameters, *(p for m in self.varying for p in m.parameters)))

    @cached_property
    def _batched_gates(self) -> tuple[bool, ...]:
        return tuple(p.batched for p in self.parameters)

    # ------------------------------------------------------------------ tapes

    def execute(self, point: Point, shots: int | None, run: Run | None = None) -> list[Part]:
        """For each part of the lanes and each setting, the result of its tape.

        Args:
            point: data of all lanes
            shots: samples of each tape, ``None`` for exact results
            run: gives the results of tapes; by default the device's jobs

        Returns:
            for each part, its number of lanes and one result a setting
        """
        run = run or self.backend.execute
        wide = self.backend.holds_states and any(self._batched_gates) and point.lanes > 1
        broadcast = self.templates(shots, broadcast=True) if wide else ()
        if broadcast and all(broadcast):
            return self._execute_broadcast(point, broadcast, run)
        return self._execute_lanes(point, shots, run)

    def _execute_broadcast(self, point: Point, templates: Sequence[Any], run: Run) -> list[Part]:
        size = max(1, MAX_BROADCAST_AMPLITUDES // self.backend.amplitudes(self.program))
        tapes, parts = [], []
        for start in range(0, point.lanes, size):
            part = slice(start, start + size)
            data = [d[part] if b else d for d, b in zip(point.gates, self._batched_gates, strict=True)]
            changed = with_data(self.operations, data, broadcast=True)
            tapes += [t.at(changed) for template in templates for t in template.tapes]
            parts.append(min(size, point.lanes - start))
        results = iter(run(tapes))
        return [(n, [_restored(t, results) for t in templates]) for n in parts]

    def _execute_lanes(self, point: Point, shots: int | None, run: Run) -> list[Part]:
        templates = self.templates(shots)
        size = max(1, min(MAX_RESULT_NUMBERS // self._numbers(shots), MAX_OPERATIONS // (1 + len(self.operations))))
        parts: list[Part] = []
        for start in range(0, point.lanes, size):
            lanes = range(start, min(start + size, point.lanes))
            if None not in templates:
                tapes = [t for lane in lanes for t in self._kept_tapes(point, lane, templates)]
                results = iter(run(tapes))
                parts += [(1, [_restored(t, results) for t in templates]) for _ in lanes]
            else:
                tapes = [t for lane in lanes for t in self._plain_tapes(point, lane, shots)]
                batch, postprocess = self.backend.preprocess(tuple(tapes))
                answers = iter(postprocess(run(batch)))
                parts += [(1, [next(answers) for _ in self.settings]) for _ in lanes]
        return parts

    def _kept_tapes(self, point: Point, lane: int, templates: Sequence[Any]) -> Iterator[QuantumScript]:
        changed = self._changed(point, lane)
        return (t.at(changed) for template in templates for t in template.tapes)

    def _plain_tapes(self, point: Point, lane: int, shots: int | None) -> Iterator[QuantumScript]:
        changed = self._changed(point, lane)
        batched = [[p.batched for p in m.parameters] for m in self.varying]
        data = iter(
            [d[lane] if b else d for d, b in zip(values, flags, strict=True)]
            for values, flags in zip(point.varying, batched, strict=True)
        )
        for setting in self.settings:
            own = [next(data) for m in setting.measurements if isinstance(m, Varying)]
            yield plain_tape(self.operations, changed, setting, own, shots)

    def _changed(self, point: Point, lane: int) -> list[Operator]:
        return with_data(
            self.operations, [d[lane] if b else d for d, b in zip(point.gates, self._batched_gates, strict=True)]
        )

    @cached_property
    def settings(self) -> tuple[Any, ...]:
        """The settings that measure anything."""
        return tuple(s for s in self.measured.settings if s.measurements)

    def templates(self, shots: int | None, broadcast: bool = False) -> tuple[KeptTapes | None, ...]:
        """For each setting its preprocessed template, ``None`` where the device changes it by its data."""
        key = (shots, broadcast)
        found = self._kept.get(key)
        if found is None:
            rng = np.random.default_rng(7)
            examples = tuple(
                [
                    np.stack([p.example(rng) for _ in range(2)]) if broadcast and p.batched else p.example(rng)
                    for p in self.parameters
                ]
                for _ in range(2)
            )
            found = tuple(
                kept(self.backend.preprocess, self.operations, s, shots, examples, broadcast)  # type: ignore[arg-type]
                for s in self.settings
            )
            self._kept[key] = found
        return found

    def check(self, shots: int | None) -> None:
        """Preprocess the circuit at some data, once, so that the device can refuse it."""
        if shots in self._checked:
            return
        rng = np.random.default_rng(7)
        point = Point(
            tuple(p.example(rng)[None] if p.batched else p.example(rng) for p in self.parameters),
            tuple(
                tuple(p.example(rng)[None] if p.batched else p.example(rng) for p in m.parameters) for m in self.varying
            ),
            1,
        )
        if not all(self.templates(shots)):
            self.backend.preprocess(tuple(self._plain_tapes(point, 0, shots)))
        if any(isinstance(t, State) for t in self.program.tensors):
            ((_, results),) = self._execute_lanes(point, shots, self.backend.run)
            for index, m in enumerate(self.program.tensors):
                shape = np.shape(self.tensor_value(results, index))
                if isinstance(m, State) and shape != (2**self.program.num_wires,):
                    raise ValueError(f"its state has the shape {shape}, which is no state vector's")
        self._checked.add(shots)

    # ------------------------------------------------------------------ results

    def collected(self, parts: list[Part], lanes: int) -> tuple[NDArray, list[NDArray]]:
        """Values and tensors from results of :meth:`execute`."""
        values = np.empty((lanes, self.measured.num_values))
        tensors: list[list[NDArray]] = [[] for _ in self.program.tensors]
        start = 0
        for count, results in parts:
            for k, value in enumerate(self.scalar_values(results)):
                values[start : start + count, k] = value
            for index in range(len(tensors)):
                tensor = np.asarray(self.tensor_value(results, index))
                tensors[index].append(self._shaped(tensor, count, index))
            start += count
        return values, [np.concatenate(t) for t in tensors]

    def scalar_values(self, results: Sequence[Any]) -> list[Any]:
        """The scalar values of one part: one number each, or one a sample."""
        if not self.measured.num_values:
            return []
        return [_entry(results[0], self.settings[0], k) for k in range(self.measured.num_values)]

    def tensor_value(self, results: Sequence[Any], index: int) -> Any:
        """Tensor ``index`` of one part."""
        setting, position = self.measured.places[index]
        order = [k for k, s in enumerate(self.measured.settings) if s.measurements].index(setting)
        return _entry(results[order], self.settings[order], position)

    def _shaped(self, tensor: NDArray, count: int, index: int) -> NDArray:
        """With the lanes in front; one tensor that no lane changes answers for all."""
        m = self.program.tensors[index]
        if isinstance(m, Samples):
            return tensor.astype(np.int64).reshape(count, -1, len(m.wires))
        size = 2 ** (self.program.num_wires if isinstance(m, State) else len(m.wires))
        return np.broadcast_to(tensor.reshape(-1, size), (count, size))

    def _numbers(self, shots: int | None) -> int:
        """Numbers that one lane returns."""
        sizes = {State: lambda m: 2**self.program.num_wires, Probabilities: lambda m: 2 ** len(m.wires)}
        tensors = sum(sizes.get(type(m), lambda m: (shots or 1) * len(m.wires))(m) for m in self.program.tensors)
        return self.measured.num_values + tensors + 1

    # ------------------------------------------------------------------ derivatives

    def vjp(self, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs) -> Slots:
        """Cotangents of the slots: the device's own, or, where it has none for this circuit, those of shifts.

        Raises:
            DifferentiationError: neither gives them
        """
        count = slots.batch_size if self.program.is_batched else 1
        if count == 0:
            return SlotCotangents(self.program, slots).only(needs)
        assert count is not None
        if self.backend.holds_states and not self.program.channels:
            return reverse(self.program, slots, cotangents, needs)
        wanted = tuple(p.wanted(needs) for p in self.parameters)
        fast = self.backend.direct(self)
        if fast is None or not fast.differentiates(wanted) or any(needs.arrays):
            return self._shifted(slots, cotangents, needs)
        if not self.program.is_batched:
            cotangents = tuple(np.asarray(c)[None] for c in cotangents)
        into = SlotCotangents(self.program, slots)
        values = self._direct_vjp(fast, slots, count, cotangents[0], wanted, needs, into)
        if self.measured.wants_coefficients(needs):
            self.measured.pull_back_coefficients(values, cotangents[0], slots, into)
        return into.only(needs)

    def _direct_vjp(
        self,
        fast: Any,
        slots: Slots,
        count: int,
        cotangents: NDArray,
        wanted: tuple[bool, ...],
        needs: Needs,
        into: SlotCotangents,
    ) -> NDArray:
        """Add the derivative along gates; returns the values that the coefficients' derivative needs."""
        point = self.point(slots)
        weights = self.measured.value_cotangents(cotangents, slots)
        if point.lanes != count:
            weights = weights.sum(axis=0, keepdims=True)

        def submit(batch: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, NDArray]]:
            lanes = [i for i, _ in batch]
            yield from zip(lanes, fast.vjp(self._part(point, lanes), weights[lanes], wanted), strict=True)

        gates = np.stack(self.backend.jobs.run(submit, range(point.lanes)))
        for parameter, want, bar in zip(self.parameters, wanted, gates.T, strict=True):
            if want:
                parameter.pull_back(slots, bar if parameter.batched else bar.sum(), into)
        if not self.measured.wants_coefficients(needs):
            return weights
        return np.broadcast_to(fast.values(point), (count, self.measured.num_values))

    def _direct_values(self, fast: Any, point: Point) -> NDArray:
        """Values ``(lanes, M)`` from the device's kernels, counted as any other circuits."""

        def submit(batch: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, NDArray]]:
            lanes = [i for i, _ in batch]
            yield from zip(lanes, fast.values(self._part(point, lanes)), strict=True)

        return np.stack(self.backend.jobs.run(submit, range(point.lanes)))

    def _part(self, point: Point, lanes: list[int]) -> Point:
        """The data of some lanes."""
        if len(lanes) == point.lanes:
            return point
        gates = tuple(d[lanes] if b else d for d, b in zip(point.gates, self._batched_gates, strict=True))
        return Point(gates, point.varying, len(lanes))

    def _shifted(self, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs) -> Slots:
        for index, needed in enumerate(needs.arrays):
            if needed:
                raise DifferentiationError(
                    f"The derivative of {self.backend.device.name} does not cover the array entries of "
                    f"{array_owner(self.program, index)}. Use qhybrid.statevector, or do not require the gradient of "
                    "that array."
                )
        return shifted_vjp(Circuit(self.program, self.backend.compile), slots, cotangents, needs)


def _restored(template: Any, results: Iterator[Any]) -> Any:
    (result,) = template.postprocess(tuple(next(results) for _ in template.tapes))
    return result


def _entry(result: Any, setting: Any, position: int) -> Any:
    """The result of one measurement of a tape."""
    return result if len(setting.measurements) == 1 else result[position]
