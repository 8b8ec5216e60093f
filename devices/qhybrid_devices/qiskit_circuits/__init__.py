"""Programs as Qiskit circuits; what every backend that speaks Qiskit shares."""
