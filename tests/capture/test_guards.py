# ruff: noqa: NPY002
"""A guard notices every change of what a quantum function reads, and refuses what it cannot watch."""

import functools
import random
import sys
import time
import types
from collections import OrderedDict
from random import gauss

import numpy as np
import pennylane as qml
import pytest
import torch
from autograd import grad
from numpy.random import normal
from pennylane import numpy as pnp

from qhybrid.capture.guards import environment_guard
from qhybrid.errors import CaptureError

SCALE = 1.0
VECTOR = np.array([1.0, 2.0])
SETTINGS = {"depth": 2, "nested": {"scale": 0.5}}
ANGLES = [0.1, 0.2]
HAMILTONIAN = qml.Hamiltonian([0.5, 0.5], [qml.X(0), qml.Z(1)])
OBSERVABLES = [qml.Z(0), qml.X(1)]
DEVICE = qml.device("default.qubit", wires=2)
GENERATOR = np.random.default_rng(0)
helper_module = types.ModuleType("helper_module")
helper_module.theta = 0.3
exec("def shifted(x):\n    return x + theta", vars(helper_module))
sys.modules["helper_module"] = helper_module


def scaled(x):
    return SCALE * x


def twice_removed(x):
    return scaled(x)


class Ansatz:
    shared = 3

    def __init__(self):
        self.depth, self.weights, self.inner = 2, np.ones(3), types.SimpleNamespace(offset=0.1)
        self.history = []

    @property
    def angle(self):
        return self.depth * SCALE

    def layer(self, x):
        return x * self.depth + SCALE

    def direct(self, x):
        return self.depth * x

    def nested(self, x):
        return self.inner.offset + x

    def array(self, x):
        return self.weights[0] * x

    def by_property(self, x):
        return self.angle * x

    def by_method(self, x):
        return self.layer(x)

    def by_class(self, x):
        return self.shared * x

    def by_alias(self, x):
        me = self
        return me.layer(x)

    def by_getattr(self, x):
        return getattr(self, "depth") * x  # noqa: B009

    def by_lambda(self, x):
        return (lambda y: y * self.depth)(x)

    def __call__(self, x):
        return self.direct(x)


def make_closure():
    scale, angles, vector, tensor = 1.0, [0.1, 0.2], np.ones(2), torch.ones(2)
    parameter, linear = torch.nn.Parameter(torch.ones(2)), torch.nn.Linear(2, 2)
    norm = torch.nn.BatchNorm1d(2).eval()

    def read_scalar(x):
        return scale * x

    def read_list(x):
        return angles[0] * x

    def read_vector(x):
        return vector[0] * x

    def read_tensor(x):
        return tensor[0] * x

    def read_parameter(x):
        return parameter[0] * x

    def read_linear(x):
        return linear(x)

    def read_norm(x):
        return norm(x)

    def change(**values):
        nonlocal scale, angles, vector
        scale, angles = values.get("scale", scale), values.get("angles", angles)
        vector = values.get("vector", vector)

    return types.SimpleNamespace(**{k: v for k, v in locals().items() if callable(v) or k in ("angles", "vector")})


def read_global(x):
    return SCALE * x


def read_helper(x):
    return twice_removed(x)


def read_comprehension(x):
    return [SCALE * x for _ in range(2)]


def read_vector(x):
    return VECTOR[0] * x


def read_settings(x):
    return SETTINGS["nested"]["scale"] * x


def read_angles(x):
    return ANGLES[0] * x


def read_default(x, scale=0.5):
    return scale * x


def read_keyword_default(x, *, scale=0.5):
    return scale * x


def read_module(x):
    return helper_module.shifted(x) + helper_module.theta


def read_observables(x):
    qml.RX(x, 0)
    return [qml.expval(o) for o in OBSERVABLES]


def read_hamiltonian(x):
    qml.RX(x, 0)
    return qml.expval(HAMILTONIAN)


def _set(target, **values):
    return lambda: [setattr(target, k, v) for k, v in values.items()]


