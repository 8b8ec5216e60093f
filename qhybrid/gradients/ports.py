"""How the inputs and outputs of a function of a circuit relate to slots and results, with or without mapped axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import result_shape
from qhybrid.program import Program, Samples, Slots


class Kind(StrEnum):
    """What an array at a port is: a slot or a result itself, or a derivative of one.

    With ``y = f(x)`` and its Jacobian ``J``: a cotangent of results pulls back to ``J^T c``, a tangent of slots pushes
    forward to ``J v``; what these two change by, along a tangent of ``x`` and one of ``c`` or ``v``, are the others.
    """

    VALUE = "value"
    COTANGENT = "cotangent"
    TANGENT = "tangent"
    #: How a cotangent changes along the tangent.
    COTANGENT_TANGENT = "cotangent tangent"
    #: A second direction, and how a tangent changes along it.
    OTHER_TANGENT = "other tangent"
    TANGENT_TANGENT = "tangent tangent"
    #: What needs a third derivative, unless the other direction is zero: then it is zero too.
    THIRD = "third"
    #: An input that nothing depends on, and the derivative along it, which is zero.
    UNUSED = "unused"

    #: An enumeration's own calls Python code, and ports are looked up in every evaluation.
    __hash__ = str.__hash__


#: What differs from direction to direction where several directions share an execution.
DIRECTED = frozenset({Kind.TANGENT, Kind.COTANGENT_TANGENT})


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a function.

    Args:
        role: an angle block, an array slot, or a result
        index: which array slot or which result
        batched: whether it has the batch axis of its program
        carries: for each mapped axis, outermost first, whether the port has it (in front of its own axes)
        passive: whether it is a result without a derivative
        kind: a slot or a result itself, or a derivative of it
    """

    role: Literal["shared", "batched", "array", "result"]
    index: int = 0
    batched: bool = False
    carries: tuple[bool, ...] = ()
    passive: bool = False
    kind: Kind = Kind.VALUE

    @property
    def place(self) -> tuple[str, int]:
        """Which slot or which result it belongs to."""
        return self.role, self.index


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


def entry(slots: Slots, port: Port) -> NDArray:
    """The part of ``slots`` that belongs to ``port``."""
    if port.role == "array":
        value = slots.arrays[port.index]
    else:
        value = slots.shared if port.role == "shared" else slots.batched
    if value is None:
        raise RuntimeError(f"the {port.kind} of the {port.role} slot {port.index} was asked for but not given")
    return value


class _Route(NamedTuple):
    """How the values of one port become lanes and directions, and back: shapes in front of their own axes.

    Args:
        laned, directed: whether the port has lanes, and directions
        carried: number of mapped axes that values have
        given: of values, with ones for mapped axes that they do not have
        full: the same, broadcast to all that the port is to have
        flat: directions and lanes
        spread: values on their way back, directions first
        kept: what they have in the end
        summed: axes that are summed over on the way back
        plain: whether all of that leaves values as they are
    """

    laned: bool
    directed: bool
    carried: int
    given: tuple[int, ...]
    full: tuple[int, ...]
    flat: tuple[int, ...]
    spread: tuple[int, ...]
    kept: tuple[int, ...]
    summed: tuple[int, ...]
    plain: bool


