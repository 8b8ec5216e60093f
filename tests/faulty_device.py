"""A device whose jobs go wrong: results are lost, late, out of order or doubled, and submissions fail half-way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qhybrid.errors import TransientError
from qhybrid.execution import Executable
from qhybrid.jobs import Submit
from qhybrid.program import Slots
from qhybrid_devices.statevector.device import StateVectorDevice

OK, DROP, LATE, TWICE, FAIL, RAISE = FAULTS = ("ok", "drop", "late", "twice", "fail", "raise")


class FaultySubmitter:
    """Submits circuits in process, and does to each result what the next of ``faults`` says, if there is a next.

    Args:
        execute: result of one circuit
        faults: of :data:`FAULTS`
        rng: shuffles the results of a submission

    One is made for each call, since results that are late must not reach the next one.
    """

    def __init__(self, execute: Callable[[Any], Any], faults: Iterator[str], rng: random.Random) -> None:
        self.execute, self.faults, self.rng = execute, faults, rng
        self.handed: list[int] = []
        self._late: list[tuple[int, Any]] = []

    def __call__(self, batch: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        self.handed += [i for i, _ in batch]
        batch, late = list(batch), self._late
        self._late = []
        self.rng.shuffle(batch)
        yield from late
        for index, circuit in batch:
            fault = next(self.faults, OK)
            if fault == RAISE:
                raise self.rng.choice([ConnectionError, TimeoutError, TransientError])("the service is down")
            if fault == FAIL:
                yield index, TransientError("this one failed")
            elif fault == LATE:
                self._late.append((index, self.execute(circuit)))
            elif fault != DROP:
                yield from [(index, self.execute(circuit))] * (2 if fault == TWICE else 1)


def random_faults(rng: random.Random, rate: float) -> Iterator[str]:
    """Endless faults, one in ``1 / rate`` circuits."""
    while True:
        yield rng.choice(FAULTS[1:]) if rng.random() < rate else OK


class JobDevice(StateVectorDevice):
    """State vectors, one job circuit a sample, without a derivative of its own; ``rate`` of them go wrong."""

    name = "tests.jobs"
    has_vjp = False
    runs_jobs = True

    def __init__(self, *args: Any, rate: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._random = random.Random(17)
        self._faults = random_faults(self._random, rate)
        self.handed: list[int] = []

    def submitter(self) -> Submit:
        submit = FaultySubmitter(lambda circuit: circuit(), self._faults, self._random)
        submit.handed = self.handed
        return submit

    def compile(self, program):
        return JobExecutable(super().compile(program), self)


class JobExecutable(Executable):
    """Each sample of a batch is a circuit of its own, which carries its own seed."""

    def __init__(self, inner: Executable, device: JobDevice) -> None:
        super().__init__(inner.program)
        self.inner, self.device = inner, device

    def circuits_per_execution(self, shots):
        return 1

    def run(self, slots):
        return self._send([lambda s=s: self.inner.run(s) for s in self._samples(slots)], None)

    def sample(self, slots, shots, rng):
        samples = self._samples(slots)
        seeds = rng.integers(2**63, size=len(samples))
        circuits = [
            lambda s=s, seed=seed: self.inner.sample(s, shots, np.random.default_rng(seed))
            for s, seed in zip(samples, seeds, strict=True)
        ]
        return self._send(circuits, shots)

    def _samples(self, slots: Slots) -> list[Slots]:
        if slots.batch_size is None:
            return [slots]
        flags = [a.batched for a in self.program.arrays]
        return [
            replace(
                slots,
                batched=None if slots.batched is None else slots.batched[:, i : i + 1],
                arrays=tuple(a[i : i + 1] if f else a for a, f in zip(slots.arrays, flags, strict=True)),
                batch_size=1,
            )
            for i in range(slots.batch_size)
        ]

    def _send(self, circuits, shots):
        results = self.device.jobs.run(self.device.submitter(), circuits, shots)
        if not self.program.is_batched:
            return results[0]
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
