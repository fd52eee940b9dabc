"""Text data from a Hugging Face model folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gemcore.errors import FormatError
from gemcore.models.checkpoint import TextData
from gemcore.text.gguf_tokenizer import END_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_FILE_BYTES = 128 * 2**20
"""A larger text file is refused; the largest vocabularies in use take about 35 MB."""


def text_data_from_folder(folder: Path) -> TextData:
    """The text data of a model folder.

    Reads `tokenizer.json`, which must be there, and where they are there `tokenizer_config.json`
    (special tokens, template), `special_tokens_map.json` (special tokens),
    `generation_config.json` (stop tokens) and `chat_template.jinja`, which wins over a template in
    the configuration. A missing or malformed file raises FormatError.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FormatError(
            f"'{folder}' has no tokenizer.json: save the tokenizer as a fast one and copy that "
            "file there"
        )
    tokenizer_json = _read(path)
    tokenizer = _parse(path, tokenizer_json)
    config = _object(folder / "tokenizer_config.json")
    tokens_map = _object(folder / "special_tokens_map.json")
    generation = _object(folder / "generation_config.json")

    bos, eos = (
        _token_text(config.get(name), name) or _token_text(tokens_map.get(name), name)
        for name in ("bos_token", "eos_token")
    )
    special = _special_ids(path, tokenizer)
    stops = _stop_ids(generation.get("eos_token_id"))
    stops.update(special[text] for text in (eos, *END_TOKENS) if text in special)
    add_bos = config.get("add_bos_token")
    if add_bos is None:
        add_bos = bos is not None and _puts_first(tokenizer.get("post_processor"), bos)
    return TextData(
        tokenizer_json=tokenizer_json,
        chat_template=_chat_template(folder, config),
        bos_token=bos,
        eos_token=eos,
        add_bos=bool(add_bos),
        stop_token_ids=tuple(sorted(stops)),
    )


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FormatError(
                f"'{path}' has {size} bytes: at most {MAX_FILE_BYTES} are read as a text file"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"'{path}' cannot be read as text: {error}") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"'{path}' holds {type(value).__name__}: it must hold a JSON object")
    return value


def _object(path: Path) -> dict[str, Any]:
    return _parse(path, _read(path)) if path.is_file() else {}


def _token_text(value: Any, name: str) -> str | None:
    """A special token's text: written plainly, or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{name} is {type(value).__name__}: it must be text")
    return value


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read(path)
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {
            entry.get("name"): entry.get("template")
            for entry in template
            if isinstance(entry, dict)
        }
        template = named.get("default")
        if template is None:
            names = ", ".join(sorted(str(name) for name in named)) or "none"
            raise FormatError(f"no chat template is named 'default'; found: {names}")
    if template is not None and not isinstance(template, str):
        raise FormatError(f"chat_template is {type(template).__name__}: it must be text")
    return template


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stop_ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(map(_is_id, values)):
        raise FormatError(f"eos_token_id is {value!r}: it must be a token id or a list of them")
    return set(values)


def _special_ids(path: Path, tokenizer: Mapping[str, Any]) -> dict[str | None, int]:
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and _is_id(token.get("id"))
        for token in added
    ):
        raise FormatError(f"'{path}' has added_tokens that are not a list of tokens with their ids")
    return {token["content"]: token["id"] for token in added if token.get("special")}


def _puts_first(post_processor: Any, token: str) -> bool:
    """Whether the tokenizer file itself puts `token` before a text, as Llama 3's does."""
    if not isinstance(post_processor, dict):
        return False
    if post_processor.get("type") == "Sequence":
        return any(_puts_first(part, token) for part in post_processor.get("processors") or [])
    single = post_processor.get("single") or [None]
    first = single[0] if isinstance(single, list) and single else None
    return isinstance(first, dict) and (first.get("SpecialToken") or {}).get("id") == token
