"""Pictures of graphs: what is in them, and that nothing overlaps."""

import itertools
import xml.etree.ElementTree as ET

import autograd
import autograd.numpy as anp
import numpy as np
import pennylane
import pytest
import torch
from torch import nn

import qhybrid as qml
from qhybrid import bridge
from qhybrid.drawing.circuits import MAX_LAYERS, MAX_WIRES
from qhybrid.drawing.figure import _box
from qhybrid.drawing.layout import layered


@qml.qnode(qml.device("qhybrid.statevector", wires=2))
def circuit(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(2))
    qml.StronglyEntanglingLayers(weights, wires=range(2))
    return [qml.expval(qml.Z(w)) for w in range(2)]


@qml.qnode(qml.device("qhybrid.statevector", wires=2))
def two_results(x):
    qml.RX(x[0], wires=0)
    qml.CNOT(wires=[0, 1])
    qml.RY(x[1], wires=1)
    return qml.expval(qml.Z(0)), qml.probs(wires=1)


def layer(depth=1):
    return qml.qnn.TorchLayer(circuit, {"weights": (depth, 2, 3)})


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.Tanh(), layer(), nn.Linear(2, 3))


def contents(picture):
    """The kind, label and shape of each node."""
    return [(n.kind, n.label, n.shape) for n in picture._graph.nodes.values()]


def edges(picture):
    """Pairs of labels."""
    nodes = picture._graph.nodes
    return {(nodes[a].label, nodes[b].label) for a, b in picture._graph.edges.edges}


def test_module():
    picture = qml.graph(classifier(), torch.ones(4, 2, 3))
    quantum = ("quantum", "2 qubits, 8 angles", (4, 2))
    assert sorted(contents(picture)) == sorted(
        [
            ("input", "input", (4, 2, 3)),
            ("torch", "view", (4, 6)),
            ("parameter", "1.weight", (2, 6)),
            ("parameter", "1.bias", (2,)),
            ("torch", "addmm", (4, 2)),
            ("torch", "tanh", (4, 2)),
            ("parameter", "3.weights", (1, 2, 3)),
            quantum,
            ("parameter", "4.weight", (3, 2)),
            ("parameter", "4.bias", (3,)),
            ("torch", "addmm", (4, 3)),
            ("output", "result", (4, 3)),
        ]
    )
    assert edges(picture) == {
        ("input", "view"), ("view", "addmm"), ("1.weight", "addmm"), ("1.bias", "addmm"), ("addmm", "tanh"),
        ("tanh", quantum[1]), ("3.weights", quantum[1]), (quantum[1], "addmm"), ("4.weight", "addmm"),
        ("4.bias", "addmm"), ("addmm", "result"),
    }  # fmt: skip


def test_function_of_arrays():
    def model(x, y):
        height, probabilities = two_results(anp.sin(x))
        return {"a": anp.log(2 + height) * y, "b": anp.sum(probabilities)}

    picture = qml.graph(model, np.array([0.1, 0.2]), y=0.5)
    found = contents(picture)
    assert ("input", "x", (2,)) in found
    assert ("input", "y", ()) in found
    assert ("output", "result[0]", ()) in found
    assert ("output", "result[1]", ()) in found
    assert [label for kind, label, _ in found if kind == "autograd"].count("sin") == 1
    assert {("x", "sin"), ("sin", "2 qubits, 2 angles"), ("2 qubits, 2 angles", "sum"), ("y", "multiply")} <= edges(
        picture
    )


def test_qnode_alone():
    for x in (torch.ones(2), np.ones(2), qml.numpy.ones(2)):
        picture = qml.graph(two_results, x)
        assert [n.kind for n in picture._graph.nodes.values()] == ["input", "quantum", "output", "output"]
        assert "RX" in picture.svg


