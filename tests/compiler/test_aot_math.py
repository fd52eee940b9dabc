"""What stands for a C library, against NumPy in double."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.compiler.aot import NATIVE

NAMES = ("expf", "logf", "powf", "tanhf", "erff", "memcpy", "memmove", "memset")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler 'cc' in PATH")
    path = tmp_path_factory.mktemp("math") / "math.so"
    # Under names of their own: those of the C library would be found first.
    renamed = [f"-D{name}=own_{name}" for name in NAMES]
    options = ["-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-fPIC", "-shared"]
    options += ["-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        ["cc", *options, *renamed, str(NATIVE / "gem_math.c"), "-o", str(path)], check=True
    )
    return ctypes.CDLL(str(path))


def function(library, name, arguments=1):
    found = library[f"own_{name}"]
    found.restype = ctypes.c_float
    found.argtypes = [ctypes.c_float] * arguments
    return np.vectorize(lambda *xs: np.float32(found(*map(float, xs))), otypes=[np.float32])


RANGES = {
    "expf": (np.exp, np.linspace(-104, 88.7, 20011)),
    "logf": (np.log, np.exp(np.linspace(-87, 88, 20011))),
    "tanhf": (np.tanh, np.linspace(-12, 12, 20011)),
    "erff": (np.vectorize(math.erf), np.linspace(-5, 5, 20011)),
}


@pytest.mark.parametrize("name", RANGES)
def test_nearly_every_result_is_the_rounded_one(library, name):
    exact, points = RANGES[name]
    points = points.astype(np.float32)
    expected = exact(points.astype(np.float64)).astype(np.float32)
    got = function(library, name)(points)
    # At most the next number, and that rarely.
    np.testing.assert_array_max_ulp(got, expected, maxulp=1)
    assert np.mean(got == expected) > 0.9995


def test_powers(library):
    power = function(library, "powf", 2)
    x = np.linspace(0.01, 30, 4001, dtype=np.float32)
    for y in (-2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 2.5):
        expected = (x.astype(np.float64) ** y).astype(np.float32)
        np.testing.assert_array_max_ulp(power(x, np.float32(y)), expected, maxulp=1)
    assert power(-2, 3) == -8
    assert power(-2, 2) == 4
    assert power(0, 2) == 0
    assert power(0, -1) == np.inf
    assert np.isnan(power(-2, 0.5))
    assert power(-1e30, 3) == -np.inf


def test_the_ends_of_the_range(library):
    exp, log = function(library, "expf"), function(library, "logf")
    assert exp(np.inf) == np.inf == exp(200)
    assert exp(-np.inf) == 0 == exp(-200)
    assert exp(0) == 1
    assert log(1) == 0
    assert log(np.inf) == np.inf
    assert log(0) == -np.inf
    assert np.isnan(log(-1))
    for name in ("expf", "logf", "tanhf", "erff"):
        assert np.isnan(function(library, name)(np.nan))
    tiny = np.float32(1e-44)
    np.testing.assert_allclose(log(tiny), np.log(np.float64(tiny)), rtol=1e-6)


@given(st.binary(max_size=70), st.integers(0, 40), st.integers(0, 40), st.integers(0, 255))
def test_moving_memory(library, content, source, target, value):
    size = len(content)
    memory = np.zeros(128, np.uint8)
    memory[source : source + size] = np.frombuffer(content, np.uint8)
    expected = memory.copy()
    expected[target : target + size] = memory[source : source + size]
    at, count = memory.ctypes.data, ctypes.c_size_t(size)
    to, start = ctypes.c_void_p(at + target), ctypes.c_void_p(at + source)
    library.own_memmove(to, start, count)
    np.testing.assert_array_equal(memory, expected)
    library.own_memset(to, value, count)
    expected[target : target + size] = value
    np.testing.assert_array_equal(memory, expected)
    other = np.zeros(128, np.uint8)
    library.own_memcpy(ctypes.c_void_p(other.ctypes.data + target), to, count)
    np.testing.assert_array_equal(other[target : target + size], memory[target : target + size])
