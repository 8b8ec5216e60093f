"""Builders of small programs with random slots, and the comparison with the dense reference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from qhybrid.execution import Needs
from qhybrid.program import (
    Angle,
    ArrayRef,
    ArraySlot,
    Constant,
    Diagonal,
    Evolution,
    Fixed,
    Gate,
    Matrix,
    PauliRotation,
    Program,
    Slots,
    SpectralRotation,
)
from qhybrid_devices.statevector.executable import StateVectorExecutable
from qhybrid_devices.statevector.plan import PlanOptions
from qhybrid_devices.statevector.reference import ReferenceExecutable

#: Lanes are amplitudes even for three wires, in part of a register, so that sweeps, tiles and blocked operations occur.
SWEEPS = PlanOptions(tile_wires=0, sweep_wires=1, row_bits=2, register_bits=1)
#: Whole registers of amplitudes, and the state in one tile if it has few wires.
REGISTERS = PlanOptions(tile_wires=0, sweep_wires=1, row_bits=1)
TILES = PlanOptions(tile_wires=12, tile_batch=1, sweep_wires=99)
MODES = {"tile": TILES, "sweep": SWEEPS, "registers": REGISTERS}


def hermitian(rng, k):
    a = rng.normal(size=(2, 2**k, 2**k))
    a = a[0] + 1j * a[1]
    return (a + a.conj().T) / 2


def unitary(rng, k):
    return np.linalg.qr(hermitian(rng, k))[0]


def spectral(rng, k, diagonal):
    """Eigenvalues and projectors of a random generator with a degenerate eigenvalue if k > 1."""
    vectors = np.eye(2**k) if diagonal else unitary(rng, k)
    columns = np.array_split(np.arange(2**k), min(3, 2**k))
    projectors = np.stack([vectors[:, c] @ vectors[:, c].conj().T for c in columns])
    return (-0.7, 0.4, 1.3)[: len(columns)], Constant(projectors)


@dataclass
class Builder:
    """Collects gates and the values of their slots."""

    rng: np.random.Generator
    num_wires: int
    batch: int | None
    gates: list = field(default_factory=list)
    shared: list = field(default_factory=list)
    batched: list = field(default_factory=list)
    arrays: list = field(default_factory=list)
    slots: list = field(default_factory=list)

    def angle(self, batched=False):
        rows = self.batched if batched and self.batch is not None else self.shared
        rows.append(self.rng.normal(size=self.batch) if rows is self.batched else self.rng.normal())
        return Angle(len(rows) - 1, rows is self.batched)

    def array(self, make, batched=False):
        batched = batched and self.batch is not None
        samples = [make() for _ in range(self.batch if batched else 1)]
        self.slots.append(ArraySlot(np.shape(make()), batched))
        self.arrays.append(np.array(samples, complex).reshape(-1, *self.slots[-1].shape) if batched else samples[0])
        return ArrayRef(len(self.arrays) - 1)

    def operator(self, kind, k, batched):
        rng = self.rng
        if kind == "fixed":
            return Fixed(Constant(unitary(rng, k)))
        if kind == "pauli":
            return PauliRotation("".join(rng.choice(list("XYZ"), k)), self.angle(batched), rng.normal())
        if kind in ("spectral", "spectral-diagonal"):
            values, projectors = spectral(rng, k, kind != "spectral")
            return SpectralRotation(values, projectors, self.angle(batched))
        if kind == "evolution":
            terms = Constant(np.stack([hermitian(rng, k), hermitian(rng, k)]))
            return Evolution(terms, self.angle(), (self.angle(batched), 0.7))
        if kind == "matrix":
            return Matrix(self.array(lambda: unitary(rng, k), batched), bool(rng.integers(2)))
        return Diagonal(self.array(lambda: np.exp(1j * rng.normal(size=2**k)), batched), bool(rng.integers(2)))

    def add(self, kind, k, controls=0, batched=False):
        wires = tuple(int(w) for w in self.rng.permutation(self.num_wires)[: k + controls])
        values = tuple(bool(v) for v in self.rng.integers(2, size=controls))
        self.gates.append(Gate(kind, wires[controls:], self.operator(kind, k, batched), wires[:controls], values))

    def add_fixed(self, matrix, wires, controls=(), values=()):
        self.gates.append(Gate("fixed", wires, Fixed(Constant(np.array(matrix, complex))), controls, values))

    def mix(self):
        """A random one-qubit rotation on every wire and entanglers, so that nothing stays special."""
        for w in range(self.num_wires):
            self.gates.append(Gate("mix", (w,), Fixed(Constant(unitary(self.rng, 1)))))
        for w in range(self.num_wires - 1):
            self.add_fixed([[0, 1], [1, 0]], (w + 1,), (w,), (True,))

    def program(self, scalars=(), tensors=(), preparation=None):
        return Program(
            self.num_wires, tuple(self.gates), tuple(scalars), tuple(tensors), preparation,
            len(self.shared), len(self.batched), tuple(self.slots),
        )  # fmt: skip

    def values(self):
        batched = np.array(self.batched).reshape(len(self.batched), self.batch) if self.batched else None
        return Slots(np.array(self.shared, float), batched, tuple(self.arrays), self.batch)


def cotangents(rng, results):
    return tuple(
        rng.normal(size=r.shape) + (1j * rng.normal(size=r.shape) if np.iscomplexobj(r) else 0) for r in results
    )


def assert_slots_close(got, wanted, atol):
    pairs = [(got.shared, wanted.shared), (got.batched, wanted.batched), *zip(got.arrays, wanted.arrays, strict=True)]
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=atol)


def assert_matches_reference(program, slots, options=None, c_dtype=np.complex128, atol=1e-10):
    """Results and all cotangents agree with the reference; returns the executable."""
    rng = np.random.default_rng(7)
    executable, reference = StateVectorExecutable(program, c_dtype, options), ReferenceExecutable(program)
    results, residual = executable.run_with_residual(slots)
    wanted = reference.run(slots)
    for a, b in zip(results, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=atol)
    cot, needs = cotangents(rng, wanted), Needs(arrays=(True,) * len(program.arrays))
    expected = reference.vjp(slots, cot, needs)
    assert_slots_close(executable.vjp(slots, cot, needs), expected, atol)
    assert_slots_close(executable.vjp(slots, cot, needs, residual), expected, atol)
    assert_slots_close(executable.vjp(slots, cot, needs, residual), expected, atol)
    return executable


@pytest.fixture
def rng():
    return np.random.default_rng(42)


@pytest.fixture(params=MODES)
def options(request):
    return MODES[request.param]


@pytest.fixture
def build():
    return Builder


@pytest.fixture
def matches_reference():
    return assert_matches_reference
