"""Circuits in the instructions of a backend, on its qubits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qiskit import QuantumCircuit
from qiskit.exceptions import QiskitError
from qiskit.transpiler.preset_passmanagers import generate_preset_pass_manager

from qhybrid.errors import DeviceError


@dataclass(frozen=True, eq=False)
class Transpiler:
    """How circuits are transpiled.

    Args:
        backend: for which; ``None`` leaves them as they are
        optimization_level: of Qiskit, ``None`` for its default
        initial_layout: for each wire a qubit, ``None`` lets Qiskit choose
        seed: of the transpiler
        options: more options of ``generate_preset_pass_manager``, by name

    Raises:
        DeviceError: there are options, but nothing to transpile for, or they make no sense
    """

    backend: Any
    optimization_level: int | None
    initial_layout: Any
    seed: int
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        given = [name for name in ("optimization_level", "initial_layout") if getattr(self, name) is not None]
        given += [name for name, _ in self.options]
        if given and self.backend is None:
            raise DeviceError(
                f"{' and '.join(given)} would mean nothing: there is no backend to transpile for. Add backend=..., or "
                "leave out what is for the transpiler."
            )
        if self.initial_layout is not None:
            object.__setattr__(self, "initial_layout", self._checked_layout())
        if given:
            try:
                self._passes(None)
            except (QiskitError, TypeError, ValueError) as cause:
                raise DeviceError(f"Qiskit's transpiler does not take these options: {cause}") from cause

    def _checked_layout(self) -> list[int]:
        layout = [int(q) for q in self.initial_layout]
        available = self.backend.num_qubits
        if len(set(layout)) < len(layout) or min(layout) < 0 or (available is not None and max(layout) >= available):
            raise DeviceError(
                f"initial_layout is {layout}; it must name a different qubit of the backend for each wire, "
                f"and {self._name} has {available} qubits."
            )
        return layout

    def check_wires(self, num_wires: int) -> None:
        """Check that a circuit fits.

        Raises:
            DeviceError: the backend, or the layout, has fewer qubits
        """
        available = getattr(self.backend, "num_qubits", None)
        if available is not None and num_wires > available:
            raise DeviceError(f"The circuit has {num_wires} wires, but {self._name} has {available} qubits.")
        if self.initial_layout is not None and num_wires > len(self.initial_layout):
            raise DeviceError(
                f"The circuit has {num_wires} wires, but initial_layout names {len(self.initial_layout)} qubits: "
                f"{self.initial_layout}."
            )

    @property
    def _name(self) -> str:
        return getattr(self.backend, "name", None) or type(self.backend).__name__

    def transpile(self, circuit: QuantumCircuit, layout: Sequence[int] | None = None) -> QuantumCircuit:
        """The circuit for the backend.

        Args:
            circuit: with one qubit a wire
            layout: qubits to start on, if an earlier circuit has settled them

        Raises:
            DeviceError: names the first instruction that the backend cannot do
        """
        if self.backend is None:
            return circuit
        if layout is None and self.initial_layout is not None:
            layout = self.initial_layout[: circuit.num_qubits]
        try:
            return self._passes(layout)(circuit)
        except QiskitError as cause:
            raise DeviceError(f"{self._name} cannot run {self._culprit(circuit)}: {cause}") from cause

    def _passes(self, layout: Sequence[int] | None) -> Callable[[QuantumCircuit], QuantumCircuit]:
        options = dict(self.options)
        if self.optimization_level is not None:
            options["optimization_level"] = self.optimization_level
        manager = generate_preset_pass_manager(
            backend=self.backend,
            initial_layout=None if layout is None else list(layout),
            seed_transpiler=self.seed,
            **options,
        )
        return manager.run

    def _culprit(self, circuit: QuantumCircuit) -> str:
        """The first instruction that cannot be transpiled alone, with its wires."""
        for instruction in circuit.data:
            alone = circuit.copy_empty_like()
            alone.append(instruction)
            try:
                self._passes(None)(alone)
            except QiskitError:
                wires = [circuit.find_bit(q).index for q in instruction.qubits]
                return f"{instruction.operation.name} on wires {wires}"
        return f"this circuit of {circuit.num_qubits} wires"