THIS = sys.modules[__name__]
CHANGES = {
    "global": (read_global, _set(THIS, SCALE=2.0)),
    "global type": (read_global, _set(THIS, SCALE=1)),
    "helper's global": (read_helper, _set(THIS, SCALE=2.0)),
    "comprehension": (read_comprehension, _set(THIS, SCALE=2.0)),
    "helper replaced": (read_helper, _set(THIS, scaled=lambda x: x)),
    "array in place": (read_vector, lambda: VECTOR.__setitem__(0, 5.0)),
    "array rebound": (read_vector, _set(THIS, VECTOR=np.array([1.0, 3.0]))),
    "nested dict": (read_settings, lambda: SETTINGS["nested"].update(scale=0.7)),
    "dict key added": (read_settings, lambda: SETTINGS.update(other=1)),
    "list element": (read_angles, lambda: ANGLES.__setitem__(0, 0.3)),
    "list grown": (read_angles, lambda: ANGLES.append(0.3)),
    "default": (read_default, _set(read_default, __defaults__=(0.7,))),
    "keyword default": (read_keyword_default, _set(read_keyword_default, __kwdefaults__={"scale": 0.7})),
    "code": (read_default, _set(read_default, __code__=read_keyword_default.__code__)),
    "module attribute": (read_module, _set(helper_module, theta=0.4)),
    "operator list": (read_observables, lambda: OBSERVABLES.__setitem__(0, qml.Y(0))),
    "Hamiltonian": (read_hamiltonian, _set(THIS, HAMILTONIAN=qml.Hamiltonian([1.0], [qml.Z(0)]))),
    "builtin shadowed": (read_comprehension, _set(THIS, range=lambda n: [])),
}


@pytest.fixture(autouse=True)
def _restore():
    saved = dict(vars(THIS))
    contents = VECTOR.copy(), dict(SETTINGS, nested=dict(SETTINGS["nested"])), list(ANGLES), list(OBSERVABLES)
    code, kw = read_default.__code__, dict(read_keyword_default.__kwdefaults__)
    yield
    for name in [n for n in vars(THIS) if n not in saved]:
        delattr(THIS, name)
    vars(THIS).update(saved)
    VECTOR[:], ANGLES[:], OBSERVABLES[:] = contents[0], contents[2], contents[3]
    SETTINGS.clear()
    SETTINGS.update(contents[1])
    read_default.__code__, read_default.__defaults__ = code, (0.5,)
    read_keyword_default.__kwdefaults__ = kw
    helper_module.theta = 0.3
    Ansatz.shared = 3


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name):
    function, change = CHANGES[name]
    guard = environment_guard(function)
    assert guard()
    change()
    assert not guard()


METHODS = ["direct", "by_property", "by_method", "by_alias", "by_getattr", "by_lambda", "__call__"]


@pytest.mark.parametrize("name", METHODS)
def test_a_changed_attribute_of_self_is_noticed(name):
    ansatz = Ansatz()
    guard = environment_guard(ansatz if name == "__call__" else getattr(ansatz, name))
    assert guard()
    ansatz.depth = 3
    assert not guard()


@pytest.mark.parametrize("name", ["by_property", "by_method", "by_alias"])
def test_a_global_read_by_another_method_is_noticed(name, monkeypatch):
    guard = environment_guard(getattr(Ansatz(), name))
    assert guard()
    monkeypatch.setattr(THIS, "SCALE", 4.0)
    assert not guard()


def test_nested_objects_arrays_and_class_attributes_are_noticed():
    ansatz = Ansatz()
    guards = [environment_guard(f) for f in (ansatz.nested, ansatz.array, ansatz.by_class)]
    assert all(g() for g in guards)
    ansatz.inner.offset, ansatz.weights[0], Ansatz.shared = 0.2, 9.0, 4
    assert not any(g() for g in guards)


