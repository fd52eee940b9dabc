"""The default model's metadata, and varied lines of text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gemcore.text.gguf_tokenizer import text_data_from_gguf
from gemcore.text.tokenizer import Tokenizer

MAX_LINE = 300

CODE_AND_SIGNS = [
    "def f(x: int) -> str:\n\treturn f'{x!r:>10}'  # 你好\n",
    "for (int i = 0; i < 10; ++i) { a[i] ^= 0xFF; }\r\n\r\n",
    "SELECT * FROM t WHERE a>=1 AND b!='x''y';--  \n\n\n  end",
    '<div class="a">\u00a0&nbsp;</div>\n    \t  \n',
    "x² + y³ = ½ ⅷ ٣٤ १२३ 10,000.50 1e-5 \uff14\uff12",
    "🎉👩‍👩‍👧‍👦🇫🇷🏳️‍🌈👍🏽 e\u0301 é ñ n\u0303 ﬁ",
    "I'm you're WE'LL don'T it's they'd 'tis ''s",
    "   leading and trailing   ",
    "\u200b\u200d\ufeff\u2028\u2029\u0085\u3000x\u3000",
    "\U000f0000\U0010ffff\ue000 \x00\x01\x04\x1b\x7f",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "a" * 200,
    " " * 100 + "\n" * 50,
    "中文字符、标点。日本語テキスト。한국어 ไทย العربية עברית ქართული",
    "",
    " ",
    "\n",
]


@pytest.fixture(scope="session")
def benchmarks_folder() -> Path:
    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "benchmarks"
    folder = Path(os.environ.get("GEM_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"benchmark texts are not at {folder}: set GEM_DATA")
    return folder


@pytest.fixture(scope="session")
def varied_lines(benchmarks_folder: Path) -> list[str]:
    """At least 5000 lines from every domain and language, and code, signs and emoji."""
    lines = dict.fromkeys(CODE_AND_SIGNS)
    for path in sorted(benchmarks_folder.glob("*/corpus.heldout.txt")):
        texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [line[:MAX_LINE] for line in texts if line.strip()]
        lines.update(dict.fromkeys(found[:: max(1, len(found) // 400)]))
    for path in sorted(benchmarks_folder.glob("multilingual/*/test.jsonl")):
        items = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found = [text[:MAX_LINE] for item in items for text in _texts(item)]
        lines.update(dict.fromkeys(found[:: max(1, len(found) // 500)]))
    for path in sorted(benchmarks_folder.glob("*/*/test.jsonl")):
        items = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found = [text[:MAX_LINE] for item in items for text in _texts(item)]
        lines.update(dict.fromkeys(found[:: max(1, len(found) // 60)]))
    return list(lines)


def _texts(item: dict[str, object]) -> list[str]:
    texts = [item.get(key) for key in ("question", "text", "context")]
    return [text for text in texts if isinstance(text, str) and text]


@pytest.fixture(scope="session")
def model_path(request: pytest.FixtureRequest) -> Path:
    """The default model: GEM_TEST_MODEL, or the one that the whole suite uses."""
    if "GEM_TEST_MODEL" in os.environ:
        return Path(os.environ["GEM_TEST_MODEL"])
    try:
        return Path(request.getfixturevalue("default_model_path"))
    except pytest.FixtureLookupError:
        pytest.skip("the default model is not here: set GEM_TEST_MODEL to its .gguf file")


@pytest.fixture(scope="session")
def metadata(model_path: Path) -> dict[str, object]:
    import gguf

    reader = gguf.GGUFReader(model_path)
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.fixture(scope="session")
def smollm2(metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_text_data(text_data_from_gguf(metadata))
