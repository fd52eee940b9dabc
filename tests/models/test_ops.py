"""The operations that define the model's bits, against float64, torch and transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from gemcore.models import float_ops, ops, reference
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.layout import rotation_table
from gemcore.packing import pack_weight, unpack_weight
from gemcore.schemes import SCHEMES, get_scheme
from gemcore.testing import tiny_config

F = torch.nn.functional
both = pytest.mark.parametrize("operations", [ops, float_ops], ids=["ops", "float_ops"])
grouped = pytest.mark.parametrize("scheme", [s.name for s in SCHEMES.values() if s.grouped])

PLACEMENTS = {
    "one text": [[p, p, 0, 0, 0] for p in range(21)],
    "continued": [[p, p, 0, 0, 0] for p in range(17, 22)],
    # Two continuations of a common prefix of 10 tokens.
    "shared prefix": [
        [10, 20, 0, 10, 20],
        [11, 21, 0, 10, 20],
        [10, 30, 0, 10, 30],
        [11, 31, 0, 10, 30],
        [12, 32, 0, 10, 30],
    ],
    # The first tokens after the prefix follow it without a gap.
    "prefix without gap": [[10, 10, 0, 10, 10], [11, 11, 0, 10, 10]],
    # Texts of their own, with nothing in common.
    "apart": [[0, 3, 0, 0, 3], [1, 4, 0, 0, 3], [0, 40, 0, 0, 40], [1, 41, 0, 0, 40]],
    "begins within the prefix": [[12, 12, 0, 10, 5], [13, 13, 0, 10, 5]],
    "prefix of a whole block": [[16, 40, 0, 16, 40], [17, 41, 0, 16, 40]],
    "prefix in the middle": [[9, 40, 19, 28, 40], [10, 41, 19, 28, 40], [3, 45, 5, 8, 45]],
}
placements = pytest.mark.parametrize("rows", PLACEMENTS.values(), ids=PLACEMENTS)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def visible_slots(row: list[int], capacity: int) -> list[int]:
    """What a token sees, from the definition of its placement."""
    _, slot, prefix_start, prefix_end, start = row
    return [s for s in range(capacity) if prefix_start <= s < prefix_end or start <= s <= slot]


def filled_cache(config, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = new_caches(config, capacity, torch.float16)[0]
    return random(*keys.shape, seed=1).half(), random(*values.shape, seed=2).half()


@both
def test_rms_norm(operations):
    x, gain = 3 * random(5, 96), random(96, seed=1)
    x[3] = 0
    expected = F.rms_norm(x.double(), (96,), gain.double(), 1e-5)
    torch.testing.assert_close(
        operations.rms_norm(x, gain, 1e-5).double(), expected, rtol=1e-6, atol=1e-7
    )


@both
def test_silu_mul(operations):
    x = 8 * random(4, 128)
    x[0, :64] = torch.linspace(-100, 100, 64)
    gate, up = x.double().chunk(2, dim=-1)
    torch.testing.assert_close(
        operations.silu_mul(x).double(), F.silu(gate) * up, rtol=1e-6, atol=1e-30
    )


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.just(64)),
              elements=st.floats(-1e6, 1e6, width=32)))  # fmt: skip
def test_quantize_rounds_to_the_nearest_of_255_levels(x):
    values, scales, sums = (t.numpy() for t in ops.quantize(torch.from_numpy(x)))
    assert (values.dtype, scales.dtype, sums.dtype) == (np.int8, np.float32, np.int32)
    groups = x.reshape(len(x), 2, 32).astype(float)
    rounded = values.reshape(groups.shape).astype(int)
    largest = np.abs(groups).max(-1)
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-6, atol=1e-44)
    np.testing.assert_array_equal(sums, rounded.sum(-1))
    usable = largest >= 2.0**-100
    assert (np.abs(rounded).max(-1)[usable] == 127).all()
    assert (rounded[largest == 0] == 0).all()
    step = (largest / 127)[..., None]
    error = np.abs(rounded * step - groups)[usable]
    assert (error <= step[usable] * (0.5 + 1e-4)).all()


def test_quantize_takes_half_to_even():
    x = torch.zeros(1, 32)
    x[0, :6] = torch.tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5])
    values, scales, _ = ops.quantize(x)
    assert values[0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert scales.item() == 1.0


@pytest.mark.parametrize("largest", [1e-25, 1e-36, 1e-38, 1e-40, 1e-45])
def test_quantize_of_next_to_nothing_is_zero_or_right(largest):
    """One over the scale would overflow: the group may vanish, but must not become garbage."""
    x = torch.linspace(-largest, largest, 32)[None]
    values, scales, sums = ops.quantize(x)
    assert sums.tolist() == [[int(values.int().sum())]]
    error = (values.double() * scales.double() - x.double()).abs().max()
    assert error <= x.abs().max()


@grouped
@pytest.mark.parametrize("outputs", [48, 41])
def test_qlinear_is_the_product_of_what_is_stored(scheme, outputs):
    weight = random(outputs, 128).numpy()
    packed = pack_weight(weight, get_scheme(scheme))
    values, scales, sums = ops.quantize(random(5, 128, seed=1))
    result = ops.qlinear(values, scales, sums, torch.from_numpy(packed), scheme, outputs)
    x = values.numpy().astype(float) * np.repeat(scales.numpy().astype(float), 32, axis=1)
    stored = unpack_weight(packed, get_scheme(scheme), outputs).astype(float)
    bound = np.abs(x) @ np.abs(stored).T * 2.0**-22
    assert result.shape == (5, outputs)
    assert (np.abs(result.numpy() - x @ stored.T) <= bound).all()


@pytest.mark.parametrize("outputs", [48, 41])
def test_linear_f16_is_the_product_of_what_is_stored(outputs):
    weight = random(outputs, 80).half()
    x = random(5, 80, seed=1)
    packed = torch.from_numpy(pack_weight(weight.float().numpy(), get_scheme("f16")))
    result = ops.linear_f16(x, packed, outputs).double()
    expected = x.double() @ weight.double().T
    bound = x.double().abs() @ weight.double().abs().T * 80 * 2.0**-24
    assert ((result - expected).abs() <= bound).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_embedding_is_the_rows_of_the_weight(scheme):
    layout = get_scheme(scheme)
    packed = pack_weight(random(41, 64).numpy(), layout)
    tokens = torch.tensor([40, 0, 17, 17, 15, 16, 32], dtype=torch.int32)
    result = ops.embedding(tokens, torch.from_numpy(packed), scheme, 64)
    np.testing.assert_array_equal(result.numpy(), unpack_weight(packed, layout, 41)[tokens.numpy()])


@both
@pytest.mark.parametrize("head_dim", [16, 80])
@placements
def test_rope_append_turns_as_transformers_does_and_writes_the_slots(operations, head_dim, rows):
    config = tiny_config(head_dim=head_dim, rope_theta=5e4)
    placement = torch.tensor(rows, dtype=torch.int32)
    tokens, width = len(rows), (config.heads + 2 * config.kv_heads) * head_dim
    qkv = random(tokens, width)
    keys, values = filled_cache(config, 48)
    before_keys, before_values = keys.clone(), values.clone()
    rotation = torch.from_numpy(rotation_table(config))
    queries = operations.rope_append(qkv, rotation, placement, keys, values, config.heads)

    rotary = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=config.heads * head_dim,
            num_attention_heads=config.heads,
            head_dim=head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    split = qkv.view(tokens, -1, head_dim).transpose(0, 1)
    q, k, v = split.split([config.heads, config.kv_heads, config.kv_heads])
    cosine, sine = rotary(qkv, placement[None, :, 0].long())
    q, k = (x[0] for x in apply_rotary_pos_emb(q[None], k[None], cosine, sine))
    torch.testing.assert_close(queries, q.transpose(0, 1), rtol=1e-5, atol=1e-5)
    written = {row[1] for row in rows}
    for slot in range(48):
        key, value = keys[:, slot // 16, :, slot % 16], values[:, slot]
        if slot not in written:
            assert torch.equal(key, before_keys[:, slot // 16, :, slot % 16])
            assert torch.equal(value, before_values[:, slot])
    for t, row in enumerate(rows):
        slot = row[1]
        key = keys[:, slot // 16, :, slot % 16].float()
        torch.testing.assert_close(key, k[:, t], rtol=1e-3, atol=1e-4)
        assert torch.equal(values[:, slot], v[:, t].half())


@both
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
@placements
def test_attention_is_that_of_torch(operations, heads, kv_heads, rows):
    config = tiny_config(heads=heads, kv_heads=kv_heads)
    keys, values = filled_cache(config, 48)
    queries = random(len(rows), heads, 16)
    placement = torch.tensor(rows, dtype=torch.int32)
    mask = torch.zeros(len(rows), 48, dtype=torch.bool)
    for t, row in enumerate(rows):
        mask[t, visible_slots(row, 48)] = True
    flat = torch.stack([keys[:, slot // 16, :, slot % 16] for slot in range(48)], dim=1)
    expected = F.scaled_dot_product_attention(
        queries.double().transpose(0, 1)[None],
        flat.double()[None],
        values.double()[None],
        attn_mask=mask,
        enable_gqa=True,
    )[0]
    result = operations.attention(queries, keys, values, placement)
    torch.testing.assert_close(
        result.double(), expected.transpose(0, 1).flatten(1), rtol=1e-5, atol=2e-6
    )


@placements
def test_what_nobody_sees_may_be_garbage(rows):
    config = tiny_config()
    keys, values = filled_cache(config, 48)
    queries = random(len(rows), 4, 16)
    placement = torch.tensor(rows, dtype=torch.int32)
    expected = ops.attention(queries, keys, values, placement)
    seen = {slot for row in rows for slot in visible_slots(row, 48)}
    for slot in set(range(48)) - seen:
        keys[:, slot // 16, :, slot % 16] = torch.nan
        values[:, slot] = torch.nan
    assert torch.equal(ops.attention(queries, keys, values, placement), expected)


@both
def test_routed_lora_is_the_dense_sum(operations):
    x, y = random(6, 40), random(6, 24, seed=1)
    down, up = random(3, 40, 4, seed=2), random(3, 4, 24, seed=3)
    weights = random(6, 3, seed=4).relu()
    weights[2] = 0
    result = operations.routed_lora(x, y, weights, down, up)
    expected = y.double() + torch.einsum(
        "tk,ekr,ern,te->tn", x.double(), down.double(), up.double(), weights.double()
    )
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(result[2], y[2])


def numpy_fma(a, b, c):
    """One rounding, as float64 has it: exact but for sums far below the middle of two float32."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


