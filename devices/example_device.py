"""A complete device: state vectors with NumPy, one axis a wire, the batch in front."""

import numpy as np

from qhybrid.execution import Executable
from qhybrid.program import PAULI, ArrayRef, Expectation, State
from qhybrid_devices.dense import operator_matrix
from qhybrid_devices.externals import Values
from qhybrid_devices.outcomes import group_measurements, plan_reading, read_outcomes
from qhybrid_devices.program_device import ProgramDevice


class ExampleDevice(ProgramDevice):
    """What PennyLane sees; everything that all devices have in common is inherited."""

    name = "example.numpy"

    def make_executable(self, program):
        """Called once for each circuit structure."""
        return ExampleExecutable(program)


class ExampleExecutable(Executable):
    """One program; it is asked for results at many slots, from any thread, so it keeps no state between calls."""

    def run(self, slots):
        """Exact results: all scalars in one array, then one array a tensor, the batch in front."""
        values, psi = self._final(slots)
        scalars = np.zeros((len(psi), len(self.program.scalars)))
        for i, m in enumerate(self.program.scalars):
            scalars[:, i] = self._scalar(m, psi, values)
        return self._unbatched((scalars, *(self._tensor(m, psi, values) for m in self.program.tensors)))

    def sample(self, slots, shots, rng):
        """Results from shots: outcomes of each group of compatible measurements, drawn after its rotations."""
        values, psi = self._final(slots)
        bits = [1 << wire for wire in reversed(range(self.program.num_wires))]  # of each wire in an outcome
        grouping = group_measurements(self.program)
        reading = plan_reading(self.program, grouping, [bits] * len(grouping.groups))
        spectra, values = grouping.diagonalize(values)
        outcomes = []
        for group in grouping.groups:
            weights = np.abs(apply_gates(group.gates, psi, values).reshape(len(psi), 2 ** len(bits))) ** 2
            drawn = [rng.choice(len(w), shots, p=w / w.sum()) for w in weights]
            outcomes.append(np.array(drawn, np.int64).reshape(len(psi), shots))
        return self._unbatched(read_outcomes(self.program, reading, values, spectra, outcomes))

    def _final(self, slots):
        n, prepared = self.program.num_wires, self.program.preparation
        count = slots.batch_size if self.program.is_batched else 1
        values = Values(slots.shared, np.zeros((0, count)) if slots.batched is None else slots.batched, slots.arrays)
        psi = np.zeros((count, *(2,) * n), complex)
        psi[(slice(None), *(0,) * n)] = 1
        if prepared is not None:
            k, amplitudes = len(prepared.wires), values.arrays[prepared.amplitudes.index]
            view = np.moveaxis(psi, [1 + w for w in prepared.wires], range(1, 1 + k))
            view[(..., *(0,) * (n - k))] = amplitudes.reshape(-1, *(2,) * k)
        return values, apply_gates(self.program.gates, psi, values)

    def _scalar(self, m, psi, values):
        observed = np.zeros_like(psi)
        for term in m.observable.terms:
            part = psi
            for wire, letter in term.word:
                part = apply(PAULI[letter], [wire], part)
            for wires, matrix in term.matrices:
                part = apply(values.arrays[matrix.index] if isinstance(matrix, ArrayRef) else matrix.array, wires, part)
            observed += np.reshape(values.number(term.coefficient), (-1, *(1,) * self.program.num_wires)) * part
        axes = tuple(range(1, psi.ndim))
        mean = np.sum(psi.conj() * observed, axes).real
        return mean if isinstance(m, Expectation) else np.sum(np.abs(observed) ** 2, axes) - mean**2

    def _tensor(self, m, psi, values):
        if isinstance(m, State):
            return psi.reshape(len(psi), 2**self.program.num_wires)
        weights = np.abs(apply_gates(m.basis, psi, values)) ** 2
        others = tuple(1 + w for w in range(self.program.num_wires) if w not in m.wires)
        kept = weights.sum(others).transpose(0, *(1 + np.argsort(np.argsort(m.wires))))
        return kept.reshape(len(psi), 2 ** len(m.wires))

    def _unbatched(self, results):
        return results if self.program.is_batched else tuple(r[0] for r in results)


def apply_gates(gates, psi, values):
    """Gates in their order, on ``psi`` of shape ``(batch, 2, ..., 2)``."""
    for gate in gates:
        psi = apply(operator_matrix(gate.operator, values), gate.wires, psi, gate.controls, gate.control_values)
    return psi


def apply(matrix, wires, psi, controls=(), control_values=()):
    """A matrix on ``wires`` of ``psi`` where the controls read their values; the first wire is the most significant."""
    psi, first = psi.copy(), (*controls, *wires)
    moved = np.moveaxis(psi, [1 + w for w in first], range(1, 1 + len(first)))  # a view: writes go to psi
    active = moved[(slice(None), *map(int, control_values))]
    rows = active.reshape(len(psi), 2 ** len(wires), 2 ** (active.ndim - 1 - len(wires)))
    active[...] = (matrix @ rows).reshape(active.shape)
    return psi
