"""Wrong arguments of gradient methods are refused when the method is made: what was given, what can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pennylane import numpy as pnp

from qhybrid.errors import DifferentiationError
from qhybrid.gradients import (
    SPSA,
    Adjoint,
    Checked,
    DoublyStochasticShift,
    FiniteDiff,
    ForwardGradient,
    ParameterShift,
)

NO_SHIFTS = [
    "a", b"a", 3, 1.5, True, object(), np.array(0.5), np.array([[0.5]]), [], {}, (), [None], [1, "a"], ["1"], [True],
    [1j], [np.nan], [np.inf], [10**400], [0.0], [-1.0, 2.0], [[1, 2]], [(1, 2.0)], [1, (2, 3)], {"a": [1]}, {0: [1.0]},
    {-1: [1.0]}, {True: [1.0]}, {1.5: [1.0]}, {1: "a"}, {1: 3}, {1: None}, {1: []}, {1: [1j]}, {1: [0.5], 2: "ab"},
]  # fmt: skip
NO_COUNTS = ["a", 0, -1, 1.5, True, np.nan, [], np.array([1, 2])]
NO_STEPS = ["0.1", 0, -0.1, True, np.nan, np.inf, 1j, 10**400, [], {}, np.array([0.1, 0.2])]
NO_SEEDS = ["a", -1, 1.5, {}, np.random.default_rng(0)]
RANDOM = [SPSA, ForwardGradient, DoublyStochasticShift]

WRONG = [
    *[(ParameterShift, "shifts", v, "give positive numbers in radians, .* a mapping .* or None") for v in NO_SHIFTS],
    *[(ParameterShift, "allotment", v, 'choose "equal" or "proportional"') for v in (None, 3, [], {}, "all")],
    *[(SPSA, "num_directions", v, "give a positive integer") for v in [*NO_COUNTS, None]],
    *[(ForwardGradient, "num_directions", v, "give a positive integer") for v in [*NO_COUNTS, None]],
    *[(DoublyStochasticShift, "num_parameters", v, "give a positive integer") for v in NO_COUNTS],
    *[(DoublyStochasticShift, "num_terms", v, "give a positive integer") for v in NO_COUNTS],
    *[(SPSA, "h", v, "must be a positive number, for example 0.2") for v in NO_STEPS],
    *[(FiniteDiff, "h", v, "must be a positive number, for example 0.001") for v in [*NO_STEPS, None]],
    *[(FiniteDiff, "order", v, "choose 2 or 4") for v in (3, "4", None, [], True, np.array([2, 4]))],
    *[(ForwardGradient, "distribution", v, 'choose "rademacher" or "normal"') for v in (3, [], None, "uniform")],
    *[(method, "seed", v, "give an integer of at least 0, or None") for method in RANDOM for v in NO_SEEDS],
    *[(Checked, "method", v, "give a gradient method as an object") for v in ("adjoint", None, Adjoint)],
]


@pytest.mark.parametrize(("method", "name", "value", "allowed"), WRONG)
def test_wrong_arguments(method, name, value, allowed):
    with pytest.raises(DifferentiationError, match=f"^{method.__name__} got {name}=(.|\\n)*; .*{allowed}.*\\.$"):
        method(**{name: value})


def test_calls_of_checked():
    with pytest.raises(DifferentiationError, match="Checked got calls=0; give a positive integer"):
        Checked(Adjoint(), calls=0)


@pytest.mark.parametrize("one", [np.int64(1), np.array(1), torch.tensor(1), pnp.array(1)])
def test_numbers_of_any_library(one):
    assert SPSA(num_directions=one).num_directions == 1
    assert ParameterShift(shifts={np.int64(1): [0.5 * one]}) == ParameterShift(shifts={1: [0.5]})
    same = FiniteDiff(h=0.5 * one, order=2 * one)
    assert same == FiniteDiff(h=0.5, order=2)
    assert hash(same) == hash(FiniteDiff(h=0.5, order=2))


@pytest.mark.parametrize("given", [[0.5, 1.0], (0.5, 1), np.array([0.5, 1.0]), torch.tensor([0.5, 1.0])])
def test_shifts_in_any_sequence(given):
    assert ParameterShift(shifts=given).shifts == (0.5, 1.0)
    by_count = ParameterShift(shifts={2: given})
    assert by_count.shifts == ((2, (0.5, 1.0)),)
    assert ParameterShift(shifts=by_count.shifts) == by_count
