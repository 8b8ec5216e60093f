"""Optional packages: found, or an error that says what to install."""

from __future__ import annotations

from importlib.util import find_spec

from qhybrid.errors import DeviceError


def require(package: str, extra: str, device: str) -> None:
    """Check that an optional package is installed, without importing it.

    Args:
        package: as it is imported
        extra: the extra of qhybrid that installs it
        device: what needs it

    Raises:
        DeviceError: it is missing

    Example:
        >>> require("numpy", "statevector", "qhybrid.statevector")
    """
    if find_spec(package) is None:
        raise DeviceError(f'{device} needs the package {package}. Install it with: pip install "qhybrid[{extra}]"')
