"""llama.cpp through the C functions that llama-cpp-python binds, without its slower Python classes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from peer_comparison.errors import SystemFailedError

if TYPE_CHECKING:
    from peer_comparison.records import LoadRequest, Model

BATCH = 512
"""Tokens in one pass, llama.cpp's own default; larger ones are not reliably faster."""


@attrs.frozen(kw_only=True)
class LlamaEngine:
    """A model with a context of fixed size.

    Attributes:
        context: what the C functions call `llama_context`.
        vocabulary_size: logits in a row.
    """

    context: Any
    vocabulary_size: int
    versions: Mapping[str, str]
    settings: Mapping[str, Any]

    def begin(self, context: int) -> None:
        """Forget all tokens."""
        import llama_cpp

        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text: logits after the last token, float32 `[vocabulary]`."""
        import llama_cpp

        for start in range(0, len(tokens), BATCH):
            piece = tokens[start : start + BATCH]
            ids = (llama_cpp.llama_token * len(piece))(*piece)
            # Such a batch wants the logits of its last token only.
            self._decode(llama_cpp.llama_batch_get_one(ids, len(piece)))
        return self._row(-1)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a new text: float32 `[tokens, vocabulary]`."""
        import llama_cpp

        self.begin(len(tokens))
        rows = []
        for start in range(0, len(tokens), BATCH):
            piece = tokens[start : start + BATCH]
            batch = llama_cpp.llama_batch_init(len(piece), 0, 1)
            try:
                batch.n_tokens = len(piece)
                for i, token in enumerate(piece):
                    batch.token[i] = token
                    batch.pos[i] = start + i
                    batch.n_seq_id[i] = 1
                    batch.seq_id[i][0] = 0
                    batch.logits[i] = 1
                self._decode(batch)
                rows += [self._row(i).copy() for i in range(len(piece))]
            finally:
                llama_cpp.llama_batch_free(batch)
        return np.stack(rows)

    def _decode(self, batch: Any) -> None:
        import llama_cpp

        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise SystemFailedError(f"llama_decode failed with status {status}")

    def _row(self, index: int) -> npt.NDArray[np.float32]:
        import llama_cpp

        pointer = llama_cpp.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))


def prepare(model: Model, options: Mapping[str, Any]) -> None:
    """Quantize the model to the wanted file type with llama.cpp's own quantizer."""
    import llama_cpp

    target = file_of(model, options["type"])
    if model.gguf is None:
        raise SystemFailedError(
            f"llama.cpp needs a GGUF file, and {model.name} does not come as one"
        )
    if target.is_file():
        return
    _quiet()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{options['type']}")
    # Its input may be quantized already: it goes through float32, as for every other peer.
    parameters.allow_requantize = True
    temporary = target.with_name(f".{target.name}.tmp")
    status = llama_cpp.llama_model_quantize(
        bytes(model.gguf), bytes(temporary), ctypes.byref(parameters)
    )
    if status != 0:
        raise SystemFailedError(f"llama_model_quantize failed with status {status}")
    temporary.replace(target)


def load(request: LoadRequest) -> LlamaEngine:
    """Map the file and make a context."""
    import llama_cpp

    _quiet()
    llama_cpp.llama_backend_init()
    model_parameters = llama_cpp.llama_model_default_params()
    model_parameters.use_mmap = True
    path = file_of(request.model, request.options["type"])
    model = llama_cpp.llama_model_load_from_file(bytes(path), model_parameters)
    if not model:
        raise SystemFailedError(f"llama.cpp cannot load {path}")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = request.context
    parameters.n_batch = parameters.n_ubatch = BATCH
    parameters.n_threads = parameters.n_threads_batch = request.threads
    flash = request.options["flash"]
    parameters.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if flash
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    parameters.no_perf = True
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise SystemFailedError(f"llama.cpp cannot make a context of {request.context} tokens")
    return LlamaEngine(
        context=context,
        vocabulary_size=llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)),
        versions={"llama-cpp-python": version("llama-cpp-python")},
        settings={
            "batch": BATCH,
            "flash_attention": flash,
            "system": llama_cpp.llama_print_system_info().decode().strip(),
        },
    )


def file_of(model: Model, kind: str) -> Path:
    """The file of one type; the model's own where it is of that type already."""
    if model.gguf is not None and f".{kind}." in model.gguf.name:
        return model.gguf
    return model.work / f"{kind}.gguf"


def _quiet() -> None:
    """Errors only: thousands of lines about a model's tensors help nobody."""
    import llama_cpp

    llama_cpp.llama_log_set(_LOG, ctypes.c_void_p(0))


def _ignore(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Take a message and do nothing."""


# The library keeps the pointer, so that the callback must live as long as it.
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_ignore)
