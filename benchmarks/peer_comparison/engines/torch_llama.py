"""transformers' own model in torch, eager or compiled: the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from peer_comparison.records import LoadRequest, Model


@attrs.define(kw_only=True)
class TorchEngine:
    """A model with its cache of keys and values.

    Attributes:
        model: transformers' model, not compiled.
        forward: the same, perhaps compiled.
        static: the cache is of fixed size, as compiled code wants it.
        cache: of the text that was begun.
        size: tokens that fit a static cache.
        length: tokens in the cache.
    """

    model: Any
    forward: Callable[..., Any]
    static: bool
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    cache: Any = None
    size: int = 0
    length: int = 0

    def begin(self, context: int) -> None:
        """Forget all tokens; a static cache is made anew only for another size."""
        import torch
        from transformers import DynamicCache, StaticCache

        self.length = 0
        if not self.static:
            self.cache = DynamicCache(config=self.model.config)
        elif self.cache is not None and self.size == context:
            # What was written in inference mode can only be changed in it.
            with torch.inference_mode():
                self.cache.reset()
        else:
            self.cache = StaticCache(config=self.model.config, max_cache_len=context)
            self.size = context
            # The first use makes its tensors, which compiled code must find where they are.
            self._run(self.model, [0], rows=1)
            self.begin(context)

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text: logits after the last token, float32 `[vocabulary]`."""
        last: npt.NDArray[np.float32] = self._run(self.forward, tokens, rows=1)[-1]
        return last

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a new text: float32 `[tokens, vocabulary]`."""
        from transformers import DynamicCache

        self.length = 0
        self.cache = DynamicCache(config=self.model.config)
        # Not compiled: texts have many lengths, and the arithmetic is the same.
        return self._run(self.model, tokens, rows=0)

    def _run(
        self, forward: Callable[..., Any], tokens: Sequence[int], rows: int
    ) -> npt.NDArray[np.float32]:
        import torch

        begin, self.length = self.length, self.length + len(tokens)
        with torch.inference_mode():
            result = forward(
                input_ids=torch.tensor([tokens]),
                position_ids=torch.arange(begin, self.length)[None],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=rows,
            )
            found: npt.NDArray[np.float32] = result.logits[0].float().numpy()
        return found


def prepare(model: Model, options: Mapping[str, Any]) -> None:
    """Only see that everything is installed: the float32 folder is read as it is."""
    for name in ("torch", "transformers"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named '{name}'")


def load(request: LoadRequest) -> TorchEngine:
    """Read the float32 folder; the first prompts of each length compile what is to be compiled."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(request.threads)
    kind = request.options["dtype"]
    model: Any = AutoModelForCausalLM.from_pretrained(
        request.model.folder, dtype=getattr(torch, kind), attn_implementation="sdpa"
    )
    model.eval()
    compiled = request.options["mode"] == "compile"
    return TorchEngine(
        model=model,
        forward=_compiled(model) if compiled else model,
        static=compiled,
        versions={name: version(name) for name in ("torch", "transformers")},
        settings={"dtype": kind, "attention": "sdpa", "cache": "static" if compiled else "dynamic"},
    )


def _compiled(model: Any) -> Callable[..., Any]:
    """The model through inductor, its weights laid out anew for the processor's kernels."""
    import torch
    import torch._inductor.config as inductor

    # Each length of prompt has its own code.
    torch._dynamo.config.cache_size_limit = 64
    inductor.freezing = True
    forward: Callable[..., Any] = torch.compile(model.forward, dynamic=False)
    return forward