def test_an_object_in_a_closure_is_followed_into_its_methods(monkeypatch):
    ansatz = Ansatz()

    def function(x):
        return [a.layer(x) for a in (ansatz,)]

    guard = environment_guard(function)
    assert guard()
    ansatz.depth = 5
    assert not guard()
    guard = environment_guard(function)
    monkeypatch.setattr(THIS, "SCALE", 4.0)
    assert not guard()


@pytest.mark.parametrize(
    ("name", "values"),
    [("read_scalar", {"scale": 2.0}), ("read_list", {"angles": [0.3]}), ("read_vector", {"vector": np.zeros(2)})],
)
def test_a_changed_closure_is_noticed(name, values):
    closure = make_closure()
    guard = environment_guard(getattr(closure, name))
    assert guard()
    closure.change(**values)
    assert not guard()


def test_changes_in_place_inside_a_closure_are_noticed():
    closure = make_closure()
    guards = [environment_guard(f) for f in (closure.read_list, closure.read_vector)]
    closure.angles[0], closure.vector[1] = 7.0, 7.0
    assert not any(g() for g in guards)


def _tensor_cell(function, name):
    return function.__closure__[function.__code__.co_freevars.index(name)].cell_contents


@pytest.mark.parametrize("change", [lambda t: t.add_(1), lambda t: t.data.add_(1), lambda t: t.requires_grad_()])
def test_a_tensor_changed_in_place_is_noticed(change):
    function = make_closure().read_tensor
    guard = environment_guard(function)
    assert guard()
    change(_tensor_cell(function, "tensor"))
    assert not guard()


def test_trainable_tensors_may_change_their_values():
    closure = make_closure()
    guards = [environment_guard(f) for f in (closure.read_parameter, closure.read_linear)]
    with torch.no_grad():
        _tensor_cell(closure.read_parameter, "parameter").add_(1)
        _tensor_cell(closure.read_linear, "linear").weight.mul_(2)
    assert all(g() for g in guards)


def test_a_torch_module_that_changes_otherwise_is_noticed():
    closure = make_closure()
    linear = _tensor_cell(closure.read_linear, "linear")
    norm = _tensor_cell(closure.read_norm, "norm")
    for change in (
        lambda: linear.eval(),
        lambda: setattr(linear, "weight", torch.nn.Parameter(torch.ones(2, 2))),
        lambda: norm.running_mean.add_(1),
    ):
        guards = [environment_guard(closure.read_linear), environment_guard(closure.read_norm)]
        assert all(g() for g in guards)
        change()
        assert not all(g() for g in guards)


def test_static_arguments_that_are_objects_are_watched():
    ansatz = Ansatz()
    guard = environment_guard(lambda x, a: a.layer(x), [ansatz])
    assert guard()
    ansatz.depth = 4
    assert not guard()


def test_partials_wrappers_and_transforms_are_followed(monkeypatch):
    @functools.lru_cache
    def cached(x):
        return x * SCALE

    @functools.wraps(read_global)
    def wrapped(x):
        return read_global(x)

    adjoint = qml.adjoint(read_global)
    functions = [
        functools.partial(read_global, 0.3),
        lambda x: cached(x),
        wrapped,
        lambda x: adjoint(x),
        lambda x: functools.partial(scaled, x)(),
    ]
    guards = [environment_guard(f) for f in functions]
    assert all(g() for g in guards)
    monkeypatch.setattr(THIS, "SCALE", 2.0)
    assert not any(g() for g in guards)


def test_an_operation_of_the_user_is_followed_into_its_decomposition(monkeypatch):
    class Rotation(qml.operation.Operation):
        num_wires = 1

        @staticmethod
        def compute_decomposition(theta, wires):
            return [qml.RX(theta * SCALE, wires)]

    guard = environment_guard(lambda x: Rotation(x, wires=0))
    assert guard()
    monkeypatch.setattr(THIS, "SCALE", 2.0)
    assert not guard()


def _global_write(x):
    global SCALE
    SCALE = 2.0


def _local_import(x):
    import time as clock

    return clock.time()


