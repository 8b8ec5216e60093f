# ruff: noqa: NPY002, E501
"""Quantum functions traced once give the circuit of a plain recording at other arguments, or are refused."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

from qhybrid.capture.signature import flatten
from qhybrid.capture.tracer import Graph, Tracer, as_root, captured
from qhybrid.errors import CaptureError
from tests.capture.tracing import Traced, check

RNG = np.random.default_rng(7)


def draw(*shape):
    return RNG.uniform(0.1, 0.9, shape)


def pair(*shapes):
    """Two sets of arguments of the same shapes."""
    return tuple(draw(*s) for s in shapes), tuple(draw(*s) for s in shapes)


def _acquaintance(index, wires, param=None):
    return qml.CPhase(param, wires)


def _block(weights, wires):
    qml.RX(weights[0], wires[0])


SEL = qml.StronglyEntanglingLayers
TEMPLATES = {
    "angle": (lambda x: qml.AngleEmbedding(x, range(3), rotation="Y"), [(3,)]),
    "amplitude": (lambda x: qml.AmplitudeEmbedding(x, range(2), normalize=True), [(4,)]),
    "amplitude padded": (lambda x: qml.AmplitudeEmbedding(x, range(2), normalize=True, pad_with=0.1), [(3,)]),
    "iqp": (lambda x: qml.IQPEmbedding(x, range(3), n_repeats=2), [(3,)]),
    "qaoa": (lambda x, w: qml.QAOAEmbedding(x, w, range(2)), [(2,), (2, 3)]),
    "displaced weights": (lambda w: SEL(2 * w + 0.1, range(3)), [(2, 3, 3)]),
    "strongly entangling": (lambda w: SEL(w, range(3)), [(2, 3, 3)]),
    "basic entangler": (lambda w: qml.BasicEntanglerLayers(w, range(3)), [(2, 3)]),
    "two design": (lambda a, w: qml.SimplifiedTwoDesign(a, w, range(3)), [(3,), (2, 2, 2)]),
    "random layers": (lambda w: qml.RandomLayers(w, range(3)), [(2, 3)]),
    "single excitation": (lambda x: qml.FermionicSingleExcitation(x, [0, 1, 2]), [()]),
    "double excitation": (lambda x: qml.FermionicDoubleExcitation(x, [0, 1], [2, 3]), [()]),
    "arbitrary unitary": (lambda w: qml.ArbitraryUnitary(w, [0, 1]), [(15,)]),
    "arbitrary state": (lambda w: qml.ArbitraryStatePreparation(w, [0, 1]), [(6,)]),
    "two local": (lambda w: qml.TwoLocalSwapNetwork(range(4), _acquaintance, w),
                  [(6,)]),
    "mps": (lambda w: qml.MPS(range(3), 2, _block, 1, w), [(2, 1)]),
    "ttn": (lambda w: qml.TTN(range(4), 2, _block, 1, w), [(3, 1)]),
    "approximate evolution": (lambda t: qml.ApproxTimeEvolution(qml.Hamiltonian([0.3, 0.5], [qml.X(0), qml.Z(1)]), t, 2),
                              [()]),
    "trotter": (lambda t: qml.TrotterProduct(qml.dot([0.3, 0.5], [qml.X(0), qml.Z(1)]), t, n=2), [()]),
    "commuting evolution": (lambda t: qml.CommutingEvolution(qml.Hamiltonian([0.3, 0.5], [qml.X(0), qml.Z(1)]), t), [()]),
    "gate fabric": (lambda w: qml.GateFabric(w, range(4), init_state=[1, 1, 0, 0]), [(2, 1, 2)]),
    "particle conserving": (lambda w: qml.ParticleConservingU2(w, range(3), init_state=[1, 0, 0]), [(1, 5)]),
    "uccsd": (lambda w: qml.UCCSD(w, range(4), [[0, 1, 2]], [[[0, 1], [2, 3]]], init_state=np.array([1, 1, 0, 0])), [(2,)]),
    "select rotations": (lambda x: qml.SelectPauliRot(x, [0, 1], 2, "Y"), [(4,)]),
    "layer": (lambda w: qml.layer(lambda a: qml.RX(a, 0), 3, w), [(3,)]),
    "broadcast": (lambda w: [qml.RY(w[i], i) for i in range(3)], [(3,)]),
    "qft": (lambda x: (qml.QFT(range(3)), qml.RX(x, 0)), [()]),
    "mottonen": (lambda x: qml.MottonenStatePreparation(x / qml.math.norm(x), range(2)), [(4,)]),
    "data re-uploading": (lambda x, w: [qml.RY(w[l, i] * x[i] + w[l, 0], i) for l in range(2) for i in range(3)],
                          [(3,), (2, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("host", ["numpy", "autograd", "torch"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name, host):
    function, shapes = TEMPLATES[name]
    check(function, *pair(*shapes), host)


def _gates():
    one = [qml.RX, qml.RY, qml.RZ, qml.PhaseShift, qml.U1, qml.GlobalPhase]
    two = [qml.CRX, qml.CRY, qml.CRZ, qml.ControlledPhaseShift, qml.IsingXX, qml.IsingXY, qml.IsingYY, qml.IsingZZ,
           qml.PSWAP, qml.SingleExcitation, qml.SingleExcitationPlus, qml.SingleExcitationMinus, qml.CPhaseShift00,
           qml.CPhaseShift01, qml.CPhaseShift10, qml.MultiRZ]  # fmt: skip
    four = [qml.DoubleExcitation, qml.DoubleExcitationPlus, qml.OrbitalRotation, qml.FermionicSWAP]
    for count, kinds in ((1, one), (2, two), (4, four)):
        for kind in kinds:
            wires = range(2) if kind is qml.FermionicSWAP else range(count)
            yield kind.__name__, (lambda x, kind=kind, wires=wires: kind(x, wires=wires)), [()]
    yield "Rot", lambda x: qml.Rot(*x, wires=0), [(3,)]
    yield "U2", lambda x: qml.U2(*x, wires=0), [(2,)]
    yield "U3", lambda x: qml.U3(*x, wires=0), [(3,)]
    yield "CRot", lambda x: qml.CRot(*x, wires=[0, 1]), [(3,)]
    yield "PauliRot", lambda x: qml.PauliRot(x, "XYZ", wires=range(3)), [()]
    yield "adjoint", lambda x: qml.adjoint(qml.RX(x, 0)), [()]
    yield "adjoint function", lambda x: qml.adjoint(qml.Rot)(*x, wires=0), [(3,)]
    yield "ctrl", lambda x: qml.ctrl(qml.RX(x, 0), [1, 2], [0, 1]), [()]
    yield "pow", lambda x: qml.pow(qml.RX(x, 0), 2), [()]
    yield "prod", lambda x: qml.prod(qml.RX(x[0], 0), qml.RY(x[1], 1)), [(2,)]
    yield "exp", lambda x: qml.exp(qml.X(0) @ qml.Z(1), 1j * x), [()]
    yield "evolve", lambda x: qml.evolve(qml.X(0) + qml.Z(1), x), [()]
    yield "simplify", lambda x: qml.simplify(qml.adjoint(qml.RX(x, 0))), [()]
    yield "cond", lambda x: qml.cond(True, qml.RX)(x, 0), [()]


@pytest.mark.parametrize(("function", "shapes"), [pytest.param(f, s, id=n) for n, f, s in _gates()])
def test_gates(function, shapes, request):
    by_torch = () if request.node.callspec.id in ("exp",) else ("torch",)  # plain PennyLane raises on torch
    for host in ("numpy", *by_torch):
        check(function, *pair(*shapes), host)


def _measure(*observables):
    return [qml.expval(o) for o in observables]


OBSERVABLES = {
    "hamiltonian": lambda c: _measure(qml.Hamiltonian(c, [qml.X(0), qml.Z(1)])),
    "hamiltonian list": lambda c: _measure(qml.Hamiltonian([c[0], 2 * c[1]], [qml.X(0), qml.Z(1)])),
    "dot": lambda c: _measure(qml.dot(c, [qml.X(0), qml.Z(1)])),
    "multiple": lambda c: _measure(c[0] * qml.X(0)),
    "sum": lambda c: _measure(c[0] * qml.X(0) + c[1] * (qml.Z(0) @ qml.Z(1))),
    "hermitian": lambda c: _measure(qml.Hermitian(np.array([[1, 0], [0, 2.0]]) * c[0], 0)),
}


@pytest.mark.parametrize("name", OBSERVABLES)
def test_observables(name):
    for host in ("numpy",) if name in ("hamiltonian list", "hermitian") else ("numpy", "torch"):
        check(OBSERVABLES[name], *pair((2,)), host)


def _rotations(values):
    for i, value in enumerate(values):
        qml.RX(value, i)


CLASSICAL = {
    "sin": (lambda x: _rotations(np.sin(x)), [(3,)]),
    "affine": (lambda x: _rotations(2 * x - 1 / 3 + x), [(3,)]),
    "reversed operands": (lambda x: _rotations([1 - x[0], 1 / x[1], 2**x[2]]), [(3,)]),
    "powers": (lambda x: _rotations([x[0] ** 2, x[1] ** 0.5, x[2] ** x[0]]), [(3,)]),
    "matmul": (lambda x, w: _rotations(np.tanh(w @ x)), [(3,), (2, 3)]),
    "dot": (lambda x, w: _rotations([np.dot(x, w)]), [(3,), (3,)]),
    "sum": (lambda x: _rotations([np.sum(x), x.sum(), x.mean(), np.prod(x)]), [(3,)]),
    "reshape": (lambda x: _rotations(x.reshape(3, 2).T.flatten()), [(6,)]),
    "stack": (lambda x, w: _rotations(np.stack([x, w]).ravel()), [(2,), (2,)]),
    "concatenate": (lambda x, w: _rotations(np.concatenate([x, w * 2])), [(2,), (3,)]),
    "array": (lambda x: _rotations(np.array([x[0], 0.5, 2 * x[1]])), [(2,)]),
    "array of rows": (lambda x: _rotations(np.array([x[:2], x[1:]]).reshape(-1)), [(3,)]),
    "where": (lambda x: _rotations(np.where(x > 0.5, x, 2 * x)), [(4,)]),
    "clip": (lambda x: _rotations(np.clip(x, 0.3, 0.6)), [(4,)]),
    "maximum": (lambda x: _rotations([np.maximum(x[0], x[1]), np.minimum(x[0], 0.2)]), [(2,)]),
    "norm": (lambda x: _rotations(x / np.linalg.norm(x)), [(3,)]),
    "arctan2": (lambda x: _rotations([np.arctan2(x[0], x[1]), np.arccos(x[2])]), [(3,)]),
    "outer": (lambda x: _rotations(np.outer(x, x).flatten()), [(2,)]),
    "einsum": (lambda x, w: _rotations(np.einsum("ij,j->i", w, x)), [(3,), (2, 3)]),
    "cumsum": (lambda x: _rotations(np.cumsum(x)), [(3,)]),
    "roll": (lambda x: _rotations(np.roll(x, 1)), [(3,)]),
    "flip": (lambda x: _rotations(x[::-1]), [(3,)]),
    "fancy index": (lambda x: _rotations(x[[2, 0]]), [(3,)]),
    "new axis": (lambda x: _rotations((x[:, None] * np.ones((1, 2))).ravel()), [(2,)]),
    "tile": (lambda x: _rotations(np.tile(x, 2)), [(2,)]),
    "split": (lambda x: _rotations([a[0] for a in np.split(x, 2)]), [(4,)]),
    "unpack": (lambda x: qml.Rot(*x, wires=0), [(3,)]),
    "enumerate": (lambda x: [qml.RX(a, i) for i, a in enumerate(x)], [(3,)]),
    "zip": (lambda x, w: [qml.RX(a * b, 0) for a, b in zip(x, w, strict=True)], [(3,), (3,)]),
    "builtin sum": (lambda x: qml.RX(sum(x), 0), [(3,)]),
    "map": (lambda x: _rotations(a / 2 for a in x), [(3,)]),
    "accumulate": (lambda x: [qml.RX(t, 0) for t in _running(x)], [(3,)]),
    "pennylane constant": (lambda x: _rotations(pnp.array([1.0, 2.0]) * x), [(2,)]),
    "pennylane constant right": (lambda x: _rotations(x * pnp.array([1.0, 2.0])), [(2,)]),
    "pennylane functions": (lambda x: _rotations(pnp.sin(x) + pnp.sum(x)), [(2,)]),
    "qml.math": (lambda x: _rotations(qml.math.stack([qml.math.sin(x[0]), qml.math.sqrt(x[1])])), [(2,)]),
    "qml.math.toarray shape": (lambda x: _rotations(qml.math.reshape(x, (qml.math.size(x),))), [(2, 2)]),
    "set_index": (lambda x: _rotations(qml.math.scatter_element_add(x, [1], 0.25)), [(3,)]),
    "abs": (lambda x: _rotations([abs(-x[0]), +x[1]]), [(2,)]),
    "round": (lambda x: _rotations(np.round(x * 0 + 0.26, 1)), [(2,)]),
    "shape": (lambda x: [qml.RX(x[i], i) for i in range(x.shape[0])], [(3,)]),
    "nested lists": (lambda p: [qml.RX(p["a"][0], 0), qml.RX(p["b"] * 2, 1)], None),
    "complex": (lambda z: _rotations([z.real[0], z.imag[1], np.abs(z[0]), np.angle(z[1])]), None),
    "complex sum": (lambda z: _rotations([np.real(np.sum(z * (1 + 2j)))]), None),
}  # fmt: skip


def _running(x):
    total = 0.0
    for a in x:
        total = total + a
        yield total


def _special_arguments(name):
    if name == "nested lists":
        return tuple(({"a": [draw(), 1], "b": float(draw())},) for _ in range(2))
    return tuple((draw(2) + 1j * draw(2),) for _ in range(2))


@pytest.mark.parametrize("host", ["numpy", "autograd", "torch"])
@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_code(name, host):
    function, shapes = CLASSICAL[name]
    if host == "torch" and name in NOT_FOR_TORCH:
        pytest.skip("plain PennyLane raises as well")
    check(function, *(pair(*shapes) if shapes else _special_arguments(name)), host)


#: NumPy functions, negative strides and PennyLane arrays do not take torch tensors that require gradients.
NOT_FOR_TORCH = {
    "sin", "matmul", "dot", "stack", "concatenate", "array", "array of rows", "where", "clip", "maximum", "norm",
    "arctan2", "outer", "einsum", "cumsum", "roll", "flip", "new axis", "tile", "split", "sum", "pennylane constant",
    "pennylane constant right", "pennylane functions", "complex", "complex sum", "abs", "round",
}  # fmt: skip


TORCH = {
    "sin": lambda x, w: _rotations(torch.sin(x) * 2),
    "linear": lambda x, w: _rotations(torch.tanh(w @ x)),
    "stack": lambda x, w: _rotations(torch.stack([x[0], 2 * x[1]])),
    "cat": lambda x, w: _rotations(torch.cat([x, w.flatten()])),
    "sum": lambda x, w: _rotations([torch.sum(w, dim=0)[0], w.sum(1)[0], w.mean(), torch.prod(x)]),
    "methods": lambda x, w: _rotations(w.t().reshape(-1).clamp(0.2, 0.8).sigmoid()),
    "view": lambda x, w: _rotations(w.view(-1).unsqueeze(0).squeeze()),
    "permute": lambda x, w: _rotations(w.permute(1, 0).transpose(0, 1).flatten()),
    "max": lambda x, w: _rotations([x.max(), w.max(dim=1)[0][0]]),
    "functional": lambda x, w: _rotations(torch.nn.functional.softplus(x)),
    "softmax": lambda x, w: _rotations(torch.softmax(x, dim=0)),
    "linear function": lambda x, w: _rotations(torch.nn.functional.linear(x, w, None)),
    "chunk": lambda x, w: _rotations([c[0] for c in torch.chunk(x, 3)]),
    "unbind": lambda x, w: _rotations(torch.unbind(w)[0]),
    "einsum": lambda x, w: _rotations(torch.einsum("ij,j->i", w, x)),
    "where": lambda x, w: _rotations(torch.where(x > 0.5, x, -x)),
    "norm": lambda x, w: _rotations(x / torch.norm(x)),
    "constant": lambda x, w: _rotations(x * torch.arange(3.0)),
    "numel": lambda x, w: [qml.RX(x[i], i) for i in range(x.numel())],
    "size": lambda x, w: [qml.RX(x[i], i) for i in range(x.size(0))],
    "atan2": lambda x, w: _rotations(torch.atan2(x, x + 1)),
    "detach": lambda x, w: _rotations(x * x.detach()),
    "linalg": lambda x, w: _rotations([torch.linalg.norm(w)]),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_code(name):
    check(TORCH[name], *pair((3,), (2, 3)), "torch")


BATCHED = {
    "angle": (lambda x, w: qml.AngleEmbedding(x, range(3)), [(5, 3), (3,)]),
    "loop": (lambda x, w: [qml.RX(x[:, i], i) for i in range(3)], [(5, 3), (3,)]),
    "batch last": (lambda x, w: [qml.RX(x[i], i) for i in range(3)], [(3, 5), (3,)]),
    "re-upload": (lambda x, w: [qml.RX(w[i] * x[:, i] + w[0], i) for i in range(3)], [(5, 3), (3,)]),
    "whole array": (lambda x, w: [qml.RX((w * x)[:, i], i) for i in range(3)], [(5, 3), (3,)]),
    "tanh": (lambda x, w: [qml.RX(qml.math.tanh(x)[:, i] * w[i], i) for i in range(3)], [(5, 3), (3,)]),
    "linear": (lambda x, w: [qml.RX((x @ w)[:, i], i) for i in range(2)], [(5, 3), (3, 2)]),
    "mixed rows": (lambda x, w: (qml.RX(x[:, 0], 0), qml.RX(w[1] * x[:, 1] ** 2, 0), qml.RX(x[:, 2] / 3, 1), qml.RX(w[0], 1)),
                   [(5, 3), (3,)]),
    "along the batch": (lambda x, w: qml.RX(x[:, 0] - x[:, 0].mean(), 0), [(5, 3), (3,)]),
    "square": (lambda x, w: [qml.RX(x[:, i] * w[i], i) for i in range(3)], [(3, 3), (3,)]),
    "square, batch last": (lambda x, w: [qml.RX(x[i] * w[i], i) for i in range(3)], [(3, 3), (3,)]),
    "one sample": (lambda x, w: [qml.RX(x[:, i] * w[i], i) for i in range(3)], [(1, 3), (3,)]),
    "iqp": (lambda x, w: qml.IQPEmbedding(x, range(3)), [(4, 3), (3,)]),
    "scalar of the batch": (lambda x, w: (qml.RX(x[:, 1], 0), qml.RX(x[2, 1], 0)), [(5, 3), (3,)]),
    "amplitude": (lambda x, w: qml.AmplitudeEmbedding(x, range(2), normalize=True), [(3, 4), (3,)]),
}  # fmt: skip


@pytest.mark.parametrize("host", ["numpy", "autograd", "torch"])
@pytest.mark.parametrize("name", BATCHED)
def test_broadcasting(name, host):
    function, shapes = BATCHED[name]
    check(function, *pair(*shapes), host)


def test_an_empty_batch():
    empty, weights = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True), torch.ones(3, dtype=torch.float64)
    traced = Traced(BATCHED["re-upload"][0], (empty, weights.requires_grad_()))
    rows = traced((empty, weights))
    assert [tuple(r.shape) for r in rows] == [(0,)] * 3
    assert torch.autograd.grad(sum(r.sum() for r in rows), empty)[0].shape == (0, 3)


# ------------------------------------------------------------------ branches


def test_branches_are_noted_and_checked():
    def function(x):
        if x[0] > 0.5:
            qml.RX(x[0], 0)
        while x[1] > 0.5:
            x = x * 0.9
        qml.RX(max(x[1], x[0]), 0)
        if qml.math.allclose(x, 0):
            qml.RY(x[0], 0)

    for host in ("numpy", "torch"):
        traced = check(function, (np.array([0.7, 0.52]),), (np.array([0.8, 0.53]),), host)
        for other in ([0.3, 0.5], [0.7, 0.9], [0.7, 0.4]):
            assert not traced.prologue.branches_hold([np.array(other)])
        assert traced.prologue.branches_hold([np.array([0.71, 0.521])])


def test_a_branch_under_vmap_is_refused():
    def circuit(x):
        if x[0] > 0:
            qml.RX(x[0], 0)

    def refused(x):
        with pytest.raises(CaptureError, match="vmap"):
            Traced(circuit, (x,))
        with pytest.raises(CaptureError, match="vmap"):
            traced.prologue.branches_hold([x])
        return x

    traced = Traced(circuit, (torch.ones(2),))
    torch.func.vmap(refused)(torch.ones(4, 2))


# ------------------------------------------------------------------ what would bake values in


BUFFER = np.zeros(3)
TORCH_BUFFER = torch.zeros(3, dtype=torch.float64)


def _fill_numpy(x):
    y = np.zeros(3)
    y[0] = x[0]
    _rotations(y)


def _fill_torch(x):
    y = torch.zeros(3, dtype=torch.float64)
    y[0] = x[0]
    _rotations(y)


def _hidden(x):
    try:
        angle = float(x[0])
    except Exception:  # noqa: BLE001
        angle = 0.0
    qml.RX(angle, 0)


def _in_place(x):
    x += 1
    _rotations(x)


def _under_no_grad(x):
    with torch.no_grad():
        _rotations(torch.sin(x))


def _copied_to(x):
    TORCH_BUFFER.copy_(x)
    _rotations(TORCH_BUFFER)


def _added_to(x):
    global BUFFER
    BUFFER += x
    _rotations(BUFFER)


DANGERS = {
    "float": lambda x: qml.RX(float(x[0]), 0),
    "int": lambda x: qml.RX(x[0], int(x[1])),
    "complex": lambda x: qml.RX(complex(x[0]).real, 0),
    "math": lambda x: qml.RX(math.sin(x[0]), 0),
    "item": lambda x: qml.RX(x[0].item(), 0),
    "float array": lambda x: _rotations(np.asarray(x, dtype=float)),
    "float list": lambda x: _rotations(np.array([x[0], x[1]], dtype=float)),
    "index": lambda x: qml.RX(0.1, [0, 1, 2][x[0]]),
    "range": lambda x: [qml.RX(0.1, 0) for _ in range(x[0])],
    "traced index": lambda x: qml.RX(x[x[0]], 0),
    "mask": lambda x: _rotations(x[x > 0.5]),
    "hidden": _hidden,
    "fill": _fill_numpy,
    "out": lambda x: _rotations(np.add(x, 1, out=BUFFER)),
    "in-place addition": _added_to,
    "in place": _in_place,
    "copyto": lambda x: (np.copyto(BUFFER, x), _rotations(BUFFER)),
    "item assignment": lambda x: x.__setitem__(0, 1.0),
    "astype int": lambda x: qml.RX(x[0].astype(int), 0),
    "round": lambda x: qml.RX(round(x[0]), 0),
    "random state": lambda x: _rotations(x * np.random.normal()),
    "global torch state": lambda x: _rotations(x * torch.rand(1).item()),
    "formatting": lambda x: qml.RX(float(f"{x[0]}"), 0),
    "power iteration": lambda x: [qml.RX(0.1, 0) for _ in range(int(10 * x[0]))],
}
TORCH_DANGERS = {
    "fill": _fill_torch,
    "no_grad": _under_no_grad,
    "copy_": _copied_to,
    "numpy": lambda x: _rotations(x.detach().numpy()),
    "tensor": lambda x: _rotations(torch.tensor([x[0], x[1]])),
    "dropout": lambda x: _rotations(torch.nn.functional.dropout(x)),
    "rand_like": lambda x: _rotations(x + torch.rand_like(x)),
    "tolist": lambda x: _rotations([float(v) for v in x.tolist()]),
    "in-place method": lambda x: _rotations(x.clone().mul_(2)),
}


@pytest.mark.parametrize("name", DANGERS)
def test_dangerous_code_is_refused(name):
    with pytest.raises((CaptureError, TypeError, ValueError)):
        Traced(DANGERS[name], (draw(3),))


def test_a_random_number_that_was_drawn_in_advance_is_refused():
    np.random.seed(0)
    for _ in range(2):
        with pytest.raises((CaptureError, TypeError, ValueError)):
            Traced(DANGERS["random state"], (draw(3),))


@pytest.mark.parametrize("name", TORCH_DANGERS)
def test_dangerous_torch_code_is_refused(name):
    with pytest.raises((CaptureError, TypeError, ValueError)):
        Traced(TORCH_DANGERS[name], (torch.tensor(draw(3), requires_grad=True),))


def test_constants_are_copied_when_they_are_used():
    def function(x):
        buffer = np.zeros(2)
        for i in range(2):
            buffer[:] = i + 1.0
            _rotations(x * buffer)

    check(function, *pair((2,)))


def test_a_tracer_that_outlives_its_trace_is_refused():
    kept = []
    Traced(lambda x: (kept.append(x), qml.RX(x[0], 0)), (draw(2),))
    with pytest.raises(CaptureError, match="ended"):
        kept[0] * 2
    with pytest.raises(CaptureError):
        Traced(lambda y: qml.RX(y[0] * kept[0][0], 0), (draw(2),))
    with pytest.raises(CaptureError, match="another circuit"):
        flatten((kept[0],), {})


# ------------------------------------------------------------------ trainable tensors from outside


def test_trainable_tensors_from_outside_are_read_on_every_call():
    theta = torch.nn.Parameter(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    layer = torch.nn.Linear(2, 2, dtype=torch.float64)

    def function(x):
        qml.RX(theta[0], 0)
        qml.RY(theta[1] * x[0], 0)
        qml.CRX(theta[2], [0, 1])
        _rotations(layer(x))
        if theta[0] > 0:
            qml.RX(theta[0], 0)

    x = torch.tensor(draw(2), requires_grad=True)
    traced = Traced(function, (x,))
    assert {id(t) for t in captured(traced.graph)} == {id(theta), id(layer.weight), id(layer.bias)}
    with torch.no_grad():
        theta.mul_(3.0)
        layer.weight.add_(1.0)
    expected = [p for op in traced.tape((x,)).operations for p in op.data]
    got = traced((x,))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    ours = torch.autograd.grad(sum((i + 1) * g for i, g in enumerate(got)), [theta, layer.weight, x])
    theirs = torch.autograd.grad(sum((i + 1) * g for i, g in enumerate(expected)), [theta, layer.weight, x])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        theta.neg_()
    assert not traced.prologue.branches_hold([x])


def test_a_bare_parameter_is_an_angle():
    theta = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    traced = Traced(lambda: qml.RX(theta, 0), ())
    with torch.no_grad():
        theta.fill_(0.7)
    (got,) = traced(())
    assert got.item() == pytest.approx(0.7)
    assert torch.autograd.grad(got, theta)[0].item() == 1.0


def test_values_computed_outside_are_refused():
    theta = torch.tensor(0.3, requires_grad=True) * 2
    with pytest.raises(CaptureError, match="argument"):
        Traced(lambda x: qml.RX(x * theta, 0), (torch.tensor(0.1),))
    with pytest.raises(CaptureError, match="argument"):
        Traced(lambda: qml.RX(theta, 0), ())


def test_as_root_tells_constants_apart():
    graph = Graph()
    (tracer,) = graph.inputs([np.ones(2)])
    with graph:
        for constant in (0.5, np.ones(2), [1, 2], torch.ones(2), "a", None):
            assert as_root(graph, constant) is None
        for traced in (tracer, [tracer[0], 1.0], np.array([tracer[0], 1.0])):
            assert isinstance(as_root(graph, traced), Tracer)