def test_bridge_in_torch_shows_what_is_inside():
    @bridge.to_torch
    def physics(x, other):
        height, _ = two_results(anp.sin(x))
        return anp.exp(height)

    head = nn.Linear(1, 1)
    picture = qml.graph(lambda x: head(physics(x, torch.ones(3)).reshape(1)), torch.ones(2))
    assert {k for k, _, _ in contents(picture)} == {"input", "autograd", "quantum", "torch", "parameter", "output"}
    assert {("x", "sin"), ("sin", "2 qubits, 2 angles"), ("2 qubits, 2 angles", "exp"), ("exp", "view")} <= edges(
        picture
    )
    assert ("parameter", "head.weight", (1, 1)) in contents(picture)


def test_bridge_in_autograd_shows_what_is_inside():
    module = bridge.to_autograd(classifier())
    picture = qml.graph(lambda x: anp.sum(module(anp.sin(x)) ** 2), np.ones((4, 2, 3)))
    found = edges(picture)
    assert {("sin", "to_copy"), ("tanh", "2 qubits, 8 angles"), ("1.weight", "addmm"), ("addmm", "power")} <= found


def test_parameters_of_a_module_as_an_argument():
    f, parameters = bridge.functional(nn.Linear(2, 1))
    picture = qml.graph(lambda p, x: f(p, x), parameters, np.ones(2))
    assert ("input", "p[0]", (1, 2)) in contents(picture)
    assert ("p[1]", "addmm") in edges(picture)


def test_circuits_that_pennylane_runs():
    @pennylane.qnode(pennylane.device("lightning.qubit", wires=1), diff_method="adjoint")
    def plain(x):
        pennylane.RX(x, wires=0)
        return pennylane.expval(pennylane.Z(0))

    for x in (torch.tensor(0.3), 0.3):
        picture = qml.graph(plain, x)
        assert [(n.kind, n.label) for n in picture._graph.nodes.values()][1] == ("quantum", "1 qubit, 1 angle")


def test_deep_networks_are_folded():
    blocks = [m for _ in range(6) for m in (nn.Linear(8, 8), nn.ReLU())]
    model = nn.Sequential(nn.Linear(4, 8), *blocks, nn.Linear(8, 2), layer(6))
    folded, full = (qml.graph(model, torch.ones(5, 4), fold=f) for f in (True, False))
    assert list(folded._graph.repeats.values()) == [6]
    assert len(folded._graph.nodes) == len(full._graph.nodes) - 5 * 4 - 8  # each Linear shows a transposition
    names = next(n.names for n in folded._graph.nodes.values() if n.group is not None and n.names)
    assert names == tuple(f"{k}.weight" for k in range(1, 13, 2)) or names == tuple(
        f"{k}.bias" for k in range(1, 13, 2)
    )
    assert "×6" in folded.svg


def test_a_weight_shared_by_all_parts_stays_outside():
    weight = nn.Parameter(torch.eye(3))

    def model(x):
        for _ in range(5):
            x = torch.tanh(x @ weight)
        return x

    picture = qml.graph(model, torch.ones(2, 3))
    assert list(picture._graph.repeats.values()) == [5]
    assert [n.label for n in picture._graph.nodes.values() if n.kind == "parameter"] == ["weight"]


def test_skip_connections_are_folded():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return x + torch.tanh(self.inner(x))

    picture = qml.graph(nn.Sequential(*(Residual() for _ in range(4))), torch.ones(2, 3))
    assert list(picture._graph.repeats.values()) == [3]  # the first one takes an argument twice


def test_parallel_branches_are_folded():
    def model(xs, w):
        return torch.stack([torch.stack(list(circuit(x, w))) for x in xs]).mean()

    picture = qml.graph(model, torch.ones(6, 2), torch.ones(2, 2, 3))
    quantum = [n for n in picture._graph.nodes.values() if n.kind == "quantum"]
    assert [n.count for n in quantum] == [6]
    assert "×6" in picture.svg


def test_different_circuits_are_not_merged():
    def each(k):
        @qml.qnode(qml.device("qhybrid.statevector", wires=1))
        def one(x):
            for _ in range(k + 1):
                qml.RX(x, wires=0)
            return qml.expval(qml.Z(0))

        return one

    circuits = [each(k) for k in range(3)]
    picture = qml.graph(lambda x: torch.stack([c(x) for c in circuits]).sum(), torch.tensor(0.1))
    assert sum(n.kind == "quantum" for n in picture._graph.nodes.values()) == 3


