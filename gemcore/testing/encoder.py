"""A tokenizer as sentence encoders have it, and a small encoder, for tests."""

from __future__ import annotations

import string

import torch
from torch import Tensor, nn

from gemcore.models import ops

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def letters_tokenizer() -> str:
    """A `tokenizers` file: WordPiece over single characters, with `[CLS]` and `[SEP]` around a text.

    Like those of real encoders it asks for cut and padded texts.
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *string.punctuation]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    around = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=around
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return str(tokenizer.to_str())


class LettersPrior(nn.Module):
    """A prior of a text: a softmax over the mean of its tokens' rows in a table."""

    def __init__(self, vocabulary: int, experts: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(vocabulary, 16), requires_grad=False)
        self.scores = nn.Parameter(torch.empty(16, experts), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` int32 `[tokens]` to `[experts]`."""
        mean = self.table.index_select(0, tokens).mean(0, keepdim=True)
        return torch.softmax(ops.linear_f32(mean, self.scores)[0], dim=-1)
