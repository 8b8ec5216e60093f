"""The primitives of a device: which there are, how they are seeded, and jobs on them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import (
    BackendEstimatorV2,
    BackendSamplerV2,
    BaseEstimatorV2,
    BaseSamplerV2,
    StatevectorEstimator,
    StatevectorSampler,
)
from qiskit.primitives.containers import BitArray
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.providers import BackendV2

from qhybrid.errors import DeviceError

#: The classical register that outcomes are measured into.
REGISTER = "outcome"
#: Outcomes are integers of this many bits.
MAX_BITS = 62


@dataclass(frozen=True, eq=False)
class Isa:
    """A circuit in the instructions of a backend.

    Args:
        circuit: what runs
        columns: which parameters of the translated circuit are left, in the order of ``circuit.parameters``
        observables: Pauli words ``(K, 1)`` on the backend's qubits, for an estimator
    """

    circuit: QuantumCircuit
    columns: NDArray
    observables: Any = None

    def bindings(self, rows: Sequence[NDArray]) -> BindingsArray:
        """Values of the parameters that are left, one row of all parameters an execution."""
        if not len(self.columns):
            return BindingsArray({}, shape=(len(rows),))
        return BindingsArray({tuple(self.circuit.parameters): np.stack(rows)[:, self.columns]})


@dataclass(frozen=True, eq=False)
class Execution:
    """One circuit of a job: an ISA circuit and the values ``(P,)`` of all its parameters."""

    isa: Isa
    values: NDArray


Numbered = Sequence[tuple[int, Execution]]


@dataclass(frozen=True, eq=False)
class Primitives:
    """What circuits are sent to, kept as long as the device.

    Args:
        backend: what circuits are transpiled for, ``None`` if any gate will do
        sampler, estimator: the primitives, ``None`` where there is none
    """

    backend: Any
    sampler: Any
    estimator: Any

    @classmethod
    def of(cls, backend: Any, sampler: Any, estimator: Any) -> Primitives:
        """The primitives that a user asks for; see :class:`~qhybrid_devices.qiskit_backend.device.QiskitDevice`.

        Raises:
            DeviceError: an argument has the wrong type, or the backend runs through primitives only
        """
        for name, value, kind in (
            ("backend", backend, BackendV2),
            ("sampler", sampler, BaseSamplerV2),
            ("estimator", estimator, BaseEstimatorV2),
        ):
            if value is not None and not isinstance(value, kind):
                raise DeviceError(f"{name} is a {_path(type(value))}; it must be a {_path(kind)}.")
        if sampler is None and estimator is None:
            if backend is None:
                return cls(None, StatevectorSampler(), StatevectorEstimator())
            return cls(backend, _sampler_of(backend), None)
        own = [b for b in (_backend_of(sampler), _backend_of(estimator)) if b is not None]
        return cls(backend if backend is not None or not own else own[0], sampler, estimator)

    @property
    def max_circuits(self) -> int | None:
        """Circuits that the backend takes in one job, ``None`` if as many as there are."""
        return getattr(self.backend, "max_circuits", None) or None

    @property
    def max_shots(self) -> int | None:
        """Shots that the backend takes for one circuit, ``None`` if as many as there are."""
        limit = getattr(self.backend, "max_shots", None)
        if limit is None and callable(getattr(self.backend, "configuration", None)):
            limit = getattr(self.backend.configuration(), "max_shots", None)
        return limit or None

    # ------------------------------------------------------------------ jobs

    def draw(self, batch: Numbered, shots: int, seed: int) -> Iterator[tuple[int, NDArray]]:
        """Outcomes ``(shots,)`` of each execution; bit ``i`` is classical bit ``i``. What ``Jobs.run`` calls."""
        for chunk in _chunks(batch, self.max_circuits or len(batch)):
            sampler = seeded(self.sampler, _seed(seed, chunk[0][0]))
            pubs = _by_circuit(chunk)
            results = _results(sampler, [(isa.circuit, isa.bindings(rows), shots) for isa, _, rows in pubs])
            for (_, numbers, _), result in zip(pubs, results, strict=True):
                yield from zip(numbers, _integers(result.data[REGISTER], shots), strict=True)

    def estimate(self, batch: Numbered, precision: float, seed: int) -> Iterator[tuple[int, NDArray]]:
        """Expectation values ``(K,)`` of the Pauli words of each execution. What ``Jobs.run`` calls."""
        for chunk in _chunks(batch, self.max_circuits or len(batch)):
            pubs = _by_circuit(chunk)
            # Aer's estimator draws the same noise for each PUB of a job.
            for own in _chunks(pubs, 1 if precision and _is_aer(self.estimator) else len(pubs)):
                estimator = seeded(self.estimator, _seed(seed, own[0][1][0]))
                tasks = [(isa.circuit, isa.observables, isa.bindings(rows), precision) for isa, _, rows in own]
                for (_, numbers, _), result in zip(own, _results(estimator, tasks), strict=True):
                    yield from zip(numbers, np.moveaxis(result.data.evs, 0, -1), strict=True)

    @property
    def is_exact(self) -> bool:
        """Whether the estimator can be asked for precision 0."""
        kind = type(self.estimator)
        return self.estimator is not None and not (
            isinstance(self.estimator, BackendEstimatorV2) or kind.__module__.startswith("qiskit_ibm_runtime")
        )


def _results(primitive: Any, pubs: list[Any]) -> Any:
    """The results of a job; it is cancelled if they are not awaited to the end."""
    job = primitive.run(pubs)
    try:
        return job.result()
    except BaseException:
        _cancel(job)
        raise


def _cancel(job: Any) -> None:
    """Cancel a job that is not over; the error or the interrupt that is under way matters more than one here."""
    try:
        if not job.in_final_state():
            job.cancel()
    except Exception as error:  # noqa: BLE001 - see above; it is not lost
        warnings.warn(f"A job could not be cancelled: {error!r}", RuntimeWarning, stacklevel=2)


def _by_circuit(batch: Numbered) -> list[tuple[Isa, list[int], list[NDArray]]]:
    """Executions of the same circuit together, each with its number and its values."""
    found: dict[int, tuple[Isa, list[int], list[NDArray]]] = {}
    for number, execution in batch:
        _, numbers, rows = found.setdefault(id(execution.isa), (execution.isa, [], []))
        numbers.append(number)
        rows.append(execution.values)
    return list(found.values())


def _integers(bits: BitArray, shots: int) -> NDArray:
    """Outcomes ``(executions, shots)``, whose bit ``i`` is classical bit ``i``."""
    if bits.num_shots < shots:
        raise DeviceError(f"The sampler gave {bits.num_shots} shots of the {shots} that it was asked for.")
    packed = bits.array[..., :shots, :]  # big-endian bytes; what stands left of the first bit may be anything
    out = np.zeros(packed.shape[:-1], np.int64)
    for byte in np.moveaxis(packed, -1, 0):
        out = (out << 8) | byte
    return out & ((1 << bits.num_bits) - 1)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def split_shots(shots: int, limit: int | None) -> list[int]:
    """Shots of each repetition of a circuit that is to be run with ``limit`` shots at most.

    Example:
        >>> split_shots(2500, 1000)
        [1000, 1000, 500]
    """
    if limit is None or shots <= limit:
        return [shots]
    return [min(limit, shots - start) for start in range(0, shots, limit)]


# ------------------------------------------------------------------ seeds


def _seed(seed: int, first: int) -> int:
    """The seed of a job: that of the call, mixed with the number of the job's first circuit."""
    return int(np.random.SeedSequence([seed, first]).generate_state(1)[0]) >> 1


