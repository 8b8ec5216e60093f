# ruff: noqa: E501
"""Keys tell apart what a trace depends on, and put leaves back where they were."""

import enum
from collections import OrderedDict, namedtuple

import autograd
import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp

from qhybrid.capture.signature import flatten, leaf_names, static_objects, trainable, unflatten
from qhybrid.errors import CaptureError

Point = namedtuple("Point", "x y")


class Color(enum.Enum):
    RED = 1


LEAVES = [0.5, 1j, np.float64(0.5), np.float32(0.5), np.ones(3), np.ones(3) + 0j, pnp.ones(3), torch.ones(3)]
STATIC = [1, True, "a", None, b"a", Color.RED, np.int64(3), slice(1, 2), Ellipsis, range(3), np.arange(3), torch.arange(3),
          np.array(["a"]), pnp.array([1, 0]), torch.float32, np.dtype(float), np.zeros((0, 2), int)]  # fmt: skip


@pytest.mark.parametrize("value", LEAVES, ids=repr)
def test_floating_point_values_are_traced(value):
    key, leaves = flatten((value,), {})
    assert leaves[0] is value
    hash(key)
    ((back,), _) = unflatten(key, leaves)
    assert back is value


@pytest.mark.parametrize("value", STATIC, ids=repr)
def test_other_values_are_static(value):
    key, leaves = flatten((value,), {"k": [value]})
    assert leaves == []
    assert key == flatten((value,), {"k": [value]})[0]
    assert hash(key) == hash(flatten((value,), {"k": [value]})[0])
    (back,), named = unflatten(key, [])
    assert type(back) is type(value)
    assert np.array_equal(np.asarray(back), np.asarray(value)) if hasattr(value, "shape") else back == value
    assert type(named["k"][0]) is type(value)


def test_all_leaves_and_statics_have_different_keys():
    values = [
        *LEAVES,
        *STATIC,
        2,
        False,
        1.0,
        np.ones(4),
        np.ones((3, 1)),
        torch.ones(3, dtype=torch.float64),
        [1],
        (1,),
    ]
    keys = [flatten((v,), {})[0] for v in values]
    same = [(i, j) for i in range(len(keys)) for j in range(i) if keys[i] == keys[j]]
    expected = [(i, j) for i, j in same if type(values[i]) is type(values[j]) and isinstance(values[i], float)]
    assert same == expected


def test_values_of_leaves_do_not_change_the_key():
    assert flatten((0.5, np.ones(2)), {})[0] == flatten((0.7, np.zeros(2)), {})[0]


def test_containers_are_rebuilt():
    args = ([0.1, (0.2, {"a": 0.3})], Point(0.4, 1), OrderedDict(b=np.ones(1)))
    key, leaves = flatten(args, {"w": 0.5, "depth": 2})
    assert leaves == [0.1, 0.2, 0.3, 0.4, np.ones(1), 0.5]
    back, named = unflatten(key, ["p", "q", "r", "s", "t", "u"])
    assert back == (["p", ("q", {"a": "r"})], Point("s", 1), OrderedDict(b="t"))
    assert named == {"w": "u", "depth": 2}


def test_names():
    def function(x, params, *rest, w=None):
        pass

    key, _ = flatten((0.1, {"a": [0.2, 1, 0.3]}, 0.4, 0.5), {"w": (0.6,)})
    assert leaf_names(key, function) == ["x", "params['a'][0]", "params['a'][2]", "rest[0]", "rest[1]", "w[0]"]
    assert leaf_names(flatten((0.1,), {})[0]) == ["argument 0"]


def test_boxes_share_the_key_of_their_arrays():
    x = pnp.array([0.1, 0.2])
    plain = flatten((x,), {})[0]

    def check(x):
        key, leaves = flatten((x,), {})
        assert key == plain
        assert leaves[0] is x
        return x[0] ** 2

    autograd.grad(check)(x)
    autograd.jacobian(autograd.grad(check))(x)


def test_boxed_containers():
    def check(pair):
        key, leaves = flatten((pair,), {})
        assert len(leaves) == 2
        ((back,), _) = unflatten(key, leaves)
        assert type(back) is type(plain)
        return leaves[0] * 2 + leaves[1]

    for plain in ([0.1, 0.2], (0.1, 0.2)):
        assert tuple(autograd.grad(check)(plain)) == (2.0, 1.0)
    plain = {"a": 0.1, "b": 0.2}
    assert autograd.grad(check)(plain) == {"a": 2.0, "b": 1.0}


def test_wrapped_tensors_share_the_key_of_what_they_look_like():
    x = torch.ones(3)
    plain = flatten((x,), {})[0]
    seen = []

    def check(x):
        seen.append(flatten((x,), {})[0] == plain)
        return x.sum()

    torch.func.grad(check)(x)
    torch.func.vmap(check)(torch.ones(4, 3))
    torch.func.vmap(torch.func.grad(check))(torch.ones(4, 3))
    torch.func.jacrev(check)(x)
    check(torch.nn.Parameter(x))
    assert all(seen)
    with pytest.raises(CaptureError, match="integer tensor"):
        torch.func.vmap(lambda i: flatten((i,), {}))(torch.arange(3))


def test_objects_are_known_by_identity():
    def ansatz(x):
        return x

    thing = object()
    key, _ = flatten((ansatz, [thing]), {"cls": qml.RX})
    assert key == flatten((ansatz, [thing]), {"cls": qml.RX})[0]
    assert key != flatten((ansatz, [object()]), {"cls": qml.RX})[0]
    assert static_objects(key) == [ansatz, thing, qml.RX]
    assert unflatten(key, [])[0] == (ansatz, [thing])


def test_operators_are_known_by_identity_and_data():
    hamiltonian = qml.Hamiltonian([0.1, 0.2], [qml.X(0), qml.Z(0)])
    key = flatten((hamiltonian,), {})[0]
    assert key == flatten((hamiltonian,), {})[0]
    assert flatten((hamiltonian,), {})[1] == []
    assert key != flatten((qml.Hamiltonian([0.1, 0.3], [qml.X(0), qml.Z(0)]),), {})[0]
    assert flatten((qml.wires.Wires([0]),), {})[0] == flatten((qml.wires.Wires([0]),), {})[0]
    with pytest.raises(CaptureError, match="trainable"):
        flatten((qml.RX(torch.tensor(0.1, requires_grad=True), 0),), {})


@pytest.mark.parametrize("value", [
    np.array([1, "a"], dtype=object), iter([1]), {1, 2}, np.ma.array([1.0]), {1.5: 2}, (i for i in range(2)),
])  # fmt: skip
def test_what_has_no_key_is_refused(value):
    with pytest.raises(CaptureError):
        flatten((value,), {})


def test_trainable_copies():
    leaves = [0.5, np.ones(2), pnp.ones(2, requires_grad=False), torch.ones(2)]
    for copy, leaf in zip(trainable(leaves), leaves, strict=True):
        assert qml.math.requires_grad(copy)
        assert np.allclose(qml.math.toarray(copy.detach() if isinstance(copy, torch.Tensor) else copy), leaf)
