"""Angles that no result depends on: none that a result depends on, and those that are known."""

from dataclasses import replace

import numpy as np
import pytest

from qhybrid.program import (
    Expectation,
    Gate,
    Observable,
    PauliRotation,
    Preparation,
    Probabilities,
    State,
    Term,
    Variance,
)
from qhybrid_devices.statevector.idle_angles import idle_angles
from qhybrid_devices.statevector.reference import ReferenceExecutable

NOT = [[0, 1], [1, 0]]
KINDS = ["pauli"] * 4 + ["cnot"] * 3 + ["spectral", "spectral-diagonal", "fixed", "diagonal", "evolution", "again"]


def mean(*words):
    """The expectation value of a sum of words, such as ``"ZIZ"``."""
    return Expectation(Observable(tuple(Term(0.5, letters(w)) for w in words)))


def letters(word):
    return tuple((i, letter) for i, letter in enumerate(word) if letter != "I")


def add(builder, *gates):
    """Rotations ``"RZ 0"`` each with an angle of its own, and CNOTs ``"CNOT 0 1"``; the angles."""
    found = []
    for name, *wires in map(str.split, gates):
        wires = [int(w) for w in wires]
        if name == "CNOT":
            builder.add_fixed(NOT, wires[1:], wires[:1], (True,))
        else:
            found.append(builder.angle())
            controls = tuple(wires[: len(wires) - len(name.strip("CR"))])
            own = tuple(wires[len(controls) :])
            operator = PauliRotation(name.strip("CR"), found[-1], 1.0)
            builder.gates.append(Gate(name, own, operator, controls, (True,) * len(controls)))
    return [a.index for a in found]


@pytest.mark.parametrize("seed", range(60))
def test_no_result_depends_on_them(build, seed):
    rng = np.random.default_rng(seed)
    builder = build(rng, 3, 2 if seed % 3 == 0 else None)
    for kind in rng.choice(KINDS, size=int(rng.integers(1, 10))):
        width, controls = int(rng.integers(1, 3)), int(rng.integers(0, 2))
        if kind == "cnot":
            builder.add_fixed(NOT, *((int(w),) for w in rng.permutation(3)[:2]), (bool(rng.integers(2)),))
        elif kind == "again":
            angle = builder.angle()
            for wire in rng.permutation(3)[:2]:
                operator = replace(builder.operator("pauli", 1, False), angle=angle)
                builder.gates.append(Gate("again", (int(wire),), operator))
        else:
            builder.add(str(kind), 1 if kind == "pauli" and rng.integers(2) else width, controls, bool(rng.integers(2)))
    words = ["".join(rng.choice(list("IIXYZZ"), 3)) for _ in range(2)]
    scalars = (mean(*words), Variance(Observable((Term(0.3, letters(words[0])), Term(1.0, letters(words[1]))))))
    program = builder.program(scalars, (Probabilities((2, 0)),) if rng.integers(2) else ())
    slots, reference = builder.values(), ReferenceExecutable(program)
    idle = idle_angles(program)
    shared = np.array(slots.shared)
    shared[list(idle)] += rng.normal(size=len(idle))
    for a, b in zip(reference.run(slots), reference.run(replace(slots, shared=shared)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("gates", "word", "idle"),
    [
        (["RZ 0", "RY 0", "RZ 0"], "Z", [0, 2]),
        (["RZ 0", "RY 0", "RZ 0"], "X", [0]),
        (["RX 0", "RX 0", "RY 0"], "Y", [2]),
        (["RY 0", "RY 1"], "ZI", [1]),  # outside of the light cone
        (["RY 0", "RY 1", "CNOT 0 1"], "ZI", [1]),
        (["RY 0", "RY 1", "CNOT 0 1"], "IZ", []),
        (["RY 0", "RY 1", "CNOT 0 1", "RZ 1"], "IZ", [2]),
        (["RY 0", "RY 1", "CNOT 0 1", "RZ 1"], "ZX", []),
        (["RY 0", "RY 1", "RZ 0", "CNOT 0 1", "RZZ 0 1", "RX 0"], "IZ", [2, 3, 4]),
        (["RY 0", "CRZ 0 1", "CRY 0 1", "CRZ 1 0"], "ZZ", [3]),
        (["RX 0", "RZ 1", "CNOT 0 1", "RXX 0 1", "RZ 0"], "ZZ", [0, 1, 2, 3]),  # the word before the CNOT is IZ
    ],
)
def test_known_ones(rng, build, gates, word, idle):
    builder = build(rng, len(word), None)
    angles = add(builder, *gates)
    assert idle_angles(builder.program((mean(word),))) == {angles[i] for i in idle}


def test_strongly_entangling_layers(rng, build):
    """The first rotations about Z, and the last ones, and those of wires that the measured words do not reach."""
    builder, layers = build(rng, 4, None), []
    for distance in (1, 2):
        layers.append([add(builder, f"RZ {w}", f"RY {w}", f"RZ {w}") for w in range(4)])
        for w in range(4):
            add(builder, f"CNOT {w} {(w + distance) % 4}")
    first, last = np.array(layers)
    # Before the second layer's CNOTs the word is IIZZ.
    assert idle_angles(builder.program((mean("ZZII"),))) == {*first[:, 0], *last[:, 2], *last[:2].ravel()}


def test_more_results(rng, build):
    """Outcomes are words of Z; a state has a phase; a Hermitian matrix may be anything, and so may prepared states."""
    builder = build(rng, 2, None)
    a, b, c = add(builder, "RZ 0", "RY 0", "RZ 0")
    z = Observable((Term(1.0, ((0, "Z"),)),))
    assert idle_angles(builder.program((), (Probabilities((0,)),))) == {a, c}
    assert idle_angles(builder.program((), (Probabilities((1,)),))) == {a, b, c}
    assert idle_angles(builder.program((), (Probabilities((0,), basis=tuple(builder.gates[1:2])),))) == set()
    assert idle_angles(builder.program((Variance(z),))) == {a, c}
    assert idle_angles(builder.program((Variance(z),), (State(),))) == set()
    matrix = builder.array(lambda: np.diag([1.0, -1.0]))
    assert idle_angles(builder.program((Expectation(Observable((Term(1.0, (), (((0,), matrix),)),))),))) == set()
    amplitudes = builder.array(lambda: np.ones(2) / np.sqrt(2))
    assert idle_angles(builder.program((Variance(z),), (), Preparation((0,), amplitudes))) == {c}


def test_all_places_of_an_angle_must_be_idle(rng, build):
    builder = build(rng, 1, 2)
    angle = builder.angle()
    z, y = PauliRotation("Z", angle, 1.0), PauliRotation("Y", angle, 1.0)
    builder.gates = [Gate("RZ", (0,), z), Gate("RY", (0,), replace(y, angle=builder.angle(True))), Gate("RZ", (0,), z)]
    assert idle_angles(builder.program((mean("Z"),))) == {angle.index}
    builder.gates.append(Gate("RY", (0,), y))
    assert idle_angles(builder.program((mean("Z"),))) == set()
