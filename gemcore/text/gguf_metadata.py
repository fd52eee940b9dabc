"""The tokenizer metadata of a GGUF file from a model's own: `gguf_tokenizer` the other way round."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gemcore.errors import UsageError
from gemcore.text.gguf_tokenizer import TokenType, splittings

if TYPE_CHECKING:
    from gemcore.models.checkpoint import TextData

_Json = dict[str, Any]


def tokenizer_metadata(text: TextData, vocabulary_size: int) -> _Json:
    """Plain values by metadata key: texts, flags, whole numbers and lists of texts or numbers.

    Args:
        text: of a model with byte-level byte-pair encoding.
        vocabulary_size: rows of the embedding; tokens that only fill it up are written as unused.

    Raises:
        UsageError: the tokenizer is of another kind, or cuts words in a way that has no name in GGUF.
    """
    file = json.loads(text.tokenizer_json)
    model = file["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UsageError(
            f"the tokenizer ({model.get('type')}) is not byte-level byte-pair encoding, the only kind "
            "that GEM writes to GGUF files"
        )
    ids: dict[str, int] = dict(model["vocab"])
    kinds: dict[int, TokenType] = {}
    for token in file["added_tokens"]:
        ids[token["content"]] = token["id"]
        kinds[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if max(ids.values()) >= vocabulary_size:
        raise UsageError(
            f"the tokenizer has ids up to {max(ids.values())}, but the model has {vocabulary_size} tokens"
        )
    names = {i: token for token, i in ids.items()}
    missing = [i for i in range(vocabulary_size) if i not in names]
    tokens = [names.get(i, f"[PAD{i}]") for i in range(vocabulary_size)]
    kinds |= dict.fromkeys(missing, TokenType.UNUSED)
    metadata: _Json = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _splitting(file),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            int(kinds.get(i, TokenType.NORMAL)) for i in range(vocabulary_size)
        ],
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]
        ],
        "tokenizer.ggml.add_bos_token": text.add_bos,
    }
    for key, token in (("bos", text.bos_token), ("eos", text.eos_token)):
        if token is not None and token in ids:
            metadata[f"tokenizer.ggml.{key}_token_id"] = ids[token]
    if text.chat_template is not None:
        metadata["tokenizer.chat_template"] = text.chat_template
    return metadata


def _splitting(file: _Json) -> str:
    """GGUF's name of the way in which text is cut into words."""
    steps = _plain(file.get("pre_tokenizer"))
    # The first of several names for one thing is the common one, but `default` is for old files.
    for name, known in reversed(list(splittings().items())):
        normal = known.normalizer or None
        ignores = bool(file["model"].get("ignore_merges"))
        if (
            name != "default"
            and _plain({"type": "Sequence", "pretokenizers": list(known.steps)}) == steps
            and (file.get("normalizer") or None) == normal
            and known.whole_words_first == ignores
        ):
            return "llama-bpe" if name == "llama3" else name
    raise UsageError(
        "the tokenizer cuts text into words in a way that GEM knows no GGUF name for; it does for "
        "those of GPT-2, SmolLM, Llama 3 and Qwen2"
    )


def _plain(pre_tokenizer: _Json | None) -> list[_Json]:
    """The steps of a pre-tokenizer without what changes no token."""
    if pre_tokenizer is None:
        return []
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]
