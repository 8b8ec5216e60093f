"""Any Qiskit backend or primitive as a PennyLane device."""
