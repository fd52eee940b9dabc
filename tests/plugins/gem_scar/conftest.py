"""Random experts of the tiny model, GEM's routers, and texts that are easy to tell apart."""

import hashlib
import random

import numpy as np
import pytest

import gem_routers
import gem_scar
from gem_scar import encoder_files
from gem_scar.encoder import EncoderShape
from gem_scar.encoder_files import EncoderFiles, bert_shapes
from gem_scar.examples import Example
from gem_scar.fit_options import FitOptions
from gemcore.testing.encoder import letters_tokenizer
from gemcore.testing.experts import write_tiny_set

LETTERS = {"code": "{}();=", "law": "aeiouy", "medicine": "01234567", "none": "QWXZKJ"}


def make_text(label, seed, length=30):
    """Words of a domain's own letters; texts of even and of odd seeds have a half of them each."""
    generator = random.Random(f"{label} {seed}")
    letters = LETTERS[label]
    own = letters[:3] if int(str(seed)[-1]) % 2 == 0 else letters[3:]
    return "".join(generator.choice(own + " ") for _ in range(length)).strip() or "."


@pytest.fixture
def text():
    """Makes a text of a domain."""
    return make_text


@pytest.fixture
def examples_of():
    """Makes as many examples of each label, from two sources each."""
    return lambda labels, count=12: [
        Example(text=make_text(label, i), label=label, source=f"{label}-{i % 2}")
        for label in labels
        for i in range(count)
    ]


@pytest.fixture
def small():
    """A quick fit."""
    return FitOptions(
        layer=1,
        width=12,
        clusters=2,
        general_clusters=2,
        tokens=8,
        steps=60,
        familiar=1.0,
        batch=128,
        prior_layers=1,
    )


@pytest.fixture
def folder(tiny, tmp_path):
    """A set's folder."""
    write_tiny_set(tmp_path / "set", tiny)
    return tmp_path / "set"


@pytest.fixture
def host(host_with_tiny):
    """GEM's routers, and a source of the tiny model."""
    return host_with_tiny(gem_scar, gem_routers)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A random encoder of two layers, in files like those of a real one."""
    from safetensors.numpy import save_file

    shape = EncoderShape(
        vocabulary_size=110, longest=32, hidden_size=64, layers=2, heads=4, intermediate_size=96
    )
    generator = np.random.default_rng(0)
    tensors = {"embeddings.position_ids": np.arange(40)[None]}
    for name, wanted in bert_shapes(shape).items():
        # More positions than are read, as in real ones.
        size = (40, *wanted[1:]) if "position" in name else wanted
        values = generator.standard_normal(size, np.float32)
        if name.endswith("LayerNorm.weight"):
            values = 1 + 0.1 * values
        elif len(size) == 2 and "embeddings" not in name:
            values *= 1.5 * size[1] ** -0.5
        tensors[name] = values
    folder = tmp_path_factory.mktemp("encoder")
    save_file(tensors, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(letters_tokenizer(), encoding="utf-8")
    return EncoderFiles(
        shape=shape,
        weights=folder / "model.safetensors",
        tokenizer=folder / "tokenizer.json",
        digest=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    )


@pytest.fixture
def with_encoder(encoder, monkeypatch):
    """The random encoder in place of the one that would be fetched."""
    monkeypatch.setattr(encoder_files, "minilm_files", lambda progress=None: encoder)
    return encoder
