"""Gradient methods, and circuits as differentiable functions.

* :class:`Adjoint`, :class:`ParameterShift`, :class:`FiniteDiff`: how first derivatives are obtained.
* :class:`Checked`: another method, compared with central differences before it is trusted.
* :class:`PhysicsAware`: values from a device, derivatives from its differentiable twin.
* :func:`resolve`: from ``diff_method`` as a user gives it to a method and the reason for it.
* :func:`check_method`, :func:`resolves`: whether a ``diff_method`` exists at all, and whether it is one of ours.
* :class:`CircuitFunction`: a program on a device as a :class:`~qhybrid.execution.Function` for hosts, and
  :class:`Arranged`, the same of arguments with their axes in another order.

Second derivatives are exact for every method, by shift rules on top of its first derivatives.
"""

from qhybrid._fallthrough import fall_through
from qhybrid.gradients.adjoint import Adjoint as Adjoint
from qhybrid.gradients.arranged import Arranged as Arranged
from qhybrid.gradients.arranged import Arrangement as Arrangement
from qhybrid.gradients.base import GradientMethod as GradientMethod
from qhybrid.gradients.checked import Checked as Checked
from qhybrid.gradients.finite_difference import FiniteDiff as FiniteDiff
from qhybrid.gradients.function import CircuitFunction as CircuitFunction
from qhybrid.gradients.parameter_shift import ParameterShift as ParameterShift
from qhybrid.gradients.physics_aware import PhysicsAware as PhysicsAware
from qhybrid.gradients.resolve import NATIVE_METHODS as NATIVE_METHODS
from qhybrid.gradients.resolve import NoDerivative as NoDerivative
from qhybrid.gradients.resolve import check_method as check_method
from qhybrid.gradients.resolve import resolve as resolve
from qhybrid.gradients.resolve import resolves as resolves

__getattr__ = fall_through("qhybrid.gradients", "pennylane.gradients")
