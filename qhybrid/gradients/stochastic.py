"""What methods with random numbers share: where the numbers come from, and derivatives along random directions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Circuit, Needs
from qhybrid.gradients.arguments import refuse
from qhybrid.gradients.base import GradientMethod
from qhybrid.gradients.lanes import all_batched, angles_of, batch_of, contract, executions_a_call, tiled_arrays
from qhybrid.gradients.parameter_shift import ParameterShift
from qhybrid.program import Program, Slots

#: Of the entries of a random direction: plus or minus one, or normal with variance one.
Distribution: TypeAlias = Literal["rademacher", "normal"]


class Draws:
    """One random generator after the other, number ``n`` always the same for a seed.

    Threads may share one object: each call has a generator of its own, and only which call has which is up to them.
    Pickles and deep copies go on from where they were made.

    Args:
        seed: ``None`` takes one from the operating system

    Example:
        >>> one, two = Draws(7), Draws(7)
        >>> one.next().random() == two.next().random(), one.next().random() == Draws(7).next().random()
        (True, False)
    """

    def __init__(self, seed: int | None) -> None:
        self._entropy = np.random.SeedSequence(seed).entropy
        self._used = 0
        self._lock = threading.Lock()

    def next(self) -> np.random.Generator:
        """A generator that nothing else has."""
        with self._lock:
            number, self._used = self._used, self._used + 1
        return np.random.default_rng(np.random.SeedSequence(self._entropy, spawn_key=(number,)))

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {"_entropy": self._entropy, "_used": self._used}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class StochasticMethod(GradientMethod):
    """A gradient method that draws random numbers: a sequence of gradients, the same for the same ``seed``.

    Without a seed, ``None``, it is another sequence for each object. A pickled method goes on with its sequence where
    it was, a copy made by :func:`copy.copy` shares it. In several threads nothing is drawn twice, but which gradient
    has which draw is up to their order. Second derivatives take one draw for each of their first derivatives.

    Two objects are two sequences, so they compare equal only to themselves. A subclass is a dataclass with
    ``eq=False`` and a field ``seed``, and calls :meth:`_start` when it is made.
    """

    seed: int | None

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def _start(self) -> None:
        try:
            self.__dict__["_draws"] = Draws(self.seed)
        except (TypeError, ValueError):  # of NumPy's
            refuse(self, "seed", self.seed, "give an integer of at least 0, or None for another sequence each time")

    def jvp(self, circuit: Circuit, slots: Slots, tangents: Slots) -> tuple[NDArray, ...]:
        """Along given directions there is nothing to draw: the exact shift rules."""
        return ParameterShift().jvp(circuit, slots, tangents)

    def new_rng(self) -> np.random.Generator:
        """The generator of the next gradient."""
        return self.__dict__["_draws"].next()


# ------------------------------------------------------------------ directions


def random_directions(
    rng: np.random.Generator, program: Program, needs: Needs, count: int, batch: int, distribution: Distribution
) -> NDArray:
    """Directions ``(count, angles, batch)`` with independent entries of variance one, zero along what is not needed.

    Samples have directions of their own for shared angles too, which averages the noise over the batch.
    """
    wanted = np.array([needs.wants(a) for a in angles_of(program)], dtype=bool)
    shape = (count, len(wanted), batch)
    drawn = rng.normal(size=shape) if distribution == "normal" else 1.0 - 2.0 * rng.integers(0, 2, size=shape)
    return drawn * wanted[:, None]


def from_directions(program: Program, slots: Slots, directions: NDArray, derivatives: NDArray, needs: Needs) -> Slots:
    """Cotangents from derivatives ``(count, batch)`` along directions: the mean of derivative times direction."""
    rows = np.einsum("krb,kb->rb", directions, derivatives) / len(directions)
    shared = rows[: program.num_shared].sum(axis=1) if needs.shared and program.num_shared else None
    batched = rows[program.num_shared :] if needs.batched and program.num_batched else None
    return Slots(shared, batched, (None,) * len(slots.arrays), slots.batch_size)


def differences_along(
    circuit: Circuit,
    slots: Slots,
    cotangents: tuple[NDArray, ...],
    directions: NDArray,
    steps: Sequence[float],
    weights: Sequence[float],
) -> NDArray:
    """``sum_s weights[s] <cotangents, f(x + steps[s] direction)>`` for each direction and sample, ``(count, batch)``.

    All of them are lanes of one device call, as far as memory goes.

    Args:
        circuit: what to differentiate
        slots: where
        cotangents: of the results, the batch in front in any case
        directions: ``(count, angles, batch)``
        steps: multiples of the direction
        weights: of the results at each step
    """
    program = all_batched(circuit.program, tuple(a.batched for a in circuit.program.arrays))
    moved, batch = circuit.rewritten(program), batch_of(slots)
    out = np.zeros((len(directions), batch))
    for part in _chunks(len(directions), executions_a_call(program, batch) // len(steps)):
        lanes = angle_rows(slots) + np.multiply.outer(steps, directions[part])  # (steps, count, angles, batch)
        count = lanes.shape[0] * lanes.shape[1]
        rows = np.moveaxis(lanes, 2, 0).reshape(program.num_batched, count * batch)
        shifted = Slots(np.empty(0), rows, tiled_arrays(circuit.program, slots, count), count * batch)
        values = contract(moved.run(shifted), cotangents, count).reshape(*lanes.shape[:2], batch)
        out[part] = np.tensordot(weights, values, 1)
    return out


def angle_rows(slots: Slots) -> NDArray:
    """Values of all angles, ``(angles, batch)``."""
    shared = np.empty(0) if slots.shared is None else slots.shared
    spread = np.broadcast_to(shared[:, None], (len(shared), batch_of(slots)))
    return spread if slots.batched is None else np.concatenate([spread, slots.batched])


def _chunks(count: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    yield from (slice(start, start + size) for start in range(0, count, size))