def _own_import(x):
    from helper_module import theta

    return theta * x


class _Counting:
    def __init__(self):
        self.calls = 0

    def circuit(self, x):
        self.calls += 1
        return x


class _Child(Ansatz):
    def layer(self, x):
        return super().layer(x)


def _nonlocal_write():
    count = 0

    def function(x):
        nonlocal count
        count += 1
        return x

    return function


BOUND = random.Random(0).gauss
LARGE = np.zeros(1 << 17)
REFUSED = {
    "random": lambda x: x * random.random(),
    "from random": lambda x: x * gauss(0, 1),
    "numpy.random": lambda x: x * np.random.normal(),
    "from numpy.random": lambda x: x * normal(),
    "pennylane random": lambda x: x * pnp.random.normal(),
    "generator": lambda x: x * GENERATOR.normal(),
    "bound random": lambda x: x * BOUND(0, 1),
    "torch.rand": lambda x: x * torch.rand(1),
    "torch.randn": lambda x: x * torch.randn(1),
    "time": lambda x: x * time.time(),
    "eval": lambda x: eval("x"),
    "open": lambda x: open("/dev/null"),  # noqa: SIM115
    "id": lambda x: id(x),
    "globals": lambda x: globals()["SCALE"] * x,
    "sys": lambda x: len(sys.argv) * x,
    "write to a global": _global_write,
    "write to a closure": _nonlocal_write(),
    "write to self": _Counting().circuit,
    "super": _Child().by_method,
    "import of a clock": _local_import,
    "import of the user's module": _own_import,
    "large array": lambda x: x * LARGE[0],
    "attribute that does not exist": lambda x: x * helper_module.missing,
    "module as a value": lambda x: (helper_module, x),
    "iterator": lambda x: next(ITERATOR) * x,
    "object array": lambda x: x * OBJECTS[0],
    "opaque object": lambda x: x * len(MEMORY),
    "QNode": lambda x: INNER(x),
}
ITERATOR = iter([1, 2, 3])
OBJECTS = np.array([1, "a"], dtype=object)
MEMORY = memoryview(b"abc")
INNER = qml.QNode(read_hamiltonian, DEVICE)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_watched_is_refused(name):
    with pytest.raises(CaptureError):
        environment_guard(REFUSED[name])


def test_a_value_under_differentiation_is_refused():
    def outer(w):
        with pytest.raises(CaptureError, match="autograd"):
            environment_guard(lambda x: x * w)
        return w * 1.0

    grad(outer)(0.3)

    def outer_torch(w):
        with pytest.raises(CaptureError, match=r"torch\.func"):
            environment_guard(lambda x: x * w)
        return w * 1.0

    torch.func.grad(outer_torch)(torch.tensor(0.3))


def test_ordinary_pennylane_is_accepted():
    wires = qml.wires.Wires([0, 1])
    ordered = OrderedDict(a=0.1)
    ops = {"first": qml.RX, "second": qml.RY}
    constant = pnp.array([0.1, 0.2], requires_grad=False)

    def function(x, w):
        qml.AngleEmbedding(x, wires=wires)
        qml.RandomLayers(w, wires=range(2))
        qml.StronglyEntanglingLayers(w, wires=DEVICE.wires)
        for name in ("first", "second"):
            ops[name](x[0] * np.pi + ordered["a"], wires=0)
        qml.ctrl(qml.RX, control=1)(np.sin(x[0]) * constant[0], 0)
        qml.adjoint(qml.RX)(torch.nn.functional.relu(x[0]), 0)
        for i, angle in enumerate(sorted(x)):
            qml.RX(angle, i)
        assert len(x) > 1, f"{x}"
        with qml.QueuingManager.stop_recording():
            qml.RX(0.1, 0)
        return qml.expval(HAMILTONIAN), [qml.expval(o) for o in OBSERVABLES], qml.probs(wires=wires)

    guard = environment_guard(function)
    assert guard()
    assert guard()