def numpy_product(x, weight, scales):
    """A row times `weight` `[in, out]`, one number at a time, in the order that is documented."""
    total = np.zeros(weight.shape[1], np.float32)
    for start in range(0, len(x), 32):
        part = np.zeros_like(total)
        for k in range(start, min(start + 32, len(x))):
            part = numpy_fma(np.float32(x[k]), weight[k].astype(np.float32), part)
        total = numpy_fma(part, scales[start // 32], total)
    return total


def numpy_deltas(x, scales, y, weights, down, up):
    out = y.copy()
    for t, e in zip(*weights.nonzero(), strict=True):
        inner = numpy_product(x[t], down[e], scales[t]) * weights[t, e]
        for r, factor in enumerate(inner):
            out[t] = numpy_fma(factor, up[e, r].astype(np.float32), out[t])
    return out


@given(
    tokens=st.integers(1, 4),
    experts=st.integers(1, 5),
    inputs=st.integers(1, 100),
    rank=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25)
def test_routed_deltas_have_the_order_that_is_documented(tokens, experts, inputs, rank, seed):
    groups = -(-inputs // 32)
    x, y = random(tokens, inputs, seed=seed), random(tokens, 7, seed=seed + 1)
    weights = random(tokens, experts, seed=seed + 2).relu()
    down = random(experts, inputs, rank, seed=seed + 3).half()
    up = random(experts, rank, 7, seed=seed + 4).half()
    arrays = [tensor.numpy() for tensor in (y, weights, down, up)]
    ones = np.ones((tokens, groups), np.float32)
    found = ops.routed_lora(x, y, weights, down, up)
    np.testing.assert_array_equal(found.numpy(), numpy_deltas(x.numpy(), ones, *arrays))
    found = ops.linear_f32(x, down[0].float())
    rows = [numpy_product(row, arrays[2][0], ones[0]) for row in x.numpy()]
    np.testing.assert_array_equal(found.numpy(), np.stack(rows))
    # Rounded activations come in whole groups.
    wide = random(tokens, 32 * groups, seed=seed)
    values, scales, _ = ops.quantize(wide)
    down = random(experts, 32 * groups, rank, seed=seed + 3).half()
    arrays[2] = down.numpy()
    found = ops.routed_lora_q8(values, scales, y, weights, down, up)
    expected = numpy_deltas(values.numpy(), scales.numpy(), *arrays)
    np.testing.assert_array_equal(found.numpy(), expected)
    # And it is the product of what they stand for.
    near = float_ops.routed_lora(values * scales.repeat_interleave(32, 1), y, weights, down, up)
    torch.testing.assert_close(found, near, rtol=1e-4, atol=1e-3)


def test_an_expert_that_does_not_work_is_not_read():
    x, y, weights = random(2, 32), random(2, 8, seed=1), torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    down, up = random(2, 32, 4, seed=2), random(2, 4, 8, seed=3)
    values, scales, _ = ops.quantize(x)
    expected = ops.routed_lora(x, y, weights, down, up)
    rounded = ops.routed_lora_q8(values, scales, y, weights, down, up)
    down[0] = torch.nan
    up[0] = torch.nan
    assert torch.equal(ops.routed_lora(x, y, weights, down, up), expected)
    assert torch.equal(ops.routed_lora_q8(values, scales, y, weights, down, up), rounded)


@pytest.mark.parametrize("tokens", [1, 7])
def test_shapes_are_known_without_computing(tokens):
    """What torch.export believes of each operation is what the operation returns."""
    config = tiny_config()
    rotation = torch.from_numpy(rotation_table(config))
    keys, values = filled_cache(config, 32)
    placement = causal_placement(0, tokens)
    packed = torch.from_numpy(pack_weight(random(40, 64).numpy(), get_scheme("q8-g32")))
    halves = torch.from_numpy(pack_weight(random(40, 64).numpy(), get_scheme("f16")))
    x = random(tokens, 64)
    ids = torch.zeros(tokens, dtype=torch.int32)
    calls = [
        (torch.ops.gem.rms_norm, (x, random(64), 1e-5)),
        (torch.ops.gem.silu_mul, (x,)),
        (torch.ops.gem.quantize, (x,)),
        (torch.ops.gem.qlinear, (*ops.quantize(x), packed, "q8-g32", 40)),
        (torch.ops.gem.linear_f16, (x, halves, 40)),
        (torch.ops.gem.embedding, (ids, packed, "q8-g32", 64)),
        (torch.ops.gem.rope_append, (random(tokens, 128), rotation, placement, keys, values, 4)),
        (torch.ops.gem.attention, (random(tokens, 4, 16), keys, values, placement)),
        (torch.ops.gem.routed_lora, (x, random(tokens, 8), random(tokens, 2),
                                     random(2, 64, 4).half(), random(2, 4, 8).half())),
        (torch.ops.gem.routed_lora_q8, (*ops.quantize(x)[:2], random(tokens, 8), random(tokens, 2),
                                        random(2, 64, 4).half(), random(2, 4, 8).half())),
        (torch.ops.gem.linear_f32, (x, random(64, 3))),
    ]  # fmt: skip
    for operation, arguments in calls:
        torch.library.opcheck(
            operation.default, arguments, test_utils=("test_schema", "test_faketensor")
        )


def test_a_q8_cache_holds_what_was_written_to_half_a_step():
    config = tiny_config(heads=4, kv_heads=2, head_dim=64)
    keys, values = new_caches(config, 32, scheme="q8")[0]
    rotation = torch.from_numpy(rotation_table(config))
    qkv, placement = random(20, 8 * 64), causal_placement(3, 20)
    queries = ops.rope_append_q8(qkv, rotation, placement, keys, values, 4)

    exact = new_caches(config, 32, torch.float32)[0]
    torch.testing.assert_close(
        queries, float_ops.rope_append(qkv, rotation, placement, *exact, 4), rtol=1e-5, atol=1e-6
    )
    codes, scales = reference.key_parts(keys, 64)
    steps = scales.float().repeat_interleave(32, 2)
    found = (codes.permute(0, 1, 2, 4, 3).reshape(2, 2, 64, 16).float() - 128) * steps
    written = exact[0] != 0
    assert written.sum() == 20 * 2 * 64
    assert ((found - exact[0]).abs() <= 0.56 * steps)[written].all()  # the scale is rounded, too
    codes, scales = reference.value_parts(values, 64)
    steps = scales.reshape(2, 32, 1)
    found = codes.permute(0, 1, 2, 4, 3).reshape(2, 32, 64).float() * steps
    assert ((found - exact[1]).abs() <= 0.501 * steps).all()


def test_attention_over_a_q8_cache_is_near_attention_over_an_exact_one():
    config = tiny_config(heads=4, kv_heads=2, head_dim=64)
    rotation, placement = torch.from_numpy(rotation_table(config)), causal_placement(0, 40)
    qkv = random(40, 8 * 64)
    rounded = new_caches(config, 48, scheme="q8")[0]
    queries = ops.rope_append_q8(qkv, rotation, placement, *rounded, 4)
    exact = new_caches(config, 48, torch.float32)[0]
    float_ops.rope_append(qkv, rotation, placement, *exact, 4)
    found = ops.attention_q8(queries, *rounded, placement)
    expected = float_ops.attention(queries, *exact, placement)
    assert (found - expected).norm() < 0.01 * expected.norm()
    # One visible position: its value, as it was rounded.
    first = qkv[0, 6 * 64 :].reshape(2, 64).repeat_interleave(2, 0).reshape(-1)
    torch.testing.assert_close(found[0], first, rtol=0, atol=first.abs().max().item() / 200)
