"""Refusing what cannot fit, before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

from qhybrid.errors import DeviceError

#: Part of the available memory that states may take; the rest is for everything else in the process.
USABLE = 0.95


def available_bytes() -> int:
    """Memory that this process can still get, in bytes."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require(needed: int, num_wires: int, what: str) -> None:
    """Check that ``needed`` bytes fit.

    Args:
        needed: bytes about to be allocated
        num_wires: wires of the circuit, for the message
        what: what takes the memory, for the message

    Raises:
        DeviceError: they do not fit
    """
    free = int(available_bytes() * USABLE)
    if needed > free:
        raise DeviceError(
            f"A circuit on {num_wires} wires needs {needed / 2**30:.1f} GiB for {what}, but {free / 2**30:.1f} GiB are "
            "available. Use fewer wires, or c_dtype=numpy.complex64, which halves the size."
        )
