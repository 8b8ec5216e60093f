"""Qiskit Aer as a backend: a program is one parameterised circuit, a batch is one run."""
