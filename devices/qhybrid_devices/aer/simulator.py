"""One run of Aer: circuits with the values of their parameters go in, the data of each come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.exceptions import QiskitError
from qiskit_aer import AerError, AerSimulator

from qhybrid.errors import DeviceError
from qhybrid.jobs import Jobs
from qhybrid_devices.aer.noise import readout_errors

#: Executions that are one run: enough to hide what a run costs, few enough to be interrupted.
RUN_SIZE = 2048
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


class Simulator:
    """Aer with settings.

    Raises:
        DeviceError: this Aer has no such method or device
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._simulators: dict[str, AerSimulator] = {}
        if settings.method not in METHODS:
            raise DeviceError(f"qhybrid.aer got method={settings.method!r}; choose one of {', '.join(METHODS)}.")
        available = AerSimulator().available_devices()
        if settings.device not in available:
            raise DeviceError(
                f"This qiskit-aer runs on {', '.join(available)}, not on device={settings.device!r}. "
                "A GPU needs the package qiskit-aer-gpu and a CUDA driver."
            )

    def __reduce__(self) -> tuple:
        return (Simulator, (self.settings,))

    @cached_property
    def is_noisy(self) -> bool:
        """Whether gates or readout have errors."""
        return self._noise is not None and not self._noise.is_ideal()

    @cached_property
    def readout_errors(self) -> dict[tuple[int, ...], NDArray]:
        """Probabilities ``[prepared, read]`` of each qubit; the empty tuple stands for all others."""
        return readout_errors(self._noise)

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
            return AerSimulator.from_backend(s.backend, **options)
        return AerSimulator(**options)

    @property
    def target(self) -> AerSimulator:
        """What circuits are transpiled for."""
        return self._simulator(self.settings.method)

    def transpile(self, circuits: list[QuantumCircuit]) -> list[QuantumCircuit]:
        """Circuits in the gates that the simulator, or the backend that it stands for, has.

        Raises:
            DeviceError: a gate is impossible with this method
        """
        s = self.settings
        level = s.optimization_level if s.optimization_level is not None else (0 if s.backend is None else 1)
        try:
            return transpile(
                circuits, self.target, optimization_level=level, initial_layout=s.initial_layout, seed_transpiler=0
            )
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
            data = self._run(_selected(bound, starts, numbers), measured, seed + numbers[0], method)
            yield from zip(numbers, data, strict=True)

        return jobs.run(submit, range(starts[-1]), shots, at_most=RUN_SIZE)

    def _run(self, bound: Sequence[Bound], shots: int | None, seed: int, method: str | None) -> list[Any]:
        simulator = self._simulator(method or self.settings.method)
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
