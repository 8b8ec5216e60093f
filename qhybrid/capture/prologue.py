"""From argument leaves to slot values: a traced graph compiled into few vector operations.

    prologue = Prologue(graph, shared, batched, arrays, names)   # roots: tracers, or constants of any host
    values = prologue(leaves)                                    # SlotValues, in the graph of the leaves' host
    prologue.branches_hold(leaves)                               # whether every traced branch goes the same way again
    prologue.describe_row(batched=False, index=3)                # "weights[1, 2]", for messages

The work is done by a :class:`~qhybrid.capture.plan.Plan`; this module chooses the host and puts the results together.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from autograd.tracer import Box
from numpy.typing import NDArray

from qhybrid.capture.assembly import SlotValues
from qhybrid.capture.hosts import AutogradHost, Host, NumpyHost, TorchHost
from qhybrid.capture.plan import Plan
from qhybrid.capture.scheduling import compile_plan
from qhybrid.capture.tracer import Graph, Tracer, as_root
from qhybrid.capture.values import concrete, is_batched, is_functorch, is_tensor
from qhybrid.errors import CaptureError
from qhybrid.gradients import Block
from qhybrid.program import Angle


class Prologue:
    """Slot values from argument leaves, differentiable by the leaves' own host.

    Args:
        graph: a finished trace
        shared: parameters of shape ``()``, one a row of the shared slots
        batched: parameters of shape ``(batch,)``, one a row of the batched slots
        arrays: parameters that are whole arrays
        names: names of the leaves

    Raises:
        CaptureError: a parameter cannot be an angle
    """

    def __init__(
        self,
        graph: Graph,
        shared: Sequence[Any],
        batched: Sequence[Any],
        arrays: Sequence[Any],
        names: Sequence[str],
    ) -> None:
        if graph.poison:
            raise CaptureError(graph.poison)
        self._names = tuple(names)
        self._host_name, self._device = graph.host, graph.device
        roots = [_root(graph, value) for value in (*shared, *batched)]
        for root in roots:
            if np.asarray(root._value if isinstance(root, Tracer) else root).dtype.kind == "c":
                raise CaptureError("a gate angle is complex; take its real part")
        kept = [_root(graph, value) for value in arrays]
        self._plan = compile_plan(graph, roots[: len(shared)], roots[len(shared) :], kept)
        self._branches = tuple(graph.branches)
        self._branch_plan: Plan | None = None
        if self._branches:
            conditions = [Tracer(graph, i, graph.nodes[i].value) for i, _ in self._branches]
            self._branch_plan = compile_plan(graph, conditions, [], [], values_only=True)
            self._outcomes = np.array([truth for _, truth in self._branches], dtype=float)
        self._as_they_are: tuple[int, ...] | None = None
        self._hosts: dict[Any, Host] = {}
        self._constant: dict[frozenset[int], frozenset[Angle]] = {}

    def __deepcopy__(self, memo: dict) -> Prologue:
        return self  # nothing changes after construction but what is remembered

    def __call__(self, leaves: Sequence[Any]) -> SlotValues:
        """The slot values for live leaves.

        Args:
            leaves: of the signature that was traced

        Returns:
            shared angles ``(Ps,)`` if there are any, batched angles ``(Pb, batch)`` if there are any, then the arrays
        """
        return SlotValues(self._host_name, self._plan.run(leaves, self._host(leaves)))

    def inputs(self, leaves: Sequence[Any]) -> SlotValues:
        """The same, but leaves whose numbers the slots are stay as they are, with how to gather these: one node."""
        if self._as_they_are is not None:
            return SlotValues(self._host_name, tuple([leaves[i] for i in self._as_they_are]), self._plan.blocks)
        plan, host = self._plan, self._host(leaves)
        if not plan.blocks or plan.arrays or host.name == "numpy":
            return SlotValues(self._host_name, plan.run(leaves, host))
        live = [host.read(f.tensor) if f.position is None else leaves[f.position] for f in plan.sources]
        arrays = tuple(map(host.array, live))
        if host.name == "torch" and all(map(operator.is_, arrays, live)):  # a signature has dtypes: so it is always
            positions = [f.position for f in plan.sources]
            self._as_they_are = None if None in positions else tuple(positions)  # type: ignore[arg-type]
        return SlotValues(self._host_name, arrays, plan.blocks)

    def pulls_back_to(self, positions: Sequence[int]) -> bool:
        """Whether :meth:`pulled_back` gives the cotangents of the leaves at these positions."""
        plan = self._plan
        known = plan.blocks and plan.batched is None and not plan.arrays and self._host_name != "torch"
        return bool(known) and {leaf.position for leaf in plan.sources} >= set(positions)

    def pulled_back(self, cotangents: NDArray) -> dict[int, NDArray]:
        """Cotangents of the leaves that the angles are made of, by their positions.

        Args:
            cotangents: of the shared angles, which are all slots there are; see :meth:`pulls_back_to`
        """
        (block,) = self._plan.blocks
        pairs = zip(self._plan.sources, block.scatter(cotangents), strict=True)
        return {leaf.position: c for leaf, c in pairs if leaf.position is not None}

    @cached_property
    def gathered_from(self) -> tuple[tuple[Block, tuple[int | None, ...]], ...] | None:
        """How angles are gathered from leaves, and from which, by position; ``None``: not all slots are like that."""
        plan = self._plan
        if plan.steps or any(isinstance(a, int) for a in plan.arrays):
            return None
        rest = iter(plan.sources)
        found = tuple((b, tuple(next(rest).position for _ in b.arrangements)) for b in plan.blocks)
        return found if len(found) == self.num_angle_tensors else None

    @property
    def num_angle_tensors(self) -> int:
        """How many of the tensors hold angles; the others are whole arrays."""
        return (self._plan.shared is not None) + (self._plan.batched is not None)

    def plain(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """The tensors of the slot values, computed with NumPy whatever host the leaves belong to."""
        return self._plan.run([concrete(leaf) for leaf in leaves], NumpyHost(self._plan))

    def constant(self, leaves: Sequence[Any], is_trained: Callable[[Any], bool] | None = None) -> frozenset[Angle]:
        """Angles that come from leaves which nobody differentiates; none where leaves do not tell.

        Args:
            leaves: of the signature that was traced
            is_trained: whether a leaf is differentiated; by default what its host says in the middle of doing so
        """
        if any(map(is_functorch, leaves)):
            return frozenset()
        trained = frozenset(i for i, leaf in enumerate(leaves) if (is_trained or _is_trained)(leaf))
        if not trained:
            return frozenset()
        found = self._constant.get(trained)
        if found is None:
            found = self._constant[trained] = self._plan.untouched(trained)
        return found

    def branches_hold(self, leaves: Sequence[Any]) -> bool:
        """Whether every branch that the trace took on a value is taken again.

        Raises:
            CaptureError: a value cannot be read, for example under ``torch.func.vmap``
        """
        if self._branch_plan is None:
            return True
        if any(is_batched(leaf) for leaf in leaves):
            raise CaptureError("a branch depends on a value under torch.func.vmap")
        values = [concrete(leaf) for leaf in leaves]
        with np.errstate(all="ignore"):
            (found,) = self._branch_plan.run(values, NumpyHost(self._branch_plan))
        return bool(np.array_equal(found != 0, self._outcomes != 0))

    def describe_row(self, batched: bool, index: int) -> str:
        """What feeds one row of the shared or batched slots, as in ``weights[1, 2]`` or ``a function of x, w``."""
        return self._plan.describe(batched, index, self._names)

    def _host(self, leaves: Sequence[Any]) -> Host:
        key: Any = self._host_name
        if key == "torch":
            key = next((leaf.device for leaf in leaves if is_tensor(leaf)), self._device)
        elif key == "autograd":
            key = any(isinstance(leaf, Box) for leaf in leaves)
        host = self._hosts.get(key)
        if host is None:
            if self._host_name == "torch":
                host = TorchHost(self._plan, key)
            else:
                host = AutogradHost(self._plan) if key is True else NumpyHost(self._plan)
            self._hosts[key] = host
        return host


def _is_trained(leaf: Any) -> bool:
    return isinstance(leaf, Box) or bool(is_tensor(leaf) and leaf.requires_grad)


def _root(graph: Graph, value: Any) -> Any:
    """A parameter as a tracer, or as a NumPy constant."""
    if isinstance(value, Tracer):
        return value
    with graph:
        root = as_root(graph, value)
    return concrete(value) if root is None else root
