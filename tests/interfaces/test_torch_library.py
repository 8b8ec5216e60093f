"""QNodes in graphs that torch.compile makes."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.autograd import forward_ad

import qhybrid as qml
from qhybrid.interfaces.torch_library import evaluate

WIRES = 3
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # what compiling calls inside of PyTorch


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def qnode(measure, **settings):
    @qml.qnode(qml.device("qhybrid.statevector", wires=WIRES), **settings)
    def circuit(inputs, w):
        qml.AngleEmbedding(inputs, range(WIRES))
        qml.StronglyEntanglingLayers(w, range(WIRES))
        return measure()

    return circuit


def moments():
    return [qml.expval(qml.Z(i)) for i in range(WIRES)]


def outcomes():
    return qml.probs(wires=[0, 1])


def arguments(batch=4, layers=1):
    torch.manual_seed(0)
    x, w = torch.randn(batch, WIRES), torch.randn(layers, WIRES, 3)
    return [t.double().requires_grad_() for t in (x, w)]


def hybrid_model():
    torch.manual_seed(1)
    first = qml.qnn.TorchLayer(qnode(moments), {"w": (2, WIRES, 3)})
    second = qml.qnn.TorchLayer(qnode(outcomes), {"w": (1, WIRES, 3)})
    linear = torch.nn.Linear(WIRES, WIRES)
    return torch.nn.Sequential(torch.nn.Linear(WIRES, WIRES), first, torch.nn.Tanh(), linear, second).double()


def gradients(model, x):
    model.zero_grad()
    value = model(x)
    (value**2).sum().backward()
    return value.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_hybrid_model_is_one_graph_for_every_batch_size(backend):
    model = hybrid_model()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for size in (4, 7, 9):
        x = torch.randn(size, WIRES, dtype=torch.float64)
        torch.testing.assert_close(gradients(compiled, x), gradients(model, x), rtol=1e-9, atol=1e-12)


def test_the_graph_holds_the_operator():
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    x, w = arguments()
    circuit = qnode(outcomes)
    compiled = torch.compile(lambda x, w: circuit(x, w=w).sin(), fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(x, w), circuit(x, w=w).sin())
    (graph,) = graphs
    assert [n.target for n in graph.graph.nodes].count(torch.ops.qhybrid.evaluate) == 1


@pytest.mark.parametrize("measure", [moments, outcomes])
@pytest.mark.parametrize("diff_method", ["adjoint", "parameter-shift"])
def test_the_operator_is_what_pytorch_expects(measure, diff_method):
    circuit = qnode(measure, diff_method=diff_method)
    call = f"{circuit._name_in_graphs}(1,w)"
    x, w = arguments(batch=2)
    assert set(torch.library.opcheck(evaluate, (call, [x, w])).values()) == {"SUCCESS"}

    def function(x, w):
        return torch.stack(list(torch.ops.qhybrid.evaluate(call, [x, w])))

    assert torch.autograd.gradcheck(function, (x, w))
    assert torch.autograd.gradgradcheck(function, (x, w))


def test_the_operator_has_a_batching_rule():
    circuit = qnode(outcomes)
    x, w = arguments()
    ensemble = torch.stack([w.detach(), 2 * w.detach(), 3 * w.detach()])
    call = f"{circuit._name_in_graphs}(1,w)"
    (found,) = torch.vmap(lambda v: torch.ops.qhybrid.evaluate(call, [x.detach(), v]))(ensemble)
    torch.testing.assert_close(found, torch.stack([circuit(x, w=v) for v in ensemble]).detach())


def test_a_number_among_the_arguments_breaks_the_graph_and_not_the_result():
    @qml.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x, times):
        for _ in range(times):
            qml.RX(x, 0)
        return qml.expval(qml.Z(0))

    x = torch.tensor(0.3, dtype=torch.float64)
    compiled = torch.compile(lambda x: circuit(x, 3).sin(), backend="eager")
    torch.testing.assert_close(compiled(x), torch.cos(3 * x).sin())


def along(f):
    return lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]


def dual(f):
    def tangent(x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent

    return tangent


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.hessian, torch.func.jacfwd, along])
def test_derivatives_inside_of_what_is_compiled(transform):
    @qml.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x):
        qml.RX(x, 0)
        return qml.expval(qml.Z(0))

    x = torch.tensor(0.3, dtype=torch.float64)
    compiled = torch.compile(transform(circuit), backend="eager")
    torch.testing.assert_close(compiled(x), transform(torch.cos)(x))
    torch.testing.assert_close(torch.vmap(compiled)(x[None]), transform(torch.cos)(x)[None])


def test_dual_numbers_given_to_what_is_compiled():
    @qml.qnode(qml.device("qhybrid.statevector", wires=1))
    def circuit(x):
        qml.RX(x, 0)
        return qml.expval(qml.Z(0))

    x, compiled = torch.tensor(0.3, dtype=torch.float64), torch.compile(circuit, backend="eager")
    torch.testing.assert_close(compiled(x), torch.cos(x))
    for transform in (dual, along, dual):
        torch.testing.assert_close(transform(compiled)(x), -torch.sin(x))
        torch.testing.assert_close(compiled(x), torch.cos(x))


def test_a_graph_whose_qnode_is_gone_says_so():
    circuit = qnode(outcomes)
    call, tensors = f"{circuit._name_in_graphs}(1,w)", [t.detach() for t in arguments()]
    torch.ops.qhybrid.evaluate(call, tensors)
    del circuit
    gc.collect()
    with pytest.raises(RuntimeError, match="was deleted; keep it"):
        torch.ops.qhybrid.evaluate(call, tensors)
