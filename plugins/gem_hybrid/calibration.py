"""Text to calibrate with, as windows of tokens: GEM's own short text, or the user's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import attrs

from gemcore.errors import UsageError
from gemcore.models.checkpoint import Checkpoint
from gemcore.text.tokenizer import Tokenizer

WINDOW = 256
"""Tokens that are read at once, which is what activations see of their text."""

FEWEST_TOKENS = 512
HELD_OUT = 8
"""One window in so many is not calibrated with; on those the KL divergence is measured."""


@attrs.frozen(kw_only=True)
class Calibration:
    """Windows of token ids, each of the same length.

    Attributes:
        windows: what is calibrated with.
        held_out: what is measured on.
        digest: SHA-256 of all of them, in hexadecimal.
    """

    windows: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]
    digest: str

    @property
    def tokens(self) -> int:
        """Tokens in `windows`."""
        return sum(map(len, self.windows))


def read_calibration(path: str | None) -> list[str]:
    """The texts of a file, or GEM's own calibration text where no file is given.

    Raises:
        UsageError: there is no such file, or it is not text.
    """
    if path is None:
        return [calibration_text()]
    from gemcore.cli.evaluate import read_texts

    return read_texts(Path(path).expanduser())


def calibration_text() -> str:
    """The text that comes with GEM, under GEM's licence."""
    return resources.files("gem_hybrid").joinpath("calibration.txt").read_text(encoding="utf-8")


def calibrate_on(
    checkpoint: Checkpoint, texts: Sequence[str], tokens: int, name: str = "the calibration text"
) -> Calibration:
    """Cut texts into windows for a model; of long texts, windows that are spread evenly.

    Args:
        checkpoint: whose tokenizer and context length count.
        texts: joined, each with the token that begins a text where the model wants it.
        tokens: to calibrate with at most; one in `HELD_OUT` comes on top, for measuring.
        name: what messages call the texts.

    Raises:
        UsageError: the texts are empty or too short.
    """
    tokenizer = Tokenizer.from_text_data(checkpoint.text)
    ids = [i for text in texts if text.strip() for i in tokenizer.encode_prompt(text)]
    if not ids:
        raise UsageError(f"{name} is empty: calibration needs some pages of ordinary text")
    if len(ids) < FEWEST_TOKENS:
        raise UsageError(
            f"{name} is too short: it has {len(ids)} tokens, and calibration needs at least "
            f"{FEWEST_TOKENS}; some thousands are better"
        )
    length = min(WINDOW, checkpoint.config.context_length, len(ids) // 2)
    windows = [tuple(ids[i : i + length]) for i in range(0, len(ids) - length + 1, length)]
    most = max(2, tokens * HELD_OUT // (HELD_OUT - 1) // length)
    if len(windows) > most:
        windows = [windows[i * len(windows) // most] for i in range(most)]
    # The last of every eight; of fewer than eight, the last.
    held = set(range(HELD_OUT - 1, len(windows), HELD_OUT)) or {len(windows) - 1}
    return Calibration(
        windows=tuple(w for i, w in enumerate(windows) if i not in held),
        held_out=tuple(w for i, w in enumerate(windows) if i in held),
        digest=hashlib.sha256(repr(windows).encode()).hexdigest(),
    )
