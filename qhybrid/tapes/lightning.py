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
from pennylane.measurements import ExpectationMP

from qhybrid.tapes.openmp import one_thread
from qhybrid.tapes.parameters import ScaledAngle

if TYPE_CHECKING:
    from qhybrid.tapes.executable import Point, TapeExecutable
    from qhybrid.tapes.template import KeptTape


#: Up to this many wires the kernels run on one thread.
MAX_SERIAL_WIRES = 12


def direct(executable: TapeExecutable, device: Any) -> Direct | None:
    """The short way for a program, ``None`` if it does not fit.

    Args:
        executable: the program on its device
        device: ``lightning.qubit``
    """
    if executable.program.tensors or executable.measured.varies or not executable.settings:
        return None
    if not all(isinstance(p, ScaledAngle) for p in executable.parameters):
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
        from pennylane_lightning import lightning_qubit_ops
        from pennylane_lightning.lightning_base._serialize import QuantumScriptSerializer

        self._library = lightning_qubit_ops.__file__
        self._executable, self._device = executable, device
        num_wires = self._num_wires = executable.program.num_wires if device.wires is None else len(device.wires)
        wires = {w: i for i, w in enumerate(executable.backend.labels(num_wires))}
        self._new_state = lambda: device.LightningStateVector(num_wires=num_wires, dtype=device.c_dtype)
        serializer = QuantumScriptSerializer(device.name, device.c_dtype == np.complex64)
        script = tape.at([tape.operations[p] for p in tape.positions])
        serialized, prepared = serializer.serialize_ops(script, wires)
        names, params, targets, inverses, matrices, controls, values = serialized
        self.prepares = prepared or len(names) != len(tape.operations)
        self._observables, self._indices = serializer.serialize_observables(script, wires)
        self._hamiltonian = serializer.hamiltonian_obs
        matrices = [np.asarray(m, dtype=device.c_dtype) for m in matrices]
        self._names, self._params, self._inverses = names, [[float(x) for x in p] for p in params], inverses
        self._fixed = (targets, inverses, matrices, controls, values)
        self._calls = list(zip(names, targets, matrices, controls, values, inverses, strict=True))
        self._positions = tape.positions
        with_params = [k for k, p in enumerate(self._params) if p]
        self._order = {k: i for i, k in enumerate(with_params)}

    def agrees(self) -> bool:
        """Whether a run at example data gives what the device gives."""
        if self.prepares or self._indices != list(range(self._executable.measured.num_values)):
            return False
        rng = np.random.default_rng(3)
        lanes = 2 if self._executable.batched else 1
        gates = tuple(
            np.stack([p.example(rng) for _ in range(lanes)]) if p.batched else p.example(rng)
            for p in self._executable.parameters
        )
        from qhybrid.tapes.executable import Point

        point = Point(gates, (), lanes)
        expected, _ = self._executable.collected(self._executable.execute(point, None), lanes)
        atol = 1e-5 if self._device.c_dtype == np.complex64 else 1e-10
        return np.allclose(self.values(point), expected, atol=atol)

    def differentiates(self, wanted: Sequence[bool]) -> bool:
        """Whether the adjoint kernel knows the generators of the operations with wanted parameters."""
        names = [self._names[p] for p, w in zip(self._positions, wanted, strict=True) if w]
        return all(name in DIFFERENTIABLE for name in names)

    def values(self, point: Point) -> NDArray:
        """Expectation values ``(lanes, M)``."""
        state = self._new_state()
        raw, steps = state.state_vector, self._steps(state.state_vector)
        measurements = self._device.LightningMeasurements(state)._measurement_lightning
        values = np.empty((point.lanes, len(self._observables)))
        with self._threads():
            for lane, params in enumerate(self._lanes(point)):
                self._apply(raw, steps, params)
                for k, observable in enumerate(self._observables):
                    values[lane, k] = measurements.expval(observable)
        return values

    def vjp(self, point: Point, weights: NDArray, wanted: Sequence[bool]) -> NDArray:
        """Derivatives ``(lanes, parameters)`` of the values weighted by ``weights (lanes, M)``; zero where unwanted."""
        state = self._new_state()
        raw, steps = state.state_vector, self._steps(state.state_vector)
        adjoint = self._device.LightningAdjointJacobian(state)
        targets, inverses, matrices, controls, control_values = self._fixed
        columns = [k for k, w in enumerate(wanted) if w]
        trainable = [self._order[self._positions[k]] for k in columns]
        result = np.zeros((point.lanes, len(wanted)))
        if not trainable:
            return result
        real = np.float32 if self._device.c_dtype == np.complex64 else np.float64
        with self._threads():
            for lane, params in enumerate(self._lanes(point)):
                self._apply(raw, steps, params)
                operations = adjoint._create_ops_list_lightning(
                    self._names, params, targets, inverses, matrices, controls, control_values
                )
                observable = self._hamiltonian(weights[lane].astype(real), self._observables)
                result[lane, columns] = adjoint._jacobian_lightning(raw, [observable], operations, trainable)
        return result

    def _threads(self) -> AbstractContextManager:
        return one_thread(self._library) if self._num_wires <= MAX_SERIAL_WIRES else nullcontext()

    # ------------------------------------------------------------------ one sample

    def _lanes(self, point: Point) -> Iterator[list]:
        """The parameters of each operation, lane by lane."""
        rows = np.empty((len(point.gates), point.lanes))
        for row, data in zip(rows, point.gates, strict=True):
            row[:] = data
        for column in rows.T.tolist():
            params = list(self._params)
            for position, value in zip(self._positions, column, strict=True):
                params[position] = [value]
            yield params

    def _steps(self, raw: Any) -> list[tuple]:
        """For each operation, what to call and with what before and after its parameters."""
        steps: list[tuple] = []
        for name, targets, matrix, controls, values, inverse in self._calls:
            where = (controls, values, targets, inverse) if controls else (targets, inverse)
            if matrix.size:
                steps.append((raw.applyControlledMatrix if controls else raw.applyMatrix, (matrix, *where), False))
            else:
                steps.append((getattr(raw, name), where, True))
        return steps

    def _apply(self, raw: Any, steps: list[tuple], params: list) -> None:
        raw.resetStateVector()
        for (method, front, takes), param in zip(steps, params, strict=True):
            if takes:
                method(*front, param)
            else:
                method(*front)


#: Operations whose generators the adjoint kernel has, controlled or not.
DIFFERENTIABLE = frozenset({
    "RX", "RY", "RZ", "PhaseShift", "ControlledPhaseShift", "CRX", "CRY", "CRZ", "IsingXX", "IsingYY", "IsingZZ",
    "IsingXY", "MultiRZ", "SingleExcitation", "SingleExcitationPlus", "SingleExcitationMinus", "DoubleExcitation",
    "DoubleExcitationPlus", "DoubleExcitationMinus", "GlobalPhase",
})  # fmt: skip
