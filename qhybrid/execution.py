"""What a device must offer, and what a host gets: executables below, differentiable functions above.

Between gradient methods and hosts stands one type, :class:`Function`: a function of NumPy arrays that knows its own
derivative and its own batching rule. A host (autograd, PyTorch) binds any function once, without gradient logic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qhybrid.program import Angle, Probabilities, Program, Samples, Slots, State


@dataclass(frozen=True)
class Needs:
    """Which cotangents are wanted.

    Args:
        shared, batched: whether those of the shared angles, and of the batched angles
        arrays: whether that of each array
        constant: angles of these that nobody differentiates along; their cotangents may be zero
    """

    shared: bool = True
    batched: bool = True
    arrays: tuple[bool, ...] = ()
    constant: frozenset[Angle] = frozenset()

    def wants(self, angle: Angle) -> bool:
        """Whether the cotangent of an angle is wanted."""
        return (self.batched if angle.batched else self.shared) and angle not in self.constant


_KINDS: dict[type, type] = {Probabilities: float, State: complex, Samples: np.int64}


def result_shape(program: Program, index: int, shots: int | None) -> tuple[int, ...]:
    """Shape of one result of a program without its batch: 0 for the scalars, ``i`` for tensor ``i - 1``.

    Args:
        program: the circuit
        index: which result
        shots: samples a measurement basis, ``None`` for exact results
    """
    if index == 0:
        return (len(program.scalars),)
    match program.tensors[index - 1]:
        case State():
            return (2**program.num_wires,)
        case Probabilities(wires):
            return (2 ** len(wires),)
        case Samples(wires):
            if shots is None:
                raise RuntimeError("raw samples without shots")
            return (shots, len(wires))


@dataclass(frozen=True)
class Wanted:
    """Which parts of a :class:`SecondOrder` are wanted."""

    results: bool = True
    cotangents: bool = True
    tangents: bool = True


#: What is wanted where nobody says.
EVERYTHING = Wanted()


class SecondOrder(NamedTuple):
    """Derivatives of a circuit along ``k`` directions, given cotangents of its results.

    Args:
        results: tangents of the results, each with the axis of directions in front
        cotangents: of the slots
        tangents: of these cotangents, each with the axis of directions in front
    """

    results: tuple[NDArray, ...]
    cotangents: Slots
    tangents: Slots


class Direct(ABC):
    """Exact scalars of a number of samples and their derivatives, straight from arrays of angles.

    For circuits so small that a record of slots takes as long as a run.
    """

    @abstractmethod
    def run(self, shared: NDArray, batched: NDArray) -> tuple[NDArray, Any]:
        """The scalars as an executable gives them, and what :meth:`vjp` at the same angles need not compute again.

        Args:
            shared: angles ``(Ps,)`` in double precision, in one piece of memory
            batched: angles ``(Pb, samples)``, likewise, in either order of axes
        """

    @abstractmethod
    def vjp(
        self, shared: NDArray, batched: NDArray, cotangents: NDArray, needs: Needs, residual: Any = None
    ) -> tuple[NDArray, NDArray]:
        """Cotangents of the shared and of the batched angles; only those that are wanted need be right.

        Args:
            shared, batched: as for :meth:`run`
            cotangents: of the scalars
            needs: which are wanted
            residual: from :meth:`run` at these angles
        """


class Executable(ABC):
    """A program compiled for one device.

    Results are a tuple of arrays: first all scalar measurements as one real array ``(S,)`` or ``(batch, S)`` (``S``
    may be 0), then one array a tensor measurement, each with the batch axis in front if the program is batched.
    An empty batch gives empty results.
    """

    #: Whether :meth:`vjp` exists: an exact derivative in one pass.
    has_vjp: bool = False
    #: Whether :meth:`jvp` and :meth:`second_order` exist: exact derivatives along directions, a few passes each.
    has_jvp: bool = False

    def __init__(self, program: Program) -> None:
        self.program = program

    def no_results(self, shots: int | None) -> tuple[NDArray, ...]:
        """The results of an empty batch, in double precision.

        Args:
            shots: samples a measurement basis, ``None`` for exact results
        """
        kinds = (float, *(_KINDS[type(t)] for t in self.program.tensors))
        return tuple(np.zeros((0, *result_shape(self.program, i, shots)), kind) for i, kind in enumerate(kinds))

    @abstractmethod
    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """The exact results."""

    @abstractmethod
    def sample(self, slots: Slots, shots: int, rng: np.random.Generator) -> tuple[NDArray, ...]:
        """Results estimated from ``shots`` samples a measurement basis, drawn from ``rng``."""

    def direct(self, samples: int) -> Direct | None:
        """How so many samples are run without a record of slots; ``None`` where that saves nothing, or cannot be.

        What it gives is used in place of :meth:`run_with_residual` and :meth:`vjp`, so a subclass that has its own of
        these has its own of this too.
        """
        return None

    def circuits_per_execution(self, shots: int | None) -> int:
        """Circuits that a device is sent for one execution of one sample: one for each group measured together.

        Args:
            shots: samples a measurement basis, ``None`` for exact results
        """
        return 1

    def run_with_residual(self, slots: Slots) -> tuple[tuple[NDArray, ...], Any]:
        """The exact results, and what :meth:`vjp` at the same slots need not compute again; ``None``: nothing."""
        return self.run(slots), None

    def vjp(self, slots: Slots, cotangents: tuple[NDArray, ...], needs: Needs) -> Slots:
        """Cotangents of the slots, given cotangents shaped like the results of :meth:`run`.

        An executable whose :meth:`run_with_residual` gives a residual also takes it here, as ``residual``: as often as
        wanted, from any thread, and only at the slots that it came from.
        """
        raise NotImplementedError(f"{type(self).__name__} has no native derivative")

    def jvp(self, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """Tangents of the results of :meth:`run` along ``k`` directions, the axis of directions in front.

        Args:
            slots: where
            tangents: of the slots, each with the axis of directions in front: ``shared`` is ``(k, Ps)``, in any case,
                ``batched`` is ``(k, Pb, batch)``, an array ``(k, *its shape)``; the last two may be ``None`` for zero
        """
        raise NotImplementedError(f"{type(self).__name__} has no native forward mode")

    def run_with_tangents(self, slots: Slots, tangents: Slots) -> tuple[tuple[NDArray, ...], tuple[NDArray, ...]]:
        """What :meth:`run` and :meth:`jvp` give, which may take less together.

        A subclass that has its own of these has its own of this too.
        """
        return self.run(slots), self.jvp(slots, tangents)

    def second_order(
        self,
        slots: Slots,
        cotangents: tuple[NDArray, ...],
        tangents: Slots,
        cotangent_tangents: tuple[NDArray, ...] | None,
        needs: Needs,
        wanted: Wanted = EVERYTHING,
    ) -> SecondOrder:
        """Derivatives along ``k`` directions of the results and of :meth:`vjp`: forward over reverse.

        Args:
            slots: where
            cotangents: of the results
            tangents: directions of the slots, as for :meth:`jvp`
            cotangent_tangents: directions of the cotangents, each with the axis of directions in front; ``None``: zero
            needs: which cotangents are wanted, and tangents of cotangents
            wanted: which of the three parts are wanted at all; the others may be empty
        """
        raise NotImplementedError(f"{type(self).__name__} has no native second derivative")


@dataclass(frozen=True, eq=False)
class Circuit:
    """A program bound to a device: how results are obtained.

    Args:
        program: the circuit
        compile: makes the executable of a program; caching is its business
        shots: samples a measurement basis, ``None`` for exact results
        rng: gives the generator of one execution; called once for each execution with shots
    """

    program: Program
    compile: Callable[[Program], Executable]
    shots: int | None = None
    rng: Callable[[], np.random.Generator] = np.random.default_rng

    @cached_property
    def executable(self) -> Executable:
        """The program, compiled."""
        return self.compile(self.program)

    @cached_property
    def passive(self) -> tuple[bool, ...]:
        """Which of the results are raw samples, that have no derivative."""
        return (False, *(isinstance(t, Samples) for t in self.program.tensors))

    def run(self, slots: Slots) -> tuple[NDArray, ...]:
        """Results at ``slots``: exact ones, or sampled ones if the circuit has shots."""
        if self.shots is None:
            return self.executable.run(slots)
        return self.executable.sample(slots, self.shots, self.rng())

    def rewritten(self, program: Program) -> Circuit:
        """The same device, shots and random numbers with another program."""
        return Circuit(program, self.compile, self.shots, self.rng)


class Function(ABC):
    """A function of arrays that hosts can differentiate and map: ``f(*inputs) -> (output, ...)``.

    The cotangent ``c`` of a complex array ``z`` is the one with ``dL = Re(conj(c) dz)``; that of a real array is real.
    """

    @abstractmethod
    def __call__(self, *inputs: NDArray) -> tuple[NDArray, ...]:
        """The outputs."""

    @abstractmethod
    def pullback(self, needs: tuple[bool, ...], residual: Any = None) -> Function:
        """The function ``(*inputs, *cotangents of the outputs) -> cotangents of the needed inputs``.

        Args:
            needs: for each input, whether its cotangent is wanted
            residual: what :meth:`forward` gave, that of the function itself or mapped; the pullback, mapped in the
                same way, may then only be called at those very inputs

        Raises:
            DifferentiationError: the derivative cannot be given correctly
        """

    @abstractmethod
    def pushforward(self, moving: tuple[bool, ...]) -> Function:
        """The function ``(*inputs, *tangents of the moving inputs) -> tangents of the outputs``.

        Args:
            moving: for each input, whether it has a tangent; that of all others is zero

        Raises:
            DifferentiationError: the derivative cannot be given correctly
        """

    def with_tangents(self, moving: tuple[bool, ...]) -> Function | None:
        """The function ``(*inputs, *tangents of the moving inputs) -> (*outputs, *tangents of the outputs)``.

        It can be mapped, and not be differentiated.

        Args:
            moving: for each input, whether it has a tangent

        Returns:
            ``None`` where that takes as long as the function and its :meth:`pushforward`, or cannot be
        """
        return None

    @abstractmethod
    def vmap(self, size: int, mapped: tuple[bool, ...]) -> Function:
        """The function over one more axis of ``size``, in front of each ``mapped`` input and of every output."""

    @abstractmethod
    def output_types(self, inputs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and kind of each output, ``"f"``, ``"c"`` or ``"i"``, for hosts that must know them in advance.

        Args:
            inputs: only their ``shape`` and ``dtype`` are read
        """

    def forward(self, *inputs: NDArray) -> tuple[tuple[NDArray, ...], Any]:
        """The outputs, and a residual that spares :meth:`pullback` work at the same inputs (``None``: nothing)."""
        return self(*inputs), None

    def pullback_at(self, needs: tuple[bool, ...], residual: Any) -> Callable[..., tuple[NDArray, ...]] | None:
        """The pullback at the inputs of one evaluation, for hosts that want its value and no more.

        Args:
            needs: for each input, whether its cotangent is wanted
            residual: what :meth:`forward` gave there

        Returns:
            a function of the cotangents of the outputs alone; ``None`` where the residual does not hold enough for it
        """
        return None
