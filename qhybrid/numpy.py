"""PennyLane's NumPy, so that ``import qhybrid.numpy as np`` works as ``from qhybrid import numpy as np`` does.

>>> import qhybrid.numpy as np
>>> np.array([0.1, 0.2], requires_grad=True)
tensor([0.1, 0.2], requires_grad=True)
"""

from pennylane.numpy import *  # noqa: F403 - as PennyLane's module does with autograd's

from qhybrid._fallthrough import fall_through

__getattr__ = fall_through("qhybrid.numpy", "pennylane.numpy")
