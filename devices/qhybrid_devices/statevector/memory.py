"""What memory there is: refusing what cannot fit, before anything is allocated, and the size of the cache."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from qhybrid.errors import DeviceError

#: Part of the available memory that states may take; the rest is for everything else in the process.
USABLE = 0.95
#: Level 2 cache where the system does not say.
USUAL_CACHE = 1 << 20


def available_bytes() -> int:
    """Memory that this process can still get, in bytes."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cache_bytes() -> int:
    """Level 2 cache of a core: ``QHYBRID_CACHE_BYTES``, by default what the system says.

    Raises:
        DeviceError: the variable is not a positive number
    """
    setting = os.environ.get("QHYBRID_CACHE_BYTES", "")
    if setting:
        if not (setting.isdigit() and int(setting) > 0):
            raise DeviceError(f"QHYBRID_CACHE_BYTES is {setting!r}; it must be a positive number of bytes.")
        return int(setting)
    return _level2("/sys/devices/system/cpu/cpu0/cache") or USUAL_CACHE


@cache
def _level2(folder: str | Path) -> int | None:
    """The size that Linux gives, as in ``2048K``."""
    for index in sorted(Path(folder).glob("index*")):
        kinds = [(index / name).read_text().strip() for name in ("level", "type", "size")]
        if kinds[0] == "2" and kinds[1] != "Instruction" and kinds[2].endswith("K") and kinds[2][:-1].isdigit():
            return int(kinds[2][:-1]) << 10
    return None


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
