"""GEM itself: a session, fed with tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gemcore.session import Session
    from peer_comparison.records import LoadRequest, Model


@attrs.frozen(kw_only=True)
class GemEngine:
    """Tokens in, logits out."""

    session: Session
    versions: Mapping[str, str]
    settings: Mapping[str, Any]

    def begin(self, context: int) -> None:
        """Forget all tokens."""
        self.session.forget()

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text: logits after the last token, float32 `[vocabulary]`."""
        return self.session.feed(tokens)

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a new text: float32 `[tokens, vocabulary]`."""
        return self.session.logits(tokens)


def prepare(model: Model, options: Mapping[str, Any]) -> str:
    """Compile the model, where it is not in the user's cache yet; returns the bundle's folder."""
    import gemcore

    return str(gemcore.load(model.name, **options).bundle.folder)


def load(request: LoadRequest) -> GemEngine:
    """Open the bundle that was prepared, so that nothing is compiled where memory is measured."""
    import gemcore

    assert request.prepared is not None, "prepare comes first"
    session = gemcore.open_session(request.prepared, threads=request.threads)
    manifest = session.bundle.manifest
    return GemEngine(
        session=session,
        versions={"gemcore": version("gemcore"), "apache-tvm": version("apache-tvm")},
        settings={
            "quantizer": manifest.quantizer,
            "target": manifest.target,
            "kv_cache": manifest.kv_cache,
        },
    )
