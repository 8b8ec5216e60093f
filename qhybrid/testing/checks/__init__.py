"""The conformance checks, each a small function; :data:`CHECKS` is the table of them."""

from qhybrid.testing.checks import gates, gradients, layout, robustness, sampling, values

CHECKS = (
    *values.CHECKS,
    *gates.CHECKS,
    *layout.WIRES,
    *layout.BATCHES,
    *sampling.SHOTS,
    *sampling.SEEDS,
    *gradients.CHECKS,
    *robustness.CHECKS,
)
