"""The sentence encoder against transformers' BertModel, in float32, packed and compiled."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gem_host.processor import choose_level
from gem_scar import encoder_files
from gem_scar.encoder import SCHEME, MiniLM, gelu
from gem_scar.encoder_files import bert_shapes, read_bert
from gem_scar.prior import EmbeddingClassifier, SourceClassifier
from gemcore.compiler import instructions
from gemcore.compiler.build import build_library
from gemcore.compiler.export import export_decoder
from gemcore.compiler.lower import lower
from gemcore.errors import FormatError
from gemcore.models.decoder import Decoder
from gemcore.models.layout import weight_units
from gemcore.models.linear import DENSE
from gemcore.models.routed import PRIOR
from gemcore.routing import EncoderPrior
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.testing import tiny_config
from gemcore.testing.routed import SignRouter, tiny_experts

COUNTS = (1, 2, 15, 16, 17, 31, 32)


def ids(count, vocabulary):
    values = np.random.default_rng(count).integers(vocabulary, size=count, dtype=np.int32)
    return torch.from_numpy(values)


def reference(files):
    """Mean-pooled, normalised states of transformers' model, as sentence-transformers makes them."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    shape = files.shape
    state = load_file(files.weights)
    model = BertModel(
        BertConfig(
            vocab_size=shape.vocabulary_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
            layer_norm_eps=shape.epsilon,
        ),
        add_pooling_layer=False,
    ).eval()
    missing, _ = model.load_state_dict(state, strict=False)
    assert not missing

    def embedding(tokens):
        with torch.no_grad():
            states = model(tokens[None].long()).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0)

    return embedding


def test_float32_is_the_model_of_transformers(encoder):
    network, wanted = encoder.network(DENSE), reference(encoder)
    for count in COUNTS:
        tokens = ids(count, encoder.shape.vocabulary_size)
        torch.testing.assert_close(network(tokens), wanted(tokens), atol=2e-6, rtol=1e-5)


def test_packed_weights_are_near(encoder):
    exact, packed = encoder.network(DENSE), encoder.network(SCHEME)
    for count in COUNTS:
        tokens = ids(count, encoder.shape.vocabulary_size)
        found = packed(tokens)
        assert float(found.square().sum()) == pytest.approx(1, abs=1e-5)
        assert float(found @ exact(tokens)) > 0.999


def test_gelu_is_that_of_torch():
    x = torch.linspace(-12, 12, 4801)
    torch.testing.assert_close(gelu(x), torch.nn.functional.gelu(x), atol=4e-6, rtol=1e-6)


def test_the_order_of_tokens_counts(encoder):
    network = encoder.network(DENSE)
    tokens = ids(9, encoder.shape.vocabulary_size)
    assert (network(tokens) - network(tokens.flip(0))).abs().max() > 0.001


def test_the_compiled_encoder_gives_the_prior_of_the_eager_one(encoder, tmp_path):
    """Products and attention have the same bits; norms, GELU and softmax are TVM's own.

    Where those differ in a last bit, a state is now and then rounded to the next of 255 steps.
    """
    generator = torch.Generator().manual_seed(3)
    module = EmbeddingClassifier(
        encoder.network(SCHEME),
        SourceClassifier(
            torch.randn(4, encoder.shape.hidden_size, generator=generator),
            torch.zeros(4),
            torch.eye(4)[:, :3],
            torch.tensor([-0.6, -0.5, -0.4, -0.5]),
        ),
    )
    prior = EncoderPrior(module=module, tokenizer_json="", longest=encoder.shape.longest)
    config = tiny_config(layers=2)
    schemes = {unit.name: "q8-g32" for unit in weight_units(config)}
    routing = {"router": [None, SignRouter()], "experts": tiny_experts(config)}
    exported = export_decoder(config, schemes, prior=prior, **routing)
    level = choose_level("auto")
    library = tmp_path / "model.so"
    isa = getattr(instructions, level.kernels)
    build_library(lower(exported, config, isa), level.target, library)
    own = {f"{PRIOR}.{n}": p.detach().numpy() for n, p in module.named_parameters()}
    # Of the decoder's weights it reads none.
    decoder = Decoder(config, schemes, **routing)
    rest = {**dict(decoder.named_parameters()), **dict(decoder.named_buffers())}
    every = own | {name: np.zeros_like(tensor.detach().numpy()) for name, tensor in rest.items()}
    weights = [every[name] for name in exported.weights]
    for threads in (1, 2):
        executor = NativeExecutor(library, weights, threads)
        for count in COUNTS:
            tokens = ids(count, encoder.shape.vocabulary_size)
            placement = np.zeros((count, 5), np.int32)
            with torch.no_grad():
                expected = module(tokens).numpy()
            found = executor.prior(tokens.numpy(), placement, KVCache(config, 16))
            assert expected.std() > 0.01
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_file_of_another_shape_is_refused(encoder):
    shape = encoder.shape
    with pytest.raises(
        FormatError, match=r"'embeddings.word_embeddings.weight' is F32 \[110, 64\]"
    ):
        read_bert(encoder.weights, attrs.evolve(shape, vocabulary_size=111))
    with pytest.raises(FormatError, match="has no tensor 'encoder.layer.2"):
        read_bert(encoder.weights, attrs.evolve(shape, layers=3))
    with pytest.raises(FormatError, match="position_embeddings"):
        read_bert(encoder.weights, attrs.evolve(shape, longest=64))


def test_all_parameters_are_filled(encoder):
    with torch.device("meta"):
        names = {name for name, _ in MiniLM(encoder.shape, DENSE).named_parameters()}
    assert {name for name, _ in encoder.network(DENSE).named_parameters()} == names
    assert len(bert_shapes(encoder.shape)) == 3 + 2 + encoder.shape.layers * 16


@pytest.mark.slow
@pytest.mark.model
def test_the_real_encoder():
    """Its embeddings against transformers, and what 8 bits change."""
    from gemcore.text.encoder_tokenizer import EncoderTokenizer

    files = encoder_files.minilm_files()
    tokenizer = EncoderTokenizer(source=files.tokenizer_json, longest=files.shape.longest)
    exact, packed, wanted = files.network(DENSE), files.network(SCHEME), reference(files)
    texts = ["What makes a contract void?", "The verdict was void.", "Fry the onions. " * 60]
    found = []
    for text in texts:
        tokens = torch.tensor(tokenizer.encode(text), dtype=torch.int32)
        embedding = exact(tokens)
        torch.testing.assert_close(embedding, wanted(tokens), atol=1e-5, rtol=1e-4)
        assert float(packed(tokens) @ embedding) > 0.995
        found.append(embedding)
    assert len(tokenizer.encode(texts[2])) == 128
    # "[CLS] what makes a contract void ? [SEP]" in the vocabulary of BERT, uncased.
    assert tokenizer.encode(texts[0]) == [101, 2054, 3084, 1037, 3206, 11675, 1029, 102]
    assert float(found[0] @ found[1]) > float(found[0] @ found[2]) + 0.2
