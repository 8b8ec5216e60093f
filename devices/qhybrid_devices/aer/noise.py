"""Errors of measurements: which a noise model has, and what those of readout do to the distribution of outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qhybrid.errors import DeviceError


def readout_errors(noise_model: Any) -> dict[tuple[int, ...], NDArray]:
    """Probabilities ``[prepared, read]`` of each qubit of a Qiskit noise model; the empty tuple: of all others."""
    found: dict[tuple[int, ...], NDArray] = {}
    for error in noise_model.to_dict().get("errors", []) if noise_model is not None else []:
        if error["type"] == "roerror":
            for qubits in error.get("gate_qubits", [()]):
                found[tuple(qubits)] = np.asarray(error["probabilities"], float)
    return found


def has_faulty_measurements(noise_model: Any) -> bool:
    """Whether a measurement has a quantum error, which changes the state and is no readout error."""
    errors = noise_model.to_dict().get("errors", []) if noise_model is not None else []
    return any("measure" in error["operations"] for error in errors if error["type"] == "qerror")


def misread(distributions: NDArray, qubits: Sequence[int], errors: Mapping[tuple[int, ...], NDArray]) -> NDArray:
    """Distributions of what is read, given those of the outcomes.

    Args:
        distributions: ``(B, 2**k)``; bit ``i`` of an outcome is that of ``qubits[i]``
        qubits: the measured qubits
        errors: as :func:`readout_errors` gives them

    Raises:
        DeviceError: readout errors are correlated between qubits

    Example:
        >>> flip = {(): np.array([[0.9, 0.1], [0.2, 0.8]])}
        >>> misread(np.array([[1.0, 0.0]]), [0], flip)
        array([[0.9, 0.1]])
    """
    if any(len(own) > 1 for own in errors):
        raise DeviceError("Exact results with readout errors that are correlated between qubits: set shots.")
    out = distributions
    for i, q in enumerate(qubits):
        matrix = errors.get((q,), errors.get(()))
        if matrix is not None:
            split = out.reshape(len(out), -1, 2, 1 << i)
            out = np.einsum("bhxl,xy->bhyl", split, matrix).reshape(distributions.shape)
    return out
