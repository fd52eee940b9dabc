"""Text data from model folders as the Hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, processors
from tokenizers import Tokenizer as Backend

from gemcore.errors import FormatError
from gemcore.text.decoding import byte_alphabet
from gemcore.text.huggingface import MAX_FILE_BYTES, text_data_from_folder
from gemcore.text.tokenizer import Tokenizer


def backend() -> Backend:
    vocabulary = {character: place for place, character in enumerate(byte_alphabet())}
    made = Backend(models.BPE(vocabulary, []))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<s>"), AddedToken("<e>"), AddedToken("<|im_end|>")])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(backend().to_str(), encoding="utf-8")
    return tmp_path


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def test_a_folder_with_everything(folder: Path) -> None:
    write(
        folder,
        "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "eos_token": {"__type": "AddedToken", "content": "<e>", "lstrip": False},
            "add_bos_token": True,
            "chat_template": "{{ messages }}",
        },
    )
    write(folder, "generation_config.json", {"eos_token_id": [257, 3]})
    text = text_data_from_folder(folder)
    assert (text.bos_token, text.eos_token, text.add_bos) == ("<s>", "<e>", True)
    assert text.chat_template == "{{ messages }}"
    # From the generation settings, the end token, and the known end of a turn.
    assert text.stop_token_ids == (3, 257, 258)
    assert Tokenizer.from_text_data(text).encode("<s>", special=True) == [256]


def test_a_folder_with_the_tokenizer_alone(folder: Path) -> None:
    text = text_data_from_folder(folder)
    assert (text.bos_token, text.eos_token, text.add_bos) == (None, None, False)
    assert text.chat_template is None
    assert text.stop_token_ids == (258,)


def test_one_end_token_and_special_tokens_map(folder: Path) -> None:
    write(folder, "special_tokens_map.json", {"bos_token": {"content": "<s>"}, "eos_token": "<e>"})
    write(folder, "generation_config.json", {"eos_token_id": 5})
    text = text_data_from_folder(folder)
    assert (text.bos_token, text.eos_token) == ("<s>", "<e>")
    assert text.stop_token_ids == (5, 257, 258)


def test_the_default_of_named_templates(folder: Path) -> None:
    templates = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    write(folder, "tokenizer_config.json", {"chat_template": templates})
    assert text_data_from_folder(folder).chat_template == "D"


def test_a_template_file_wins(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text("né", encoding="utf-8")
    assert text_data_from_folder(folder).chat_template == "né"


@pytest.mark.parametrize("nested", [False, True])
def test_bos_that_the_tokenizer_file_adds_itself(folder: Path, nested: bool) -> None:
    made = backend()
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    plain = processors.ByteLevel()
    made.post_processor = processors.Sequence([plain, template]) if nested else template
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    write(folder, "tokenizer_config.json", {"bos_token": "<s>"})
    assert text_data_from_folder(folder).add_bos is True
    write(folder, "tokenizer_config.json", {"bos_token": "<s>", "add_bos_token": False})
    assert text_data_from_folder(folder).add_bos is False


def test_no_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no tokenizer\.json: save the tokenizer as a fast"):
        text_data_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("tokenizer.json", "{", "is not valid JSON"),
        ("tokenizer.json", "[]", "holds list: it must hold a JSON object"),
        ("tokenizer.json", '{"added_tokens": [{"content": 1}]}', "added_tokens that are not"),
        ("tokenizer.json", "[" * 200_000, "is not valid JSON"),
        ("tokenizer_config.json", '{"bos_token": 3}', "bos_token is int: it must be text"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template is int: it must be"),
        (
            "tokenizer_config.json",
            '{"chat_template": [{"name": "rag", "template": "x"}]}',
            "no chat template is named 'default'; found: rag",
        ),
        ("generation_config.json", '{"eos_token_id": "2"}', "eos_token_id is '2'"),
        ("generation_config.json", '{"eos_token_id": [-1]}', r"eos_token_id is \[-1\]"),
    ],
)
def test_bad_files_are_one_sentence(folder: Path, name: str, text: str, sentence: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=sentence):
        text_data_from_folder(folder)


def test_bytes_that_are_no_text_are_one_sentence(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="cannot be read as text"):
        text_data_from_folder(folder)


def test_a_huge_file_is_refused_unread(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(FormatError, match=f"at most {MAX_FILE_BYTES} are read"):
        text_data_from_folder(folder)
