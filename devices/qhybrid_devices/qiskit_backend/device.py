"""``qhybrid.qiskit`` as a PennyLane device; qiskit is imported when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qhybrid.jobs import Jobs
from qhybrid.program import Program
from qhybrid_devices.extras import require
from qhybrid_devices.program_device import ProgramDevice
from qhybrid_devices.qiskit_backend.faults import is_transient

if TYPE_CHECKING:
    from qhybrid_devices.qiskit_backend.executable import QiskitExecutable


class QiskitDevice(ProgramDevice):
    """Circuits on a Qiskit backend or through Qiskit's primitives, simulated or on hardware.

    A circuit is transpiled once for each structure. All samples of a batch, and all shift terms of a gradient, are the
    rows of one parameter array and one job, unless the backend takes fewer at a time.

    * With ``backend``, everything is read from shots.
    * With ``sampler``, the same, through a primitive of yours: for example that of qiskit-ibm-runtime with a session.
    * With ``estimator``, results from expectation values of Pauli words. Without shots it is asked for precision 0, so
      that it must be an exact one; it gives expectation values, variances and probabilities. With shots and no sampler
      it is asked for precision ``1 / sqrt(shots)`` of each word, the largest standard error that a word has from so
      many shots; it gives expectation values, and variances, which may come out below zero as they are differences.
    * With a sampler and an estimator, the sampler answers circuits with shots and the estimator all others.
    * With none of these, Qiskit's reference primitives simulate the state vector.

    Every execution gives a seed of its own to the primitives that are known to take one, those of Qiskit and of Aer, in
    place of their own. Circuits are sent by the policy of :func:`qhybrid.set_jobs`. Simulators keep the options that
    they were made with; Aer runs a batch of small circuits several times faster with ``max_parallel_threads=1``.

    Args:
        wires: number of wires, or their labels; ``None`` lets each circuit decide
        shots: default number of shots, ``None`` for exact results
        seed: seed of all samples and of the transpiler; the default draws one from NumPy's global generator, ``None``
            from the system
        backend: a ``qiskit.providers.BackendV2``; beside a primitive, what circuits are transpiled for
        sampler: a ``qiskit.primitives.BaseSamplerV2``
        estimator: a ``qiskit.primitives.BaseEstimatorV2``
        optimization_level: of the transpiler, 0 to 3; ``None`` for Qiskit's default
        initial_layout: for each wire the qubit of the backend to start on; ``None`` lets the transpiler choose
        transpile_options: more options of ``qiskit.transpiler.generate_preset_pass_manager``

    Raises:
        DeviceError: qiskit is missing, or an argument is not what it must be

    Example:
        >>> import qhybrid as qml
        >>> from qiskit.providers.basic_provider import BasicSimulator
        >>> dev = qml.device("qhybrid.qiskit", wires=2, backend=BasicSimulator(), seed=42)
        >>> @qml.set_shots(1000)
        ... @qml.qnode(dev)
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     qml.CNOT(wires=[0, 1])
        ...     return qml.expval(qml.Z(1))
        >>> bool(abs(circuit(0.5) - 0.88) < 0.1)
        True
    """

    name = "qhybrid.qiskit"
    runs_jobs = True

    def __init__(
        self,
        wires: Any = None,
        shots: Any = None,
        seed: Any = "global",
        *,
        backend: Any = None,
        sampler: Any = None,
        estimator: Any = None,
        optimization_level: int | None = None,
        initial_layout: Any = None,
        **transpile_options: Any,
    ) -> None:
        require("qiskit", extra="qiskit", device=self.name)
        from qhybrid_devices.qiskit_backend.primitives import Primitives
        from qhybrid_devices.qiskit_backend.transpiler import Transpiler

        super().__init__(wires=wires, shots=shots, seed=seed)
        self.primitives = Primitives.of(backend, sampler, estimator)
        self.transpiler = Transpiler(
            self.primitives.backend,
            optimization_level,
            initial_layout,
            int(self._rng.integers(2**31)),
            tuple(transpile_options.items()),
        )
        self.jobs = Jobs(is_transient=is_transient)

    @property
    def keeps_wires(self) -> bool:  # type: ignore[override]
        """Whether the wires have qubits of their own."""
        return self.transpiler.initial_layout is not None

    def adapt(self, program: Program) -> Program:
        """The gates that noise is on, so that shift rules are those of what runs."""
        from qhybrid_devices.qiskit_circuits.rotations import in_hardware_gates

        return in_hardware_gates(program)

    def make_executable(self, program: Program) -> QiskitExecutable:
        """Circuits for the backend, transpiled when they are first run."""
        from qhybrid_devices.qiskit_backend.executable import QiskitExecutable

        self.transpiler.check_wires(program.num_wires)
        return QiskitExecutable(program, self.primitives, self.transpiler, self.jobs)

    def memory_needed(self, program: Program, batch_size: int) -> int:
        """Nothing here: the backend holds the states."""
        return 0
