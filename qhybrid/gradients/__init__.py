"""Gradient methods, and circuits as differentiable functions.

* :class:`Adjoint`, :class:`ParameterShift`, :class:`Hadamard`, :class:`FiniteDiff`: how first derivatives are obtained.
* :class:`SPSA`, :class:`DoublyStochasticShift`, :class:`ForwardGradient`: the same at random, for few executions.
* :class:`PhysicsAware`: values from a device, derivatives from its differentiable twin.
* :class:`Checked`: another method, compared with central differences before it is trusted.
* :func:`shift_hessian`: values, gradients and Hessians from shifted executions that serve all of them.
* :func:`resolve`: from ``diff_method`` as a user gives it to a method and the reason for it.
* :func:`check_method`, :func:`resolves`: whether a ``diff_method`` exists at all, and whether it is one of ours.
* :class:`CircuitFunction`: a program on a device as a :class:`~qhybrid.execution.Function` for hosts, and
  :class:`Gathered`, the same of arguments whose numbers the slots are, moved, scaled and shifted;
  :class:`Single`, the same of one number without an axis of its own.

Second derivatives are exact for every method that is exact: native where the device has them, else by shift rules.
"""

from typing import TYPE_CHECKING

from qhybrid._fallthrough import fall_through
from qhybrid.gradients.adjoint import Adjoint as Adjoint
from qhybrid.gradients.base import GradientMethod as GradientMethod
from qhybrid.gradients.function import CircuitFunction as CircuitFunction
from qhybrid.gradients.gathered import Arrangement as Arrangement
from qhybrid.gradients.gathered import Block as Block
from qhybrid.gradients.gathered import Gathered as Gathered
from qhybrid.gradients.parameter_shift import ParameterShift as ParameterShift
from qhybrid.gradients.physics_aware import PhysicsAware as PhysicsAware
from qhybrid.gradients.refused import NoDerivative as NoDerivative
from qhybrid.gradients.refused import Refused as Refused
from qhybrid.gradients.resolve import NATIVE_METHODS as NATIVE_METHODS
from qhybrid.gradients.resolve import check_method as check_method
from qhybrid.gradients.resolve import pennylane_name as pennylane_name
from qhybrid.gradients.resolve import resolve as resolve
from qhybrid.gradients.resolve import resolves as resolves
from qhybrid.gradients.single import Single as Single

if TYPE_CHECKING:
    from qhybrid.gradients.checked import Checked as Checked
    from qhybrid.gradients.doubly_stochastic import DoublyStochasticShift as DoublyStochasticShift
    from qhybrid.gradients.finite_difference import FiniteDiff as FiniteDiff
    from qhybrid.gradients.forward_gradient import ForwardGradient as ForwardGradient
    from qhybrid.gradients.hadamard import Hadamard as Hadamard
    from qhybrid.gradients.hessians import hessian_executions as hessian_executions
    from qhybrid.gradients.hessians import shift_hessian as shift_hessian
    from qhybrid.gradients.spsa import SPSA as SPSA

#: Modules of what few circuits ask for; they are imported when they do.
_LAZY = {
    "Checked": "checked",
    "DoublyStochasticShift": "doubly_stochastic",
    "FiniteDiff": "finite_difference",
    "ForwardGradient": "forward_gradient",
    "Hadamard": "hadamard",
    "SPSA": "spsa",
    "hessian_executions": "hessians",
    "shift_hessian": "hessians",
}
__getattr__ = fall_through("qhybrid.gradients", "pennylane.gradients", _LAZY)
