"""What a QNode does with a call, in words."""

from __future__ import annotations

from dataclasses import dataclass

from qhybrid.jobs import Usage


@dataclass(frozen=True)
class Explanation:
    """The answer of :meth:`qhybrid.QNode.explain`; printing it gives a short report.

    Args:
        path: ``"compiled"`` (traced once), ``"recorded"`` (the function is called every time, the circuit is compiled)
            or ``"pennylane"`` (PennyLane's own path on the same device)
        reason: why it is not compiled; empty if it is
        device: name of the device
        method: gradient method that a derivative would use, ``None`` if there is none
        method_reason: why this one
        num_wires, num_gates: size of the compiled circuit
        num_parameters: angles and arrays that are read at every call
        batch_size: samples of this call, ``None`` if unbatched
        forward_executions: executions of the circuit in one forward pass
        gradient_executions: executions of the circuit in one backward pass, along the arguments that say they are
            trained, or along all if none does
        forward_circuits, forward_shots: circuits that the device is sent for them, one for each group of measurements
            made together, and their shots; without what is lost and sent again
        gradient_circuits, gradient_shots: the same for the backward pass
        usage: what the device was sent so far and what its budget leaves, ``None`` if it sends no jobs
        memory: bytes that a gradient of this call needs for states
        circuit: the compiled circuit, printed
        execution: how the device runs it, where there are several ways
        twin: of a physics-aware QNode, what its twin does with the call; ``None`` if the twin is no QNode either
    """

    path: str
    reason: str
    device: str
    method: str | None
    method_reason: str
    num_wires: int = 0
    num_gates: int = 0
    num_parameters: int = 0
    batch_size: int | None = None
    forward_executions: int = 0
    gradient_executions: int = 0
    forward_circuits: int = 0
    forward_shots: int = 0
    gradient_circuits: int = 0
    gradient_shots: int = 0
    usage: Usage | None = None
    memory: int = 0
    circuit: str = ""
    execution: str = ""
    twin: Explanation | None = None

    def __str__(self) -> str:
        lines = [f"path:      {self.path}" + (f", because {self.reason}" if self.reason else "")]
        lines.append(f"device:    {self.device}")
        lines.append(f"gradient:  {self.method} ({self.method_reason})")
        if self.path != "pennylane":
            batch = "no batch" if self.batch_size is None else f"a batch of {self.batch_size}"
            if self.execution:
                lines.append(f"runs as:   {self.execution}")
            size = f"{self.num_gates} gates on {self.num_wires} wires, {self.num_parameters} parameters"
            lines.append(f"circuit:   {size}, {batch}")
            lines.append(
                f"cost:      {self.forward_executions} executions forward, {self.gradient_executions} for a gradient, "
                f"{self.memory / 2**20:.3g} MiB of states"
            )
            if self.usage is not None:
                lines.append(
                    f"jobs:      {self.forward_circuits} circuits with {self.forward_shots} shots forward, "
                    f"{self.gradient_circuits} with {self.gradient_shots} for a gradient"
                )
        if self.twin is not None:
            lines.append(
                f"twin:      {self.twin.device}, {self.twin.forward_executions} executions forward, "
                f"{self.twin.gradient_executions} for a gradient, {self.twin.memory / 2**20:.3g} MiB of states"
            )
        if self.usage is not None:
            lines.append(f"budget:    {self.usage}")
        return "\n".join(lines)
