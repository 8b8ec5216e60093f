"""What our devices have in common: a PennyLane device that runs compiled Programs."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pennylane as qml
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.modifiers import simulator_tracking, single_tape_support
from pennylane.devices.preprocess import (
    decompose,
    device_resolve_dynamic_wires,
    validate_device_wires,
    validate_measurements,
)
from pennylane.measurements import SampleMeasurement, StateMeasurement
from pennylane.operation import Operator
from pennylane.tape import QuantumScript
from pennylane.transforms.core import CompilePipeline

from qhybrid.backend import CompilingDevice
from qhybrid.capture.deferral import MidCircuit
from qhybrid.circuit import run_tape
from qhybrid.errors import CaptureError, DeviceError
from qhybrid.execution import Executable
from qhybrid.program import Program

MAX_CACHED_PROGRAMS = 256


def is_pure(op: Operator) -> bool:
    """Whether an operation keeps a pure state pure; a density matrix does not."""
    return not isinstance(op, qml.QubitDensityMatrix)


@qml.transform
def _defer_for_gradient_transforms(tape: QuantumScript) -> tuple[Sequence[QuantumScript], Callable]:
    """Controlled operations for conditional ones, since those are all that PennyLane's gradient transforms shift."""
    if MidCircuit.of(tape).postselected:
        raise DeviceError(
            "PennyLane's gradient transforms shift postselected results, which have no shift rule. Use qhybrid.QNode, "
            'diff_method="best" without shots, or diff_method=None.'
        )
    return qml.defer_measurements(tape)


@simulator_tracking
@single_tape_support
class ProgramDevice(Device, CompilingDevice):
    """A device that turns a Program into an executable, once for each structure, and does nothing else of its own.

    A device derives from it and writes :meth:`make_executable`; see ``devices/README.md``.

    Args:
        wires: number of wires, or their labels; ``None`` lets each circuit decide
        shots: default number of shots, ``None`` for exact results
        seed: seed of all samples; the default draws one from NumPy's global generator, ``None`` from the system

    Raises:
        DeviceError: the seed is none
    """

    #: Whether its executables run :class:`~qhybrid.program.Channel`, noise.
    runs_channels: bool = False
    #: Methods of PennyLane's that mean the derivative of the node which this device puts into the host's graph.
    graph_methods: frozenset[str] = frozenset({"best", "backprop"})

    def __init__(self, wires: Any = None, shots: Any = None, seed: Any = "global") -> None:
        super().__init__(wires=wires, shots=shots)
        if isinstance(seed, str) and seed == "global":
            seed = np.random.randint(0, high=10_000_000)  # noqa: NPY002 - PennyLane's convention for a default seed
        try:
            self._rng = np.random.default_rng(seed)
        except (TypeError, ValueError) as cause:
            raise DeviceError(f"seed is {seed!r}; it must be an integer of at least 0, or None.") from cause
        self._compiled: OrderedDict[Program, Executable] = OrderedDict()
        self._lock = threading.RLock()

    @abstractmethod
    def make_executable(self, program: Program) -> Executable:
        """An executable for ``program``; called once for each structure, its result is kept.

        Raises:
            DeviceError: the device cannot run it; says which part
        """

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_compiled"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compiled = OrderedDict()
        self._lock = threading.RLock()

    def compile(self, program: Program) -> Executable:
        """An executable for ``program``, made once and kept.

        Raises:
            DeviceError: the program has noise, and the device only pure states
        """
        if program.channels and not self.runs_channels:
            first = program.channels[0]
            raise DeviceError(
                f"{first.name} on wires {list(first.wires)} is noise, and {self.name} simulates pure states. "
                "Use qhybrid.aer or default.mixed."
            )
        with self._lock:
            executable = self._compiled.get(program)
            if executable is None:
                executable = self.make_executable(program)
                self._compiled[program] = executable
                if len(self._compiled) > MAX_CACHED_PROGRAMS:
                    self._compiled.popitem(last=False)
            else:
                self._compiled.move_to_end(program)
        return executable

    def memory_needed(self, program: Program, batch_size: int) -> int:
        """Bytes of one state in double precision a sample."""
        return 16 * 2**program.num_wires * batch_size

    def new_rng(self) -> np.random.Generator:
        """A generator for one execution, so that threads never share one."""
        with self._lock:
            return np.random.default_rng(self._rng.integers(2**63))

    # ------------------------------------------------------------------ PennyLane's own pipeline

    def supports_derivatives(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """Whether the node that this device puts into the host's graph answers a derivative: for exact circuits."""
        if execution_config is None:
            return True
        if execution_config.gradient_method not in self.graph_methods:
            return False
        return circuit is None or not circuit.shots

    def setup_execution_config(
        self, config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> ExecutionConfig:
        """Every exact method is the one derivative of this device's node, which the host's own graph calls."""
        config = config or ExecutionConfig()
        method = config.gradient_method
        ours = method in self.graph_methods
        return replace(
            config,
            gradient_method="backprop" if ours else method,
            use_device_gradient=ours,
            use_device_jacobian_product=False,
            grad_on_execution=False,
            device_options=dict(config.device_options),
        )

    def preprocess_transforms(self, execution_config: ExecutionConfig | None = None) -> CompilePipeline:
        """Settle the wires and refuse what is foreign; lowering defers measurements and decomposes the rest."""
        pipeline = CompilePipeline()
        if execution_config is not None and execution_config.gradient_method not in (None, *self.graph_methods):
            pipeline.add_transform(_defer_for_gradient_transforms)
        pipeline.add_transform(decompose, stopping_condition=is_pure, device_wires=self.wires, name=self.name)
        pipeline.add_transform(device_resolve_dynamic_wires, wires=self.wires, allow_resets=False)
        pipeline.add_transform(validate_device_wires, self.wires, name=self.name)
        pipeline.add_transform(
            validate_measurements,
            analytic_measurements=lambda m: isinstance(m, StateMeasurement),
            sample_measurements=lambda m: isinstance(m, SampleMeasurement),
            name=self.name,
        )
        return pipeline

    def execute(self, circuits: Sequence[QuantumScript], execution_config: ExecutionConfig | None = None) -> tuple:
        """Results of recorded circuits; with tensors of a host as parameters they join the host's graph."""
        mcm = (execution_config or ExecutionConfig()).mcm_config
        for tape in circuits:
            reason = MidCircuit.of(tape).unsupported(mcm.mcm_method, mcm.postselect_mode, bool(tape.shots))
            if reason is not None:
                raise DeviceError(f"On {self.name} {reason}. Leave the argument out, or use default.qubit.")
        return tuple(self._execute_one(tape) for tape in circuits)

    def _execute_one(self, tape: QuantumScript) -> Any:
        try:
            values = run_tape(tape, self)
        except CaptureError as cause:
            raise qml.exceptions.DeviceError(f"{self.name} cannot run this circuit: {cause}.") from cause
        if len(tape.measurements) == 1:
            values = [v[0] for v in values]
        return tuple(values) if tape.shots.has_partitioned_shots else values[0]
