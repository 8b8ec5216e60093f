"""How often each outcome was sampled: PennyLane's counts, without its loop over samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pennylane.measurements import CountsMP, MeasurementProcess

#: Most wires whose outcomes fit an integer.
MAX_WIRES = 62


def counts_outcomes(measurement: MeasurementProcess, num_wires: int) -> bool:
    """Whether a measurement counts the outcomes of wires, so that :func:`counts` answers it."""
    if not isinstance(measurement, CountsMP) or num_wires > MAX_WIRES:
        return False
    return measurement.obs is None and measurement.mv is None and measurement._eigvals is None


def counts(samples: NDArray, all_outcomes: bool = False) -> Any:
    """How often each outcome occurs, as PennyLane's ``counts`` gives it.

    Args:
        samples: zeros and ones, shape ``(shots, wires)`` or ``(batch, shots, wires)``
        all_outcomes: whether outcomes that do not occur are listed too

    Returns:
        a dict from outcomes such as ``"01"`` to numbers, or a list with one for each sample of the batch

    >>> counts(np.array([[0, 1], [1, 1], [0, 1]]))
    {np.str_('01'): np.int64(2), np.str_('11'): np.int64(1)}
    """
    if samples.ndim == 3:
        return [counts(s, all_outcomes) for s in samples]
    shifts = np.arange(samples.shape[1])[::-1]
    index = samples @ (1 << shifts)
    if all_outcomes:
        outcomes, numbers = np.arange(1 << len(shifts)), np.bincount(index, minlength=1 << len(shifts))
    else:
        outcomes, numbers = np.unique(index, return_counts=True)
    digits = ((outcomes[:, None] >> shifts & 1) + ord("0")).astype(np.uint8)
    names = np.ascontiguousarray(digits).view(f"S{len(shifts)}")[:, 0].astype(f"U{len(shifts)}")
    return dict(zip(names, numbers, strict=True))
