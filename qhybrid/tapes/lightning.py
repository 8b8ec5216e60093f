"""``lightning.qubit`` without the Python around its kernels.

A circuit is serialized once; each sample changes its angles and calls the same C++ state vector, measurements and
adjoint Jacobian that the device itself calls. Whether the results are the device's own is checked once a circuit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pennylane import StatePrep
from pennylane.measurements import ExpectationMP
from pennylane.wires import Wires

from qhybrid.tapes.openmp import one_thread
from qhybrid.tapes.parameters import ScaledAngle

if TYPE_CHECKING:
    from qhybrid.tapes.executable import Point, TapeExecutable
    from qhybrid.tapes.template import KeptTape


#: Up to this many wires the kernels run on one thread.
MAX_SERIAL_WIRES = 12


def threads_for(num_wires: int) -> AbstractContextManager:
    """What to run Lightning's kernels under: one thread for small states."""
    from pennylane_lightning import lightning_qubit_ops

    return one_thread(lightning_qubit_ops.__file__) if num_wires <= MAX_SERIAL_WIRES else nullcontext()


def direct(executable: TapeExecutable, device: Any) -> Direct | None:
    """The short way for a program, ``None`` if it does not fit.

    Args:
        executable: the program on its device
        device: ``lightning.qubit``
    """
    if executable.program.tensors or executable.measured.varies or not executable.settings:
        return None
    (template,) = executable.templates(None)
    if template is None or len(template.tapes) != 1:
        return None
    tape = template.tapes[0]
    if not all(isinstance(m, ExpectationMP) for m in tape.measurements):
        return None
    made = Direct(executable, device, tape)
    return made if made.agrees() else None


