"""QNode: a PennyLane QNode that traces its quantum function once and runs the compiled circuit from then on."""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pennylane as qml
from pennylane.math import Interface
from pennylane.transforms.core import CompilePipeline

from qhybrid.backend import CompilingDevice
from qhybrid.capture.assembly import SlotValues, assemble
from qhybrid.capture.deferral import MidCircuit
from qhybrid.capture.lowering import Lowered, lower
from qhybrid.capture.recording import Recording, record
from qhybrid.capture.signature import Key, flatten
from qhybrid.capture.trace import Trace
from qhybrid.capture.values import concrete
from qhybrid.catalogue import device
from qhybrid.circuit import CompiledCircuit, lowered_tape, run_lowered
from qhybrid.differentiate import without_graph
from qhybrid.errors import (
    CaptureError,
    DeviceError,
    DifferentiationError,
    FallbackWarning,
    HostTracesError,
    NeedsShotsError,
    NotFiniteError,
)
from qhybrid.execution import Needs
from qhybrid.gradients import (
    GradientMethod,
    NoDerivative,
    PhysicsAware,
    check_method,
    pennylane_name,
    resolve,
    resolves,
)
from qhybrid.interfaces.names import name_node
from qhybrid.tapes import backend_of, portable
from qhybrid.traces import Entry, Traces
from qhybrid.twins import graft

if TYPE_CHECKING:
    from qhybrid.explanation import Explanation

#: The numbers of shots of exact results.
EXACT = (None,)
_TENSORFLOW = frozenset({Interface.TF, Interface.TF_AUTOGRAPH})


@dataclass
class _Cache:
    """Everything that a QNode has learnt about its function; dropped by copies and pickles."""

    traces: Traces = field(default_factory=Traces)
    backend: CompilingDevice | None = None
    untraceable: str | None = None
    uncompiled: str | None = None
    warned: bool = False
    methods: dict[int | None, GradientMethod] = field(default_factory=dict)
    twin: Callable | None = None
    shots: tuple[int | None, ...] | None = None
    no_backend: tuple[str | None] | None = None
    native: bool | None = None


