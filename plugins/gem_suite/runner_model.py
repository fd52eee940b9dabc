"""What a run says of the model that it measures."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.bundle import WEIGHTS
from gemcore.models.layout import weight_units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemcore.bundle import Bundle
    from gemcore.models.checkpoint import Checkpoint


@attrs.frozen(kw_only=True)
class ModelDescription:
    """A model as it is measured.

    Attributes:
        name: of the model.
        engine: "compiled" or "eager-float32".
        identity: SHA-256 of everything that scores depend on.
        recipe: model, router, quantizer and target, as a recipe has them.
        bundle: SHA-256 of the bundle's manifest, which vouches for its files; None where there is
            no bundle.
        context_length: the most tokens that are read together.
        has_template: whether the model has a chat template.
        weights_bytes: size of the packed weights; None where nothing is packed.
        bits_per_weight: of the linear weights, on average.
        experts: by name the domain of each; none where the model has none.
    """

    name: str
    engine: str
    identity: str
    recipe: Mapping[str, Any]
    bundle: str | None
    context_length: int
    has_template: bool
    weights_bytes: int | None = None
    bits_per_weight: float | None = None
    experts: Mapping[str, str] = attrs.Factory(dict)


def describe_bundle(bundle: Bundle, context_length: int) -> ModelDescription:
    """The description of a compiled model."""
    manifest = bundle.manifest
    content = json.dumps(manifest.to_json(), sort_keys=True, default=dict)
    identity = hashlib.sha256(content.encode()).hexdigest()
    parameters = sum(unit.parameters for unit in weight_units(manifest.config))
    return ModelDescription(
        name=manifest.model["name"],
        engine="compiled",
        identity=identity,
        recipe={
            "model": manifest.model["name"],
            "router": manifest.router,
            "quantizer": manifest.quantizer,
            "target": manifest.target,
        },
        bundle=identity,
        context_length=context_length,
        has_template=bundle.chat_template().source is not None,
        weights_bytes=manifest.files[WEIGHTS]["size"],
        bits_per_weight=8 * manifest.quantization["bytes_after"] / parameters,
    )


def describe_checkpoint(checkpoint: Checkpoint, context_length: int | None) -> ModelDescription:
    """The description of a model that torch runs in float32."""
    limit = checkpoint.config.context_length
    return ModelDescription(
        name=checkpoint.name,
        engine="eager-float32",
        identity=checkpoint.identity,
        recipe={"model": checkpoint.name, "router": "none", "quantizer": "none", "target": "torch"},
        bundle=None,
        context_length=min(context_length or limit, limit),
        has_template=checkpoint.text.chat_template is not None,
    )