class Direct:
    """Expectation values and their derivatives from the kernels of ``lightning.qubit``.

    Args:
        executable: the program on its device
        device: ``lightning.qubit``
        tape: the preprocessed template
    """

    def __init__(self, executable: TapeExecutable, device: Any, tape: KeptTape) -> None:
        from pennylane_lightning.lightning_base._serialize import QuantumScriptSerializer

        self._executable, self._device = executable, device
        num_wires = self._num_wires = executable.program.num_wires if device.wires is None else len(device.wires)
        wires = {w: i for i, w in enumerate(executable.backend.labels(num_wires))}
        self._new_state = lambda: device.LightningStateVector(num_wires=num_wires, dtype=device.c_dtype)
        serializer = QuantumScriptSerializer(device.name, device.c_dtype == np.complex64)
        script = tape.at([tape.operations[p] for p in tape.positions])
        serialized, prepared = serializer.serialize_ops(script, wires)
        names, params, targets, inverses, matrices, controls, values = serialized
        first = int(bool(tape.positions) and isinstance(tape.operations[0], StatePrep))
        #: Whether each operation is one that is serialized; a prepared state is none.
        self.one_by_one = len(names) == len(tape.operations) - first and prepared == bool(first)
        self._prepared = [wires[w] for w in tape.operations[0].wires] if first else None
        self._observables, self._indices = serializer.serialize_observables(script, wires)
        self._hamiltonian = serializer.hamiltonian_obs
        self._names, self._params, self._inverses = names, [[float(x) for x in p] for p in params], inverses
        self._matrices = [np.asarray(m, dtype=device.c_dtype) for m in matrices]
        self._where = (targets, controls, values)
        self._parameters = executable.parameters[first:]
        self._positions = [p - first for p in tape.positions[first:]]
        self._first = first
        self._order = {k: i for i, k in enumerate(k for k, p in enumerate(self._params) if p)}

    def agrees(self) -> bool:
        """Whether a run at example data gives what the device gives."""
        if not self.one_by_one or self._indices != list(range(self._executable.measured.num_values)):
            return False
        rng = np.random.default_rng(3)
        lanes = 2 if self._executable.batched else 1
        gates = tuple(
            np.stack([p.example(rng) for _ in range(lanes)]) if p.batched else p.example(rng)
            for p in self._executable.parameters
        )
        from qhybrid.tapes.executable import Point

        point = Point(gates, (), lanes)
        parts = self._executable.execute(point, None, self._executable.backend.run)
        expected, _ = self._executable.collected(parts, lanes)
        atol = 1e-5 if self._device.c_dtype == np.complex64 else 1e-10
        return np.allclose(self.values(point), expected, atol=atol)

    def differentiates(self, wanted: Sequence[bool]) -> bool:
        """Whether the adjoint kernel knows the generators of the operations with wanted parameters."""
        if any(wanted[: self._first]):
            return False
        return all(
            isinstance(parameter, ScaledAngle) and self._names[position] in DIFFERENTIABLE
            for parameter, position, want in zip(self._parameters, self._positions, wanted[self._first :], strict=True)
            if want
        )

    def values(self, point: Point) -> NDArray:
        """Expectation values ``(lanes, M)``."""
        state = self._new_state()
        calls = self._calls(state.state_vector)
        measurements = self._device.LightningMeasurements(state)._measurement_lightning
        values = np.empty((point.lanes, len(self._observables)))
        with threads_for(self._num_wires):
            for lane, (params, matrices) in enumerate(self._lanes(point)):
                self._run(state, calls, point, lane, params, matrices)
                for k, observable in enumerate(self._observables):
                    values[lane, k] = measurements.expval(observable)
        return values

    def vjp(self, point: Point, weights: NDArray, wanted: Sequence[bool]) -> NDArray:
        """Derivatives ``(lanes, parameters)`` of the values weighted by ``weights (lanes, M)``; zero where unwanted."""
        state = self._new_state()
        calls = self._calls(state.state_vector)
        adjoint = self._device.LightningAdjointJacobian(state)
        targets, controls, control_values = self._where
        columns = [k for k, w in enumerate(wanted) if w]
        trainable = [self._order[self._positions[k - self._first]] for k in columns]
        result = np.zeros((point.lanes, len(wanted)))
        if not trainable:
            return result
        real = np.float32 if self._device.c_dtype == np.complex64 else np.float64
        with threads_for(self._num_wires):
            for lane, (params, matrices) in enumerate(self._lanes(point)):
                self._run(state, calls, point, lane, params, matrices)
                operations = adjoint._create_ops_list_lightning(
                    self._names, params, targets, self._inverses, matrices, controls, control_values
                )
                observable = self._hamiltonian(weights[lane].astype(real), self._observables)
                result[lane, columns] = adjoint._jacobian_lightning(
                    state.state_vector, [observable], operations, trainable
                )
        return result

    # ------------------------------------------------------------------ one sample

    def _lanes(self, point: Point) -> Iterator[tuple[list, list]]:
        """Parameters and matrices of each operation, lane by lane."""
        data = list(zip(self._parameters, self._positions, point.gates[self._first :], strict=True))
        angles = [(position, values) for p, position, values in data if isinstance(p, ScaledAngle)]
        others = [(position, values, p.batched) for p, position, values in data if not isinstance(p, ScaledAngle)]
        rows = np.empty((len(angles), point.lanes))
        for row, (_, values) in zip(rows, angles, strict=True):
            row[:] = values
        for lane, column in enumerate(rows.T.tolist()):
            params, matrices = list(self._params), list(self._matrices)
            for (position, _), value in zip(angles, column, strict=True):
                params[position] = [value]
            for position, values, batched in others:
                matrices[position] = np.array(
                    values[lane] if batched else values, dtype=self._device.c_dtype, order="C"
                )
            yield params, matrices

    def _run(self, state: Any, calls: list, point: Point, lane: int, params: list, matrices: list) -> None:
        """The final state of a lane."""
        raw = state.state_vector
        raw.resetStateVector()
        if self._prepared is not None:
            amplitudes = point.gates[0][lane] if self._executable.parameters[0].batched else point.gates[0]
            state._apply_state_vector(np.array(amplitudes, dtype=self._device.c_dtype), Wires(self._prepared))
        for (method, controlled, where), param, matrix in zip(calls, params, matrices, strict=True):
            if method is not None:
                method(*where, param)
            elif controlled:
                raw.applyControlledMatrix(matrix, *where)
            else:
                raw.applyMatrix(matrix, *where)

    def _calls(self, raw: Any) -> list[tuple]:
        """For each operation its kernel, ``None`` for a matrix, whether it has controls, and where it acts."""
        return [
            (
                None if matrix.size else getattr(raw, name),
                bool(controls),
                (controls, values, targets, inverse) if controls else (targets, inverse),
            )
            for name, matrix, targets, controls, values, inverse in zip(
                self._names, self._matrices, *self._where, self._inverses, strict=True
            )
        ]


#: Operations whose generators the adjoint kernel has, controlled or not.
DIFFERENTIABLE = frozenset({
    "RX", "RY", "RZ", "PhaseShift", "ControlledPhaseShift", "CRX", "CRY", "CRZ", "IsingXX", "IsingYY", "IsingZZ",
    "IsingXY", "MultiRZ", "SingleExcitation", "SingleExcitationPlus", "SingleExcitationMinus", "DoubleExcitation",
    "DoubleExcitationPlus", "DoubleExcitationMinus", "GlobalPhase",
})  # fmt: skip
