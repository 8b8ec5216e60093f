"""Random programs with every kind of operator, slot, observable and measurement, and values for their slots."""

from __future__ import annotations

import numpy as np

from qhybrid.capture.gates import spectrum
from qhybrid.program import (
    Angle,
    ArrayRef,
    ArraySlot,
    Constant,
    Diagonal,
    Evolution,
    Expectation,
    Fixed,
    Gate,
    Matrix,
    Observable,
    PauliRotation,
    Preparation,
    Probabilities,
    Program,
    Slots,
    SpectralRotation,
    State,
    Term,
    Variance,
)

WIRES = 3


def unitary(rng, size):
    """A random unitary."""
    return np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))[0]


def hermitian(rng, size):
    """A random Hermitian matrix."""
    matrix = rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))
    return (matrix + matrix.conj().T) / 2


class Builder:
    """Draws the parts of one program."""

    def __init__(self, seed, batch, arrays, matrices):
        self.rng, self.batch, self.with_arrays = np.random.default_rng(seed), batch, arrays
        self.counts, self.arrays, self.values, self.matrices = [0, 0], [], [], matrices

    def angle(self):
        """A new angle, batched or shared."""
        batched = self.batch is not None and self.rng.random() < 0.5
        self.counts[batched] += 1
        return Angle(self.counts[batched] - 1, bool(batched))

    def array(self, shape, draw):
        """A new array slot with its value."""
        batched = self.batch is not None and self.rng.random() < 0.5
        self.arrays.append(ArraySlot(shape, bool(batched)))
        self.values.append(np.array([draw() for _ in range(self.batch)]) if batched else draw())
        return ArrayRef(len(self.arrays) - 1)

    def gate(self):
        """One gate, perhaps controlled."""
        rng = self.rng
        wires = [int(w) for w in rng.permutation(WIRES)]
        kinds = ["word", "fixed", "spectral", "named", "evolution"] + ["matrix", "diagonal"] * self.with_arrays
        kind = rng.choice(kinds)
        width = 1 if kind == "named" else int(rng.integers(1, 3))
        size, name = 2**width, str(kind)
        if kind == "word":
            operator = PauliRotation(
                "".join(rng.choice(list("XYZ"), width)), self.angle(), float(rng.choice([1, -0.7]))
            )
        elif kind == "fixed":
            operator = Fixed(Constant(unitary(rng, size)))
        elif kind == "spectral":
            eigenvalues, projectors = spectrum(hermitian(rng, size))
            operator = SpectralRotation(eigenvalues, Constant(projectors), self.angle())
        elif kind == "named":
            name, projectors = "PhaseShift", np.array([np.diag([1.0, 0]), np.diag([0, 1.0])])
            operator = SpectralRotation((0.0, 1.0), Constant(projectors), self.angle())
        elif kind == "evolution":
            terms = Constant(np.array([hermitian(rng, size) for _ in range(2)]))
            operator = Evolution(terms, self.angle(), (self.angle(), 0.4))
        elif kind == "matrix":
            operator = Matrix(self.array((size, size), lambda: unitary(rng, size)), bool(rng.random() < 0.5))
        else:
            operator = Diagonal(
                self.array((size,), lambda: np.exp(1j * rng.normal(size=size))), bool(rng.random() < 0.5)
            )
        controls = tuple(wires[width : width + int(rng.integers(0, 2))])
        return Gate(name, tuple(wires[:width]), operator, controls, tuple(bool(rng.random() < 0.5) for _ in controls))

    def observable(self, slots=True):
        """A sum of an identity, a word and a product with a matrix."""
        rng = self.rng
        first, second, third = (int(w) for w in rng.permutation(WIRES))
        matrix = Constant(hermitian(rng, 2))
        if self.with_arrays and self.matrices and slots and rng.random() < 0.5:
            matrix = self.array((2, 2), lambda: hermitian(rng, 2))
        coefficient = self.angle() if slots and rng.random() < 0.5 else 0.7
        return Observable(
            (
                Term(1.3),
                Term(coefficient, ((first, "X"), (second, "Y"))),
                Term(-0.4, ((second, "Z"),), (((third,), matrix),)),
            )
        )

    def program(self, gates, state, spread):
        """The program, and values for its slots."""
        rng = self.rng
        preparation = None
        if self.with_arrays:

            def draw():
                vector = rng.normal(size=4) + 1j * rng.normal(size=4)
                return vector / np.linalg.norm(vector)

            preparation = Preparation((2, 0), self.array((4,), draw))
        made = tuple(self.gate() for _ in range(gates))
        word = Observable((Term(-1.5, ((1, "Z"), (0, "X"))),))
        scalars = (Expectation(self.observable()), Variance(word))
        if spread:
            scalars += (Variance(self.observable(slots=False)),)
        basis = (Gate("Hadamard", (1,), Fixed(Constant(np.array([[1, 1], [1, -1]]) / np.sqrt(2)))),)
        tensors = (Probabilities((1, 0)), Probabilities((2, 1), basis), *((State(),) if state else ()))
        shared, batched = self.counts
        program = Program(WIRES, made, scalars, tensors, preparation, shared, batched, tuple(self.arrays))
        slots = Slots(
            rng.uniform(-3, 3, shared),
            rng.uniform(-3, 3, (batched, self.batch)) if batched else None,
            tuple(self.values),
            self.batch if program.is_batched else None,
        )
        return program, slots


def random_program(seed, batch=None, arrays=True, state=True, spread=True, gates=8):
    """A program on three wires and values for its slots."""
    return Builder(seed, batch, arrays, matrices=spread).program(gates, state, spread)