class QNode(qml.QNode):
    """A quantum function bound to a device: a node of the host's graph with exact gradients.

    Takes everything that :class:`pennylane.QNode` takes, and gives the same results, on any device of PennyLane. The
    function is traced at its first call; later calls with arguments of the same structure, shapes and dtypes run the
    compiled circuit without calling the function, as long as nothing that the function reads from outside has changed.
    On ``qhybrid.statevector`` the circuit is one kernel call, on other devices one batch of tapes. What cannot be
    compiled runs through PennyLane on the same device, with one :class:`~qhybrid.errors.FallbackWarning`;
    :meth:`explain` tells what happens and why.

    Args:
        func: a quantum function: applies operations and returns measurements
        device: a PennyLane device
        interface: ``"auto"``, ``"numpy"``, ``"autograd"``, ``"torch"``, ``"jax"``, or any other name that
            PennyLane knows
        diff_method: ``"best"``, ``"adjoint"``, ``"backprop"``, ``"parameter-shift"``, ``"finite-diff"``, ``None``, a
            :class:`~qhybrid.gradients.GradientMethod`, or a method of PennyLane's.
            :class:`~qhybrid.gradients.PhysicsAware` takes values from the device and derivatives from a model of it
        trace: ``False`` calls the function every time
        check: compare the first derivatives of each circuit with central differences, and refuse those that disagree;
            see :class:`~qhybrid.gradients.Checked`
        kwargs: further arguments of :class:`pennylane.QNode`

    Raises:
        DifferentiationError: ``diff_method`` is unknown, or impossible on this device with these shots

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.statevector"))
        ... def circuit(x):
        ...     qml.RX(x, wires=0)
        ...     return qml.expval(qml.Z(0))
        >>> x = qml.numpy.array(0.5)
        >>> print(f"{circuit(x):.4f} {qml.grad(circuit)(x):.4f}")
        0.8776 -0.4794
    """

    def __init__(
        self,
        func: Callable,
        device: Any,
        interface: Any = "auto",
        diff_method: Any = "best",
        *,
        trace: bool = True,
        check: bool = False,
        **kwargs: Any,
    ) -> None:
        check_method(diff_method)
        if isinstance(device, CompilingDevice) and resolves(diff_method, kwargs.get("gradient_kwargs")):
            resolve(diff_method, has_vjp=device.has_vjp, shots=None)  # before PennyLane refuses it in other words
        super().__init__(func, device, interface, pennylane_name(diff_method), **kwargs)
        if "torch" in sys.modules:
            from qhybrid.interfaces.torch import keep_out_of_graphs

            keep_out_of_graphs(QNode.call_outside_of_graphs, QNode.stacked)
        self._init_args = {
            "func": func, "device": device, "interface": interface, "diff_method": diff_method, "trace": trace,
            "check": check, **kwargs
        }  # fmt: skip
        self._method = diff_method
        self._trace, self._check = trace, check
        self._cache = _Cache()
        self._name_in_graphs = name_node(self)
        if isinstance(diff_method, PhysicsAware):
            self._twin()  # now, since its device may not exist
        if self._no_backend() is None and resolves(diff_method, self.gradient_kwargs):
            for number in self._each_shots():
                self._resolve(number)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a setting as on PennyLane's QNode; another function, device or method starts anew."""
        super().__setattr__(name, value)
        if name == "_shots" and "_cache" in self.__dict__:
            self._cache.shots = self._cache.no_backend = self._cache.native = None
        if name in ("func", "device", "diff_method", "interface"):
            self._cache = _Cache()
            if name == "diff_method":
                self._method = value

    # ------------------------------------------------------------------ calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the circuit; the result has the structure that the quantum function returns."""
        if _in_a_graph() and not isinstance(self._method, PhysicsAware):  # there it would run once more in backward
            from qhybrid.interfaces.torch_library import evaluate_in_graph

            return evaluate_in_graph(self._name_in_graphs, args, kwargs)
        return self.call_outside_of_graphs(args, kwargs)

    def call_outside_of_graphs(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the circuit, which no graph of ``torch.compile`` looks into."""
        if not isinstance(self._method, PhysicsAware) or self._ends_in_a_transform:
            return self._call(args, kwargs)
        copies = len(self._each_shots()) if self._shots.has_partitioned_shots else None
        return graft(lambda *a, **k: self._call(a, k), self._call_twin, args, kwargs, copies)

    def _call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Compiled if possible, else PennyLane's."""
        reason = self._not_compiled(kwargs)
        if reason is None:
            try:
                return self._compiled_call(args, kwargs)
            except CaptureError as cause:
                reason = str(cause)
                self._cache.uncompiled = reason
        if reason:
            self._refuse_unchecked(reason)
            self._warn(f"runs through PennyLane on every call: {reason}")
        return super().__call__(*args, **kwargs)

    def _twin(self) -> Callable:
        """What gives the derivatives of a physics-aware QNode, made at the first use."""
        if self._cache.twin is None:
            twin = self._method.twin
            if callable(twin) and self._check:
                raise DifferentiationError(
                    "check=True checks the derivatives of circuits; with a function as twin it checks none. Make the "
                    "twin a QNode with check=True, and leave it out here."
                )
            if isinstance(twin, str):
                twin = device(twin, wires=self.device.wires)
            if not callable(twin):
                settings = {k: v for k, v in self._init_args.items() if k not in ("shots", "mcm_method")}
                twin = QNode(**{**settings, "func": self.func, "device": twin, "diff_method": "best"})
            self._cache.twin = twin
        return self._cache.twin

    def _call_twin(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._twin()(*args, **kwargs)
        except NeedsShotsError:
            name = getattr(self.func, "__name__", "a quantum function")
            raise DifferentiationError(
                f"The QNode {name} returns samples or counts, which have no derivative, and its arguments are being "
                "differentiated: its twin, which gives the derivatives, has no samples to give. Return expval, var or "
                "probs in their place. For the samples alone, pass arguments that require no gradient, or call inside "
                "torch.no_grad()."
            ) from None

    def _not_compiled(self, kwargs: dict[str, Any]) -> str | None:
        """Why this call goes to PennyLane at once, ``None`` if it does not; empty if the user asked for that."""
        if self._cache.uncompiled is not None:
            return self._cache.uncompiled
        known = self._cache.no_backend
        if known is None:
            known = self._cache.no_backend = (self._no_backend(),)
        if known[0] is not None:
            return known[0]
        if len(self._compile_pipeline):
            return "" if self._ends_in_a_transform else "the QNode carries PennyLane transforms"
        if self.device.tracker.active:
            return ""  # PennyLane's path is the one that counts
        if qml.capture.enabled():
            return "PennyLane's program capture is switched on"
        if "shots" in kwargs and not self._qfunc_uses_shots_arg:
            return "shots were given in the call; use qml.set_shots(circuit, shots=...) instead"
        if self._interface in _TENSORFLOW:
            return f"the interface {self._interface.value!r} is PennyLane's"
        if not resolves(self._method, self.gradient_kwargs):
            return f"diff_method {self._method!r} is PennyLane's"
        return None

    @property
    def _ends_in_a_transform(self) -> bool:
        """Whether a call gives something else than a circuit's results, such as a metric tensor."""
        return self._compile_pipeline.is_informative or self._compile_pipeline.has_final_transform

    def _no_backend(self) -> str | None:
        """Why nothing can be compiled for this device, ``None`` if circuits can."""
        try:
            backend, method = self._backend, self._method
        except CaptureError as cause:
            return str(cause)
        exact = self._each_shots() is EXACT
        if isinstance(method, str) and backend.leaves_derivative(method, exact):
            return f"diff_method {self._method!r} is PennyLane's on device {self.device.name!r}"
        return None

    @property
    def _backend(self) -> CompilingDevice:
        """What runs the compiled circuits.

        Raises:
            CaptureError: nothing does on this device
        """
        if self._cache.backend is None:
            self._cache.backend = backend_of(self.device)
        return self._cache.backend

    def _compiled_call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self._trace and self._cache.untraceable is None:
            try:
                key, leaves = flatten(args, kwargs)
                entry = self._entry(key, leaves)
            except HostTracesError as cause:
                if importlib.import_module("qhybrid.interfaces.jax").is_compiling(args, kwargs):
                    return self._staged_call(args, kwargs)
                self._warn(f"calls its function every time, since it cannot be traced: {cause}")
                return self._recorded_call(args, kwargs)
            except CaptureError as cause:
                result = self._recorded_call(args, kwargs)  # first: a mistake in the function shows itself here
                self._cache.untraceable = str(cause)
                self._warn(f"calls its function every time, since it cannot be traced: {cause}")
                return result
            return self._run_entry(entry, leaves)
        return self._recorded_call(args, kwargs)

    def _run_entry(self, entry: Entry, leaves: list) -> Any:
        found = entry.trace
        values = self._values(found, leaves)
        try:
            parts = [found.restore(entry.circuit.measured(values, self._resolve(s), s)) for s in self._each_shots()]
        except NotFiniteError as error:
            source = found.prologue.describe_row(error.batched, error.index)
            message = f"{error} It comes from {source}: look for a division by zero or a diverging optimizer."
            raise NotFiniteError(message, error.batched, error.index) from None
        return self._finish(parts, entry.automatic)

    def _values(self, found: Trace, leaves: list) -> SlotValues:
        """Slot values; for methods that pay for each angle, with those that nobody differentiates along."""
        native = self._cache.native
        if native is None:
            native = self._cache.native = all(self._resolve(shots).is_native for shots in self._each_shots())
        values = found.inputs(leaves)
        return values if native else found.with_constants(values, leaves)

    def _recorded_call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        return self._run_recording(*self._record(args, kwargs))

    def _staged_call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The same as :meth:`_recorded_call` while JAX makes a program, of few operations around the circuit's."""
        made: list[tuple[Recording, Lowered, SlotValues]] = []

        def slots(args: tuple, kwargs: dict[str, Any]) -> tuple[Any, ...]:
            made.append(self._record(args, kwargs, is_staged=True))
            return made[0][2].tensors

        tensors = importlib.import_module("qhybrid.interfaces.jax_moves").rearranged(slots, args, kwargs)
        ((recording, lowered, values),) = made
        if values.host == "jax":
            values = values._replace(tensors=tuple(tensors))
        return self._run_recording(recording, lowered, values)

    def _record(
        self, args: tuple, kwargs: dict[str, Any], is_staged: bool = False
    ) -> tuple[Recording, Lowered, SlotValues]:
        """One run of the function, its circuit, and the values of the circuit's slots."""
        recording = record(self.func, args, kwargs, self._shots)
        self._check_mid_circuit(MidCircuit.of(recording.tape))
        lowered = lowered_tape(recording.tape, self._backend, is_staged)
        return recording, lowered, assemble(lowered)

    def _run_recording(self, recording: Recording, lowered: Lowered, values: SlotValues) -> Any:
        parts = run_lowered(lowered, values, recording.tape.shots, self._backend, self._resolve)
        return self._finish([recording.restore(p) for p in parts])

    def _check_mid_circuit(self, found: MidCircuit) -> None:
        """Leave to PennyLane, or refuse on devices of ours, other ways of measuring inside a circuit than deferring.

        Raises:
            CaptureError: PennyLane's device may do it
            DeviceError: the device does not
        """
        settings, exact = self.execute_kwargs, self._each_shots() is EXACT
        method = settings["mcm_method"]
        reason = found.unsupported(method, settings["postselect_mode"], not exact)
        if reason is None and method == "device" and found.measured and self._backend.leaves_mid_circuit:
            reason = "mcm_method='device' asks for the device's own mid-circuit measurements"
        if reason is None:
            return
        if self._backend.leaves_mid_circuit:
            raise CaptureError(reason)
        raise DeviceError(f"On {self.device.name} {reason}. Leave the argument out, or use default.qubit.")

    def _finish(self, parts: list, automatic: Interface = Interface.AUTO) -> Any:
        """The result of a call; ``automatic`` is what the interface ``"auto"`` asks for."""
        interface = automatic if self._interface is Interface.AUTO else self._interface
        result = tuple(parts) if self._shots.has_partitioned_shots else parts[0]
        return result if interface is Interface.AUTO else _converted(result, interface)

    # ------------------------------------------------------------------ traces

    def _entry(self, key: Any, leaves: list) -> Entry:
        """The trace that holds for these arguments, with its circuit; see :meth:`qhybrid.traces.Traces.entry`."""
        return self._cache.traces.entry(self.func, key, leaves, self._backend, self._shots, self._compiled)

    def _compiled(self, made: Trace) -> CompiledCircuit:
        """The circuit of a new trace, if this QNode may run it.

        Raises:
            CaptureError: it is left to PennyLane, with the reason
            DeviceError: the device measures inside circuits in another way than was asked for
        """
        self._check_mid_circuit(made.mid_circuit)
        for shots in self._each_shots():
            self._backend.check(made.program, shots)
        return CompiledCircuit(self._backend.adapt(made.program), made.outputs, self._backend)

    # ------------------------------------------------------------------ methods, shots, messages

    def _each_shots(self) -> tuple[int | None, ...]:
        """The number of shots of each copy of the results; :data:`EXACT` without shots."""
        known = self._cache.shots
        if known is None:
            known = self._cache.shots = tuple(self._shots) if self._shots.total_shots is not None else EXACT
        return known

    def _resolve(self, shots: int | None) -> GradientMethod:
        method = self._cache.methods.get(shots)
        if method is None:
            method = self._cache.methods[shots] = self._resolve_with_reason(shots)[0]
        return method

    def _resolve_with_reason(self, shots: int | None) -> tuple[GradientMethod, str]:
        method, reason = resolve(self._method, has_vjp=self._backend.has_vjp, shots=shots, options=self.gradient_kwargs)
        if not self._check or isinstance(method, NoDerivative | PhysicsAware):
            return method, reason
        from qhybrid.gradients.checked import Checked  # with all that it needs, for few circuits

        checked = Checked(method)
        return checked, f"{reason}; the first {checked.calls} of each circuit are compared with central differences"

    def _refuse_unchecked(self, reason: str) -> None:
        """With check=True, do not let derivatives pass that PennyLane gives."""
        if self._check and not isinstance(self._method, PhysicsAware):
            raise DifferentiationError(
                f"check=True compares derivatives of compiled circuits, and this one runs through PennyLane: {reason}. "
                "Leave out check=True, or remove the cause."
            )

    def _warn(self, message: str) -> None:
        if not self._cache.warned:
            self._cache.warned = True
            name = getattr(self.func, "__name__", "a quantum function")
            warnings.warn(f"The QNode {name} {message}", FallbackWarning, stacklevel=3)

    # ------------------------------------------------------------------ explaining

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What a call with these arguments does: which path, which gradient method and why, how many executions.

        Runs the quantum function if it has not been traced yet, and no circuit but those that tell once, at data of
        their own, whether a device of others gives what is expected.

        Example:
            >>> import qhybrid as qml
            >>> @qml.qnode(qml.device("qhybrid.statevector"))
            ... def circuit(x):
            ...     qml.RX(x, wires=0)
            ...     return qml.expval(qml.Z(0))
            >>> circuit.explain(0.5).path
            'compiled'
        """
        found = self._explain(args, kwargs)
        if not isinstance(self._method, PhysicsAware):
            return found
        twin = self._twin()
        if not isinstance(twin, QNode):
            name = getattr(twin, "__name__", type(twin).__name__)
            reason = f"forward on {self.device.name}, backward through the twin {name}"
            return replace(found, method=self._method.name, method_reason=reason)
        try:
            explained = twin.explain(*args, **kwargs)
        except NeedsShotsError:
            reason = f"forward on {self.device.name}; samples and counts have no derivative"
            return replace(found, method=self._method.name, method_reason=reason)
        reason = f"forward on {self.device.name}, backward on the twin {explained.device} by {explained.method}"
        return replace(found, method=self._method.name, method_reason=reason, twin=explained)

    def _explain(self, args: tuple, kwargs: dict[str, Any]) -> Explanation:
        reason = self._not_compiled(kwargs)
        if reason is None:
            try:
                return self._explain_compiled(args, kwargs)
            except CaptureError as cause:
                reason = str(cause)
        from qhybrid.explanation import Explanation  # as below: few programs ask

        reason = reason or "the QNode carries a PennyLane gradient transform, or a qml.Tracker counts its executions"
        return Explanation(
            "pennylane", reason, self.device.name, str(self.diff_method), "PennyLane chooses and runs it"
        )

    def _explain_compiled(self, args: tuple, kwargs: dict[str, Any]) -> Explanation:
        from qhybrid.explanation import explain_circuit

        path, reason = ("compiled", "") if self._trace else ("recorded", "trace=False")
        needs = Needs()
        if self._trace:
            try:
                key, leaves = flatten(args, kwargs)
                known = self._entry(key, leaves).trace
                program, outputs, batch = known.program, known.outputs, known.batch_size
                needs = Needs(constant=known.prologue.constant(leaves, _is_trainable))
            except CaptureError as cause:
                path, reason = "recorded", str(cause)
        if path == "recorded":
            recording = record(self.func, args, kwargs, self._shots)
            lowered = lower(recording.tape, self._backend, lambda value: True, qml.math.requires_grad)
            program, outputs, batch = lowered.program, lowered.outputs, lowered.batch_size
        shots = self._each_shots()
        circuit = CompiledCircuit(self._backend.adapt(program), outputs, self._backend)
        method, method_reason = self._resolve_with_reason(shots[0])
        found = explain_circuit(circuit, method, method_reason, batch, shots, needs)
        return replace(found, path=path, reason=reason, device=self.device.name)

    # ------------------------------------------------------------------ what PennyLane's QNode also offers

    def stacked(self, *args: Any, **kwargs: Any) -> Any:
        """All measurement values as one tensor, the measurements along its last axis.

        Returns:
            an array ``(num_measurements,)`` or ``(batch, num_measurements)`` of the host, or ``None`` if the circuit is
            not compiled, has a twin or shot vectors, or returns anything but a list or tuple of expectation values and
            variances

        """
        found = self._traced(args, kwargs)
        if found is None:
            return None
        entry, _, leaves = found
        if not (entry.trace.sequence and entry.circuit.only_scalars):
            return None
        (shots,) = self._each_shots()
        return entry.circuit.results(self._values(entry.trace, leaves), self._resolve(shots), shots)[0]

    def value_and_gradients(
        self, args: tuple, kwargs: dict[str, Any], argnums: Sequence[int]
    ) -> tuple[Any, tuple[Any, ...]] | None:
        """What :func:`pennylane.grad` gives, where no graph of autograd's is needed for it.

        Args:
            args, kwargs: of a call
            argnums: positions in ``args`` of what is differentiated

        Returns:
            the value and the gradient by each of these arguments; ``None`` if there is more to it than one exact
            expectation value of angles that are numbers of real arrays, scaled and shifted by constants
        """
        if self._interface not in (Interface.AUTO, Interface.AUTOGRAD) or self._each_shots() is not EXACT:
            return None
        found = self._traced(args, kwargs)
        return None if found is None else without_graph(*found, self._resolve(None), argnums)

    def _traced(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Entry, Key, list] | None:
        """The trace that this call runs, with its arguments taken apart; ``None`` if a call does anything else."""
        if type(self).__call__ is not QNode.__call__:  # a subclass has more to say
            return None
        if isinstance(self._method, PhysicsAware) or len(self._each_shots()) > 1:
            return None
        if self._not_compiled(kwargs) is not None or not self._trace or self._cache.untraceable is not None:
            return None
        try:
            key, leaves = flatten(args, kwargs)
            return self._entry(key, leaves), key, leaves
        except CaptureError:
            return None  # the ordinary call that follows reports the cause

    def update(self, **kwargs: Any) -> QNode:
        """A new QNode with some settings changed; see :meth:`pennylane.QNode.update`."""
        if not kwargs:
            raise ValueError(f"Must specify at least one setting to update. Valid settings: {sorted(self._init_args)}.")
        updated = type(self)(**{**self._init_args, **kwargs})
        if self._shots_override_device and "shots" not in kwargs:
            updated._set_shots(self._shots)
        updated._compile_pipeline = CompilePipeline(self._compile_pipeline)
        return updated

    def __copy__(self) -> QNode:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied.execute_kwargs = dict(self.execute_kwargs)
        copied._compile_pipeline = CompilePipeline(self._compile_pipeline)
        copied.gradient_kwargs = dict(self.gradient_kwargs)
        copied._cache = _Cache()
        copied._name_in_graphs = name_node(copied)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> QNode:
        copied = memo[id(self)] = copy.copy(self)
        copied.func = copy.deepcopy(self.func, memo)  # a method goes with the copy of its object
        copied._init_args = {**self._init_args, "func": copied.func}
        return copied

    def __reduce__(self) -> tuple:
        if len(self._compile_pipeline):
            raise TypeError("A QNode that carries PennyLane transforms cannot be pickled; apply them after loading.")
        settings = {k: v for k, v in self._init_args.items() if k != "func"} | {"device": portable(self.device)}
        if isinstance(self._method, PhysicsAware):
            settings["diff_method"] = replace(self._method, twin=portable(self._method.twin))
        shots = self._shots if self._shots_override_device else None
        if not isinstance(self.func, types.FunctionType):  # a method or a callable object pickles itself
            return (_restored, (self.func, settings, shots))
        module, name = self.func.__module__, self.func.__qualname__
        if "<" in name:
            raise TypeError(
                f"The quantum function {name} is local, so its QNode cannot be pickled. "
                "Define it at the top level of a module."
            )
        return (_rebuild, (module, name, settings, shots))


def _in_a_graph() -> bool:
    """Whether ``torch.compile`` is making a graph of the caller."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def _is_trainable(leaf: Any) -> bool:
    """Whether an argument says that it is to be differentiated; plain numbers and arrays do not say."""
    return bool(getattr(leaf, "requires_grad", False))


def _converted(result: Any, interface: Interface) -> Any:
    """Results as values of the interface that was asked for by name."""
    if isinstance(result, list | tuple):
        return type(result)(_converted(r, interface) for r in result)
    if isinstance(result, dict):
        return {k: _converted(r, interface) for k, r in result.items()}
    if interface is Interface.NUMPY:
        return np.asarray(concrete(result))[()]
    host = interface.get_like()
    return result if qml.math.get_interface(result) == host else qml.math.asarray(result, like=host)


def _rebuild(module: str, name: str, settings: dict[str, Any], shots: Any) -> QNode:
    found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    return _restored(found.func if isinstance(found, qml.QNode) else found, settings, shots)


def _restored(func: Callable, settings: dict[str, Any], shots: Any) -> QNode:
    restored = QNode(func, **settings)
    if shots is not None:
        restored._set_shots(shots)
    return restored


def qnode(
    device: Any, interface: Any = "auto", diff_method: Any = "best", **kwargs: Any
) -> Callable[[Callable], QNode]:
    """Decorator that binds a quantum function to a device; see :class:`QNode` for the arguments.

    Example:
        >>> import qhybrid as qml
        >>> @qml.qnode(qml.device("qhybrid.statevector"), diff_method="adjoint")
        ... def circuit(x):
        ...     qml.RY(x, wires=0)
        ...     return qml.probs(wires=0)
        >>> circuit(0.0)
        array([1., 0.])
    """
    return functools.partial(QNode, device=device, interface=interface, diff_method=diff_method, **kwargs)
