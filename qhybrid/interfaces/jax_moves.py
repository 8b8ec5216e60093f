"""Functions that only move numbers, as one operation each: what JAX records of a circuit has a slice for each angle.

A program of many slices takes long to compile, and its gradient, one padded array for each slice, long to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from numpy.typing import NDArray

#: Primitives that move numbers, and which of their operands these are; ``None`` for all.
_MOVES: dict[str, tuple[int, ...] | None] = {
    "broadcast_in_dim": None, "concatenate": None, "convert_element_type": None, "copy": None, "copy_p": None,
    "dynamic_slice": (0,), "gather": (0,), "pad": None, "reshape": None, "rev": None, "slice": None, "split": None,
    "squeeze": None, "transpose": None,
}  # fmt: skip
_CALLS = ("jit", "pjit")
#: Arrays with more axes are not looked at for a transposition.
_MOST_AXES = 4
#: An array of more pieces is gathered number by number.
_MOST_PIECES = 8


def rearranged(function: Callable[..., Sequence[Any]], *arguments: Any) -> list[Any]:
    """``function(*arguments)``; by one operation for each of its arrays if it only moves numbers.

    Args:
        function: of trees of arrays and other things, gives arrays; is called once, to be recorded
        arguments: while JAX is making a program
    """
    leaves, structure = jax.tree.flatten(arguments)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.core.Tracer)]  # others have numbers to read

    def of_arrays(*arrays: Any) -> list[Any]:
        given = dict(zip(places, arrays, strict=True))
        return list(function(*jax.tree.unflatten(structure, [given.get(i, x) for i, x in enumerate(leaves)])))

    arrays = [leaves[i] for i in places]
    closed = jax.make_jaxpr(of_arrays)(*arrays)
    moved = _moved(closed, arrays)
    return moved if moved is not None else jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *arrays)


def _moved(closed: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any] | None:
    """The outputs of a program on ``arrays``, by one operation each; ``None`` if it does not only move numbers."""
    unknown = [isinstance(c, jax.core.Tracer) for c in closed.consts]
    known = [c for c, u in zip(closed.consts, unknown, strict=True) if not u]
    sources = [*(c for c, u in zip(closed.consts, unknown, strict=True) if u), *arrays]
    dtypes = {s.dtype for s in sources}
    if len(dtypes) != 1 or closed.effects or not all(d in (np.float32, np.float64) for d in dtypes):
        return None
    if moved_outputs(closed.jaxpr, [*unknown, *[True] * len(arrays)]) is None:
        return None
    dtype, size = np.dtype(dtypes.pop()), sum(s.size for s in sources)
    if 2 * size >= 2 ** (np.finfo(dtype).nmant + 1):
        return None

    def probe(first: int) -> list[NDArray]:
        """The outputs where the numbers of all sources are counted from ``first`` on."""
        numbers = np.split(np.arange(first, first + size, dtype=dtype), np.cumsum([s.size for s in sources])[:-1])
        given = [n.reshape(s.shape) for n, s in zip(numbers, sources, strict=True)]
        front, rest = iter(given[: sum(unknown)]), iter(known)
        consts = [next(front) if u else next(rest) for u in unknown]
        with jax.ensure_compile_time_eval():
            found = jax.core.eval_jaxpr(closed.jaxpr, consts, *map(jnp.asarray, given[sum(unknown) :]))
        return [np.asarray(f) for f in found]

    with np.errstate(invalid="ignore"):  # infinite constants
        outputs = [(zero, later - zero) for zero, later in zip(probe(0), probe(size), strict=True)]
    if not all(np.isin(step, (0, size)).all() for _, step in outputs):  # an index out of bounds gives NaN
        return None
    return [_taken(sources, zero, step != 0) for zero, step in outputs]


def moved_outputs(jaxpr: Jaxpr, moving: Sequence[bool]) -> list[bool] | None:
    """Which outputs hold numbers of the inputs marked ``moving``; ``None`` if not all is to put them elsewhere."""
    marks = dict(zip([*jaxpr.constvars, *jaxpr.invars], moving, strict=True))

    def is_marked(atom: Any) -> bool:
        return not isinstance(atom, Literal) and marks.get(atom, False)

    for eqn in jaxpr.eqns:
        given = [is_marked(v) for v in eqn.invars]
        found: Sequence[bool] | None = [any(given)] * len(eqn.outvars)
        if any(given):
            if eqn.primitive.name in _CALLS and not eqn.params["jaxpr"].consts:
                found = moved_outputs(eqn.params["jaxpr"].jaxpr, given)
            elif not _is_move(eqn, given):
                found = None
        if found is None:
            return None
        marks |= dict(zip(eqn.outvars, found, strict=True))
    return [is_marked(v) for v in jaxpr.outvars]


def _is_move(eqn: Any, given: Sequence[bool]) -> bool:
    """Whether an equation moves the marked ones of its inputs, in no less precision."""
    name = eqn.primitive.name
    if name not in _MOVES:
        return False
    if name == "gather" and eqn.params["mode"] == jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS:
        return False  # what breaks the promise has a value but no derivative
    operands = _MOVES[name]
    if operands is not None and any(g for i, g in enumerate(given) if i not in operands):
        return False
    most = max(v.aval.dtype.itemsize for v, g in zip(eqn.invars, given, strict=True) if g)
    return all(v.aval.dtype.kind == "f" and v.aval.dtype.itemsize >= most for v in eqn.outvars)


def _taken(sources: Sequence[Any], places: NDArray, moving: NDArray) -> Any:
    """The numbers at ``places`` in all ``sources`` where an array is ``moving``, else ``places`` themselves."""
    if not places.size:
        return jnp.asarray(places)
    flat, kept = places.reshape(-1), moving.reshape(-1)
    edges = np.cumsum([0, *(s.size for s in sources)])
    index = np.where(kept, flat, 0).astype(np.int64)
    if kept.all():
        for source, first in zip(sources, edges, strict=False):
            axes = _transposition(source.shape, index - first)
            if axes is not None:
                return jnp.transpose(source, axes).reshape(places.shape).astype(places.dtype)
    cuts = _cuts(index, kept, edges)
    if len(cuts) <= _MOST_PIECES:
        parts = np.split(np.arange(len(flat)), cuts)
        pieces = [_piece(sources, edges, index[p]) if kept[p[0]] else jnp.asarray(flat[p]) for p in parts if len(p)]
    else:
        constants = np.flatnonzero(~kept)
        index[constants] = edges[-1] + np.arange(len(constants))
        pool = jnp.concatenate([*(s.reshape(-1).astype(places.dtype) for s in sources), flat[constants]])
        unique = len(np.unique(index)) == len(index)
        pieces = [pool.at[index].get(mode="promise_in_bounds", unique_indices=unique)]
    return jnp.concatenate([x.astype(places.dtype) for x in pieces]).reshape(places.shape)


def _cuts(index: NDArray, kept: NDArray, edges: NDArray) -> NDArray:
    """Where an array is to be cut, so that each piece holds constants, or neighbours of one source in their order."""
    together = (kept[1:] == kept[:-1]) & ((np.diff(index) == 1) | ~kept[1:])
    together &= ~kept[1:] | ~np.isin(index[1:], edges)
    return np.flatnonzero(~together) + 1


def _piece(sources: Sequence[Any], edges: NDArray, index: NDArray) -> Any:
    """Neighbouring numbers of one source."""
    number = int(np.searchsorted(edges, index[0], side="right")) - 1
    first = int(index[0] - edges[number])
    return sources[number].reshape(-1)[first : first + len(index)]


def _transposition(shape: tuple[int, ...], index: NDArray) -> tuple[int, ...] | None:
    """The order of axes in which the numbers of an array of that shape are at ``index``, one after another."""
    size = int(np.prod(shape))
    if len(index) != size or len(shape) > _MOST_AXES:
        return None
    numbers = np.arange(size).reshape(shape)
    orders = (
        axes for axes in permutations(range(len(shape))) if np.array_equal(numbers.transpose(axes).ravel(), index)
    )
    return next(orders, None)