@dataclass(frozen=True)
class LaneMap:
    """Makes mapped axes lanes of one execution, or directions that share it, and back.

    With lanes, these and the batch are flattened into the batch of a program all of whose angles are batched. The
    other axes are flattened into one axis of directions, in front of whatever is :data:`DIRECTED`.

    Args:
        program: the program without mapped axes
        sizes: of the mapped axes, outermost first
        lanes: for each mapped axis, whether its elements are lanes; if not they are directions
        in_lanes: whether there are lanes at all
        batch: samples of the program, 1 if it has no batch
        array_lanes: for each array slot, whether it varies from lane to lane
    """

    program: Program
    sizes: tuple[int, ...]
    lanes: tuple[bool, ...]
    in_lanes: bool
    batch: int
    array_lanes: tuple[bool, ...]

    @cached_property
    def lane_sizes(self) -> tuple[int, ...]:
        """Of the axes that are lanes."""
        return tuple(n for n, lane in zip(self.sizes, self.lanes, strict=True) if lane)

    @cached_property
    def direction_sizes(self) -> tuple[int, ...]:
        """Of the axes that are directions."""
        return tuple(n for n, lane in zip(self.sizes, self.lanes, strict=True) if not lane)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The mapped axes, directions first."""
        return tuple(sorted(range(len(self.sizes)), key=lambda axis: self.lanes[axis]))

    @cached_property
    def count(self) -> int:
        """Number of lanes."""
        return prod(self.lane_sizes) * self.batch

    @cached_property
    def directions(self) -> int:
        """Number of directions."""
        return prod(self.direction_sizes)

    def slots(self, ports: Sequence[Port], values: Sequence[NDArray]) -> Slots:
        """Slots, or directions of them, from the values of their ports; an angle block without a port is zero."""
        front = (self.directions,) if ports and ports[0].kind in DIRECTED else ()
        shared, batched = None, None
        arrays: list[NDArray | None] = [None] * len(self.program.arrays)
        for port, value in zip(ports, values, strict=True):
            flat = self.flatten(value, port)
            if port.role == "shared":
                shared = flat.astype(float, copy=False)
            elif port.role == "batched":
                batched = flat.astype(float, copy=False)
            else:
                arrays[port.index] = flat.astype(complex, copy=False)
        if not self.in_lanes:
            if shared is None:
                shared = np.zeros((*front, self.program.num_shared))
            return Slots(shared, batched, tuple(arrays), self.batch if self.program.is_batched else None)
        rows = self._rows(shared, batched, front).swapaxes(-1, -2)
        return Slots(np.empty((*front, 0)), rows, tuple(arrays), self.count)

    def _rows(self, shared: NDArray | None, batched: NDArray | None, front: tuple[int, ...]) -> NDArray:
        """All angles of each lane, zeros for blocks that are not given."""
        if shared is not None and not self.program.num_batched:
            return shared
        blocks = [(shared, self.program.num_shared), (batched, self.program.num_batched)]
        parts = [np.zeros((*front, self.count, n)) if x is None else x for x, n in blocks if n]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros((*front, self.count, 0)), *parts], axis=-1)

    def entry(self, slots: Slots, port: Port) -> NDArray:
        """The part of the slots that belongs to ``port``, back in its own axes."""
        if port.role == "array" or not self.in_lanes:
            return self.restore(entry(slots, port), port)
        assert slots.batched is not None
        rows = np.swapaxes(slots.batched, -1, -2)
        split = self.program.num_shared
        return self.restore(rows[..., :split] if port.role == "shared" else rows[..., split:], port)

    def flatten(self, value: NDArray, port: Port) -> NDArray:
        """Broadcast to all axes: ``(directions, lanes, *own axes)``, where the port has directions and lanes."""
        route = self._route(port)
        if route.plain:
            return value
        if route.laned and port.role == "batched":
            value = np.swapaxes(value, route.carried, route.carried + 1)
        own = value.shape[route.carried + (route.laned and port.batched) :]
        value = value.reshape(route.given + own)
        if route.full != route.given:
            value = np.broadcast_to(value, route.full + own)
        if self._is_reordered:
            value = value.transpose(*self.order, *range(len(self.order), value.ndim))
        return value.reshape(route.flat + own)

    def restore(self, value: NDArray, port: Port) -> NDArray:
        """The transpose of :meth:`flatten`: sum over the axes that the port does not carry."""
        route = self._route(port)
        if route.plain:
            return value
        own = value.shape[len(route.flat) :]
        if not route.directed and self.directions != 1:
            value = np.broadcast_to(value, (self.directions, *value.shape))
        value = value.reshape(route.spread + own)
        if self._is_reordered:
            value = value.transpose(*self._back, *range(len(self._back), value.ndim))
        if route.summed:
            value = value.sum(axis=route.summed)
        value = value.reshape(route.kept + own)
        return np.swapaxes(value, route.carried, route.carried + 1) if route.laned and port.role == "batched" else value

    @cached_property
    def _back(self) -> tuple[int, ...]:
        """The inverse of :attr:`order`."""
        return tuple(np.argsort(self.order).tolist())

    @cached_property
    def _is_reordered(self) -> bool:
        return list(self.order) != sorted(self.order)

    @cached_property
    def _routes(self) -> dict[Port, _Route]:
        return {}

    def _route(self, port: Port) -> _Route:
        found = self._routes.get(port)
        if found is None:
            found = self._routes[port] = self._new_route(port)
        return found

    def _new_route(self, port: Port) -> _Route:
        laned = self.in_lanes and (port.role != "array" or self.array_lanes[port.index])
        directed, inner = port.kind in DIRECTED, (self.batch,) if laned else ()
        axes = list(zip(self.sizes, self.lanes, port.carries, strict=True))
        front = tuple(n if (laned if lane else directed) else 1 for n, lane, _ in axes)
        lanes = self.lane_sizes if laned else (1,) * len(self.lane_sizes)
        spread = (*self.direction_sizes, *lanes, *inner)
        ordered = [*(spread[k] for k in self._back), *inner]
        carries = [*port.carries, *([port.batched] if laned else [])]
        given = (*(n if c else 1 for n, _, c in axes), *((self.batch if port.batched else 1,) if laned else ()))
        flat = (*((self.directions,) if directed else ()), *((self.count,) if laned else ()))
        kept = tuple(n for n, c in zip(ordered, carries, strict=True) if c)
        summed = tuple(k for k, (n, c) in enumerate(zip(ordered, carries, strict=True)) if not c and n != 1)
        moves = self._is_reordered or (laned and port.role == "batched")
        repeats = (*front, *inner) != given or bool(summed) or not (directed or self.directions == 1)
        return _Route(
            laned=laned,
            directed=directed,
            carried=sum(port.carries),
            given=given,
            full=(*front, *inner),
            flat=flat,
            spread=spread,
            kept=kept,
            summed=summed,
            plain=kept == flat and not (moves or repeats),
        )
