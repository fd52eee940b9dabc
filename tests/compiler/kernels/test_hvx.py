"""Hexagon's kernels on an emulated processor, bit by bit as the eager operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gem_npu.kernel_runner import KernelProgram
from gem_npu.toolchain import missing_emulator, missing_linker
from gemcore.compiler.instructions import HVX, UNIT
from gemcore.compiler.kernels import attention_q8, embedding, linear
from gemcore.compiler.kernels.hvx_layout import arrange
from gemcore.models import ops
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.layout import rotation_table
from gemcore.packing import pack_weight
from gemcore.schemes import get_scheme
from gemcore.testing import tiny_config

if missing := missing_linker() or missing_emulator():
    pytest.skip(missing, allow_module_level=True)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_bits(found: np.ndarray, wanted: torch.Tensor) -> None:
    np.testing.assert_array_equal(found.view(np.int32), wanted.numpy().view(np.int32))


@pytest.mark.parametrize(
    ("name", "outputs", "inputs", "residual"),
    [
        ("q4a-g32", 64, 576, True),
        ("q4a-g64", 80, 128, False),  # five tiles: the last one has no other
        ("q4s-g32", 16, 96, False),  # and one alone
        ("q8-g32", 270, 96, False),  # whose last tile is not full
    ],
)
def test_products(name, outputs, inputs, residual, tmp_path):
    scheme = get_scheme(name)
    weight = random(outputs, inputs, seed=1).numpy()
    # Scales below 2**-14 are float16 numbers of another kind, and a whole group may be zero.
    weight[3, :64] *= 1e-6
    weight[5, :64] = 0
    packed = pack_weight(weight, scheme)
    kernel = linear.qlinear(HVX, scheme, inputs, outputs, residual=residual)
    program = KernelProgram.build(kernel, tmp_path, vectors=True)
    for tokens in (1, 6):
        x = random(tokens, inputs, seed=tokens) * 3
        rows = ops.quantize(x)
        added = random(tokens, outputs, seed=9)
        wanted = ops.qlinear(*rows, torch.from_numpy(packed), name, outputs)
        given = [*(r.numpy() for r in rows), arrange(packed, scheme)]
        if residual:
            given.append(added.numpy())
            wanted = added + wanted
        (*_, found), counts = program(*given, np.zeros((tokens, outputs), np.float32))
        same_bits(found, wanted)
        work = tokens * outputs * inputs
        # Each vector instruction multiplies 128 times at most.
        assert counts.vectors >= work / 128
        # A scalar processor takes at least four instructions for a product: two loads, and two
        # steps that HVX needs no more of than one for 32 rows.
        assert counts.packets < work


def test_an_inner_loop_reads_whole_aligned_vectors():
    """No `valign`: that is what two reads of an unaligned vector are joined by."""
    import tvm

    from gem_npu.toolchain import HVX_TARGET

    kernel = linear.qlinear(HVX, get_scheme("q4a-g32"), 576, 64)
    target = tvm.target.Target(HVX_TARGET)
    module = tvm.IRModule({"k": kernel.with_attr("global_symbol", "k")})
    text = tvm.compile(module, target=tvm.target.Target(target, host=target)).mod.inspect_source(
        "s"
    )
    assert text.count("vrmpy") >= 8
    assert "valign" not in text
    assert "qf32" not in text


@pytest.mark.parametrize(("name", "rows", "hidden"), [("q4a-g32", 270, 64), ("q8-g32", 64, 96)])
def test_rows_of_an_embedding(name, rows, hidden, tmp_path):
    scheme = get_scheme(name)
    packed = pack_weight(random(rows, hidden, seed=2).numpy(), scheme)
    kernel = embedding.embedding(HVX, scheme, rows, hidden)
    assert UNIT not in (kernel.attrs or {})
    program = KernelProgram.build(kernel, tmp_path, vectors=False)
    ids = np.array([0, 15, 16, 31, 32, rows - 1, 40, 17], np.int32)
    out = np.zeros((len(ids), hidden), np.float32)
    (*_, found), counts = program(ids, arrange(packed, scheme), out)
    same_bits(found, ops.embedding(torch.from_numpy(ids), torch.from_numpy(packed), name, hidden))
    assert counts.vectors == 0


@pytest.mark.parametrize("width", [64, 128])
def test_attention_over_a_rounded_cache(width, tmp_path):
    config = tiny_config(heads=6, kv_heads=2, head_dim=width)
    keys, values = new_caches(config, 64, scheme="q8")[0]
    qkv = random(64, (config.heads + 2 * config.kv_heads) * width, seed=3)
    rotation = torch.from_numpy(rotation_table(config))
    ops.rope_append_q8(qkv, rotation, causal_placement(0, 64), keys, values, config.heads)
    kernel = attention_q8.attention_q8(HVX, config)
    assert str(kernel.attrs[UNIT]) == "hvx"
    program = KernelProgram.build(kernel, tmp_path, vectors=True)
    for rows in (
        [[63, 63, 0, 0, 0]],
        [[9 + i, 45 + i, 19, 28, 45] for i in range(7)],
        [[p, 20 * (p % 2) + p // 2, 0, 0, 20 * (p % 2)] for p in range(10)],
    ):
        placement = torch.tensor(rows, dtype=torch.int32)
        queries = random(len(rows), config.heads, width, seed=5) * 2
        given = (queries, keys, values, placement)
        out = np.zeros((len(rows), config.heads * width), np.float32)
        (*_, found), counts = program(*(tensor.numpy() for tensor in given), out)
        same_bits(found, ops.attention_q8(*given))
        assert counts.vectors > 0


def test_heads_of_another_width_are_left_to_scalar_instructions():
    config = tiny_config(heads=6, kv_heads=2, head_dim=32)
    assert UNIT not in (attention_q8.attention_q8(HVX, config).attrs or {})
