"""Devices that are wrong on purpose, one mistake each, and the checks that must notice it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np

from qhybrid.errors import DeviceError
from qhybrid.execution import Executable
from qhybrid.program import Slots
from qhybrid_devices.statevector.device import StateVectorDevice
from qhybrid_devices.statevector.executable import StateVectorExecutable


class _Broken(Executable):
    """An executable with another one inside; subclasses bend what passes through."""

    has_vjp = True

    def __init__(self, program):
        super().__init__(program)
        self.inner = StateVectorExecutable(program)

    def run(self, slots):
        return self.inner.run(slots)

    def sample(self, slots, shots, rng):
        return self.inner.sample(slots, shots, rng)

    def vjp(self, slots, cotangents, needs):
        return self.inner.vjp(slots, cotangents, needs)


def _device(executable):
    """A device of such executables."""

    class Device(StateVectorDevice):
        def make_executable(self, program):
            return executable(program)

    return Device


class WrongSign(_Broken):
    def vjp(self, slots, cotangents, needs):
        return super().vjp(slots, tuple(-c for c in cotangents), needs)


class WrongSignDevice(StateVectorDevice):
    """At the top level of a module, so that it can be pickled."""

    def make_executable(self, program):
        return WrongSign(program)


class WrongSharedSum(_Broken):
    """The cotangent of a shared angle is that of the first sample."""

    def vjp(self, slots, cotangents, needs):
        first = tuple(np.where(np.arange(len(c)).reshape(-1, *(1,) * (c.ndim - 1)) == 0, c, 0) for c in cotangents)
        got, wrong = super().vjp(slots, cotangents, needs), super().vjp(slots, first, needs)
        return replace(got, shared=wrong.shared) if self.program.is_batched else got


class SwappedWires(_Broken):
    """The first two wires are mistaken for each other, in gates but not in measurements."""

    def __init__(self, program):
        def swapped(wires):
            return tuple({0: 1, 1: 0}.get(w, w) if program.num_wires > 1 else w for w in wires)

        gates = (replace(g, wires=swapped(g.wires), controls=swapped(g.controls)) for g in program.gates)
        super().__init__(replace(program, gates=tuple(gates)))


class ReversedBits(_Broken):
    """Wire 0 is taken for the least significant bit of an outcome."""

    def run(self, slots):
        scalars, *tensors = super().run(slots)
        return (scalars, *(self._reversed(t) for t in tensors))

    def _reversed(self, array):
        n = array.shape[-1].bit_length() - 1
        order = [int(f"{i:0{n}b}"[::-1], 2) for i in range(1 << n)] if n else [0]
        return array[..., order]


class BatchIgnored(_Broken):
    """All samples get the results of the first."""

    def run(self, slots):
        results = super().run(slots)
        return tuple(np.broadcast_to(r[:1], r.shape).copy() for r in results) if self.program.is_batched else results


class NoEmptyBatch(_Broken):
    def run(self, slots):
        if slots.batch_size == 0:
            raise ValueError("cannot reshape array of size 0")
        return super().run(slots)


class BiasedSamples(_Broken):
    """A tenth of all shots read 0 on every wire."""

    def sample(self, slots, shots, rng):
        scalars, *tensors = super().sample(slots, shots, rng)
        for t in tensors:
            if t.dtype.kind == "i":
                t[..., ::10, :] = 0
        return (scalars, *tensors)


class SameShotsForAll(_Broken):
    """The samples of a batch share their random numbers."""

    def sample(self, slots, shots, rng):
        if not self.program.is_batched:
            return super().sample(slots, shots, rng)
        seed = rng.integers(2**62)
        parts = [
            super(SameShotsForAll, self).sample(self._one(slots, b), shots, np.random.default_rng(seed))
            for b in range(slots.batch_size)
        ]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _one(self, slots, b):
        arrays = zip(slots.arrays, self.program.arrays, strict=True)
        own = tuple(a[b : b + 1] if s.batched else a for a, s in arrays)
        return Slots(slots.shared, None if slots.batched is None else slots.batched[:, b : b + 1], own, 1)


class Forgetful(_Broken):
    """Results of the first call are returned for ever."""

    def run(self, slots):
        if not hasattr(self, "kept"):
            self.kept = super().run(slots)
        return self.kept


class SharedBuffer(_Broken):
    """Every call writes its results to the same memory."""

    def run(self, slots):
        results = super().run(slots)
        if not hasattr(self, "buffers") or self.buffers[0].shape != results[0].shape:
            self.buffers = tuple(r.copy() for r in results)
        for buffer, r in zip(self.buffers, results, strict=True):
            buffer[...] = r
        return self.buffers


class UnsafeInThreads(_Broken):
    """The slots of a call are kept in the executable until it runs; other threads find theirs there."""

    def __init__(self, program):
        super().__init__(program)
        self.meeting = threading.Barrier(2)

    def run(self, slots):
        self.slots = slots
        try:
            self.meeting.wait(0.02)
        except threading.BrokenBarrierError:
            self.meeting.reset()
        return super().run(self.slots)


class RefusesItsDerivative(_Broken):
    def vjp(self, slots, cotangents, needs):
        raise DeviceError("no derivative today")


class Unseeded(StateVectorDevice):
    """Takes a seed and does not use it."""

    def new_rng(self):
        return np.random.default_rng()


class OneSeed(StateVectorDevice):
    """Every execution starts at the same place."""

    def new_rng(self):
        return np.random.default_rng(0)


class SharedRandomNumbers(StateVectorDevice):
    """All threads draw from one generator."""

    def new_rng(self):
        return self._rng


class NotPicklable(StateVectorDevice):
    """Holds a lock, and only once it has been used."""

    def compile(self, program):
        self.guard = threading.Lock()
        return super().compile(program)


class RefusesWhatItDeclares(StateVectorDevice):
    """Lists variances among its capabilities, and refuses them."""

    @property
    def capabilities(self):
        from pennylane.devices.capabilities import DeviceCapabilities

        return DeviceCapabilities(measurement_processes={"VarianceMP": []})

    def make_executable(self, program):
        if any(type(m).__name__ == "Variance" for m in program.scalars):
            raise DeviceError("no variances")
        return super().make_executable(program)


class RefusesEverything(StateVectorDevice):
    def make_executable(self, program):
        raise DeviceError("not today")


@dataclass(frozen=True)
class Mistake:
    """A broken device and the checks that must fail."""

    device: type
    fails: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.device.__name__


def _mistake(executable, *fails):
    device = _device(executable)
    device.__name__ = executable.__name__
    return Mistake(device, fails)


MISTAKES = (
    Mistake(WrongSignDevice, ("gradients.native", "gradients.native_of_coefficients", "gradients.native_in_torch")),
    _mistake(WrongSharedSum, "gradients.native_of_batches"),
    _mistake(SwappedWires, "wires.order", "wires.labels", "values.pauli_words", "gates.preparations"),
    _mistake(ReversedBits, "wires.order", "values.probabilities", "values.state"),
    _mistake(BatchIgnored, "batches.inputs", "batches.shared_angles", "batches.other_sizes"),
    _mistake(NoEmptyBatch, "batches.empty"),
    _mistake(BiasedSamples, "shots.samples"),
    _mistake(SameShotsForAll, "shots.batch"),
    _mistake(Forgetful, "repetition.other_inputs", "threads.exact"),
    _mistake(SharedBuffer, "repetition.untouched_inputs"),
    _mistake(UnsafeInThreads, "threads.exact"),
    _mistake(RefusesItsDerivative, "gradients.native"),
    Mistake(Unseeded, ("seeds.same",)),
    Mistake(OneSeed, ("seeds.others", "seeds.calls", "threads.sampled", "threads.own_random_numbers")),
    Mistake(SharedRandomNumbers, ("threads.own_random_numbers",)),
    Mistake(NotPicklable, ("copies.pickled", "copies.deepcopy")),
    Mistake(RefusesWhatItDeclares, ("values.variances",)),
)
