"""What a PennyLane device says it can do, asked of the device itself; no circuit is run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pennylane as qml
from pennylane.devices import ExecutionConfig, LegacyDeviceFacade
from pennylane.operation import Channel, Operator
from pennylane.tape import QuantumScript

from qhybrid.backend import CompilingDevice
from qhybrid.capture.lowering import lower

#: Derivatives that a device may compute itself, as PennyLane names them.
OWN_DERIVATIVES = ("adjoint", "backprop", "device")


@dataclass(frozen=True)
class Capabilities:
    """What a device can do with circuits of qubits.

    Args:
        derivatives: those it computes itself, as PennyLane names them
        exact: whether there are results without shots
        shots: whether there are results with shots
        batches: whether a batch is one circuit to it, not one circuit a sample
        noise: whether it takes channels, or a noise model

    Example:
        >>> import qhybrid as qml
        >>> print(capabilities_of(qml.device("qhybrid.statevector", wires=2)))
        derivatives adjoint, backprop, device; exact and shots; batches; no noise channels
        >>> print(capabilities_of(qml.device("default.gaussian", wires=2)))
        not for circuits of qubits
    """

    derivatives: tuple[str, ...] = ()
    exact: bool = False
    shots: bool = False
    batches: bool = False
    noise: bool = False

    def __str__(self) -> str:
        if not (self.exact or self.shots):
            return "not for circuits of qubits"
        results = "exact and shots" if self.exact and self.shots else "exact only" if self.exact else "shots only"
        return "; ".join((
            f"derivatives {', '.join(self.derivatives)}" if self.derivatives else "no derivatives",
            results,
            "batches" if self.batches else "batches one by one",
            "noise" if self.noise else "no noise channels",
        ))  # fmt: skip


def capabilities_of(device: Any) -> Capabilities:
    """What a device can do.

    Devices of PennyLane's older interface carry a table. All others are asked to prepare small circuits, and those
    that compile programs to compile them.

    Args:
        device: a PennyLane device with at least one wire
    """
    if isinstance(device, LegacyDeviceFacade):
        return _of_legacy(device)
    gate = qml.Hadamard(wires=0)
    exact, shots = _circuits(device, [gate]) > 0, _circuits(device, [gate], shots=10) > 0
    some = None if exact else 10
    noisy = [gate, qml.BitFlip(0.1, wires=0)]
    return Capabilities(
        derivatives=_derivatives(device) if exact else (),
        exact=exact,
        shots=shots,
        batches=_circuits(device, [qml.RX([0.1, 0.2], wires=0)], some) == 1,
        noise=_has_noise_model(type(device)) or _circuits(device, noisy) + _circuits(device, noisy, shots=10) > 0,
    )


def _of_legacy(device: LegacyDeviceFacade) -> Capabilities:
    target = device.target_device
    table = target.capabilities()
    if table.get("model") != "qubit":
        return Capabilities()
    exact = table.get("supports_analytic_computation", True)
    return Capabilities(
        derivatives=_derivatives(device) if exact else (),
        exact=exact,
        shots=table.get("supports_finite_shots", True),
        batches=table.get("supports_broadcasting", False),
        noise=_has_noise_model(type(target)) or any(map(_is_channel, target.operations)),
    )


def _is_channel(name: str) -> bool:
    found = getattr(qml, name, None)
    return isinstance(found, type) and issubclass(found, Channel)


def _has_noise_model(device_class: type) -> bool:
    return "noise_model" in inspect.signature(device_class).parameters


def _derivatives(device: Any) -> tuple[str, ...]:
    if isinstance(device, CompilingDevice) and not device.has_vjp:
        return ()
    tape = _tape([qml.RX(0.1, wires=0)])
    return tuple(m for m in OWN_DERIVATIVES if device.supports_derivatives(ExecutionConfig(gradient_method=m), tape))


def _tape(operations: Sequence[Operator], shots: int | None = None) -> QuantumScript:
    return QuantumScript(operations, [qml.expval(qml.Z(0))], shots=shots)


def _circuits(device: Any, operations: Sequence[Operator], shots: int | None = None) -> int:
    """How many circuits a device makes of one; 0 if it refuses it."""
    tape = _tape(operations, shots)
    try:
        config = device.setup_execution_config(ExecutionConfig(), tape)
        tapes = device.preprocess_transforms(config)((tape,))[0]
        if isinstance(device, CompilingDevice):
            for prepared in tapes:
                device.compile(lower(prepared, device, lambda value: True, qml.math.requires_grad).program)
    except Exception:  # noqa: BLE001 - devices refuse circuits with errors of many classes
        return 0
    return len(tapes)
