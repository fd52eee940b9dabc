"""The Metal source run on this machine's processor: its threads one after the other, through a C++ header
that stands for Metal's own. That shows what it computes, and nothing of how a GPU runs it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from gem_apple.framework import SHADERS
from gemcore.models import ops
from gemcore.packing import Quantized, pack
from gemcore.schemes import get_scheme

# What of Metal's language the source uses. Its threads do not speak to each other, so a loop does.
SHIM = """
#include <cmath>
#include <cstdint>
#define kernel extern "C"
#define device
#define constant static const
#define half _Float16
typedef unsigned int uint;
typedef unsigned char uchar;
struct uint2 { uint x, y; };
namespace metal { inline float fma(float a, float b, float c) { return std::fmaf(a, b, c); } }
"""

RUN = """
#define RUN(NAME)                                                                                    \\
  extern "C" void run_##NAME(const char *v, const float *s, const int *m, const uchar *p, float *y,  \\
                             const gem_sizes *sizes, uint width) {                                   \\
    for (uint t = 0; t < sizes->tokens + 1; ++t)                                                     \\
      for (uint row = 0; row < width; ++row) NAME(v, s, m, p, y, *sizes, uint2{row, t});             \\
  }
RUN(gem_qlinear_q4a_g32) RUN(gem_qlinear_q4a_g64) RUN(gem_qlinear_q4s_g32) RUN(gem_qlinear_q8_g32)
"""


@pytest.fixture(scope="module")
def shaders(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ in PATH")
    folder = tmp_path_factory.mktemp("metal")
    source = SHADERS.read_text()
    # Attributes and the address space of a reference parameter have no counterpart in C++.
    source = source.replace("#include <metal_stdlib>", SHIM)
    source = source.replace("constant gem_sizes &", "const gem_sizes &")
    (folder / "shaders.cc").write_text(source + RUN)
    made = folder / "shaders.so"
    options = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-fsigned-char"]
    subprocess.run(["g++", *options, str(folder / "shaders.cc"), "-o", str(made)], check=True)
    return ctypes.CDLL(str(made))


@pytest.mark.parametrize("name", ["q4a-g32", "q4a-g64", "q4s-g32", "q8-g32"])
@pytest.mark.parametrize("outputs", [41, 64])
def test_products_are_those_of_the_reference_bit_by_bit(shaders, name, outputs):
    inputs, tokens, scheme = 192, 3, get_scheme(name)
    random = np.random.default_rng(outputs)
    shape = (outputs, inputs // scheme.group)

    def halves():
        return random.standard_normal(shape).astype(np.float16)

    codes = random.integers(scheme.bits == 8, 2**scheme.bits, (outputs, inputs), dtype=np.uint8)
    minima = halves() if scheme.has_minimum else None
    packed = pack(Quantized(codes=codes, scales=halves(), minima=minima), scheme)
    x = torch.from_numpy(random.standard_normal((tokens, inputs)).astype(np.float32))
    values, scales, sums = ops.quantize(x)
    expected = ops.qlinear(values, scales, sums, torch.from_numpy(packed), name, outputs).numpy()
    y = np.full((tokens + 1, outputs), np.nan, np.float32)
    arrays = [values.numpy(), scales.numpy(), sums.numpy(), np.ascontiguousarray(packed), y]
    sizes = (ctypes.c_uint * 3)(tokens, inputs, outputs)
    run = shaders[f"run_gem_qlinear_{name.replace('-', '_')}"]
    run(
        *(ctypes.c_void_p(a.ctypes.data) for a in arrays),
        sizes,
        ctypes.c_uint(-(-outputs // 16) * 16),
    )
    assert np.ptp(expected) > 1
    np.testing.assert_array_equal(y[:tokens], expected)
    assert np.isnan(y[tokens]).all()
