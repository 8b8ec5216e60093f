"""Backends on a line of five qubits, and devices through every kind of primitive."""

from __future__ import annotations

import numpy as np
import pytest
from qiskit.primitives import (
    BackendEstimatorV2,
    BackendSamplerV2,
    StatevectorEstimator,
    StatevectorSampler,
)
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer.primitives import EstimatorV2, SamplerV2

import qhybrid as qml

LINE = [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2], [3, 4], [4, 3]]


class Serial(GenericBackendV2):
    """Aer, which simulates it, works on one thread; its threads get in each other's way where circuits are small."""

    def run(self, run_input, **options):
        return super().run(run_input, **{"max_parallel_threads": 1, **options})


def line(cls=Serial, **options):
    return cls(5, coupling_map=LINE, seed=1, **{"noise_info": False, **options})


#: The same for Aer's own primitives.
SERIAL = {"backend_options": {"max_parallel_threads": 1}}
SAMPLERS = {
    "backend": lambda: {"backend": line()},
    "layout": lambda: {"backend": line(), "initial_layout": [3, 1, 0, 2], "optimization_level": 1},
    "statevector": lambda: {"sampler": StatevectorSampler()},
    "primitive": lambda: {"sampler": BackendSamplerV2(backend=line())},
    "aer": lambda: {"sampler": SamplerV2(options=SERIAL)},
}
EXACT = {
    "reference": dict,
    "layout": lambda: {"estimator": StatevectorEstimator(), "backend": line(), "initial_layout": [3, 1, 0, 2]},
    "aer": lambda: {"estimator": EstimatorV2(options=SERIAL)},
}
ESTIMATORS = {**EXACT, "primitive": lambda: {"estimator": BackendEstimatorV2(backend=line())}}
del ESTIMATORS["reference"]  # which has a sampler


def _maker(primitives):
    return lambda wires=4, **options: qml.device("qhybrid.qiskit", wires=wires, **primitives(), **options)


@pytest.fixture(params=SAMPLERS)
def sampled(request):
    return _maker(SAMPLERS[request.param])


@pytest.fixture(params=EXACT)
def exact(request):
    return _maker(EXACT[request.param])


@pytest.fixture(params=ESTIMATORS)
def estimated(request):
    return lambda wires=4, **options: qml.device(
        "qhybrid.qiskit", wires=wires, **ESTIMATORS[request.param](), **options
    )


class Counting(StatevectorSampler):
    """Counts the jobs, and the PUBs and circuits of each."""

    def __init__(self):
        super().__init__(seed=np.random.default_rng(7))
        self.jobs = []

    def run(self, pubs, *, shots=None):
        pubs = list(pubs)
        self.jobs.append([bindings.size for _, bindings, _ in pubs])
        return super().run(pubs, shots=shots)


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def make_line():
    return line
