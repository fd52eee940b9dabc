"""The decoder against transformers, and against itself however a text is cut into passes."""

from __future__ import annotations

import inspect

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gemcore.models import ops
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.decoder import (
    Decoder,
    causal_placement,
    dense_schemes,
    load_weights,
    new_caches,
)
from gemcore.models.layout import EMBEDDING, weight_units
from gemcore.models.weights import dense_weights, pack_checkpoint
from gemcore.reports import Plan, PlanEntry
from gemcore.schemes import SCHEMES
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.routed import SignRouter, SoftmaxRouter, fill_routing, tiny_experts


def dense_decoder(checkpoint: Checkpoint) -> Decoder:
    with torch.device("meta"):
        decoder = Decoder(
            checkpoint.config, dense_schemes(checkpoint.config), float_arithmetic=True
        ).eval()
    load_weights(decoder, dense_weights(checkpoint))
    return decoder


def exact_decoder(checkpoint: Checkpoint, scheme: str = "q4a-g32", head: str = "q8-g32") -> Decoder:
    config = checkpoint.config
    schemes = {
        unit.name: head if unit.name in (EMBEDDING, "head") else scheme
        for unit in weight_units(config)
    }
    entries = tuple(
        PlanEntry(unit=name, scheme=scheme, reason="", bytes=0) for name, scheme in schemes.items()
    )
    weights, _ = pack_checkpoint(checkpoint, Plan(quantizer="test", entries=entries))
    with torch.device("meta"):
        decoder = Decoder(config, schemes).eval()
    load_weights(decoder, weights)
    return decoder


def transformers_model(checkpoint: Checkpoint) -> torch.nn.Module:
    """The same model in transformers: its configuration written out, its weights by name."""
    config = checkpoint.config
    fields = {
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_head,
        "attn_implementation": "eager",
    }
    if config.qkv_bias:
        model = Qwen2ForCausalLM(Qwen2Config(**fields)).eval()
    else:
        model = LlamaForCausalLM(LlamaConfig(**fields)).eval()
    state = {name: torch.from_numpy(t.to_float32()) for name, t in checkpoint.tensors.items()}
    if config.tied_head:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


