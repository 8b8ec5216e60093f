"""What a QNode does with a call, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qhybrid.circuit import CompiledCircuit
from qhybrid.execution import Needs
from qhybrid.gradients import GradientMethod, Refused
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


def explain_circuit(
    circuit: CompiledCircuit,
    method: GradientMethod,
    method_reason: str,
    batch: int | None,
    shots: Sequence[int | None],
    needs: Needs,
) -> Explanation:
    """What runs for a compiled circuit, and what it costs.

    Args:
        circuit: as its device runs it
        method: that was resolved for it
        method_reason: why this one
        batch: samples, ``None`` if unbatched
        shots: the number of each copy of the results
        needs: which derivatives are wanted
    """
    program, device = circuit.program, circuit.device
    method = circuit.differentiated(method, shots[0])
    samples = 1 if batch is None else batch
    gradient = method.executions(program, samples, needs)
    each = [(device.compile(program).circuits_per_execution(s), s or 0) for s in shots]
    circuits, each_shots = sum(number for number, _ in each), sum(number * of_each for number, of_each in each)
    return Explanation(
        path="compiled",
        reason="",
        device="",
        method=method.name,
        method_reason=method.reason if isinstance(method, Refused) else method_reason,
        num_wires=program.num_wires,
        num_gates=len(program.gates),
        num_parameters=program.num_shared + program.num_batched + len(program.arrays),
        batch_size=batch,
        forward_executions=samples * len(shots),
        gradient_executions=gradient * len(shots),
        forward_circuits=samples * circuits,
        forward_shots=samples * each_shots,
        gradient_circuits=gradient * circuits,
        gradient_shots=gradient * each_shots,
        usage=device.jobs.usage if device.runs_jobs else None,
        memory=device.memory_needed(program, samples),
        circuit=str(program),
        execution=device.describe(program, shots[0]),
    )
