"""Finding devices by name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import pennylane as qml

from qhybrid.errors import DeviceError


def device(name: str, *args: Any, **kwargs: Any) -> qml.devices.Device:
    """Load a device, as :func:`pennylane.device`; an unknown name is answered with the installed ones.

    Args:
        name: short name of an installed device
        args, kwargs: arguments of the device, most often ``wires``

    Raises:
        DeviceError: no installed device has this name

    Example:
        >>> import qhybrid as qml
        >>> qml.device("qhybrid.statevector", wires=2).name
        'qhybrid.statevector'
    """
    if name not in qml.plugin_devices:
        qml.refresh_devices()
    if name not in qml.plugin_devices:
        close = get_close_matches(name, qml.plugin_devices, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else " Is the package that provides it installed?"
        raise DeviceError(
            f"There is no device {name!r}.{hint} Installed devices: {', '.join(sorted(qml.plugin_devices))}."
        )
    return qml.device(name, *args, **kwargs)
