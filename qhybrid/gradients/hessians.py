"""Values, gradients and Hessians of circuits from one set of shifted executions, each used wherever it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from qhybrid.errors import DifferentiationError
from qhybrid.execution import Circuit, Needs
from qhybrid.gradients.base import ALL
from qhybrid.gradients.lanes import (
    Untied,
    angles_of,
    batch_of,
    contract,
    executions_a_call,
    tiled_arrays,
    untie,
    without_samples,
)
from qhybrid.gradients.shift_rules import Measured, ShiftRule, frequencies, second_shift_rule, shift_rule
from qhybrid.program import Program, Slots, Variance

Mixed = Literal["product", "diagonal"]
#: Rows and their shifts; none is the circuit itself.
Point = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Derivatives:
    """Results of a circuit and their derivatives along its angles: the shared ones first, then the batched ones.

    Args:
        values: one array a result, shaped as an executable shapes them
        gradients: the same with an axis of angles in front
        hessians: the same with two axes of angles in front
        executions: how many there were for each sample
    """

    values: tuple[NDArray, ...]
    gradients: tuple[NDArray, ...]
    hessians: tuple[NDArray, ...]
    executions: int


def shift_hessian(circuit: Circuit, slots: Slots, *, mixed: Mixed = "product", needs: Needs = ALL) -> Derivatives:
    """Values, gradients and Hessians of all results, exact or sampled, by shift rules that share their executions.

    The circuit itself is executed once, the gradient's executions give the diagonal of the Hessian, too, and a mixed
    derivative has executions of its own. With ``P`` angles of ``R`` equidistant frequencies each there are

    * ``"product"``: ``1 + 2 R P + 4 R^2 P (P - 1) / 2``; for Pauli rotations ``2 P^2 + 1``. Both angles are shifted by
      their own rules;
    * ``"diagonal"``: ``1 + 2 R P + (4 R - 1) P (P - 1) / 2``; for Pauli rotations ``1 + P / 2 + 3 P^2 / 2``, the
      fewest. A mixed derivative is what the second derivative along both angles together has beyond those along each.
      For Pauli rotations its variance is 3.5 times as large with as many shots an execution, so that it pays where
      executions are dear and shots are cheap. Angles with other frequencies take products.

    With shots every entry is unbiased; entries that share executions are correlated. All executions are lanes of one
    device call.

    Args:
        circuit: what to differentiate
        slots: where
        mixed: how mixed derivatives are obtained
        needs: which angles are wanted; the derivatives along others are zero

    Raises:
        DifferentiationError: an angle has no shift rule, or variances are measured with a single shot

    Example::

        found = shift_hessian(Circuit(program, device.compile, shots=1000), Slots(angles))
        step = np.linalg.solve(found.hessians[0][:, :, 0], found.gradients[0][:, 0])

    D. Wierichs, J. Izaac, C. Wang, C. Y.-Y. Lin, "General parameter-shift rules for quantum gradients", Quantum 6,
    677 (2022).
    """
    circuit = circuit.rewritten(without_samples(circuit.program))
    untied = untie(circuit.program)
    rows = tuple(untied.needed_rows(needs))
    plan = _plan(circuit.program, rows, rows, mixed)
    found: list[NDArray] = []
    for weights, results in _executed(circuit, slots, untied, plan):
        parts = [_weighted(weights, r) for r in results]
        found = [f + p for f, p in zip(found, parts, strict=True)] if found else parts
    scale = _unbiased(circuit)
    found[0] = found[0] * scale
    if slots.batch_size is None:
        found = [f[:, 0] for f in found]
    collected = [_collect(f, untied, plan) for f in found]
    values, gradients, hessians = (tuple(c[k] for c in collected) for k in range(3))
    return Derivatives(values, gradients, hessians, len(plan.points))


def hessian_executions(program: Program, mixed: Mixed = "product", needs: Needs = ALL) -> int:
    """How many executions :func:`shift_hessian` takes for each sample.

    Raises:
        DifferentiationError: an angle has no shift rule
    """
    program = without_samples(program)
    rows = tuple(untie(program).needed_rows(needs))
    return len(_plan(program, rows, rows, mixed).points)


def contracted(
    circuit: Circuit,
    slots: Slots,
    cotangents: Sequence[tuple[NDArray, ...]],
    moved: Sequence[int],
    needed: Sequence[int],
    rule: RowRule,
    want_first: bool = True,
) -> tuple[NDArray, NDArray]:
    """First and mixed second derivatives of ``Re <cotangents, results>`` along rows of the untied program.

    Args:
        circuit: what to differentiate
        slots: where
        cotangents: several, each of all results, the batch in front in any case
        moved, needed: rows of the untied program
        rule: of a row
        want_first: whether the first derivatives are wanted; otherwise they are zero

    Returns:
        along the needed rows, ``(cotangents, needed, batch)``; second derivatives of the first of the cotangents along
        the moved and the needed rows, ``(moved, needed, batch)``
    """
    untied = untie(circuit.program)
    plan = _plan(circuit.program, tuple(moved), tuple(needed), "product", rule, want_first)
    total = np.zeros((len(cotangents), plan.weights.shape[0], batch_of(slots)))
    for weights, results in _executed(circuit, slots, untied, plan):
        lanes = [r.reshape(r.shape[0] * r.shape[1], *r.shape[2:]) for r in results]
        total += np.array([weights @ contract(lanes, c, weights.shape[1]) for c in cotangents])
    index = {r: k for k, r in enumerate(plan.rows)}
    count, along = len(plan.rows), [index[r] for r in needed]
    numbers = {pair: 1 + 2 * count + k for k, pair in enumerate(plan.pairs)} | {
        (r, r): 1 + count + k for r, k in index.items()
    }
    second = [[numbers[min(k, m), max(k, m)] for m in needed] for k in moved]
    return total[:, 1:][:, along], total[0][np.array(second, dtype=np.intp).reshape(len(moved), len(needed))]


# ------------------------------------------------------------------ which executions, and what they count for


@dataclass(frozen=True, eq=False)
class _Plan:
    """Shifted executions, and the combinations of them.

    Args:
        rows: along which derivatives are taken
        pairs: of them, along which mixed derivatives are taken
        points: the executions
        weights: of each execution in each quantity: the value, the derivatives along the rows, the second derivatives
            along the rows, the mixed derivatives along the pairs
    """

    rows: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    points: tuple[Point, ...]
    weights: csr_array


@dataclass
class _Table:
    """Executions that are numbered as they are asked for."""

    points: dict[Point, int] = field(default_factory=dict)

    def number(self, *moves: tuple[int, float]) -> int:
        """Of the execution with these rows shifted."""
        point = tuple(sorted((row, shift) for row, shift in moves if shift))
        return self.points.setdefault(point, len(self.points))


Combination = dict[int, float]
RowRule = Callable[[Untied, int], ShiftRule]


@lru_cache(maxsize=64)
def _plan(
    program: Program,
    moved: tuple[int, ...],
    needed: tuple[int, ...],
    mixed: Mixed,
    rule: RowRule | None = None,
    want_first: bool = True,
) -> _Plan:
    """Executions for first derivatives, and second ones along a moved and a needed row each."""
    if mixed not in ("product", "diagonal"):
        raise DifferentiationError(f'shift_hessian got mixed={mixed!r}; choose "product" or "diagonal".')
    untied, table = untie(program), _Table()
    rows = tuple(sorted({*moved, *needed}))
    pairs = tuple(sorted({(min(k, m), max(k, m)) for k in moved for m in needed if k != m}))
    both = set(moved) & set(needed)
    value = {table.number(): 1.0}
    found = {r: _frequencies(untied, r) for r in rows}
    rules = {r: rule(untied, r) if rule is not None else _rule(untied, r, found[r]) for r in rows}
    first = {r: _along(table, r, rules[r]) if want_first else Combination() for r in rows}
    second = {
        r: _along(table, r, _second_rule(untied, r, found[r], rules[r])) if r in both else Combination() for r in rows
    }
    crossed = [
        _diagonal(table, found, second, k, m)
        if mixed == "diagonal" and _counts(found[k]) and _counts(found[m])
        else _product(table, rules, k, m)
        for k, m in pairs
    ]
    quantities = [value, *first.values(), *second.values(), *crossed]
    entries = [(q, p, w) for q, weights in enumerate(quantities) for p, w in weights.items()]
    index_q, index_p, weights = (np.array(column) for column in zip(*entries, strict=True))
    matrix = csr_array((weights, (index_q, index_p)), shape=(len(quantities), len(table.points)))
    return _Plan(rows, pairs, tuple(table.points), matrix)


def _frequencies(untied: Untied, row: int) -> tuple[float, ...] | None:
    """Of an angle of a gate; ``None`` for a coefficient of an observable."""
    origin = untied.origins[row]
    return frequencies(*origin, Measured.by(untied.program)) if isinstance(origin, tuple) else None


def _rule(untied: Untied, row: int, found: tuple[float, ...] | None) -> ShiftRule:
    return untied.rule(row) if found is None else shift_rule(found)


def _second_rule(untied: Untied, row: int, found: tuple[float, ...] | None, rule: ShiftRule) -> ShiftRule:
    """The second derivative, if possible from the same shifts as the first."""
    positive = tuple(s for s in rule.shifts if s > 0)
    if found is None:  # a polynomial of the coefficient: of degree two in a variance, of degree one in a mean
        (step,) = positive
        quadratic = isinstance(untied.origins[row], Variance)
        return ShiftRule((0.0, step, -step), (-2 / step**2, *(1 / step**2,) * 2)) if quadratic else ShiftRule((), ())
    try:
        return second_shift_rule(found, positive or None)
    except DifferentiationError:
        return second_shift_rule(found)


def _counts(found: tuple[float, ...] | None) -> int:
    """Number of frequencies if they are the first multiples of the lowest one, else zero."""
    if not found or not np.allclose(found, found[0] * np.arange(1, len(found) + 1), rtol=1e-12, atol=0.0):
        return 0
    return len(found)


def _along(table: _Table, row: int, rule: ShiftRule) -> Combination:
    return _summed((table.number((row, s)), c) for s, c in zip(rule.shifts, rule.coefficients, strict=True))


def _product(table: _Table, rules: dict[int, ShiftRule], k: int, m: int) -> Combination:
    """Both rules, one after the other."""
    pairs_k = list(zip(rules[k].shifts, rules[k].coefficients, strict=True))
    pairs_m = list(zip(rules[m].shifts, rules[m].coefficients, strict=True))
    return _summed((table.number((k, s), (m, t)), c * d) for s, c in pairs_k for t, d in pairs_m)


def _diagonal(
    table: _Table,
    found: dict[int, tuple[float, ...] | None],
    second: dict[int, Combination],
    k: int,
    m: int,
) -> Combination:
    """From ``F(x) = f(x_k + x / w_k, x_m + x / w_m)``, whose frequencies are ``1, 2, ..., R_k + R_m``."""
    slow_k, slow_m = (found[r] or (1.0,) for r in (k, m))
    scale_k, scale_m = slow_k[0], slow_m[0]
    rule = second_shift_rule(tuple(float(n) for n in range(1, len(slow_k) + len(slow_m) + 1)))
    half = scale_k * scale_m / 2
    entries = [
        (table.number((k, s / scale_k), (m, s / scale_m)), c * half)
        for s, c in zip(rule.shifts, rule.coefficients, strict=True)
    ]
    entries += [(p, -w * scale_m / scale_k / 2) for p, w in second[k].items()]
    entries += [(p, -w * scale_k / scale_m / 2) for p, w in second[m].items()]
    return _summed(entries)


def _summed(entries: Iterable[tuple[int, float]]) -> Combination:
    total: Combination = {}
    for point, weight in entries:
        total[point] = total.get(point, 0.0) + weight
    return total


# ------------------------------------------------------------------ execution


def _executed(circuit: Circuit, slots: Slots, untied: Untied, plan: _Plan) -> Iterator[tuple[csr_array, list[NDArray]]]:
    """Results ``(executions, batch, *own)`` of one device call each, and the weights of its executions."""
    shifted, batch = circuit.rewritten(untied.program), batch_of(slots)
    base, size = untied.rows(slots), executions_a_call(untied.program, batch)
    for start in range(0, len(plan.points), size):
        points = plan.points[start : start + size]
        lanes, count = np.repeat(base[:, None, :], len(points), axis=1), len(points)
        for number, point in enumerate(points):
            for row, shift in point:
                lanes[row, number] += shift
        arrays = tiled_arrays(untied.original, slots, count)
        results = shifted.run(Slots(np.empty(0), lanes.reshape(len(base), count * batch), arrays, count * batch))
        yield plan.weights[:, start : start + size], [r.reshape(count, batch, *r.shape[1:]) for r in results]


def _weighted(weights: csr_array, results: NDArray) -> NDArray:
    flat = results.reshape(len(results), int(np.prod(results.shape[1:])))
    return (weights @ flat).reshape(weights.shape[0], *results.shape[1:])


def _unbiased(circuit: Circuit) -> NDArray:
    """What to multiply scalars with: the variance of a sample is too small by ``1 - 1 / shots``."""
    variances = np.array([isinstance(m, Variance) for m in circuit.program.scalars], dtype=bool)
    if circuit.shots is None or not variances.any():
        return np.ones(len(variances))
    if circuit.shots < 2:
        raise DifferentiationError("The variance of a single shot is zero. Use at least two shots, or expval.")
    return np.where(variances, circuit.shots / (circuit.shots - 1), 1.0)


def _collect(found: NDArray, untied: Untied, plan: _Plan) -> tuple[NDArray, NDArray, NDArray]:
    """Value, gradient and Hessian along angles, given those along rows."""
    angles = {a: i for i, a in enumerate(angles_of(untied.original))}
    index: Sequence[int] = [angles[untied.sources[r]] for r in plan.rows]
    own, count = found.shape[1:], len(index)
    gradient = np.zeros((len(angles), *own), found.dtype)
    hessian = np.zeros((len(angles), len(angles), *own), found.dtype)
    np.add.at(gradient, index, found[1 : 1 + count])
    np.add.at(hessian, (index, index), found[1 + count : 1 + 2 * count])
    for (k, m), mixed in zip(combinations(index, 2), found[1 + 2 * count :], strict=True):
        hessian[k, m] += mixed
        hessian[m, k] += mixed
    return found[0], gradient, hessian
