"""PennyLane devices as devices of compiled circuits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pennylane as qml
from pennylane.devices import Device, ExecutionConfig, LegacyDeviceFacade, QutritDevice
from pennylane.devices.default_mixed import DefaultMixed
from pennylane.devices.default_qubit import DefaultQubit
from pennylane.devices.default_qutrit_mixed import DefaultQutritMixed
from pennylane.devices.reference_qubit import ReferenceQubit
from pennylane.tape import QuantumScript

from qhybrid.backend import CompilingDevice
from qhybrid.errors import CaptureError, DeviceError, QHybridError
from qhybrid.gradients import NATIVE_METHODS
from qhybrid.jobs import Jobs, jobs_of
from qhybrid.program import Program
from qhybrid.tapes.executable import TapeExecutable
from qhybrid.tapes.lightning import Direct, direct, threads_for
from qhybrid.tapes.reverse import compact

MAX_CACHED_PROGRAMS = 256


class TapeBackend(CompilingDevice):
    """A PennyLane device that runs Programs as batches of tapes.

    A tape is built from a program alone: no quantum function is called, nothing is queued or decomposed again. The
    device's own preprocessing is done once for a structure, and its derivatives are used where they are right.

    Args:
        device: any device of PennyLane's

    Example:
        >>> import pennylane as qml
        >>> from qhybrid.program import Expectation, Observable, Slots, Term
        >>> backend = TapeBackend(qml.device("default.qubit"))
        >>> z = Observable((Term(1.0, ((0, "Z"),)),))
        >>> backend.compile(Program(1, (), (Expectation(z),))).run(Slots(np.empty(0)))[0]
        array([1.])
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        #: Whether the device simulates programs exactly and without noise in arrays, a whole batch at a time.
        self.holds_states = type(device) in (DefaultQubit, DefaultMixed) and _claims(device, "backprop")
        #: Whether the device measures a matrix as if its eigenvalues were those of Z.
        self.paulis_only = isinstance(device, ReferenceQubit)
        #: Devices of the old kind rotate wires into the basis of an observable before they read outcomes of them.
        self.measures_apart = isinstance(device, LegacyDeviceFacade)
        kind = type(device)  # a subclass may have changed what the kernels are called for
        self._is_lightning = (kind.__module__.split(".")[0], kind.__name__) == ("pennylane_lightning", "LightningQubit")
        #: Whether the device would decompose rotations about Pauli words on every call.
        self.expands_words = self._is_lightning
        self._compiled: OrderedDict[Program, TapeExecutable] = OrderedDict()
        self._direct: dict[Program, Direct | None] = {}
        self._lock = threading.RLock()

    keeps_wires = True
    runs_jobs = True
    leaves_mid_circuit = True

    @property  # type: ignore[misc]
    def jobs(self) -> Jobs:
        """The device's."""
        return jobs_of(self.device)

    @property
    def wires(self) -> Any:
        """The device's."""
        return self.device.wires

    def expand(self, tape: QuantumScript) -> QuantumScript:
        """The circuit as it is, unless the device must be asked about its wires."""
        known = self.wires
        unknown = [] if known is None else [w for w in tape.wires if w not in known]
        if unknown:  # a wrong label: the device says so
            raise CaptureError(f"wire {unknown[0]!r} is not on the device, whose wires are {list(known)}")
        return tape

    @property
    def tracker(self) -> Any:
        """The device's."""
        return self.device.tracker

    @property
    def has_vjp(self) -> bool:  # type: ignore[override]
        """Whether the device has a derivative that is known to be right."""
        return self.holds_states or self._is_lightning

    @property
    def single_precision(self) -> bool:  # type: ignore[override]
        """Whether the device is not known to compute in double precision: Cirq's, for example, does not."""
        known = self.holds_states or self._is_lightning or self.paulis_only
        return not known or getattr(self.device, "c_dtype", np.complex128) == np.complex64

    def leaves_derivative(self, method: str, exact: bool) -> bool:
        """Whether the device claims it and is not known to be right."""
        if self.has_vjp:
            return False
        return method in NATIVE_METHODS or (method == "best" and exact and _claims(self.device, "best"))

    def new_rng(self) -> np.random.Generator:
        """A generator that nothing uses: the device draws its own random numbers."""
        return np.random.default_rng(0)

    def compile(self, program: Program) -> TapeExecutable:
        """An executable for ``program``, made once and kept."""
        with self._lock:
            executable = self._compiled.get(program)
            if executable is None:
                executable = self._compiled[program] = TapeExecutable(program, self)
                if len(self._compiled) > MAX_CACHED_PROGRAMS:
                    self._compiled.popitem(last=False)
            else:
                self._compiled.move_to_end(program)
        return executable

    def check(self, program: Program, shots: int | None) -> None:
        """Leave to PennyLane what the device, or the way to it, cannot run as a Program."""
        try:
            self.compile(program).check(shots)
        except QHybridError:
            raise
        except Exception as error:  # whatever a device says to a circuit: PennyLane's own path then says it, or runs it
            raise CaptureError(f"{self.device.name} refuses the compiled circuit: {error}") from error

    def describe(self, program: Program, shots: int | None) -> str:
        """Kernels called directly, or tapes, preprocessed once or every time."""
        executable = self.compile(program)
        if shots is None and self.direct(executable) is not None:
            return f"kernels of {self.device.name}, called directly"
        once = None not in executable.templates(shots)
        when = "once" if once else "again for every batch, since the device changes it"
        return f"one batch of tapes, preprocessed {when}"

    def memory_needed(self, program: Program, batch_size: int) -> int:
        """Bytes of the states of a broadcast tape, or of one state."""
        lanes = batch_size if self.holds_states else 1
        return 16 * self.amplitudes(program) * max(1, lanes)

    def amplitudes(self, program: Program) -> int:
        """Numbers of one state."""
        num_wires = compact(program).num_wires if self.holds_states else program.num_wires
        return 2 ** (num_wires * (2 if isinstance(self.device, DefaultMixed) else 1))

    def labels(self, num_wires: int) -> Sequence[Any]:
        """The label of each wire of a program.

        Raises:
            DeviceError: the device has fewer wires than the program, for example than one with an auxiliary wire
        """
        if self.device.wires is None:
            return range(num_wires)
        labels = list(self.device.wires)
        if num_wires > len(labels):
            raise DeviceError(
                f"A circuit on {num_wires} wires does not fit on {self.device.name} with the wires {labels}. Give the "
                'device more wires, or none; diff_method="hadamard" needs one that the circuit leaves free.'
            )
        return labels

    def direct(self, executable: TapeExecutable) -> Direct | None:
        """The short way to the device's kernels, where there is one for this program."""
        if not self._is_lightning:
            return None
        program = executable.program
        with self._lock:
            if program not in self._direct:
                if len(self._direct) >= MAX_CACHED_PROGRAMS:
                    self._direct.clear()
                self._direct[program] = direct(executable, self.device)
            return self._direct[program]

    # ------------------------------------------------------------------ the device

    def preprocess(self, tapes: tuple[QuantumScript, ...]) -> tuple[Sequence[QuantumScript], Callable]:
        """What the device makes of tapes before it runs them."""
        with qml.QueuingManager.stop_recording():
            return self.device.preprocess_transforms(self._config())(tapes)

    def run(self, tapes: Sequence[QuantumScript]) -> Sequence[Any]:
        """Results of preprocessed tapes: one call of the device, not counted as a job."""
        with self._lock, self._threads(tapes):
            return self.device.execute(tuple(tapes), self._config())

    def _threads(self, tapes: Sequence[QuantumScript]) -> AbstractContextManager:
        if not self._is_lightning:
            return nullcontext()
        wires = self.device.wires
        return threads_for(max((t.num_wires for t in tapes), default=0) if wires is None else len(wires))

    def execute(self, tapes: Sequence[QuantumScript]) -> Sequence[Any]:
        """Results of preprocessed tapes, sent as a job: one call of the device."""
        if not tapes:
            return ()

        def submit(batch: Sequence[tuple[int, QuantumScript]]) -> Iterator[tuple[int, Any]]:
            yield from zip((i for i, _ in batch), self.run([tape for _, tape in batch]), strict=True)

        return self.jobs.run(submit, tapes, tapes[0].shots.total_shots)

    def _config(self) -> ExecutionConfig:
        config = ExecutionConfig(gradient_method=None, interface=qml.math.Interface.NUMPY)
        return self.device.setup_execution_config(config)


def _claims(device: Device, method: str) -> bool:
    return device.supports_derivatives(ExecutionConfig(gradient_method=method))


_backends: WeakValueDictionary[int, TapeBackend] = WeakValueDictionary()
_backends_lock = threading.Lock()


def tape_backend_of(device: Any) -> TapeBackend:
    """The one :class:`TapeBackend` of a PennyLane device.

    Args:
        device: a PennyLane device that does not run programs itself

    Raises:
        CaptureError: the device must be left to PennyLane, with the reason
    """
    if isinstance(getattr(device, "target_device", device), QutritDevice | DefaultQutritMixed):
        raise CaptureError(f"device {device.name!r} holds qutrits")
    if getattr(device, "readout_err", None):
        raise CaptureError(f"device {device.name!r} has readout errors, which PennyLane adds to each measurement")
    with _backends_lock:
        backend = _backends.get(id(device))
        if backend is None or backend.device is not device:
            backend = _backends[id(device)] = TapeBackend(device)
        return backend
