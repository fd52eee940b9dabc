from __future__ import annotations

import pytest

from gem_experts.training.material import passes_of
from gemcore.errors import UsageError
from gemcore.text.tokenizer import Tokenizer

from .conftest import GENERAL, LAW


def test_general_text_is_that_of_the_other_domains(material, tiny):
    found = material(general_tokens=100)
    assert list(found.general) == ["daily"]
    decoded = {
        Tokenizer.from_text_data(tiny.text).decode(text.tokens[1:])
        for text in found.general["daily"]
    }
    assert any("stone" in text for text in decoded)
    assert not any("clause" in text for text in decoded)
    assert 100 <= sum(text.length for text in found.general["daily"]) < 300
    assert material(preserve=False).general == {}


def test_general_text_of_a_folder(material, tmp_path, tiny):
    folder = tmp_path / "general"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"holds no \.txt file"):
        material(general=folder)
    (folder / "tales.txt").write_text("Once upon a time.\n\nThe end.\n", "utf-8")
    found = material(general=folder)
    assert list(found.general) == ["tales"]
    tokenizer = Tokenizer.from_text_data(tiny.text)
    texts = {tokenizer.decode(text.tokens[1:]) for text in found.general["tales"]}
    assert texts == {"Once upon a time.", "The end."}


def test_held_out_text_is_not_learned_but_measured(material, tiny):
    found = material()
    tokenizer = Tokenizer.from_text_data(tiny.text)
    assert {tokenizer.decode(text.tokens[1:]) for text in found.heldout} == {LAW}
    assert sum(text.bytes for text in found.heldout) == 8 * len(LAW)
    assert {tokenizer.decode(text.tokens[1:]) for text in found.general_heldout} == {GENERAL}
    assert len(material(heldout_bytes=1).heldout) == 1


def test_no_general_text(material, data):
    (data / "daily" / "cats" / "train.jsonl").unlink()
    with pytest.raises(UsageError, match="no general text to preserve"):
        material(licences="permissive")


def test_the_digest_follows_the_data(material, data):
    assert material().digest == material().digest
    assert material().digest != material(general_tokens=10).digest
    before = material().digest
    (data / "law_x" / "corpus.txt").write_text("Another text.\n", "utf-8")
    assert material().digest != before


def test_epochs_are_counted_in_passes(material):
    mixture = material(preserve=False).mixture
    first, second = len(mixture.epoch(0)), len(mixture.epoch(1))
    assert passes_of(mixture, 1) == first
    assert passes_of(mixture, 2) == first + second
    assert passes_of(mixture, 1.5) == first + round(second / 2)
    assert passes_of(mixture, 1e-9) == 1
