"""One run of Aer: circuits with the values of their parameters go in, the data of each come out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.exceptions import QiskitError
from qiskit.providers import BackendV2
from qiskit.transpiler import Target
from qiskit_aer import AerError, AerSimulator
from qiskit_aer.noise import NoiseModel

from qhybrid.errors import DeviceError
from qhybrid.jobs import Jobs
from qhybrid.program import Program
from qhybrid_devices.aer.noise import has_faulty_measurements, readout_errors

#: Executions that are one run: enough to hide what a run costs, few enough to be interrupted.
RUN_SIZE = 2048
#: How far apart the seeds are that Aer gives to the executions of one run.
SEED_STEP = 2113
#: States of so many qubits, or of half as many if they are mixed, are simulated on one thread.
MAX_SERIAL_WIRES = 13
#: Gates with an angle; a stabilizer state allows multiples of pi / 2 only.
ROTATIONS = frozenset({"rx", "ry", "rz", "p", "rxx", "ryy", "rzz", "u"})
#: Methods that know the state itself, and so expectation values of a noiseless circuit, exactly.
METHODS = ("automatic", "statevector", "density_matrix", "matrix_product_state", "stabilizer")


@dataclass(frozen=True, eq=False)
class Settings:
    """How Aer runs circuits; see :class:`~qhybrid_devices.aer.device.AerDevice`."""

    method: str = "automatic"
    device: str = "CPU"
    noise_model: Any = None
    backend: Any = None
    optimization_level: int | None = None
    initial_layout: Any = None
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Bound:
    """A circuit with values of its parameters ``(P, B)``: ``B`` executions."""

    circuit: QuantumCircuit
    parameters: Sequence[Parameter]
    values: NDArray
    num_wires: int


def check(settings: Settings, num_wires: int | None) -> None:
    """Refuse settings that Aer would stumble over later.

    Raises:
        DeviceError: says what was got and what is allowed
    """
    simulator = AerSimulator()
    if settings.method not in METHODS:
        raise DeviceError(f"qhybrid.aer got method={settings.method!r}; choose one of {', '.join(METHODS)}.")
    if settings.device not in simulator.available_devices():
        raise DeviceError(
            f"This qiskit-aer runs on {', '.join(simulator.available_devices())}, not on device={settings.device!r}. "
            "A GPU needs the package qiskit-aer-gpu and a CUDA driver."
        )
    known = simulator.options.__dict__
    for name, _ in settings.options:
        if name not in known:
            close = get_close_matches(name, ["noise_model", "backend", "initial_layout", *known], 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DeviceError(f"qhybrid.aer got {name!r}, which is no option of it or of AerSimulator.{hint}")
    if settings.noise_model is not None and not isinstance(settings.noise_model, NoiseModel):
        raise DeviceError(
            f"noise_model is {settings.noise_model!r}; it must be a qiskit_aer.noise.NoiseModel or a "
            "pennylane.NoiseModel."
        )
    if settings.backend is not None:
        _check_backend(settings, num_wires)
    elif settings.initial_layout is not None:
        raise DeviceError("qhybrid.aer got an initial_layout without a backend, whose qubits it would name.")


def _check_backend(settings: Settings, num_wires: int | None) -> None:
    backend, layout = settings.backend, settings.initial_layout
    if not isinstance(backend, BackendV2):
        raise DeviceError(
            f"backend is {backend!r}; it must be a qiskit.providers.BackendV2, such as those of qiskit.providers."
            "fake_provider."
        )
    if settings.noise_model is not None:
        raise DeviceError("qhybrid.aer got a backend, which has noise of its own, and a noise_model; give one of them.")
    if num_wires is not None and num_wires > backend.num_qubits:
        raise DeviceError(f"The device has {num_wires} wires, but {backend.name} has {backend.num_qubits} qubits.")
    if layout is None:
        return
    good = len(set(layout)) == len(layout) and all(q in range(backend.num_qubits) for q in layout)
    if not good or (num_wires is not None and len(layout) != num_wires):
        raise DeviceError(
            f"initial_layout is {layout!r}; it must name a qubit of {backend.name}, 0 to {backend.num_qubits - 1}, for "
            f"each of the {'' if num_wires is None else num_wires} wires, none of them twice."
        )


class _Simulator(AerSimulator):
    """An AerSimulator whose options stay, so that its target is made once; transpiling asks for it 150 times."""

    @cached_property
    def target(self) -> Target:
        """The gates that the simulator has."""
        return super().target


class Simulator:
    """Aer with settings.

    Args:
        settings: of all runs
        num_wires: of the device, ``None`` if each circuit decides

    Raises:
        DeviceError: a setting is not what it must be
    """

    def __init__(self, settings: Settings, num_wires: int | None = None) -> None:
        self.settings = settings
        self._simulators: dict[str, AerSimulator] = {}
        check(settings, num_wires)

    def __reduce__(self) -> tuple:
        return (Simulator, (self.settings,))

    @cached_property
    def is_noisy(self) -> bool:
        """Whether gates or readout have errors."""
        return self._noise is not None and not self._noise.is_ideal()

    def mixes(self, program: Program) -> bool:
        """Whether noise, of the simulator or in the program, makes the state mixed."""
        return self.is_noisy or bool(program.channels)

    def holds_state(self, program: Program) -> bool:
        """Whether there is a state vector at the end; noise, or routing on a backend, leave none."""
        return not self.mixes(program) and self.settings.backend is None

    @cached_property
    def readout_errors(self) -> dict[tuple[int, ...], NDArray]:
        """Probabilities ``[prepared, read]`` of each qubit; the empty tuple stands for all others."""
        return readout_errors(self._noise)

    @cached_property
    def has_faulty_measurements(self) -> bool:
        """Whether a measurement has a quantum error, which changes the state and is no readout error."""
        return has_faulty_measurements(self._noise)

    @property
    def _noise(self) -> Any:
        return self._simulator("automatic").options.noise_model

    def _simulator(self, method: str) -> AerSimulator:
        if method not in self._simulators:
            self._simulators[method] = self._made(method)
        return self._simulators[method]

    def _made(self, method: str) -> AerSimulator:
        s = self.settings
        options = dict(s.options, method=method, device=s.device)
        if s.noise_model is not None:
            options["noise_model"] = s.noise_model
        if s.backend is not None:
            return _Simulator.from_backend(s.backend, **options)
        return _Simulator(**options)

    def _threads(self, method: str, num_wires: int) -> dict[str, int]:
        """Aer's own threads only hold up small states."""
        if "max_parallel_threads" in dict(self.settings.options):
            return {}
        amplitudes = num_wires * (2 if method == "density_matrix" or self.is_noisy else 1)
        if amplitudes <= MAX_SERIAL_WIRES:
            return {"max_parallel_threads": 1}
        return {"max_parallel_threads": int(os.environ.get("QHYBRID_NUM_THREADS", 0))}

    @property
    def target(self) -> AerSimulator:
        """What circuits are transpiled for."""
        return self._simulator(self.settings.method)

    def unrolled(self, circuits: list[QuantumCircuit]) -> list[QuantumCircuit]:
        """Circuits in the gates that the simulator has, each wire on its own qubit to the end.

        Raises:
            DeviceError: a gate is impossible with this method
        """
        return self._transpiled(circuits, self.target, optimization_level=0)

    def transpile(self, circuits: list[QuantumCircuit], method: str | None = None) -> list[QuantumCircuit]:
        """Circuits in the gates that the simulator, or the backend that it stands for, has.

        Args:
            circuits: wires may end on other qubits
            method: that they will run by, instead of that of the settings

        Raises:
            DeviceError: a gate is impossible with this method
        """
        s = self.settings
        level = s.optimization_level if s.optimization_level is not None else (0 if s.backend is None else 1)
        target = self._simulator(method or s.method)
        return self._transpiled(circuits, target, optimization_level=level, initial_layout=s.initial_layout)

    def _transpiled(self, circuits: list[QuantumCircuit], target: AerSimulator, **options: Any) -> list[QuantumCircuit]:
        try:
            return transpile(circuits, target, seed_transpiler=0, **options)
        except QiskitError as cause:
            raise DeviceError(f"{self._foreign(circuits[0])}: {cause.message}") from cause

    @property
    def _where(self) -> str:
        """What messages call this simulator."""
        if self.settings.backend is not None:
            return f"qhybrid.aer as {getattr(self.settings.backend, 'name', self.settings.backend)}"
        return f"qhybrid.aer with method={self.settings.method!r}"

    def _foreign(self, circuit: QuantumCircuit) -> str:
        """Which part of a circuit the simulator cannot run."""
        known = set(self.target.configuration().basis_gates)
        parts = (i for i in circuit.data if i.operation.name not in known)
        first = next(parts, None)
        if first is None or circuit.num_qubits > (self.target.num_qubits or np.inf):
            return f"{self._where} cannot run this circuit of {circuit.num_qubits} wires"
        wires = [circuit.find_bit(q).index for q in first.qubits]
        return f"{self._where} cannot run {first.operation.name} on wires {wires}"

    def run(
        self,
        bound: Sequence[Bound],
        shots: int | None,
        rng: np.random.Generator | None,
        jobs: Jobs,
        method: str | None = None,
    ) -> list[Any]:
        """The data of each execution, circuit after circuit.

        Args:
            bound: transpiled circuits
            shots: of each execution, ``None`` for exact results
            rng: gives the seed of all samples; ``None`` if the circuits save exact results, whatever is drawn from them
            jobs: sends and counts the executions
            method: instead of that of the settings

        Raises:
            DeviceError: Aer cannot run a circuit
        """
        starts = np.cumsum([0, *(b.values.shape[1] for b in bound)])
        seed, measured = (0, None) if rng is None else (int(rng.integers(2**30)), shots)

        def submit(batch: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
            numbers = [i for i, _ in batch]
            data = self._run(_selected(bound, starts, numbers), measured, seed + SEED_STEP * numbers[0], method)
            yield from zip(numbers, data, strict=True)

        return jobs.run(submit, range(starts[-1]), shots, at_most=RUN_SIZE)

    def _run(self, bound: Sequence[Bound], shots: int | None, seed: int, method: str | None) -> list[Any]:
        method = method or self.settings.method
        simulator = self._simulator(method)
        binds = [{p: row.tolist() for p, row in zip(b.parameters, b.values, strict=True)} for b in bound]
        with_parameters = any(binds)
        # without parameters there is nothing to bind: the circuit itself stands as often as it is executed
        circuits = [b.circuit for b in bound for _ in range(1 if with_parameters else b.values.shape[1])]
        try:
            result = simulator.run(
                circuits,
                parameter_binds=binds if with_parameters else None,
                runtime_parameter_bind_enable=with_parameters,
                shots=1 if shots is None else shots,
                seed_simulator=seed,
                **self._threads(method, bound[0].num_wires),
            ).result()
        except (QiskitError, AerError) as cause:
            raise DeviceError(f"{self._where}: {cause}") from cause
        if not result.success:
            raise DeviceError(f"{self._where}: {_failure(result)}{_rotation(circuits[0])}")
        return [r.data for r in result.results]


def _selected(bound: Sequence[Bound], starts: NDArray, run: Sequence[int]) -> list[Bound]:
    """Some executions, given by their numbers, which count through circuit after circuit."""
    numbers = np.asarray(run)
    owners = np.searchsorted(starts, numbers, side="right") - 1
    return [replace(bound[k], values=bound[k].values[:, numbers[owners == k] - starts[k]]) for k in np.unique(owners)]


def _rotation(circuit: QuantumCircuit) -> str:
    """The first gate with a parameter, which is what some methods cannot run."""
    first = next((i for i in circuit.data if i.operation.params and i.operation.name in ROTATIONS), None)
    if first is None:
        return ""
    wires = [circuit.find_bit(q).index for q in first.qubits]
    return f" The first gate with an angle is {first.operation.name} on wires {wires}."


def _failure(result: Any) -> str:
    """What Aer says about the first execution that failed."""
    failed = [(i, r.status) for i, r in enumerate(result.results) if not r.success]
    if failed:
        return f"execution {failed[0][0]} of {len(result.results)} failed: {failed[0][1]}"
    return str(result.status)
