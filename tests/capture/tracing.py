"""Tracing a function at one set of arguments and comparing its replay at another with a plain recording."""

import numpy as np
import pennylane as qml
import torch
from pennylane import numpy as pnp

from qhybrid.capture.prologue import Prologue
from qhybrid.capture.signature import flatten, leaf_names, trainable, unflatten
from qhybrid.capture.tracer import Graph, Tracer, as_root
from qhybrid.errors import CaptureError


def plain(value):
    """A value of any host as a NumPy array."""
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(qml.math.toarray(value))


def gates(tape):
    """What identifies the gates and measurements of a tape, besides its parameters."""
    ops = [(type(op), op.name, tuple(op.wires), str(sorted(op.hyperparameters))) for op in tape.operations]
    return ops, [(type(m), tuple(m.wires)) for m in tape.measurements]


def parameters(tape):
    """The parameters of a tape, in order."""
    return [p for op in tape.operations for p in op.data] + [
        p for m in tape.measurements if m.obs is not None for p in m.obs.data
    ]


class Traced:
    """A function traced once, whose parameters can be computed for other arguments."""

    def __init__(self, function, args, expand=True):
        self.function, self.expand = function, expand
        self.key, leaves = flatten(args, {})
        self.graph = graph = Graph()
        tracers = graph.inputs(leaves)
        try:
            with graph:
                tape = self.tape(unflatten(self.key, tracers)[0])
                roots = [as_root(graph, p) for p in parameters(tape)]
        finally:
            if graph.poison:
                raise CaptureError(graph.poison)
        self.gates = gates(tape)
        self.roots = [p if r is None else r for p, r in zip(parameters(tape), roots, strict=True)]
        values = [np.asarray(r._value if isinstance(r, Tracer) else plain(r)) for r in self.roots]
        self.kinds = [_kind(v) for v in values]
        pairs = list(zip(self.roots, self.kinds, strict=True))
        by_kind = {k: [r for r, kind in pairs if kind == k] for k in ("shared", "batched", "array")}
        self.prologue = Prologue(graph, *by_kind.values(), leaf_names(self.key, function))

    def tape(self, args):
        """The circuit, decomposed as far as the test wants."""
        tape = qml.tape.make_qscript(self.function)(*args)
        if self.expand:
            tape = qml.tape.QuantumScript([o for op in tape.operations for o in _decomposed(op)], tape.measurements)
        return tape

    def __call__(self, args):
        """The parameters for other arguments, in the order of the tape, in the host's graph."""
        key, leaves = flatten(args, {})
        assert key == self.key
        tensors = list(self.prologue(leaves).tensors)
        rows = {k: iter(tensors.pop(0)) for k in ("shared", "batched") if k in self.kinds}
        rows["array"] = iter(tensors)
        return [next(rows[kind]) for kind in self.kinds]


def _kind(value):
    if value.dtype.kind == "c" or value.ndim > 1:
        return "array"
    return "batched" if value.ndim else "shared"


def _decomposed(op):
    if isinstance(op, qml.ops.op_math.Controlled):
        return [op]  # its decomposition depends on the value
    if isinstance(op, qml.operation.Operation) and op.has_decomposition and len(op.wires) > 1 and op.num_params:
        with qml.QueuingManager.stop_recording():
            return op.decomposition()
    return [op]


def to_host(args, host):
    """Arguments with the floating-point arrays of one host."""
    if isinstance(args, tuple | list):
        return type(args)(to_host(a, host) for a in args)
    if isinstance(args, dict):
        return {k: to_host(v, host) for k, v in args.items()}
    if isinstance(args, np.ndarray) and args.dtype.kind in "fc":
        if host == "torch":
            return torch.tensor(args, requires_grad=True)
        return pnp.array(args, requires_grad=True) if host == "autograd" else args
    return args


def check(function, first, second, host="numpy", expand=True):
    """Trace at ``first``, replay at ``second``, compare every gate and parameter with a plain recording there."""
    first, second = to_host(first, host), to_host(second, host)
    traced = Traced(function, first, expand)
    for args in (first, second):
        if not traced.prologue.branches_hold(flatten(args, {})[1]):
            continue
        key, leaves = flatten(args, {})
        tape = traced.tape(unflatten(key, trainable(leaves))[0] if host == "numpy" else args)
        assert gates(tape) == traced.gates
        for got, expected in zip(traced(args), parameters(tape), strict=True):
            np.testing.assert_allclose(plain(got), plain(expected), atol=1e-9)
    return traced
