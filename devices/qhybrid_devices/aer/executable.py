"""A program compiled for Aer: circuits transpiled once, a batch of samples and shift terms in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit

from qhybrid.errors import CircuitError, DeviceError
from qhybrid.execution import Executable
from qhybrid.program import Evolution, Program, Samples, Slots, State
from qhybrid_devices.aer.exact import ScalarSaves, read_tensors, save_scalars, save_tensors
from qhybrid_devices.aer.noise import misread
from qhybrid_devices.aer.simulator import Bound, Simulator
from qhybrid_devices.externals import Values
from qhybrid_devices.outcomes import (
    Grouping,
    Reading,
    group_measurements,
    plan_reading,
    read_distributions,
    read_outcomes,
)
from qhybrid_devices.qiskit_circuits.translation import Translated, append_gates, translate

#: Executions that are one run: enough to hide what a run costs, few enough to be interrupted.
RUN_SIZE = 2048
#: Outcomes are read as integers of this many bits.
MAX_READ_WIRES = 62


@dataclass(frozen=True)
class Compiled:
    """Transpiled circuits of one structure.

    Args:
        translated: what the parameters of each circuit mean
        circuits: one that saves exact results, or one for each group of measurements
        qubits: of each group, where its wires are measured
        scalars: how scalars are read from what is saved
    """

    translated: tuple[Translated, ...]
    circuits: tuple[QuantumCircuit, ...]
    qubits: tuple[list[int], ...] = ()
    scalars: tuple[ScalarSaves, ...] = ()

    def bound(self, values: Values, count: int) -> list[Bound]:
        """The circuits with the parameters of some samples."""
        pairs = zip(self.translated, self.circuits, strict=True)
        return [Bound(circuit, t.parameters, t.values(values, count)) for t, circuit in pairs]


@dataclass(frozen=True)
class Piece:
    """Samples that share circuits, and what each circuit gave for each of them."""

    compiled: Compiled
    values: Values
    count: int
    data: tuple[list[Any], ...]


class AerExecutable(Executable):
    """A program on Aer.

    Args:
        program: the circuit
        simulator: what runs it
    """

    def __init__(self, program: Program, simulator: Simulator) -> None:
        super().__init__(program)
        self.simulator = simulator

    def __reduce__(self) -> tuple:
        return (AerExecutable, (self.program, self.simulator))

    # ------------------------------------------------------------------ results

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results.

        Raises:
            CircuitError: the state of a noisy circuit
            DeviceError: Aer cannot run the circuit, or cannot give these results exactly
        """
        values, count = Values.of(self.program, slots)
        read = self._distributed_results if self._by_groups else self._saved_results
        return self._shaped(read(values, count) if count else self._empty())

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples of each group of compatible measurements.

        Raises:
            CircuitError: a measurement is only known exactly, or the variance of a sum needs several bases
            DeviceError: Aer cannot run the circuit
        """
        values, count = Values.of(self.program, slots)
        reading = self._reading
        if not count:
            return self._shaped(self._empty(shots))
        spectra, extended = self._grouping.diagonalize(values)
        pieces = list(self._execute(self._measured, extended, count, shots, rng))
        outcomes = []
        for g, group in enumerate(self._grouping.groups):
            drawn = np.stack([_outcomes(d.counts) for p in pieces for d in p.data[g]])
            outcomes.append(rng.permuted(drawn, axis=1) if group.ordered else drawn)
        return self._shaped(read_outcomes(self.program, reading, values, spectra, outcomes))

    def circuits_per_execution(self, shots: int | None) -> int:
        """Circuits that one sample needs: one for each group of measurements, unless exact results are saved."""
        return len(self._grouping.groups) if shots is not None or self._by_groups else 1

    @property
    def _by_groups(self) -> bool:
        """Whether exact results come from distributions: noise and routing leave no state to save."""
        return self.simulator.is_noisy or self.simulator.settings.backend is not None

    def _saved_results(self, values: Values, count: int) -> tuple[NDArray, ...]:
        """Exact results of a noiseless circuit."""
        parts = []
        for piece in self._execute(self._saving, values, count):
            (data,) = piece.data
            scalars = np.zeros((piece.count, len(self.program.scalars)))
            for i, s in enumerate(piece.compiled.scalars):
                scalars[:, i] = s.value(data, piece.values, piece.count)
            phase = piece.compiled.translated[0].phase(piece.values, piece.count)
            parts.append((scalars, *read_tensors(data, self.program, phase)))
        return tuple(np.concatenate(r) for r in zip(*parts, strict=True))

    def _distributed_results(self, values: Values, count: int) -> tuple[NDArray, ...]:
        """Exact results of a noisy or routed circuit, from the distribution of the outcomes of each group."""
        if any(isinstance(t, State) for t in self.program.tensors):
            raise CircuitError("A noisy circuit has no state vector. Measure expectation values or probabilities.")
        method = self.simulator.settings.method
        if method not in ("automatic", "density_matrix"):
            raise DeviceError(
                f"Exact results of a noisy circuit need method='density_matrix', not {method!r}. "
                "Change it, or set shots."
            )
        reading = self._reading
        spectra, extended = self._grouping.diagonalize(values)
        pieces = list(self._execute(self._distributed, extended, count, method="density_matrix"))
        found = []
        for g in range(len(self._grouping.groups)):
            own = [(np.stack([np.asarray(d.outcomes) for d in p.data[g]]), p.compiled.qubits[g]) for p in pieces]
            found.append(np.concatenate([misread(d, qubits, self.simulator.readout_errors) for d, qubits in own]))
        return read_distributions(self.program, reading, values, spectra, found)

    def _shaped(self, results: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        return results if self.program.is_batched else tuple(r[0] for r in results)

    def _empty(self, shots: int = 0) -> tuple[NDArray, ...]:
        """Results of no samples."""
        tensors = []
        for m in self.program.tensors:
            if isinstance(m, State):
                tensors.append(np.zeros((0, 1 << self.program.num_wires), complex))
            elif isinstance(m, Samples):
                tensors.append(np.zeros((0, shots, len(m.wires)), np.int64))
            else:
                tensors.append(np.zeros((0, 1 << len(m.wires))))
        return (np.zeros((0, len(self.program.scalars))), *tensors)

    # ------------------------------------------------------------------ running

    def _execute(
        self,
        recipe: Recipe,
        values: Values,
        count: int,
        shots: int | None = None,
        rng: np.random.Generator | None = None,
        method: str | None = None,
    ) -> Iterator[Piece]:
        """Run all samples, ``RUN_SIZE`` at a time."""
        for start in range(0, count, RUN_SIZE):
            stop = min(start + RUN_SIZE, count)
            shared = recipe.circuits(values.part(recipe.program, start, stop), stop - start)
            bound = [b for compiled, own, size in shared for b in compiled.bound(own, size)]
            seed = 0 if rng is None else int(rng.integers(2**31))
            data = iter(self.simulator.run(bound, shots, seed, method))
            for compiled, own, size in shared:
                yield Piece(compiled, own, size, tuple([next(data) for _ in range(size)] for _ in compiled.circuits))

    @cached_property
    def _saving(self) -> Recipe:
        return Recipe(self.program, lambda values: saving_circuit(self.program, self.simulator, values))

    @cached_property
    def _measured(self) -> Recipe:
        return Recipe(self._extended, lambda values: self._grouped_circuits(values, _measure))

    @cached_property
    def _distributed(self) -> Recipe:
        return Recipe(self._extended, lambda values: self._grouped_circuits(values, _save_distribution))

    # ------------------------------------------------------------------ groups of measurements

    @cached_property
    def _grouping(self) -> Grouping:
        return group_measurements(self.program)

    @cached_property
    def _extended(self) -> Program:
        """The program with the eigenvectors of its observables among its arrays."""
        return replace(self.program, arrays=self._grouping.slots(self.program.arrays))

    @cached_property
    def _reading(self) -> Reading:
        groups = self._grouping.groups
        widest = max((len(g.wires) for g in groups), default=0)
        if widest > MAX_READ_WIRES:
            raise DeviceError(f"qhybrid.aer measures up to {MAX_READ_WIRES} wires together, not {widest}.")
        return plan_reading(self.program, self._grouping, [{w: 1 << i for i, w in enumerate(g.wires)} for g in groups])

    def _grouped_circuits(self, values: Values | None, finish: Callable[[QuantumCircuit, list[int]], None]) -> Compiled:
        """For each group, the circuit with the rotations into its basis, ended by ``finish`` on the group's qubits."""
        groups, translated = self._grouping.groups, []
        for group in groups:
            out = translate(self.program, values)
            append_gates(out, group.gates, values)
            translated.append(out)
        circuits = self.simulator.transpile([t.circuit for t in translated])
        qubits = [positions(circuit, group.wires) for group, circuit in zip(groups, circuits, strict=True)]
        for circuit, own in zip(circuits, qubits, strict=True):
            finish(circuit, own)
        return Compiled(tuple(translated), tuple(circuits), tuple(qubits))


