"""QNodes at the top level of a module, as users write them, so that they can be pickled."""

import qhybrid as qml

DEVICE = qml.device("qhybrid.statevector", wires=2)


def body(inputs, w, v):
    qml.AngleEmbedding(inputs, wires=range(2))
    qml.RX(v, 0)
    qml.BasicEntanglerLayers(w, wires=range(2))


@qml.qnode(DEVICE)
def as_list(inputs, w, v):
    body(inputs, w, v)
    return [qml.expval(qml.Z(i)) for i in range(2)]


@qml.qnode(DEVICE)
def as_tuple(inputs, w, v):
    body(inputs, w, v)
    return qml.expval(qml.Z(0)), qml.expval(qml.Z(1))


@qml.qnode(DEVICE)
def single(inputs, w, v):
    body(inputs, w, v)
    return qml.expval(qml.Z(0))


@qml.qnode(DEVICE)
def probabilities(inputs, w, v):
    body(inputs, w, v)
    return qml.probs(wires=[0, 1])


@qml.qnode(DEVICE)
def mixed(inputs, w, v):
    body(inputs, w, v)
    return qml.expval(qml.Z(0)), qml.probs(wires=[0, 1])


@qml.qnode(DEVICE)
def state(inputs, w, v):
    body(inputs, w, v)
    return qml.state()


@qml.qnode(DEVICE)
def loop_over_features(inputs, w, v):
    for i in range(2):
        qml.RX(inputs[i], i)
    qml.RX(v, 0)
    qml.BasicEntanglerLayers(w, wires=range(2))
    return qml.expval(qml.Z(0))
