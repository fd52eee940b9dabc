"""Tokenizers written as GGUF metadata and read again."""

import json

import attrs
import pytest

from gemcore.errors import UsageError
from gemcore.formats.gguf import load_gguf
from gemcore.models.checkpoint import TextData
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.text.gguf_metadata import tokenizer_metadata
from gemcore.text.gguf_tokenizer import splittings, text_data_from_gguf
from gemcore.text.tokenizer import Tokenizer

SIZE = tiny_config().vocabulary_size
TEXT = "The rain in Spain: 1234 drops, isn't it?\n\n  über <|im_start|>"


def changed(change) -> TextData:
    text = tiny_checkpoint().text
    file = json.loads(text.tokenizer_json)
    change(file)
    return attrs.evolve(text, tokenizer_json=json.dumps(file))


def test_the_default_models_text_comes_back_whole(default_model_path):
    checkpoint = load_gguf(default_model_path)
    metadata = tokenizer_metadata(checkpoint.text, checkpoint.config.vocabulary_size)
    assert text_data_from_gguf(metadata) == checkpoint.text


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_each_way_to_cut_words_has_its_name(name):
    splitting = splittings()[name]

    def change(file):
        steps = [{**step, "trim_offsets": False} for step in splitting.steps]
        file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        file["normalizer"] = splitting.normalizer
        file["model"]["ignore_merges"] = splitting.whole_words_first

    text = changed(change)
    metadata = tokenizer_metadata(text, SIZE)
    assert metadata["tokenizer.ggml.pre"] == name
    again = text_data_from_gguf(metadata)
    ours, theirs = (Tokenizer.from_text_data(t).encode(TEXT, special=True) for t in (again, text))
    assert ours == theirs


def test_tokens_that_only_fill_up_are_unused():
    metadata = tokenizer_metadata(tiny_checkpoint().text, SIZE + 5)
    assert metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{SIZE + 4}]"
    assert metadata["tokenizer.ggml.token_type"][-1] == 5
    assert len(metadata["tokenizer.ggml.tokens"]) == SIZE + 5


def test_what_has_no_name_is_refused():
    with pytest.raises(UsageError, match="cuts text into words in a way that GEM knows no GGUF"):
        tokenizer_metadata(
            changed(lambda file: file.update(pre_tokenizer={"type": "Whitespace"})), SIZE
        )
    with pytest.raises(UsageError, match="is not byte-level byte-pair encoding"):
        tokenizer_metadata(changed(lambda file: file["model"].update(byte_fallback=True)), SIZE)
    with pytest.raises(UsageError, match=r"has ids up to \d+, but the model has 7 tokens"):
        tokenizer_metadata(tiny_checkpoint().text, 7)
