"""How tests run Python in a process of its own."""

#: Warnings are errors, but for PennyLane's import of JAX and PyTorch's forward mode, as in the settings of pytest.
IGNORED = ("ignore:jax.interpreters:DeprecationWarning", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")
WARNINGS = ("-W", "error", *(part for ignored in IGNORED for part in ("-W", ignored)))
