"""What is installed here, which devices work and what they can do, and what to install for the others.

Versions come from the metadata of installed packages, without importing them. A device is imported and made, since
nothing less tells whether it works; what it can do is asked of the device itself. Nothing is executed.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import pennylane as qml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import qhybrid
from qhybrid.backend import CompilingDevice
from qhybrid.capabilities import capabilities_of

#: Our distribution.
OURS = "qhybrid"
#: Packages that decide what works, besides those that bring devices.
PACKAGES = ("pennylane", "numpy", "scipy", "numba", "autograd", "torch", "jax", "qiskit", "qiskit-aer")

READY, MISSING, ARGUMENTS, BROKEN = "ready", "missing", "needs arguments", "BROKEN"


@dataclass(frozen=True)
class DeviceReport:
    """One device.

    Args:
        name: as in ``qhybrid.device(name)``
        package: the package that brings it, and its version
        state: ``"ready"``, ``"missing"`` (something that it needs is not installed), ``"needs arguments"`` (wires alone
            do not make one) or ``"BROKEN"``
        detail: what it can do, what to install, or what is wrong
        cache: directory where it keeps compiled kernels, ``None`` if it compiles none
    """

    name: str
    package: str
    state: str
    detail: str
    cache: str | None = None


@dataclass(frozen=True)
class Report:
    """All that :func:`examine` found; printing it gives a table.

    Args:
        packages: names, with a version or what to install
        devices: ours first
        machine: threads, kernels, GPUs: a label and a value each
    """

    packages: tuple[tuple[str, str], ...]
    devices: tuple[DeviceReport, ...]
    machine: tuple[tuple[str, str], ...]

    @property
    def is_broken(self) -> bool:
        """Whether a device that is installed cannot be made."""
        return any(d.state == BROKEN for d in self.devices)

    def __str__(self) -> str:
        rows = [(d.name, f"{d.state:<{len(ARGUMENTS)}}  {d.detail}  [{d.package}]") for d in self.devices]
        sections = (("Packages", self.packages), ("Devices", rows), ("Machine", self.machine))
        return "\n\n".join(f"{title}\n{_table(entries)}" for title, entries in sections)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join(f"  {label:<{width}}  {value}" for label, value in rows)


def examine() -> Report:
    """Look at packages, devices and the machine; what is broken is reported, not raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages, about their own futures
        devices = tuple(_device(entry) for entry in _entry_points())
    return Report(tuple(_packages()), devices, tuple(_machine(devices)))


# ------------------------------------------------------------------ packages


def _packages() -> Iterator[tuple[str, str]]:
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield OURS, qhybrid.__version__
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            yield name, f"not installed; {install_command(OURS, name) or f'pip install {name}'}"
        else:
            wanted = [r for r, _ in _requirements(OURS) if canonicalize_name(r.name) == name]
            unmet = [r for r in wanted if not r.specifier.contains(version, prereleases=True)]
            yield name, f"{version}; WRONG VERSION, {OURS} needs {unmet[0].specifier}" if unmet else version


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _requirements(distribution: str) -> list[tuple[Requirement, str | None]]:
    """What a distribution requires, each with the extra that asks for it; nothing if it is not installed."""
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # written by other tools than today's; it can only be about a package we cannot name
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", str(requirement.marker or ""))
        found.append((requirement, extra[1] if extra else None))
    return found


def install_command(distribution: str, module: str) -> str | None:
    """The pip command that brings a missing module for a distribution.

    Args:
        distribution: what wants the module
        module: name of the module or package that is missing

    Returns:
        the command, with the extra that asks for the least; ``None`` if no extra of the distribution brings the module
    """
    extras: dict[str, set[str]] = {}
    for requirement, extra in _requirements(distribution):
        if extra is not None:
            extras.setdefault(extra, set()).add(canonicalize_name(requirement.name))
    fitting = [e for e, names in extras.items() if canonicalize_name(module) in names]
    if not fitting:
        return None
    best = min(fitting, key=lambda e: (len(extras[e]), e))
    return f'pip install "{distribution}[{best}]"'


