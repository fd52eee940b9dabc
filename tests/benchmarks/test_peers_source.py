"""GEM's model as the peers read it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from peer_comparison.engines import gem, llamacpp
from peer_comparison.records import LoadRequest, Model
from peer_comparison.source import export_model, tokenize

from gemcore.formats.huggingface import load_folder
from gemcore.text.tokenizer import Tokenizer


def test_the_exported_folder_is_the_same_model(tiny, tiny_folder, tmp_path):
    model = export_model(str(tiny_folder), tmp_path)
    exported = load_folder(model.folder)
    assert exported.config == tiny.config
    assert exported.tensors.keys() == tiny.tensors.keys()
    for name, tensor in tiny.tensors.items():
        np.testing.assert_array_equal(exported.tensors[name].to_float32(), tensor.to_float32())
    text = Tokenizer.from_text_data(exported.text).encode_prompt("hello there")
    assert text == Tokenizer.from_text_data(tiny.text).encode_prompt("hello there")
    assert model.vocabulary_size == tiny.config.vocabulary_size
    assert model.gguf is None
    assert Model(**json.loads(json.dumps(model.to_json()))) == model


def test_it_is_exported_once(tiny_folder, tmp_path):
    first = export_model(str(tiny_folder), tmp_path)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert export_model(str(tiny_folder), tmp_path) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in first.work.iterdir()] == ["float32"]


def test_texts_are_tokenized_as_for_gem_eval(tiny, tiny_folder, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one text"}\n{"text": "another"}\n', encoding="utf-8")
    tokenizer = Tokenizer.from_text_data(tiny.text)
    ids = tokenize(str(tiny_folder), texts, None)
    assert ids == [tokenizer.encode_prompt("one text"), tokenizer.encode_prompt("another")]
    assert tokenize(str(tiny_folder), texts, 1) == ids[:1]


@pytest.mark.slow
def test_gem_is_fed_like_a_session(tiny_folder, tiny_session, monkeypatch, tmp_path):
    folder = str(tiny_session.bundle.folder)
    monkeypatch.setattr("gemcore.load", lambda name: tiny_session)
    model = export_model(str(tiny_folder), tmp_path)
    request = LoadRequest(
        model=model,
        threads=1,
        context=64,
        purpose="speed",
        options={},
        prepared=gem.prepare(model, {}),
    )
    assert request.prepared == folder
    engine = gem.load(request)
    assert engine.versions["gemcore"]
    assert engine.settings["quantizer"].startswith("q4a-g32")
    every = engine.logits([3, 1, 4, 1, 5])
    engine.begin(64)
    engine.feed([3, 1, 4])
    np.testing.assert_array_equal(engine.feed([1, 5]), every[-1])
    engine.begin(64)
    np.testing.assert_array_equal(engine.feed([3]), every[0])


def test_llama_cpp_takes_the_models_own_file_where_it_is_of_the_type(tmp_path):
    path = tmp_path / "Model.Q4_1.gguf"
    model = Model(
        name="m",
        identity="0",
        vocabulary_size=1,
        context_length=1,
        folder=tmp_path,
        gguf=path,
        work=tmp_path / "work",
    )
    assert llamacpp.file_of(model, "Q4_1") == path
    assert llamacpp.file_of(model, "Q4_0") == tmp_path / "work" / "Q4_0.gguf"
