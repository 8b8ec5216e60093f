"""``qhybrid.statevector`` as a PennyLane device."""

from __future__ import annotations

from typing import Any

import numpy as np

from qhybrid.errors import DeviceError
from qhybrid.program import Program
from qhybrid_devices.program_device import ProgramDevice
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.matrices import compose


class StateVectorDevice(ProgramDevice):
    """A state-vector simulator on the CPU: batched, multi-threaded, with native reverse-mode derivatives.

    Args:
        wires: number of wires, or their labels; ``None`` lets each circuit decide
        shots: default number of shots, ``None`` for exact results
        seed: seed of all samples; the default draws one from NumPy's global generator, ``None`` from the system
        c_dtype: ``numpy.complex128``, or ``numpy.complex64`` for single precision

    Raises:
        DeviceError: ``c_dtype`` is neither of these

    Example:
        >>> import qhybrid as qml
        >>> dev = qml.device("qhybrid.statevector", wires=2)
        >>> @qml.qnode(dev)
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     qml.CNOT(wires=[0, 1])
        ...     return qml.expval(qml.Z(1))
        >>> round(float(circuit(0.0)), 6)
        1.0
    """

    name = "qhybrid.statevector"
    has_vjp = True
    graph_methods = frozenset({"best", "backprop", "adjoint", "device"})

    def __init__(
        self, wires: Any = None, shots: Any = None, seed: Any = "global", c_dtype: Any = np.complex128
    ) -> None:
        if np.dtype(c_dtype) not in (np.dtype(np.complex64), np.dtype(np.complex128)):
            raise DeviceError(f"c_dtype is {c_dtype!r}; it must be numpy.complex128 or numpy.complex64.")
        super().__init__(wires=wires, shots=shots, seed=seed)
        self.c_dtype = np.dtype(c_dtype)

    def make_executable(self, program: Program) -> StateVectorExecutable:
        """A plan for the kernels."""
        return StateVectorExecutable(program, self.c_dtype)

    def memory_needed(self, program: Program, batch_size: int) -> int:
        """Bytes of psi and lambda."""
        return 2 * 2**program.num_wires * batch_size * self.c_dtype.itemsize

    @classmethod
    def cache_directory(cls) -> str | None:
        """Where Numba keeps the compiled kernels; ``None`` without its compiler."""
        cache = getattr(compose, "_cache", None)
        return None if cache is None else cache.cache_path
