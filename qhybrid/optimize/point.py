"""From a call of a QNode to the state that it prepares and the derivatives of that state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from pennylane import numpy as pnp

from qhybrid.capture.observables import ScalarOutput, TensorOutput
from qhybrid.capture.signature import flatten
from qhybrid.capture.values import concrete, is_functorch, is_tensor
from qhybrid.circuit import CompiledCircuit
from qhybrid.errors import CaptureError, DeviceError, DifferentiationError
from qhybrid.execution import Circuit
from qhybrid.gradients import resolve
from qhybrid.optimize.classical import ClassicalJacobian, Leaves, classical_jacobian
from qhybrid.optimize.states import PreparedState, state_program
from qhybrid.program import Angle, Program, Slots
from qhybrid.qnode import QNode

#: From what a QNode runs to the same with the state as its result.
_CIRCUITS: WeakKeyDictionary[CompiledCircuit, Circuit] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Point:
    """Where a metric is: arguments, slots and state.

    Args:
        leaves: of the call
        classical: the derivatives of the slots with respect to the trained leaves
        circuit: from slots to the state
        state: the circuit, run
        constant: angles that depend on nothing that is trained
    """

    leaves: Leaves
    classical: ClassicalJacobian
    circuit: Circuit
    state: PreparedState
    constant: frozenset[Angle]

    @property
    def slots(self) -> Slots:
        """The slots."""
        return self.state.slots

    @property
    def batch(self) -> int:
        """What sums over samples are divided by: their number, or 1 for none, which have a metric of zero."""
        return max(1, len(self.state.psi))


def point_of(qnode: QNode, args: tuple, kwargs: dict[str, Any], argnums: int | Sequence[int] | None) -> Point:
    """Trace the QNode, if it has not been traced for such arguments, and run its circuit once.

    Args:
        qnode: the QNode
        args, kwargs: its arguments
        argnums: positions of the trained arguments, ``None`` for all that require gradients; they stand in the order
            of the call in any case

    Raises:
        DifferentiationError: there are no states, nothing is trained, or a trained argument is complex
    """
    _refuse_shots(qnode)
    chosen = (argnums,) if isinstance(argnums, int) else argnums
    if chosen is not None:
        if not all(-len(args) <= i < len(args) for i in chosen):
            raise DifferentiationError(f"argnums is {argnums}, but the call has the {len(args)} arguments 0, 1, ...")
        chosen = tuple(i % len(args) for i in chosen)
        args = tuple(_as_trainable(a) if i in chosen else a for i, a in enumerate(args))
    try:
        found, leaves, circuit, method = _traced(qnode, args, kwargs)
    except (CaptureError, DeviceError) as cause:
        raise _no_state(qnode, str(cause)) from cause
    trained = Leaves(tuple(leaves), _trained(args, leaves, chosen))
    _check(trained)
    values = found.slot_values([leaf.detach() if is_tensor(leaf) else leaf for leaf in leaves])
    slots = _slots(circuit.program, values.tensors, found.batch_size)
    host = "torch" if values.host == "torch" else "autograd"
    classical = classical_jacobian(found.prologue, host, trained, slots)
    moving = {id(leaves[i]) for i in trained.trained}
    constant = found.prologue.constant(leaves, lambda leaf: id(leaf) in moving)
    needs = replace(classical.layout.needs, constant=constant)
    try:
        state = PreparedState.at(circuit, method, slots, needs)
    except (CaptureError, DeviceError) as cause:
        raise _no_state(qnode, str(cause)) from cause
    return Point(trained, classical, circuit, state, constant)


def _traced(qnode: QNode, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, list[Any], Circuit, Any]:
    backend = qnode._backend
    reason = qnode._not_compiled(kwargs)
    if reason is not None:
        raise CaptureError(reason or "the QNode carries a PennyLane gradient transform, or a qml.Tracker counts")
    key, leaves = flatten(args, kwargs)
    if any(map(is_functorch, leaves)):
        raise DifferentiationError(
            "The metric was asked for inside torch.vmap or another function of torch.func, where arguments stand for "
            "many values. Ask for it outside, with plain tensors: of arguments with a batch axis in front it is the "
            "mean over the samples. TorchNaturalGradient(params, layer) does so itself for a layer that its closure "
            "maps."
        )
    entry = qnode._entry(key, leaves)
    if entry.circuit.program.channels:
        raise CaptureError("the circuit is noisy, so that its state is mixed")
    if not all(isinstance(output, ScalarOutput | TensorOutput) for output in entry.circuit.outputs):
        raise CaptureError("it postselects outcomes, so that its state is only a part of that of the circuit")
    if entry.trace.mid_circuit.measured:
        raise CaptureError("it measures inside the circuit, so that its state depends on the outcomes, or is mixed")
    circuit = _CIRCUITS.get(entry.circuit)
    if circuit is None:
        program = state_program(entry.circuit.program)
        backend.check(program, None)
        circuit = _CIRCUITS[entry.circuit] = Circuit(program, backend.compile)
    method, _ = resolve("best", has_vjp=backend.has_vjp, shots=None)
    return entry.trace, leaves, circuit, method


def _refuse_shots(qnode: QNode) -> None:
    if qnode.shots.total_shots is not None:
        raise _no_state(qnode, f"it has shots={qnode.shots.total_shots}")


def _no_state(qnode: QNode, why: str) -> DifferentiationError:
    return DifferentiationError(
        f"The metric needs the state vector, which the QNode on device {qnode.device.name!r} does not give: {why}. "
        'PennyLane\'s qml.metric_tensor(circuit, approx="block-diag") works there from measurements alone; pass it as '
        "metric_tensor_fn= to a step of the optimizer. Exact metrics need a circuit without shots and noise on a "
        'simulator such as "qhybrid.statevector".'
    )


def _as_trainable(value: Any) -> Any:
    """A plain number or array as one that requires gradients."""
    if isinstance(value, float | np.floating) or type(value) in (np.ndarray, pnp.tensor):
        return pnp.tensor(value, requires_grad=True)
    return value


def _trained(args: tuple, leaves: list[Any], chosen: Sequence[int] | None) -> tuple[int, ...]:
    """Positions of the trained leaves."""
    if chosen is None:
        return tuple(i for i, leaf in enumerate(leaves) if getattr(leaf, "requires_grad", False))
    stops = np.cumsum([len(flatten((a,), {})[1]) for a in args])
    owners = np.searchsorted(stops, np.arange(stops[-1] if len(stops) else 0), side="right")
    return tuple(int(i) for i in np.flatnonzero(np.isin(owners, chosen)))


def _check(leaves: Leaves) -> None:
    if not leaves.trained:
        raise DifferentiationError(
            "No argument requires a gradient, so there is no metric. Use qml.numpy.array(..., requires_grad=True) or "
            "tensor.requires_grad_(), or choose arguments with argnums=."
        )
    for i in leaves.trained:
        value = leaves.values[i]
        if value.is_complex() if is_tensor(value) else np.iscomplexobj(value):
            raise DifferentiationError("A trained argument is complex; train its real and imaginary parts.")


def _slots(program: Program, tensors: Sequence[Any], batch_size: int | None) -> Slots:
    """Slot values of any host as NumPy arrays in double precision."""
    rest = [np.asarray(concrete(t)) for t in tensors]
    shared = rest.pop(0).astype(float) if program.num_shared else np.zeros(0)
    batched = rest.pop(0).astype(float) if program.num_batched else None
    return Slots(shared, batched, tuple(rest), batch_size)
