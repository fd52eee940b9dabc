"""How large activations get: without that no static int8 arithmetic can be laid out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from gemcore.models.decoder import Decoder, causal_placement, dense_schemes, new_caches
from gemcore.models.layout import EMBEDDING, HEAD, rotation_table, weight_units

if TYPE_CHECKING:
    from gemcore.models.config import ModelConfig

TEXT = (
    "The river rises in the hills to the north and reaches the sea after ninety miles. In 1842 a bridge "
    "was built where the road from the market town crosses it; before that, travellers paid a ferryman "
    "two pence. Why did nobody complain? Because, as the vicar wrote, 'there was no other way'."
)
"""What the model reads to see how large its activations get."""

Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True, eq=False)
class Seen:
    """What a linear layer was given and gave.

    Attributes:
        inputs: float32 `[tokens, in]`.
        outputs: float32 `[tokens, out]`.
    """

    inputs: Floats
    outputs: Floats


def calibration_tokens(folder: Path, config: ModelConfig) -> list[int]:
    """Tokens of the text, as many as the model can read, up to 64."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    return [int(token) for token in tokens[: min(64, config.context_length)]]


def observe(
    config: ModelConfig,
    weights: Mapping[str, Floats],
    biases: Mapping[str, Floats],
    gains: Mapping[str, Floats],
    tokens: list[int],
) -> dict[str, Seen]:
    """Run the model in float32 without experts, and see each of its linear layers.

    Args:
        config: its shape.
        weights, biases: by the name of the unit (`gemcore.models.layout.weight_units`).
        gains: of the norms, by the decoder's names.
        tokens: what it reads.
    """
    decoder = Decoder(config, dense_schemes(config), float_arithmetic=True).eval()
    state = {f"{name}.weight": torch.from_numpy(weight) for name, weight in weights.items()}
    state |= {f"{name}.bias": torch.from_numpy(bias) for name, bias in biases.items()}
    state |= {name: torch.from_numpy(np.array(gain)) for name, gain in gains.items()}
    state["rotation"] = torch.from_numpy(rotation_table(config))
    if decoder.head is decoder.embedding:
        state[f"{HEAD}.weight"] = state[f"{EMBEDDING}.weight"]
    decoder.load_state_dict(state, strict=True, assign=True)
    seen: dict[str, Seen] = {}

    def note(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, given: Any, made: Any) -> None:
            seen[name] = Seen(inputs=given[0].numpy(), outputs=made.numpy())

        return hook

    for unit in weight_units(config):
        decoder.get_submodule(unit.name).register_forward_hook(note(unit.name))
    caches = new_caches(config, 64, torch.float32)
    given = torch.tensor(tokens, dtype=torch.int32)
    with torch.no_grad():
        decoder(given, causal_placement(0, len(tokens)), torch.arange(len(tokens)), caches)
    return seen
