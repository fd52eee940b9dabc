"""What the sentence encoder makes of texts, in float32, for fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gem_scar.encoder_files import EncoderFiles
from gemcore.models.linear import DENSE
from gemcore.text.encoder_tokenizer import EncoderTokenizer


def embed(
    texts: Sequence[str], files: EncoderFiles, progress: Callable[[str, int, int], None]
) -> Tensor:
    """Embeddings of texts, float32 `[texts, width]`.

    Args:
        texts: what is read is their beginning, as far as the encoder reads.
        files: the encoder.
        progress: called with the name of a step, what is done and what there is.
    """
    network = files.network(DENSE)
    tokenizer = EncoderTokenizer(source=files.tokenizer_json, longest=files.shape.longest)
    found = []
    with torch.no_grad():
        for done, text in enumerate(texts):
            found.append(network(torch.tensor(tokenizer.encode(text), dtype=torch.int32)))
            progress("reading texts with the encoder", done + 1, len(texts))
    return torch.stack(found)
