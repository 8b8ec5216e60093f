"""Small runs: so few states of so few qubits that one thread has all of them, and deciding how would take longer.

The kernels and tables are those of ``engine.py`` and ``measurements.py``, and so are the results, to the last bit. What
is left out are the choices that these make in each run: threads, parts, sweeps, kinds of measurements.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qhybrid.execution import Direct, Needs
from qhybrid_devices.externals import Values
from qhybrid_devices.statevector.compiled import Compiled, Request
from qhybrid_devices.statevector.engine import Layout, MatrixCotangents, chain_rule, coefficients, tables_of
from qhybrid_devices.statevector.final import Final, Residual
from qhybrid_devices.statevector.measure import amplitude_moments, apply_words, apply_words_to_amplitudes, moments
from qhybrid_devices.statevector.preparation import initial_state
from qhybrid_devices.statevector.simd import register_lanes
from qhybrid_devices.statevector.sweeps import backward, forward, sweep_backward, sweep_forward
from qhybrid_devices.statevector.threads import ALONE

#: Beyond so many amplitudes of all samples, deciding takes no time to speak of.
MOST_AMPLITUDES = 1 << 15


class SmallRun(Direct):
    """A program of gates with angles, measured in Pauli words, on states that one thread goes through in one piece.

    Args:
        compiled: the program
        layout: of the states
        copied_bytes: largest final state that further derivatives copy
    """

    def __init__(self, compiled: Compiled, layout: Layout, copied_bytes: int) -> None:
        self.compiled, self.layout, self._copied_bytes = compiled, layout, copied_bytes
        self._num_registers = compiled.plan.buffer_rows * register_lanes(layout.dtype)

    @classmethod
    def of(cls, compiled: Compiled, layout: Layout, copied_bytes: int) -> SmallRun | None:
        """How to run a program on states of this layout; ``None`` where a run has more to it."""
        plan, m = compiled.plan, compiled.measurements
        if not m.has_words_only or m.means.matrix is None:
            return None
        if plan.externals or compiled.program.arrays:
            return None
        if not compiled.is_one_tile(register_lanes(layout.dtype)):
            return None
        # The limits from which on gates, and words on a single chunk, are shared out among threads.
        one_part = layout.items(plan.sweeps[0]) == 1 or layout.workers(3 * len(plan.operations)) == 1
        return cls(compiled, layout, copied_bytes) if one_part and layout.workers(len(m.table) + 1) == 1 else None

    def run(self, shared: NDArray, batched: NDArray) -> tuple[NDArray, Residual]:
        """The scalars and the final state; see :meth:`qhybrid.execution.Direct.run`."""
        values = Values(shared, batched, ())
        final = self._final(values)
        scalars = self._scalars(values, final.psi)
        return scalars if self.compiled.program.is_batched else scalars[0], Residual(final, self._copied_bytes)

    def vjp(
        self, shared: NDArray, batched: NDArray, cotangents: NDArray, needs: Needs, residual: Residual | None = None
    ) -> tuple[NDArray, NDArray]:
        """Cotangents of the angles; see :meth:`qhybrid.execution.Direct.vjp`."""
        values = Values(shared, batched, ())
        into = values.zeros()
        request, dtype = self.compiled.request(needs), self.layout.dtype
        if request.stop < len(self.compiled.plan.operations):
            final = residual.take(lambda: self._final(values)) if residual else self._final(values)
            self._reverse(values, final, cotangents, request, into)
        return into.shared.astype(dtype, copy=False), into.batched.astype(dtype, copy=False)

    def _final(self, values: Values) -> Final:
        plan, layout = self.compiled.plan, self.layout
        coef = coefficients(plan, layout, values)
        psi = layout.empty() if len(plan.product_bits) else initial_state(self.compiled.program, layout, values)
        if layout.tile:
            forward(
                ALONE, 0, layout.chunks, psi, plan.ops, plan.product_bits, plan.sweeps[0].order, plan.bits, *coef,
                False, self._registers(),
            )  # fmt: skip
        else:
            sweep_forward(
                ALONE, 0, layout.chunks, psi, plan.ops, plan.sweeps[0].order, plan.bits, *self._geometry, *coef,
                False, True, self._no_tiles, self._registers(),
            )  # fmt: skip
        return Final(layout, psi, coef)

    def _reverse(self, values: Values, final: Final, cotangents: NDArray, request: Request, into: Values) -> None:
        plan, layout = self.compiled.plan, self.layout
        psi, order = final.psi, plan.sweeps[0].undone(request.stop)
        lam, g_shared = self._lambda(values, psi, cotangents), np.zeros((1, plan.num_shared_cotangents))
        if layout.tile:
            g_lanes = np.zeros((layout.chunks, plan.num_lane_cotangents, layout.lanes), layout.dtype)
            backward(
                ALONE, 0, layout.chunks, psi, lam, plan.ops, plan.products_undone(request.stop), order, request.want,
                plan.bits, *final.coef, g_shared, g_lanes, self._registers(),
            )  # fmt: skip
        else:
            per_chunk = np.zeros((1, layout.chunks, plan.num_lane_cotangents))
            sweep_backward(
                ALONE, 0, layout.chunks, psi, lam, plan.ops, order, request.want, plan.bits, *self._geometry,
                *final.coef, g_shared, per_chunk, True, self._no_tiles, self._registers(),
            )  # fmt: skip
            g_lanes = per_chunk[0, ..., None]
        chain_rule(plan, layout, values, final.coef, MatrixCotangents(g_shared[0], g_lanes), request.want, into)

    def _scalars(self, values: Values, psi: NDArray) -> NDArray:
        layout, m = self.layout, self.compiled.measurements
        out = np.zeros((1, len(m.table.words), layout.width))
        kernel = moments if layout.tile else amplitude_moments
        kernel(ALONE, 0, layout.chunks, psi, psi, 1, m.table.groups, m.table.words, out)
        return np.ascontiguousarray(m.means.sums(values, out[0, :, : layout.count]).T, layout.dtype)

    def _lambda(self, values: Values, psi: NDArray, cotangents: NDArray) -> NDArray:
        layout, m = self.layout, self.compiled.measurements
        rows = np.asarray(cotangents, float).reshape(layout.count, -1)
        weights = layout.to_lanes(m.means.weights(values, np.ascontiguousarray(rows.T)))
        lam, kernel = layout.empty(), apply_words if layout.tile else apply_words_to_amplitudes
        weights = np.ascontiguousarray(weights, layout.dtype)
        kernel(ALONE, 0, layout.chunks, psi, lam, 1, m.table.groups, m.table.words, weights, False)
        return lam

    def _registers(self) -> NDArray:
        """Memory to work in; of each run its own, since runs may be in several threads."""
        return np.empty((1, self._num_registers), self.layout.dtype)

    @cached_property
    def _geometry(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        return tables_of(self.compiled.plan.sweeps[0].tiling, self.layout.dtype)

    @cached_property
    def _no_tiles(self) -> NDArray:
        return np.empty((1, 4, 0), self.layout.dtype)