def seeded(primitive: Any, seed: int) -> Any:
    """A primitive like ``primitive`` whose random numbers come from ``seed``; itself if it is not known to take one."""
    make = _SEEDED.get(type(primitive)) or (_seeded_aer if _is_aer(primitive) else None)
    return primitive if make is None else make(primitive, seed)


def _seeded_statevector_sampler(primitive: StatevectorSampler, seed: int) -> StatevectorSampler:
    # A generator and no number, with which every circuit would draw the same random numbers.
    return StatevectorSampler(default_shots=primitive.default_shots, seed=np.random.default_rng(seed))


def _seeded_statevector_estimator(primitive: StatevectorEstimator, seed: int) -> StatevectorEstimator:
    return StatevectorEstimator(default_precision=primitive.default_precision, seed=np.random.default_rng(seed))


def _seeded_on_backend(primitive: Any, seed: int) -> Any:
    return type(primitive)(backend=primitive.backend, options=asdict(replace(primitive.options, seed_simulator=seed)))


_SEEDED: dict[type, Callable[[Any, int], Any]] = {
    StatevectorSampler: _seeded_statevector_sampler,
    StatevectorEstimator: _seeded_statevector_estimator,
    BackendSamplerV2: _seeded_on_backend,
    BackendEstimatorV2: _seeded_on_backend,
}


def _is_aer(primitive: Any) -> bool:
    return type(primitive).__module__.startswith("qiskit_aer.primitives.")


def _seeded_aer(primitive: Any, seed: int) -> Any:
    """Aer's take a seed only when they are made, and cannot be made anew with the simulator that they have."""
    out = copy.copy(primitive)
    if isinstance(primitive, BaseSamplerV2):
        out._seed = seed
    else:
        run_options = {**primitive.options.run_options, "seed_simulator": seed}
        out._options = replace(primitive.options, run_options=run_options)
    return out


# ------------------------------------------------------------------ backends


def _sampler_of(backend: Any) -> BackendSamplerV2:
    if type(backend).__name__ == "IBMBackend":
        raise DeviceError(
            "This backend runs through primitives only. Give the device one in its place: "
            "sampler=qiskit_ibm_runtime.SamplerV2(mode=backend), or with a session as mode."
        )
    return BackendSamplerV2(backend=backend)


def _backend_of(primitive: Any) -> Any:
    """The backend that a primitive runs on: Qiskit's have an attribute, IBM's a method, Aer's neither."""
    backend = getattr(primitive, "backend", None)
    if callable(backend) and not isinstance(backend, BackendV2):
        backend = backend()
    if backend is None and _is_aer(primitive):
        backend = primitive._backend
    return backend if isinstance(backend, BackendV2) else None


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def precision_of(shots: int) -> float:
    """The largest standard error that a Pauli word has from so many shots."""
    return 1 / math.sqrt(shots)
