"""A program compiled for Qiskit's primitives."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DeviceError
from qhybrid.execution import Executable
from qhybrid.jobs import Jobs
from qhybrid.program import Probabilities, Program, Samples, Slots, State
from qhybrid_devices.externals import Values
from qhybrid_devices.outcomes import Grouping, Reading, group_measurements, plan_reading, read_outcomes
from qhybrid_devices.qiskit_backend.circuits import Circuits, estimated_circuit, measured_circuits
from qhybrid_devices.qiskit_backend.paulis import PauliSums
from qhybrid_devices.qiskit_backend.primitives import MAX_BITS, Execution, Primitives, precision_of, split_shots
from qhybrid_devices.qiskit_backend.transpiler import Transpiler

#: Exact probabilities are found from the expectation values of all parities, so from 2**10 at most.
MAX_EXACT_WIRES = 10


class QiskitExecutable(Executable):
    """A program on a backend or on primitives.

    Args:
        program: the circuit
        primitives: what runs it
        transpiler: for what
        jobs: by which circuits are sent
    """

    def __init__(self, program: Program, primitives: Primitives, transpiler: Transpiler, jobs: Jobs) -> None:
        super().__init__(program)
        self._primitives, self._transpiler, self._jobs = primitives, transpiler, jobs

    # ------------------------------------------------------------------ results

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results, from an exact estimator.

        Raises:
            DeviceError: there is none, or there are measurements that no estimator gives
        """
        if self._primitives.estimator is None:
            given = "sampler" if self._primitives.backend is None else "backend"
            raise DeviceError(
                f"A {given} gives samples, no exact results. Set shots (for example shots=1000), or give the device an "
                "exact estimator (for example estimator=qiskit.primitives.StatevectorEstimator())."
            )
        if not self._primitives.is_exact:
            kind = type(self._primitives.estimator).__name__
            raise DeviceError(f"This {kind} measures with shots and gives no exact results. Set shots.")
        return self._estimated(slots, None, 0)

    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples of each group of compatible measurements.

        Raises:
            CircuitError: a measurement is only known exactly, or the variance of a sum needs several bases
            DeviceError: the backend cannot run the circuit, or there is no sampler and no estimator gives the result
            JobError: the job failed
        """
        if self._primitives.sampler is None:
            return self._estimated(slots, shots, int(rng.integers(2**32)))
        values, count = Values.of(self.program, slots)
        reading = self._reading
        if not count:
            return self.no_results(shots)
        spectra, extended = self._grouping.diagonalize(values)
        outcomes = self._outcomes(extended, count, shots, rng)
        return self._shaped(read_outcomes(self.program, reading, values, spectra, list(outcomes)))

    def circuits_per_execution(self, shots: int | None) -> int:
        """Circuits of one sample: one for each group and repetition, or one for an estimator, whatever it makes of it.

        Args:
            shots: samples a measurement basis, ``None`` for exact results
        """
        if shots is None or self._primitives.sampler is None:
            return 1 if self._sums.words else 0
        return len(self._grouping.groups) * len(split_shots(shots, self._primitives.max_shots))

    def _shaped(self, results: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        return results if self.program.is_batched else tuple(r[0] for r in results)

    @cached_property
    def _tensors(self) -> tuple[Probabilities | Samples, ...]:
        return tuple(t for t in self.program.tensors if not isinstance(t, State))

    # ------------------------------------------------------------------ through a sampler

    @cached_property
    def _grouping(self) -> Grouping:
        return group_measurements(self.program)

    @cached_property
    def _reading(self) -> Reading:
        groups = self._grouping.groups
        widest = max((len(g.wires) for g in groups), default=0)
        if widest > MAX_BITS:
            raise DeviceError(f"qhybrid.qiskit measures up to {MAX_BITS} wires together, not {widest}.")
        return plan_reading(self.program, self._grouping, [{w: 1 << i for i, w in enumerate(g.wires)} for g in groups])

    @cached_property
    def _measured(self) -> Circuits:
        extended = replace(self.program, arrays=self._grouping.slots(self.program.arrays))
        groups = self._grouping.groups
        gates = [*self.program.gates, *(gate for group in groups for gate in group.gates)]
        return Circuits(extended, gates, partial(measured_circuits, self.program, groups, self._transpiler))

    def _outcomes(self, values: Values, count: int, shots: int, rng: np.random.Generator) -> NDArray:
        """Outcomes of each group, ``(groups, B, shots)``."""
        out = np.empty((len(self._grouping.groups), count, shots), np.int64)
        executions, places = [], []
        for compiled, samples in self._measured.of(values, count):
            for group, (isa, translated) in enumerate(zip(compiled.isa, compiled.translated, strict=True)):
                rows = translated.values(values, count).T[samples]
                executions += [Execution(isa, row) for row in rows]
                places += [(group, b) for b in samples]
        groups, batch = (np.array(axis) for axis in zip(*places, strict=True))
        start = 0
        for size in split_shots(shots, self._primitives.max_shots):
            submit = partial(self._primitives.draw, shots=size, seed=int(rng.integers(2**32)))
            out[groups, batch, start : start + size] = self._jobs.run(submit, executions, size)
            start += size
        return out

    # ------------------------------------------------------------------ through an estimator

    @cached_property
    def _sums(self) -> PauliSums:
        return PauliSums(self.program)

    @cached_property
    def _prepared(self) -> Circuits:
        make = partial(estimated_circuit, self.program, self._sums.words, self._transpiler)
        return Circuits(self.program, self.program.gates, make)

    def _estimated(self, slots: Slots, shots: int | None, seed: int) -> tuple[NDArray, ...]:
        """Results from expectation values; to precision 0 without shots."""
        self._check_estimated(shots)
        values, count = Values.of(self.program, slots)
        means = np.zeros((count, len(self._sums.words)))
        if count and self._sums.words:
            executions, order = [], []
            for compiled, samples in self._prepared.of(values, count):
                (isa,), (translated,) = compiled.isa, compiled.translated
                executions += [Execution(isa, row) for row in translated.values(values, count).T[samples]]
                order.append(samples)
            precision = 0.0 if shots is None else precision_of(shots)
            submit = partial(self._primitives.estimate, precision=precision, seed=seed)
            means[np.concatenate(order)] = self._jobs.run(submit, executions, shots)
        return self._shaped(self._sums.read(values, means))

    def _check_estimated(self, shots: int | None) -> None:
        """Refuse what an estimator does not give."""
        if any(isinstance(t, State) for t in self.program.tensors):
            raise DeviceError(
                "Qiskit's primitives give no state vector. Measure expectation values or probabilities, or use a "
                "simulator: qhybrid.statevector or qhybrid.aer."
            )
        if self._tensors and shots is not None:
            raise DeviceError(
                "Probabilities and samples with shots come from a sampler, and the device has an estimator only. Give "
                "it one, for example sampler=qiskit.primitives.StatevectorSampler()."
            )
        widest = max((len(t.wires) for t in self._tensors), default=0)
        if widest > MAX_EXACT_WIRES:
            raise DeviceError(
                f"Exact probabilities of {widest} wires would need {2**widest} expectation values; up to "
                f"{MAX_EXACT_WIRES} wires are measured together. Set shots, or measure fewer wires."
            )
