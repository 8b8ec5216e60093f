"""A program compiled for Aer: circuits transpiled once, a batch of samples and shift terms in one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import CircuitError, DeviceError
from qhybrid.execution import Executable
from qhybrid.jobs import Jobs
from qhybrid.program import Program, Slots, State
from qhybrid_devices.aer.circuits import (
    Compiled,
    Finish,
    Recipe,
    grouped_circuits,
    measure,
    save_distribution,
    saving_circuit,
)
from qhybrid_devices.aer.exact import read_tensors
from qhybrid_devices.aer.noise import misread
from qhybrid_devices.aer.simulator import Simulator
from qhybrid_devices.externals import Values
from qhybrid_devices.outcomes import (
    Grouping,
    Reading,
    draw_results,
    group_measurements,
    plan_reading,
    read_distributions,
    read_outcomes,
)

#: Outcomes are read as integers of this many bits.
MAX_READ_WIRES = 62
#: Shots of wider groups are drawn by Aer.
MAX_DISTRIBUTION_WIRES = 12
#: Aer draws the shots of wider noisy circuits, one trajectory each, and of narrower ones from a density matrix.
MAX_MIXED_WIRES = 10


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
        jobs: sends and counts its circuits
    """

    def __init__(self, program: Program, simulator: Simulator, jobs: Jobs | None = None) -> None:
        super().__init__(program)
        self.simulator, self.jobs = simulator, jobs or Jobs()

    def __reduce__(self) -> tuple:
        return (AerExecutable, (self.program, self.simulator, self.jobs))

    # ------------------------------------------------------------------ results

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results.

        Raises:
            CircuitError: the state of a noisy circuit
            DeviceError: Aer cannot run the circuit, or cannot give these results exactly
        """
        values, count = Values.of(self.program, slots)
        if not count:
            return self.no_results(None)
        read = self._saved_results if self.simulator.holds_state(self.program) else self._distributed_results
        return self._shaped(read(values, count))

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples of each group of compatible measurements.

        Raises:
            CircuitError: a measurement is only known exactly, or the variance of a sum needs several bases
            DeviceError: Aer cannot run the circuit
        """
        values, count = Values.of(self.program, slots)
        reading = self._reading
        if not count:
            return self.no_results(shots)
        spectra, extended = self._grouping.diagonalize(values)
        own = (self.program, reading, values, spectra)
        if self._has_distributions:
            return self._shaped(draw_results(*own, self._distributions(extended, count, shots), shots, rng))
        pieces = list(self._execute(self._measured, extended, count, shots, rng))
        outcomes = []
        for g, group in enumerate(self._grouping.groups):
            drawn = np.stack([_outcomes(d.counts) for p in pieces for d in p.data[g]])
            outcomes.append(rng.permuted(drawn, axis=1) if group.ordered else drawn)
        return self._shaped(read_outcomes(*own, outcomes))

    def circuits_per_execution(self, shots: int | None) -> int:
        """Circuits that one sample needs: one for each group of measurements, unless exact results are saved."""
        return 1 if shots is None and self.simulator.holds_state(self.program) else len(self._grouping.groups)

    @property
    def _has_distributions(self) -> bool:
        """Whether shots are drawn from an exact distribution, as Aer would draw them, but without a step for each."""
        if max(len(g.wires) for g in self._grouping.groups) > MAX_DISTRIBUTION_WIRES:
            return False
        method = self.simulator.settings.method
        if self.simulator.has_faulty_measurements:
            return False
        if self.simulator.mixes(self.program):
            correlated = any(len(qubits) > 1 for qubits in self.simulator.readout_errors)
            exact = method in ("automatic", "density_matrix") and self.program.num_wires <= MAX_MIXED_WIRES
            return exact and not correlated
        return method in ("automatic", "statevector", "density_matrix")

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
            raise CircuitError(
                "A noisy circuit, or one on the qubits of a backend, has no state vector. Measure expectation values "
                "or probabilities."
            )
        method = self.simulator.settings.method
        if self.simulator.mixes(self.program) and method not in ("automatic", "density_matrix"):
            raise DeviceError(
                f"Exact results of a noisy circuit need method='density_matrix', not {method!r}. "
                "Change it, or set shots."
            )
        if self.simulator.has_faulty_measurements:
            raise DeviceError(
                "This noise model has quantum errors on measurements, which only shots show. Set shots, or describe "
                "them as readout errors."
            )
        spectra, extended = self._grouping.diagonalize(values)
        return read_distributions(
            self.program, self._reading, values, spectra, self._distributions(extended, count, None)
        )

    def _distributions(self, values: Values, count: int, shots: int | None) -> list[NDArray]:
        """The exact distribution of what is read of each group, ``(B, 2**k)``; ``shots`` are counted as used."""
        method = "density_matrix" if self.simulator.mixes(self.program) else None
        pieces = list(self._execute(self._distributed, values, count, shots, method=method))
        found = []
        for g in range(len(self._grouping.groups)):
            own = [(np.stack([np.asarray(d.outcomes) for d in p.data[g]]), p.compiled.qubits[g]) for p in pieces]
            found.append(np.concatenate([misread(d, qubits, self.simulator.readout_errors) for d, qubits in own]))
        return found

    def _shaped(self, results: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        return results if self.program.is_batched else tuple(r[0] for r in results)

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
        """Run all samples; one piece for each set of circuits."""
        shared = recipe.circuits(values, count)
        bound = [b for compiled, own, size in shared for b in compiled.bound(own, size)]
        data = iter(self.simulator.run(bound, shots, rng, self.jobs, method))
        for compiled, own, size in shared:
            yield Piece(compiled, own, size, tuple([next(data) for _ in range(size)] for _ in compiled.circuits))

    @cached_property
    def _saving(self) -> Recipe:
        return Recipe(self.program, lambda values: saving_circuit(self.program, self.simulator, values))

    @cached_property
    def _measured(self) -> Recipe:
        return self._grouped(measure)

    @cached_property
    def _distributed(self) -> Recipe:
        return self._grouped(save_distribution)

    def _grouped(self, finish: Finish) -> Recipe:
        groups = self._grouping.groups
        method = "density_matrix" if finish is save_distribution and self.simulator.mixes(self.program) else None

        def make(values: Values | None) -> Compiled:
            return grouped_circuits(self.program, groups, self.simulator, values, finish, method)

        return Recipe(self._extended, make)

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


def _outcomes(counts: Any) -> NDArray:
    """Counts as outcomes, ascending; bit ``i`` is the outcome of the group's wire ``i``."""
    found = counts if isinstance(counts, dict) else vars(counts)
    keys = np.array([int(k, 16) for k in found], np.int64)
    return np.repeat(keys, np.array(list(found.values()), np.int64))
