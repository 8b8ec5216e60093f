"""``qhybrid.aer`` as a PennyLane device."""

from __future__ import annotations

from typing import Any

import pennylane as qml
from pennylane.tape import QuantumScript

from qhybrid.program import Program
from qhybrid_devices.extras import require
from qhybrid_devices.program_device import ProgramDevice


class AerDevice(ProgramDevice):
    """Qiskit Aer: a batch of samples, shift terms and measurement bases is one run of circuits transpiled once.

    Results without shots are exact, also those of a noisy circuit (from its density matrix). Derivatives come from the
    parameter-shift rule; all its terms are executions of the same run.

    Args:
        wires: number of wires, or their labels; ``None`` lets each circuit decide
        shots: default number of shots, ``None`` for exact results
        seed: seed of all samples; the default draws one from NumPy's global generator, ``None`` from the system
        method: ``"automatic"``, ``"statevector"``, ``"density_matrix"``, ``"matrix_product_state"`` or ``"stabilizer"``
        device: ``"CPU"``, or ``"GPU"`` if this Aer has one
        noise_model: a :class:`qiskit_aer.noise.NoiseModel`, or a :class:`pennylane.NoiseModel`
        backend: a Qiskit backend, real or fake, whose gates, couplings and noise are simulated; in place of a noise
            model
        optimization_level: of Qiskit's transpiler; by default 0, or 1 for a backend
        initial_layout: physical qubit of each wire, for a backend
        options: further options of :class:`qiskit_aer.AerSimulator`. Unless they set ``max_parallel_threads``, small
            states are simulated on one thread and large ones on ``QHYBRID_NUM_THREADS``, by default all

    Raises:
        DeviceError: qiskit-aer is not installed, or an argument is not what it must be

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.aer", wires=2))
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     qml.CNOT(wires=[0, 1])
        ...     return qml.expval(qml.Z(1))
        >>> x = qml.numpy.array(0.5)
        >>> print(f"{circuit(x):.4f} {qml.grad(circuit)(x):.4f}")
        0.8776 -0.4794
    """

    name = "qhybrid.aer"
    runs_jobs = True
    runs_channels = True

    def __init__(
        self,
        wires: Any = None,
        shots: Any = None,
        seed: Any = "global",
        *,
        method: str = "automatic",
        device: str = "CPU",
        noise_model: Any = None,
        backend: Any = None,
        optimization_level: int | None = None,
        initial_layout: Any = None,
        **options: Any,
    ) -> None:
        require("qiskit_aer", extra="aer", device=self.name)
        from qhybrid_devices.aer.simulator import Settings, Simulator

        super().__init__(wires=wires, shots=shots, seed=seed)
        self._added_noise = noise_model if isinstance(noise_model, qml.NoiseModel) else None
        if self._added_noise is not None:
            noise_model = None
        num_wires = None if self.wires is None else len(self.wires)
        self.simulator = Simulator(
            Settings(method, device, noise_model, backend, optimization_level, initial_layout, tuple(options.items())),
            num_wires,
        )

    def expand(self, tape: QuantumScript) -> QuantumScript:
        """The circuit with the channels of a PennyLane noise model behind the operations that have them."""
        if self._added_noise is None:
            return tape
        (noisy,), _ = qml.noise.add_noise(tape, self._added_noise)
        return noisy

    def adapt(self, program: Program) -> Program:
        """With noise, the gates that the noise is on, so that shift rules are those of what runs."""
        from qhybrid_devices.qiskit_circuits.rotations import in_hardware_gates

        return program if self.simulator.holds_state(program) else in_hardware_gates(program)

    @property
    def keeps_wires(self) -> bool:  # type: ignore[override]
        """Whether the wires have qubits of their own, with errors of their own."""
        settings = self.simulator.settings
        return settings.noise_model is not None or settings.backend is not None

    def make_executable(self, program: Program) -> Any:
        """Circuits for Aer, transpiled once."""
        from qhybrid_devices.aer.executable import AerExecutable

        return AerExecutable(program, self.simulator, self.jobs)
