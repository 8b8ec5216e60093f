"""How tests run Python in a process of its own."""

#: Warnings are errors, but for PennyLane's import of JAX, as in the settings of pytest.
WARNINGS = ("-W", "error", "-W", "ignore:jax.interpreters:DeprecationWarning")
