"""What a function of a circuit takes and gives: the results, their derivatives, and the derivatives of those."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Needs
from qhybrid.gradients.ports import Kind, Port, result_ports, slot_ports
from qhybrid.program import Angle, Program

_VALUE, _COTANGENT, _TANGENT, _UNUSED = Kind.VALUE, Kind.COTANGENT, Kind.TANGENT, Kind.UNUSED

#: For outputs of some kind: what the tangents of the inputs are, and those of the outputs.
_PUSHED = {
    _VALUE: ({_VALUE: _TANGENT}, _TANGENT),
    _COTANGENT: ({_VALUE: _TANGENT, _COTANGENT: Kind.COTANGENT_TANGENT}, Kind.COTANGENT_TANGENT),
    _TANGENT: ({_VALUE: Kind.OTHER_TANGENT, _TANGENT: Kind.TANGENT_TANGENT}, Kind.TANGENT_TANGENT),
}
#: For outputs of some kind: what their cotangents are, and those of the inputs.
_PULLED = {
    _VALUE: (_COTANGENT, {_VALUE: _COTANGENT}),
    _COTANGENT: (_TANGENT, {_VALUE: Kind.COTANGENT_TANGENT, _COTANGENT: _TANGENT}),
    _TANGENT: (_COTANGENT, {_VALUE: Kind.COTANGENT_TANGENT, _TANGENT: _COTANGENT}),
}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a function.

    Args:
        inputs: the slots, then what derivatives of the function take
        outputs: what it gives
        sizes: of the mapped axes, outermost first
        constant: angles that nobody differentiates along
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sizes: tuple[int, ...] = ()
    constant: frozenset[Angle] = frozenset()

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """Of the outputs, but for zeros."""
        return frozenset(p.kind for p in self.outputs) - {_UNUSED}

    @cached_property
    def gives_values(self) -> bool:
        """Whether the outputs are the results, and nothing else."""
        return self.kinds == {_VALUE}

    @cached_property
    def slots(self) -> tuple[Port, ...]:
        """The inputs that are slots."""
        return tuple(p for p in self.inputs if p.kind is _VALUE)

    @cached_property
    def is_plain(self) -> bool:
        """Whether this is the results, or a first pullback of theirs, and nothing else."""
        return self.kinds in ({_VALUE}, {_COTANGENT}) and not any(p.kind is _UNUSED for p in self.outputs)

    @cached_property
    def needs(self) -> Needs:
        """Which slots' cotangents, or tangents of cotangents, are outputs."""
        wanted = {p.place for p in self.outputs if p.kind in (_COTANGENT, Kind.COTANGENT_TANGENT)}
        arrays = tuple(p.place in wanted for p in self.inputs if p.kind is _VALUE and p.role == "array")
        return Needs(("shared", 0) in wanted, ("batched", 0) in wanted, arrays, self.constant)

    @cached_property
    def positions(self) -> tuple[int | None, ...]:
        """For each output that belongs to a slot, the input that is this slot."""
        positions = {p.place: k for k, p in enumerate(self.inputs) if p.kind is _VALUE}
        return tuple(positions.get(p.place) for p in self.outputs)

    @cached_property
    def _indices(self) -> dict[Kind, tuple[int, ...]]:
        return {kind: tuple(k for k, p in enumerate(self.inputs) if p.kind is kind) for kind in Kind}

    def indices(self, kind: Kind) -> tuple[int, ...]:
        """Which inputs are of some kind."""
        return self._indices[kind]

    @cached_property
    def lanes(self) -> tuple[bool, ...]:
        """For each mapped axis, whether its elements need executions of their own; if not they are directions."""
        shared = bool(self.kinds & {_TANGENT, Kind.COTANGENT_TANGENT}) and not self.bends_a_tangent
        used = [p for p in self.inputs if p.kind in (_VALUE, _COTANGENT)]
        return tuple(not shared or any(p.carries[axis] for p in used) for axis in range(len(self.sizes)))

    @property
    def bends_a_tangent(self) -> bool:
        """Whether this is the derivative of a tangent along a second direction."""
        return bool(self.kinds & {Kind.TANGENT_TANGENT, Kind.THIRD})

    # ------------------------------------------------------------------ derived functions

    def pushed(self, moving: tuple[bool, ...]) -> Signature:
        """The signature of the pushforward along the ``moving`` inputs."""
        kind = self._differentiable()
        of_input, of_output = _PUSHED[kind]
        movers = [p for p, m in zip(self.inputs, moving, strict=True) if m]
        if kind is not _VALUE and not any(p.kind is _VALUE for p in movers):
            return self._linear(movers, kind)
        tangents = tuple(replace(p, kind=of_input.get(p.kind, _UNUSED)) for p in movers)
        still = not any(t.kind is not _UNUSED for t in tangents)
        outputs = tuple(replace(p, kind=_UNUSED if still else of_output) for p in self.outputs)
        return replace(self, inputs=self.inputs + tangents, outputs=outputs)

    def with_tangents(self, moving: tuple[bool, ...]) -> Signature:
        """The signature of the function itself and its pushforward along the ``moving`` inputs."""
        pushed = self.pushed(moving)
        return replace(pushed, outputs=self.outputs + pushed.outputs)

    def goes_with(self, other: Signature) -> bool:
        """Whether outputs of both can come from one evaluation: first derivatives, or results, with their tangents."""
        return self.is_plain and other.kinds == {_PUSHED[kind][1] for kind in self.kinds}

    def _linear(self, movers: list[Port], kind: Kind) -> Signature:
        """A derivative is linear in its cotangents or tangents, so that its pushforward along them is itself."""
        before = tuple(replace(p, kind=_UNUSED) if p.kind is kind else p for p in self.inputs)
        tangents = tuple(p if p.kind is kind else replace(p, kind=_UNUSED) for p in movers)
        still = not any(p.kind is kind for p in movers)
        outputs = tuple(replace(p, kind=_UNUSED) if still else p for p in self.outputs)
        return replace(self, inputs=before + tangents, outputs=outputs)

    def pulled_back(self, needs: tuple[bool, ...]) -> Signature:
        """The signature of the pullback to the needed inputs."""
        if Kind.COTANGENT_TANGENT in self.kinds:
            return self._twice_pulled_back(needs)
        kind = self._differentiable()
        of_output, of_input = _PULLED[kind]
        cotangents = tuple(replace(p, kind=_UNUSED if p.kind is _UNUSED else of_output) for p in self.outputs)
        needed = [p for p, n in zip(self.inputs, needs, strict=True) if n]
        outputs = tuple(replace(p, kind=of_input.get(p.kind, _UNUSED)) for p in needed)
        inputs = self.inputs
        if kind is not _VALUE and not any(p.kind is _VALUE for p in needed):  # of a linear function: no longer needed
            inputs = tuple(replace(p, kind=_UNUSED) if p.kind is kind else p for p in inputs)
        return replace(self, inputs=inputs + cotangents, outputs=outputs)

    def _twice_pulled_back(self, needs: tuple[bool, ...]) -> Signature:
        """The pullback of ``H(c) v``, and perhaps of ``J v``, which are linear in ``v`` and in ``c``.

        Programs that differentiate reverse mode in reverse mode to go forward ask for this, with ``v`` zero.
        """
        given = {p.kind for p in self.inputs}
        if self.kinds - {Kind.COTANGENT_TANGENT, _TANGENT} or Kind.COTANGENT_TANGENT in given:
            raise third_derivatives()
        now_other = {_TANGENT: Kind.OTHER_TANGENT}
        of_output = {Kind.COTANGENT_TANGENT: _TANGENT, _TANGENT: Kind.COTANGENT_TANGENT}
        of_input = {_VALUE: Kind.THIRD, _COTANGENT: Kind.TANGENT_TANGENT, _TANGENT: Kind.COTANGENT_TANGENT}
        inputs = tuple(replace(p, kind=now_other.get(p.kind, p.kind)) for p in self.inputs)
        cotangents = tuple(replace(p, kind=of_output.get(p.kind, _UNUSED)) for p in self.outputs)
        needed = [p for p, n in zip(self.inputs, needs, strict=True) if n]
        outputs = tuple(replace(p, kind=of_input.get(p.kind, _UNUSED)) for p in needed)
        return replace(self, inputs=inputs + cotangents, outputs=outputs)

    def vmapped(self, size: int, mapped: tuple[bool, ...]) -> Signature:
        """The signature over one more axis, in front."""
        inputs = tuple(replace(p, carries=(m, *p.carries)) for p, m in zip(self.inputs, mapped, strict=True))
        outputs = tuple(replace(p, carries=(True, *p.carries)) for p in self.outputs)
        return replace(self, inputs=inputs, outputs=outputs, sizes=(size, *self.sizes))

    @cached_property
    def single(self) -> tuple[int, ...]:
        """The mapped axes of one element."""
        return tuple(axis for axis, size in enumerate(self.sizes) if size == 1)

    @cached_property
    def squeezing(self) -> tuple[tuple[Any, ...], ...]:
        """What each input is indexed with to be without the mapped axes of one element."""
        return tuple(self._index(p, 0) for p in self.inputs)

    @cached_property
    def expanding(self) -> tuple[tuple[Any, ...], ...]:
        """What each output is indexed with to have these axes again."""
        return tuple(self._index(p, None) for p in self.outputs)

    def _index(self, port: Port, one: int | None) -> tuple[Any, ...]:
        """An index with an entry for each mapped axis of a port: ``one`` for those of one element."""
        carried = zip(self.sizes, port.carries, strict=True)
        return (*(one if size == 1 else slice(None) for size, carries in carried if carries), ...)

    def without_axes(self, axes: tuple[int, ...]) -> Signature:
        """The signature without some mapped axes."""
        kept = [axis for axis in range(len(self.sizes)) if axis not in axes]

        def reduced(ports: tuple[Port, ...]) -> tuple[Port, ...]:
            return tuple(replace(p, carries=tuple(p.carries[axis] for axis in kept)) for p in ports)

        sizes = tuple(self.sizes[axis] for axis in kept)
        return replace(self, inputs=reduced(self.inputs), outputs=reduced(self.outputs), sizes=sizes)

    def _differentiable(self) -> Kind:
        if not self.kinds:
            return _VALUE
        (kind, *others) = self.kinds
        if others or kind not in _PUSHED:
            raise third_derivatives()
        return kind


def third_derivatives() -> DifferentiationError:
    """The error that says that there are none."""
    return DifferentiationError(
        "Third derivatives of a circuit are not available; first and second derivatives are exact."
    )


@lru_cache(maxsize=256)
def primal(program: Program) -> Signature:
    """The signature of the results themselves."""
    return Signature(slot_ports(program), result_ports(program))
