"""Peers: simulators that PennyLane does not run, each in an interpreter of its own.

Their packages exclude each other (JAX, TensorFlow and PyTorch of other versions), so a peer has a virtual environment,
made by ``python -m benchmarks.peers``, and is measured in a child process, :mod:`benchmarks.peers.worker`. A child is
asked in lines of JSON, times its calls itself and sleeps between its turns. What a peer runs is in the module of its
name, which imports that peer and nothing of this project but what is shared in this folder. qhybrid in JAX is among
them: JAX and PyTorch in one process are in each other's way.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

#: Folder of the environments, unless the variable names another.
VARIABLE = "QHYBRID_PEERS"
ROOT = Path(__file__).parents[2]
#: Variables that would bring the parent's packages into a child.
PARENTS_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
#: What a child has written to stderr is shown when it dies: the last characters.
TAIL = 3000


@dataclass(frozen=True)
class Peer:
    """A simulator with an environment of its own.

    Args:
        title: in tables and remarks
        requirements: what pip installs, pinned
        works: precisions it computes each work in, by the work's name
        most_qubits: above which it is left out: minutes of compiling, or of calls that are not the fastest
        module: what the child imports
    """

    title: str
    requirements: tuple[str, ...]
    works: Mapping[str, tuple[str, ...]]
    most_qubits: int = 24
    module: str = ""


SINGLE, DOUBLE = "complex64", "complex128"
BOTH = (SINGLE, DOUBLE)

#: All peers, by the name of their environment and their module.
PEERS = {
    "catalyst": Peer("Catalyst, lightning.qubit, adjoint", ("pennylane-catalyst==0.15.0",), {"w2": (DOUBLE,)}),
    "qulacs": Peer("Qulacs, backprop", ("qulacs==0.6.14", "scipy"), {"w2": (DOUBLE,)}, most_qubits=20),
    "mindquantum": Peer("MindQuantum", ("mindquantum==0.12.0",), {"w1": BOTH, "w2": BOTH}),
    "tensorcircuit": Peer(
        "TensorCircuit, JAX jit",
        ("tensorcircuit-ng==1.10.0", "jax==0.7.1", "jaxlib==0.7.1"),
        {"w1": BOTH, "w2": BOTH},
        most_qubits=10,
    ),
    "tensorcircuit_torch": Peer(
        "TensorCircuit, JAX jit, in PyTorch",
        ("tensorcircuit-ng==1.10.0", "jax==0.7.1", "jaxlib==0.7.1", "torch==2.13.0"),
        {"w1": BOTH},
        most_qubits=8,
    ),
    "torchquantum": Peer("TorchQuantum", ("torchquantum-ng==0.2.0", "torch==2.13.0"), {"w1": (SINGLE,)}),
    "deepquantum": Peer("DeepQuantum", ("deepquantum==4.5.0", "torch==2.13.0"), {"w1": BOTH}),
    "pennylane_jax": Peer(
        "PennyLane default.qubit, JAX jit",
        ("pennylane==0.45.1", "jax==0.7.1", "jaxlib==0.7.1"),
        {"hessian": (DOUBLE,)},
        most_qubits=10,
    ),
    "qhybrid_jax": Peer("qhybrid, JAX jit", ("--editable", f"{ROOT}[jax]"), {"w1": (DOUBLE,)}),
    "tfq": Peer("TensorFlow Quantum, adjoint", ("tensorflow-quantum==0.7.6",), {"w1": (SINGLE,)}),
}


class PeerError(RuntimeError):
    """A peer's process died, or what it was asked for ended in an error."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether it exists or not."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".peers").absolute() / name / "bin" / "python"


def absences(work: str) -> list[str]:
    """A remark that names the peers of a work that are not installed."""
    missing = [peer.title for name, peer in PEERS.items() if work in peer.works and not python_of(name).exists()]
    return [f"Missing: {'; '.join(missing)} (python -m benchmarks.peers installs peers)."] if missing else []


@contextmanager
def started(work: str) -> Iterator[dict[str, Remote]]:
    """Every peer of a work that is installed, by title and precision; their processes end with the context."""
    with ExitStack() as stack:
        yield {
            f"{peer.title}, {precision}": stack.enter_context(Remote(name, work, precision))
            for name, peer in PEERS.items()
            if work in peer.works and python_of(name).exists()
            for precision in peer.works[work]
        }


class Remote:
    """A peer in a child process, for one work in one precision.

    Args:
        name: key in :data:`PEERS`
        work: name of the function of the peer's module that builds what is measured
        precision: complex64 or complex128
    """

    def __init__(self, name: str, work: str, precision: str) -> None:
        self.peer = PEERS[name]
        self.precision = "single" if precision == SINGLE else "double"
        self._task = {"module": self.peer.module or f"{__name__}.{name}", "work": work, "precision": precision}
        self._folder = tempfile.TemporaryDirectory(prefix="qhybrid-peer-")
        self._builds = 0
        with (Path(self._folder.name) / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                [python_of(name), "-m", f"{__name__}.worker"],
                cwd=ROOT,
                env={k: v for k, v in os.environ.items() if k not in PARENTS_OWN},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C ends the parent, which ends its children
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def build(self, problem: Mapping[str, Any]) -> dict[str, RemoteCall]:
        """Have the peer build its work.

        Args:
            problem: arrays that define it

        Returns:
            what can be called and timed, by name

        Raises:
            PeerError: the peer cannot
        """
        self._builds += 1
        path = Path(self._folder.name) / f"{self._builds}.npz"
        np.savez(path, **problem)
        found = self.ask(request="build", build=self._builds, arrays=str(path), **self._task)["calls"]
        return {what: RemoteCall(self, self._builds, what) for what in found}

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            PeerError: the process died, or answers with an error
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            written = (Path(self._folder.name) / "stderr").read_text(errors="replace")[-TAIL:]
            raise PeerError(f"{self.peer.title} ended with exit status {self._process.wait()}; it wrote:\n{written}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.peer.title} failed in its process:\n{answer['error']}")
        return answer


@dataclass(frozen=True)
class RemoteCall:
    """One thing that a peer has built and can do.

    Args:
        remote: the process
        build: number of the build in the process
        what: name of the call
    """

    remote: Remote
    build: int
    what: str

    def __call__(self) -> list[np.ndarray]:
        """Call once; the results."""
        with np.load(self.remote.ask(request="call", build=self.build, what=self.what)["arrays"]) as found:
            return [found[f"arr_{i}"] for i in range(len(found))]

    def seconds(self, calls: int) -> list[float]:
        """The time of each of some calls, measured in the process."""
        return self.remote.ask(request="time", build=self.build, what=self.what, calls=calls)["seconds"]