# ------------------------------------------------------------------ devices


def _entry_points() -> list[metadata.EntryPoint]:
    """The registered devices, ours first; of two with one name the first."""
    found = {entry.name: entry for entry in reversed(list(metadata.entry_points(group="pennylane.plugins")))}
    return sorted(found.values(), key=lambda e: (_distribution(e)[0] != OURS, e.name))


def _distribution(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the package that registers a device."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown package", "")


def _device(entry: metadata.EntryPoint) -> DeviceReport:
    name, version = _distribution(entry)
    package = f"{name} {version}".strip()
    try:
        device_class = entry.load()
        needed = _needed_arguments(device_class)
        if needed:
            detail = f"qhybrid.device({entry.name!r}, wires=..., {', '.join(f'{n}=...' for n in needed)})"
            return DeviceReport(entry.name, package, ARGUMENTS, detail)
        device = qml.device(entry.name, wires=2)
    except Exception as error:  # noqa: BLE001 - whatever a package of others raises is what is to be reported
        return DeviceReport(entry.name, package, *_diagnosis(error, entry, name))
    cache = device.cache_directory() if isinstance(device, CompilingDevice) else None
    return DeviceReport(entry.name, package, READY, _abilities(device), cache)


def _abilities(device: Any) -> str:
    try:
        return str(capabilities_of(device))
    except Exception as error:  # noqa: BLE001 - as above
        return f"does not say what it can do: {_in_one_line(error)}"


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _needed_arguments(device_class: Callable) -> list[str]:
    """Arguments besides the wires without which a device cannot be made."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(device_class).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds and p.name != "wires"]


def _diagnosis(error: Exception, entry: metadata.EntryPoint, distribution: str) -> tuple[str, str]:
    """State and detail of a device that could not be made."""
    extra = entry.name.rpartition(".")[2]
    wanted = [r.name for r, e in _requirements(distribution) if e == extra]
    absent = [name for name in wanted if _version(name) is None]
    if absent:
        return MISSING, f'{" and ".join(absent)} not installed; pip install "{distribution}[{extra}]"'
    for cause in _chain(error):
        module = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
        if module and find_spec(module) is None:  # one that is there, but lacks a part, is broken
            command = install_command(distribution, module)
            return MISSING, f"{module} is not installed; {command}" if command else _in_one_line(error)
    if isinstance(error, AttributeError) and str(error).endswith(f"no attribute {entry.attr!r}"):
        return MISSING, f"its package registers the device but has no {entry.attr}"
    return BROKEN, _in_one_line(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, ..."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ------------------------------------------------------------------ the machine


def _machine(devices: Iterable[DeviceReport]) -> Iterator[tuple[str, str]]:
    yield "threads", _threads()
    for cache in sorted({d.cache for d in devices if d.cache is not None}):
        yield "compiled kernels", cache
    yield "GPU", _gpus()


def _threads() -> str:
    setting = os.environ.get("QHYBRID_NUM_THREADS", "")
    cpus = len(os.sched_getaffinity(0))
    if not setting:
        return f"{cpus}, the CPUs of this process (QHYBRID_NUM_THREADS is not set)"
    if setting.isdigit() and int(setting) > 0:
        return f"{setting} (QHYBRID_NUM_THREADS), on {cpus} CPUs"
    return f"QHYBRID_NUM_THREADS is {setting!r}; it must be a positive number of threads"


def _gpus() -> str:
    """CUDA's GPUs, as the driver names them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "none visible (no CUDA driver)"
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"none visible (the CUDA driver answers with error {status})"
    return ", ".join(_gpu_name(driver, number) for number in range(count.value)) or "none visible"


def _gpu_name(driver: Any, number: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    status = driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetName(name, len(name), device)
    return f"GPU {number} (error {status})" if status else name.value.decode()