@pytest.mark.parametrize(("wires", "depth"), [(2, 8), (MAX_WIRES + 2, 1)])
def test_large_circuits_are_described(wires, depth):
    @qml.qnode(qml.device("qhybrid.statevector", wires=wires))
    def large(w):
        qml.StronglyEntanglingLayers(w, wires=range(wires))
        return qml.expval(qml.Z(0))

    text = qml.graph(large, torch.ones(depth, wires, 3)).svg
    assert (f"first {MAX_LAYERS} of" in text) == (wires == 2)
    assert ("CNOT" in text) == (wires > MAX_WIRES)


def overlapping(a, b):
    """Whether two boxes, each a center and a size, have a point in common."""
    return all(abs(a[0][k] - b[0][k]) < (a[1][k] + b[1][k]) / 2 - 1e-6 for k in range(2))


MODELS = {
    "classifier": lambda: qml.graph(classifier(), torch.ones(4, 2, 3)),
    "branches": lambda: qml.graph(lambda x, w: sum(circuit(anp.sin(x) * x, w)), np.ones(2), np.ones((1, 2, 3))),
    "encoder": lambda: qml.graph(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.ones(2, 5, 4), fold=False
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_boxes_do_not_overlap_and_data_flow_down(name):
    graph = MODELS[name]()._graph
    sizes = {key: _box(node).size for key, node in graph.nodes.items()}
    layout = layered(graph, sizes)
    boxes = {key: (layout.centers[key], sizes[key]) for key in graph.nodes}
    for a, b in itertools.combinations(boxes.values(), 2):
        assert not overlapping(a, b)
    for (x, y), (width, height) in boxes.values():
        assert width / 2 <= x <= layout.size[0] - width / 2
        assert height / 2 <= y <= layout.size[1] - height / 2
    for points in layout.paths.values():
        assert (np.diff(points[:, 1]) > -1e-9).all()
    for a, b in graph.edges.edges:
        assert layout.centers[a][1] < layout.centers[b][1]


def test_edges_pass_beside_boxes():
    graph = MODELS["encoder"]()._graph
    sizes = {key: _box(node).size for key, node in graph.nodes.items()}
    layout = layered(graph, sizes)
    for edge, points in layout.paths.items():
        for x, y in points[1:-1]:
            for key in set(graph.nodes) - set(edge):
                (cx, cy), (width, height) = layout.centers[key], sizes[key]
                assert abs(x - cx) >= width / 2 or abs(y - cy) >= height / 2 - 1e-6


def test_svg_is_valid_repeatable_and_saved(tmp_path):
    model = classifier()
    picture = qml.graph(model, torch.ones(4, 2, 3))
    root = ET.fromstring(picture.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert picture._repr_svg_() == picture.svg == qml.graph(model, torch.ones(4, 2, 3)).svg
    assert picture.save(tmp_path / "graph.svg").read_text(encoding="utf-8") == picture.svg
    assert repr(picture) == "<Picture of 12 nodes, 1 of them quantum>"
    for text in ("input", "addmm", "4 × 2 × 3", "3.weights", "quantum circuit", "expval × 2"):
        assert f"<!-- {text} -->" in picture.svg


def test_settings_of_matplotlib_are_left_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    qml.graph(two_results, torch.ones(2)).svg  # noqa: B018
    assert dict(mpl.rcParams) == before


def test_arguments_keep_their_graphs():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    qml.graph(two_results, y)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 2))


def test_misuse(monkeypatch):
    with pytest.raises(ValueError, match="Nothing that <lambda> returns depends on an argument"):
        qml.graph(lambda k: k + 1, 3)
    with pytest.raises(TypeError, match="call it outside"):
        autograd.grad(lambda x: qml.graph(lambda y: y, x) and x)(1.0)
    monkeypatch.setattr("qhybrid.drawing.find_spec", {"matplotlib": None}.get)
    with pytest.raises(ImportError, match=r'pip install "qhybrid\[drawing\]"'):
        qml.graph(two_results, torch.ones(2))