@torch.no_grad()
def logits_in_passes(
    decoder: Decoder, tokens: torch.Tensor, passes: list[int], prior: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits `[tokens, vocabulary]` of one text taken in passes of these sizes."""
    assert sum(passes) == len(tokens)
    dtype = torch.float32 if isinstance_dense(decoder) else torch.float16
    caches = new_caches(decoder.config, -(-len(tokens) // 16) * 16, dtype)
    found, start = [], 0
    for size in passes:
        rows = torch.arange(size, dtype=torch.int32)
        part = tokens[start : start + size]
        each = None if prior is None else prior.expand(size, -1)
        found.append(decoder(part, causal_placement(start, size), rows, caches, each))
        start += size
    return torch.cat(found)


def isinstance_dense(decoder: Decoder) -> bool:
    return decoder.norm.operations is not ops


def some_tokens(config, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocabulary_size, (count,), generator=generator, dtype=torch.int32)


FAMILIES = {
    "llama, ratio 1": tiny_config(heads=4, kv_heads=4),
    "llama, ratio 2": tiny_config(heads=4, kv_heads=2, rope_theta=1e5, norm_epsilon=1e-6),
    "llama, ratio 3": tiny_config(hidden_size=96, heads=6, kv_heads=2, head_dim=32),
    "llama, ratio 4, untied": tiny_config(heads=4, kv_heads=1, tied_head=False),
    "qwen2": tiny_config(tied_head=False, qkv_bias=True, architecture="qwen2", norm_epsilon=1e-6),
    "qwen2, tied": tiny_config(qkv_bias=True, architecture="qwen2", kv_heads=1),
}


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_logits_are_those_of_transformers(config):
    checkpoint = tiny_checkpoint(config, seed=3)
    tokens = some_tokens(config, 40)
    with torch.no_grad():
        expected = transformers_model(checkpoint)(tokens[None].long()).logits[0]
    assert expected.std() > 0.3  # not a comparison of zeros
    decoder = dense_decoder(checkpoint)
    for passes in ([40], [1] * 40, [17, 1, 22]):
        found = logits_in_passes(decoder, tokens, passes)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_however_a_text_is_cut_the_bits_are_the_same(scheme):
    config = tiny_config(tied_head=False, qkv_bias=True, intermediate_size=128)
    checkpoint = tiny_checkpoint(config)
    decoder = exact_decoder(checkpoint, scheme, head=scheme)
    tokens = some_tokens(checkpoint.config, 21)
    whole = logits_in_passes(decoder, tokens, [21])
    assert whole.isfinite().all()
    assert torch.equal(logits_in_passes(decoder, tokens, [1] * 21), whole)
    assert torch.equal(logits_in_passes(decoder, tokens, [5, 1, 12, 3]), whole)


def test_several_texts_in_one_pass_are_each_as_if_alone():
    """Three continuations of a common prefix share its cache and do not see one another."""
    checkpoint = tiny_checkpoint()
    decoder, config = exact_decoder(checkpoint), checkpoint.config
    prefix, ends = some_tokens(config, 11), [some_tokens(config, n, seed=n) for n in (4, 1, 6)]
    caches = new_caches(config, 48, torch.float16)
    with torch.no_grad():
        first = torch.arange(1, dtype=torch.int32)
        decoder(prefix, causal_placement(0, 11), first, caches)
        rows, start = [], 20
        for end in ends:
            rows += [[11 + i, start + i, 0, 11, start] for i in range(len(end))]
            start += len(end)
        found = decoder(
            torch.cat(ends),
            torch.tensor(rows, dtype=torch.int32),
            torch.arange(11, dtype=torch.int32),
            caches,
        )
    alone = [
        logits_in_passes(decoder, torch.cat([prefix, end]), [11 + len(end)])[11:] for end in ends
    ]
    assert torch.equal(found, torch.cat(alone))


def test_only_wanted_rows_are_computed():
    checkpoint = tiny_checkpoint()
    decoder, tokens = dense_decoder(checkpoint), some_tokens(checkpoint.config, 9)
    whole = logits_in_passes(decoder, tokens, [9])
    caches = new_caches(checkpoint.config, 16, torch.float32)
    wanted = torch.tensor([8, 2], dtype=torch.int32)
    with torch.no_grad():
        found = decoder(tokens, causal_placement(0, 9), wanted, caches)
    torch.testing.assert_close(found, whole[[8, 2]])


def routed_decoder(checkpoint: Checkpoint, make_router, **options) -> Decoder:
    config = checkpoint.config
    decoder = Decoder(
        config,
        dense_schemes(config),
        router=[make_router() for _ in range(config.layers)],
        experts=tiny_experts(config),
        **options,
    ).eval()
    weights = dense_weights(checkpoint)
    base = {unit.name for unit in weight_units(config)} - {EMBEDDING}
    state = {}
    for name, array in weights.items():
        parent, _, leaf = name.rpartition(".")
        state[f"{parent}.base.{leaf}" if parent in base else name] = array
    load_weights(decoder, state | fill_routing(decoder))
    return decoder


@pytest.mark.parametrize("expert", [0, 2])
def test_one_expert_on_every_token_is_the_model_with_that_delta_merged(expert):
    """Constant routing is a dense model whose weights are `W + weight * (down @ up).T`."""
    checkpoint = tiny_checkpoint()
    config = checkpoint.config

    class Always(torch.nn.Module):
        def forward(self, hidden, prior):
            return prior

    decoder = routed_decoder(checkpoint, Always, float_arithmetic=True)
    prior = torch.zeros(3)
    prior[expert] = 0.3
    merged = dense_weights(checkpoint)
    for name, parameter in decoder.named_parameters():
        if name.endswith(".down") and "base" not in name:
            unit = name.removesuffix(".down")
            up = decoder.get_parameter(f"{unit}.up").detach()
            delta = 0.3 * (parameter.detach()[expert] @ up[expert]).T
            merged[f"{unit}.weight"] = merged[f"{unit}.weight"] + delta.numpy()
    dense = dense_decoder(checkpoint)
    load_weights(dense, merged)
    tokens = some_tokens(config, 12)
    found = logits_in_passes(decoder, tokens, [12], prior)
    torch.testing.assert_close(found, logits_in_passes(dense, tokens, [12]), rtol=0, atol=1e-4)
    base = logits_in_passes(dense_decoder(checkpoint), tokens, [12])
    assert (found - base).abs().max() > 0.05
    # Without a weight above zero, every token takes the general path.
    torch.testing.assert_close(logits_in_passes(decoder, tokens, [12], torch.zeros(3)), base)


def test_routed_tokens_are_independent_of_the_passes():
    checkpoint = tiny_checkpoint()
    tokens, prior = some_tokens(checkpoint.config, 14), torch.tensor([0.2, 0.5, 0.3])
    exact = routed_decoder(checkpoint, SignRouter)
    floating = routed_decoder(checkpoint, SignRouter, float_arithmetic=True)
    whole = logits_in_passes(floating, tokens, [14], prior)
    found = logits_in_passes(floating, tokens, [1] * 14, prior)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    # The exact operations keep the cache in float16.
    found = logits_in_passes(exact, tokens, [14], prior)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.05)


def test_a_learned_router_works_with_the_decoder():
    checkpoint = tiny_checkpoint()
    tokens, prior = some_tokens(checkpoint.config, 6), torch.tensor([2.0, -2.0, 0.0])
    decoder = routed_decoder(checkpoint, lambda: SoftmaxRouter(64, 3), float_arithmetic=True)
    found = logits_in_passes(decoder, tokens, [6], prior)
    base = logits_in_passes(dense_decoder(checkpoint), tokens, [6])
    assert found.isfinite().all()
    assert (found - base).abs().max() > 0.05


def test_missing_weights_are_refused():
    checkpoint = tiny_checkpoint()
    decoder = dense_decoder(checkpoint)
    weights = dense_weights(checkpoint)
    del weights["norm.gain"]
    with pytest.raises(RuntimeError, match="norm.gain"):
        load_weights(decoder, weights)


@pytest.fixture(scope="session")
def real_logits(default_checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """512 tokens of text, and the logits of transformers after each."""
    text = inspect.getsource(inspect)  # long, and on every machine
    ids = Tokenizer.from_str(default_checkpoint.text.tokenizer_json).encode(text[:4000]).ids[:512]
    tokens = torch.tensor(ids, dtype=torch.int32)
    assert len(tokens) == 512
    model = transformers_model(default_checkpoint)
    with torch.no_grad():
        return tokens, model(tokens[None].long()).logits[0]


@pytest.fixture(scope="session")
def real_decoder(default_checkpoint) -> Decoder:
    return dense_decoder(default_checkpoint)


@pytest.mark.model
@torch.no_grad()
def test_the_default_model_in_one_pass_and_the_end_token_by_token(real_decoder, real_logits):
    tokens, expected = real_logits
    caches = new_caches(real_decoder.config, 512, torch.float32)
    found = real_decoder(tokens, causal_placement(0, 512), torch.arange(512), caches)
    assert (found - expected).abs().max() <= 1e-3
    for keys, values in caches:
        keys[:, 448 // 16 :] = values[:, 448:] = torch.nan
    for i in range(448, 512):
        found = real_decoder(
            tokens[i : i + 1], causal_placement(i, 1), torch.zeros(1, dtype=torch.int32), caches
        )
        assert (found[0] - expected[i]).abs().max() <= 1e-3


@pytest.mark.model
@pytest.mark.slow
def test_the_default_model_token_by_token_from_the_start(real_decoder, real_logits):
    tokens, expected = real_logits
    found = logits_in_passes(real_decoder, tokens, [1] * 512)
    assert (found - expected).abs().max() <= 1e-3
