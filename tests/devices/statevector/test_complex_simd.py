import numpy as np
import pytest

from qhybrid_devices.statevector._jit import kernel
from qhybrid_devices.statevector.complex_simd import WIDTH, complex_of, conjugate, every, get, phase, put
from qhybrid_devices.statevector.simd import load, save


@kernel
def phases(angles, cosines, sines):
    buffer = np.empty(WIDTH)
    for i in range(0, angles.size, WIDTH):
        e = phase(load(angles, i), buffer)
        save(cosines, i, e.real)
        save(sines, i, e.imag)


@kernel
def arithmetic(table, scalar):
    a, b = get(table, 0), get(table, 1)
    put(table, 2, a + b)
    put(table, 3, a - b)
    put(table, 4, a * b)
    put(table, 5, -a)
    put(table, 6, conjugate(a))
    put(table, 7, a * b.real)
    put(table, 8, every(scalar) * a)
    put(table, 9, complex_of(a.imag, b.real))


def phases_of(angles):
    cosines, sines = np.empty_like(angles), np.empty_like(angles)
    phases(angles, cosines, sines)
    return cosines, sines


@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1e-3, 1.0, 10.0, 1e3, 1e6, 1e10, 1e20, 1e300])
def test_phases_of_all_sizes_are_numpys(scale):
    angles = np.random.default_rng(0).normal(size=1000 * WIDTH) * scale
    for got, expected in zip(phases_of(angles), (np.cos(angles), np.sin(angles)), strict=True):
        np.testing.assert_array_max_ulp(got, expected, maxulp=2)


def test_phases_of_quarter_turns_and_nearby_numbers():
    quarters = np.arange(-500.0, 500.0) * (np.pi / 2)
    angles = np.concatenate([quarters, np.nextafter(quarters, np.inf), np.nextafter(quarters, -np.inf)])
    for got, expected in zip(phases_of(angles), (np.cos(angles), np.sin(angles)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=5e-16, atol=1e-30)


def test_phases_of_what_is_no_number_are_none():
    angles = np.array([0.0, np.inf, -np.inf, np.nan, 1.0, 2.0, 3.0, 4.0])
    cosines, sines = phases_of(angles)
    for got in (cosines, sines):
        np.testing.assert_array_equal(np.isnan(got), ~np.isfinite(angles))
    np.testing.assert_array_max_ulp(cosines[4:], np.cos(angles[4:]), maxulp=2)


def test_arithmetic_of_complex_registers():
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(10, 2, WIDTH))
    a, b = numbers[:2, 0] + 1j * numbers[:2, 1]
    scalar = 0.3 - 0.7j
    arithmetic(numbers.reshape(-1), scalar)
    got = numbers[2:, 0] + 1j * numbers[2:, 1]
    expected = [a + b, a - b, a * b, -a, a.conj(), a * b.real, scalar * a, a.imag + 1j * b.real]
    np.testing.assert_allclose(got, expected, rtol=1e-15, atol=1e-15)
