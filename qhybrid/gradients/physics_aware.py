"""Values from a device, derivatives from its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qhybrid.gradients.arguments import refuse
from qhybrid.gradients.refused import WithoutDerivative


@dataclass(frozen=True)
class PhysicsAware(WithoutDerivative):
    """Forward on the device of the QNode, backward through a *twin*: a differentiable model of that device.

    A loss then sees what the device really gives, its errors and its shots, while the derivative of each result with
    respect to the arguments is the twin's, at the same arguments. A step costs the device its forward pass and nothing
    else, where the parameter-shift rule sends it two circuits more for each angle. What the device does wrong and the
    twin knows nothing of is corrected, because every step starts from the device's own results.

    When to use: to train on hardware or on a noisy device of which there is a fair model. Limits: the derivative is
    biased by as much as the twin differs from the device, so training ends where the twin's gradient of the loss, not
    the device's, vanishes; a twin that is wrong by more than a quarter turn leads uphill. Results without a derivative
    (samples, counts) have none here either. Higher derivatives and forward mode are the twin's.

    L. G. Wright et al., "Deep physical neural networks trained with backpropagation", Nature 601, 549 (2022).

    Args:
        twin: a PennyLane device or its name, which runs the same quantum function exactly, by the best method that it
            has; or a function of the QNode's arguments with results of the same structure and shapes, differentiable
            in the host: another QNode, such as a calibrated model of the device, or a neural network

    Raises:
        DifferentiationError: the twin is neither

    Example:
        >>> import qhybrid as qml
        >>> device = qml.device("qhybrid.statevector", wires=1, seed=1)
        >>> @qml.qnode(device, diff_method=qml.gradients.PhysicsAware(), shots=100)
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> x = qml.numpy.array(0.5)
        >>> print(f"{circuit(x):.2f} {qml.grad(circuit)(x):.4f}")  # a value from 100 shots, and an exact derivative
        0.90 -0.4794
    """

    twin: Any = "qhybrid.statevector"

    name = "physics-aware"

    def __post_init__(self) -> None:
        is_device = hasattr(self.twin, "execute") and hasattr(self.twin, "wires")
        if isinstance(self.twin, type) or not (isinstance(self.twin, str) or is_device or callable(self.twin)):
            allowed = (
                "a PennyLane device, the name of one, or a function of the QNode's arguments, such as another QNode"
            )
            refuse(self, "twin", self.twin, f"give {allowed}")

    @property
    def reason(self) -> str:
        """A circuit alone has no twin."""
        return (
            "PhysicsAware differentiates the results of a QNode with respect to its arguments; here the derivative of "
            "the device's own circuit was asked for, which is not available. A trained value that the quantum function "
            "reads from outside must be one of its arguments."
        )