def saving_circuit(program: Program, simulator: Simulator, values: Values | None) -> Compiled:
    """The circuit that saves all exact results of a program."""
    out = translate(program, values)
    (out.circuit,) = simulator.transpile([out.circuit])
    scalars = save_scalars(out, program, values)
    save_tensors(out, program)
    return Compiled((out,), (out.circuit,), scalars=tuple(scalars))


def positions(circuit: QuantumCircuit, wires: Sequence[int]) -> list[int]:
    """The qubits on which the wires of a transpiled circuit end."""
    if circuit.layout is None:
        return list(wires)
    final = circuit.layout.final_index_layout()
    return [final[w] for w in wires]


def _measure(circuit: QuantumCircuit, qubits: list[int]) -> None:
    circuit.add_register(ClassicalRegister(len(qubits), "outcome"))
    circuit.measure(qubits, range(len(qubits)))


def _save_distribution(circuit: QuantumCircuit, qubits: list[int]) -> None:
    circuit.save_probabilities(qubits, label="outcomes")


def _outcomes(counts: Any) -> NDArray:
    """Counts as outcomes, ascending; bit ``i`` is the outcome of the group's wire ``i``."""
    found = counts if isinstance(counts, dict) else vars(counts)
    keys = np.array([int(k, 16) for k in found], np.int64)
    return np.repeat(keys, np.array(list(found.values()), np.int64))


class Recipe:
    """How circuits of one structure are made, and for how many samples each holds.

    Args:
        program: its gates and slots
        make: makes the circuits; takes the slots of one sample where the program has gates given as numbers
    """

    def __init__(self, program: Program, make: Callable[[Values | None], Compiled]) -> None:
        self.program, self.make = program, make
        evolutions = [g for g in program.gates if isinstance(g.operator, Evolution)]
        self._holds_numbers = bool(program.arrays or evolutions)
        self._differs = any(a.batched for a in program.arrays) or any(a.batched for g in evolutions for a in g.angles)

    @cached_property
    def _kept(self) -> Compiled:
        return self.make(None)

    def circuits(self, values: Values, count: int) -> list[tuple[Compiled, Values, int]]:
        """Circuits with the samples that they hold for: kept ones, or ones made for these values."""
        if not self._holds_numbers:
            return [(self._kept, values, count)]
        if not self._differs:
            return [(self.make(values), values, count)]
        samples = [values.part(self.program, b, b + 1) for b in range(count)]
        return [(self.make(own), own, 1) for own in samples]
