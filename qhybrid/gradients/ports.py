"""How the inputs and outputs of a function of a circuit relate to slots and results, with or without mapped axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import result_shape
from qhybrid.program import Program, Samples, Slots


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a function.

    Args:
        role: an angle block, an array slot, or a result
        index: which array slot or which result
        batched: whether it has the batch axis of its program
        carries: for each mapped axis, outermost first, whether the port has it (in front of its own axes)
        passive: whether it is a result without a derivative
    """

    role: Literal["shared", "batched", "array", "result"]
    index: int = 0
    batched: bool = False
    carries: tuple[bool, ...] = ()
    passive: bool = False


def slot_ports(program: Program) -> tuple[Port, ...]:
    """One port for the shared angles, one for the batched ones (where there are any), one for each array."""
    shared = (Port("shared"),) if program.num_shared else ()
    batched = (Port("batched", batched=True),) if program.num_batched else ()
    return (*shared, *batched, *(Port("array", i, a.batched) for i, a in enumerate(program.arrays)))


def result_ports(program: Program) -> tuple[Port, ...]:
    """One port for all scalars, one for each tensor."""
    batched = program.is_batched
    tensors = (Port("result", i + 1, batched, (), isinstance(m, Samples)) for i, m in enumerate(program.tensors))
    return (Port("result", 0, batched), *tensors)


def port_shape(program: Program, port: Port, sizes: tuple[int, ...], batch: int, shots: int | None) -> tuple[int, ...]:
    """Shape of the array at a port.

    Args:
        program: the circuit
        port: of a function of it
        sizes: of the mapped axes, outermost first
        batch: samples of the program
        shots: samples a measurement basis, ``None`` for exact results
    """
    carried = tuple(n for n, c in zip(sizes, port.carries, strict=True) if c)
    if port.role == "shared":
        return (*carried, program.num_shared)
    if port.role == "batched":
        return (*carried, program.num_batched, batch)
    own = program.arrays[port.index].shape if port.role == "array" else result_shape(program, port.index, shots)
    return (*carried, batch, *own) if port.batched else (*carried, *own)


def gather(ports: Sequence[Port], values: Sequence[NDArray], num_arrays: int) -> Slots:
    """Slots from the values of ports; what no port gives is ``None`` (no shared angles: an empty array)."""
    shared, batched, batch = None, None, None
    arrays: list[NDArray | None] = [None] * num_arrays
    for port, value in zip(ports, values, strict=True):
        if port.role == "shared":
            shared = np.asarray(value, dtype=float)
        elif port.role == "batched":
            batched = np.asarray(value, dtype=float)
            batch = batched.shape[1]
        else:
            arrays[port.index] = np.asarray(value, dtype=complex)
            batch = value.shape[0] if port.batched else batch
    return Slots(np.empty(0) if shared is None else shared, batched, tuple(arrays), batch)


def entry(slots: Slots, port: Port) -> NDArray:
    """The part of ``slots`` that belongs to ``port``."""
    if port.role == "array":
        value = slots.arrays[port.index]
    else:
        value = slots.shared if port.role == "shared" else slots.batched
    if value is None:
        raise RuntimeError(f"the cotangent of the {port.role} slot {port.index} was asked for but not given")
    return value


@dataclass(frozen=True)
class LaneMap:
    """Flattens mapped axes and the batch into lanes, and back.

    Args:
        program: the program without mapped axes
        sizes: of the mapped axes, outermost first
        batch: samples of the program, 1 if it has no batch
        array_lanes: for each array slot, whether it varies from lane to lane
    """

    program: Program
    sizes: tuple[int, ...]
    batch: int
    array_lanes: tuple[bool, ...]

    @property
    def count(self) -> int:
        """Number of lanes."""
        return prod(self.sizes) * self.batch

    def slots(self, ports: Sequence[Port], values: Sequence[NDArray]) -> Slots:
        """Slots of :func:`~qhybrid.gradients.lanes.all_batched`; an angle block without a port is zero."""
        rows = {"shared": self.program.num_shared, "batched": self.program.num_batched}
        angles = {role: np.zeros((self.count, n)) for role, n in rows.items()}
        arrays: list[NDArray | None] = [None] * len(self.program.arrays)
        for port, value in zip(ports, values, strict=True):
            if port.role != "array":
                angles[port.role] = self.flatten(value, port)
            elif self.array_lanes[port.index]:
                arrays[port.index] = self.flatten(value, port).astype(complex)
            else:
                arrays[port.index] = np.asarray(value, dtype=complex)
        joined = np.ascontiguousarray(np.concatenate([angles["shared"], angles["batched"]], axis=1).T, dtype=float)
        return Slots(np.empty(0), joined, tuple(arrays), self.count)

    def entry(self, slots: Slots, port: Port) -> NDArray:
        """The part of the slots in lanes that belongs to ``port``, back in its own axes."""
        if port.role == "array":
            value = entry(slots, port)
            return self.restore(value, port) if self.array_lanes[port.index] else value
        rows = entry(slots, Port("batched"))
        split = self.program.num_shared
        return self.restore((rows[:split] if port.role == "shared" else rows[split:]).T, port)

    def flatten(self, value: NDArray, port: Port) -> NDArray:
        """Broadcast to all mapped axes and the batch: ``(lanes, *own axes)``."""
        carried = sum(port.carries)
        if port.role == "batched":
            value = np.swapaxes(value, carried, carried + 1)
        own = value.shape[carried + port.batched :]
        mapped = iter(value.shape[:carried])
        front = tuple(next(mapped) if c else 1 for c in port.carries)
        expanded = value.reshape(*front, self.batch if port.batched else 1, *own)
        return np.broadcast_to(expanded, (*self.sizes, self.batch, *own)).reshape(self.count, *own)

    def restore(self, lanes: NDArray, port: Port) -> NDArray:
        """The transpose of :meth:`flatten`: sum over the axes that the port does not carry."""
        full = lanes.reshape(*self.sizes, self.batch, *lanes.shape[1:])
        summed = [axis for axis, carried in enumerate(port.carries) if not carried]
        if not port.batched:
            summed.append(len(self.sizes))
        value = full.sum(axis=tuple(summed))
        carried = sum(port.carries)
        return np.swapaxes(value, carried, carried + 1) if port.role == "batched" else value
