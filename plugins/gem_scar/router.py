"""The router `scar`: an expert set, a fitted file beside it, and the user's settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gem_scar.fitted import (
    FittedRouter,
    fitted_path,
    open_experts,
    read_fitted_for,
    tensor,
    with_encoder,
)
from gemcore.errors import FormatError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from gem_scar.attention import ScarSettings
    from gem_scar.examples import Example
    from gem_scar.prior import SourceClassifier
    from gemcore.experts.expert_set import ExpertSet
    from gemcore.routing import EarlyPrior, EncoderPrior, PriorNetwork

NAME = "scar"

DEFAULT_LAYER = 8
"""Where tokens are routed, if nothing else is asked for: early enough to serve most of the model."""


class ScarRouter:
    """Sparse cluster attention over the experts of a set.

    Nothing is read before it is needed. Options that are None are taken from the fitted file.

    Args:
        experts: a set's name or its folder; None for the default set.
        prior: `early`, `encoder` or `none`.
        top_p, max_experts, tau, hard: see `gem_scar.attention.ScarSettings`.
    """

    def __init__(
        self,
        experts: str | None = None,
        prior: str | None = None,
        top_p: float | None = None,
        max_experts: int | None = None,
        tau: float | None = None,
        hard: bool | None = None,
    ) -> None:
        self._choice, self._prior = experts, prior
        given = {"top_p": top_p, "max_experts": max_experts, "tau": tau, "hard": hard}
        self._given = {name: value for name, value in given.items() if value is not None}

    def prior(self, prompt: str) -> Sequence[float] | None:
        """Have no opinion here: the prior comes from a network in the compiled model."""
        return None

    def experts(self) -> ExpertSet:
        """The experts that are chosen among; UsageError or FormatError where they cannot be had."""
        return self._fitted[0]

    def layer_module(self, layer: int) -> nn.Module | None:
        """The cluster attention, at the one layer that routes; later layers go on with its weights.

        Raises:
            UsageError: the router was not fitted for these experts.
            FormatError: its file is malformed.
        """
        fitted = self._fitted[1]
        if layer != routing_layer(fitted, self.experts().folder):
            return None
        return cluster_attention(fitted, self.experts().folder, self._given)

    def prior_network(self) -> PriorNetwork | None:
        """What gives the prior, unless `prior=none` was asked for or none was fitted.

        Raises:
            UsageError: the prior that was asked for was not fitted.
            GemError: the encoder cannot be fetched.
        """
        experts, fitted = self._fitted
        if self._prior == "none":
            return None
        if self._prior == "encoder":
            return encoder_prior(fitted, experts.folder)
        if "prior.weight" not in fitted.tensors:
            if self._prior == "early":
                raise UsageError(
                    f"{fitted_path(experts.folder or Path(), NAME)} holds no early prior: use "
                    "prior=none, or fit the router again"
                )
            return None
        return early_prior(fitted, experts.folder)

    def content(self) -> str:
        """Digest of the experts and of the fitted file: what a compiled model depends on."""
        experts, fitted = self._fitted
        return hashlib.sha256(f"{experts.digest}\n{fitted.digest}".encode()).hexdigest()

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Learn from pairs of a text and an expert's name, with the base model of the set.

        The label `none` stands for the general path. The fitted file is written into the set's folder.

        Raises:
            UsageError: the examples are too few, or name experts that do not exist.
        """
        from gem_scar.examples import Example

        self.fit_examples(
            [Example(text=text, label=label, source=label) for text, label in examples], {}
        )

    def fit_examples(
        self,
        examples: Sequence[Example],
        options: Mapping[str, Any],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[str]:
        """Learn from examples that know their sources, as `gem experts fit-router` has it done.

        Args:
            examples: labelled with the experts' names or `none`.
            options: fields of `gem_scar.fit_options.FitOptions`.
            progress: called with the name of a step, what is done and what there is.

        Returns:
            Lines that say what came out.

        Raises:
            UsageError: the examples are too few, or name experts that do not exist.
        """
        from gem_scar.fit import fit_set
        from gem_scar.fit_options import FitOptions
        from gem_scar.gather import ignore

        return fit_set(
            open_experts(self._choice), examples, FitOptions(**options), progress or ignore
        )

    def extend(self, set_folder: Path, expert_name: str, texts: Sequence[str]) -> None:
        """Give a new expert of a set cluster keys, computed from a few texts of its domain.

        What was fitted for the other experts stays as it is, bit for bit.

        Raises:
            UsageError: there is no fitted file, or no such expert, or no text.
        """
        from gem_scar.extend import extend_set

        extend_set(set_folder, expert_name, texts)

    def forget(self, set_folder: Path, expert_name: str) -> None:
        """Take the keys of an expert that has gone out of a set's fitted file.

        What was fitted for the other experts stays as it is, bit for bit.

        Raises:
            UsageError: there is no fitted file.
            FormatError: it is malformed.
        """
        from gem_scar.extend import without
        from gem_scar.fitted import read_fitted, write_fitted

        write_fitted(set_folder, without(read_fitted(set_folder, NAME), expert_name))

    @cached_property
    def _fitted(self) -> tuple[ExpertSet, FittedRouter]:
        experts, fitted = read_fitted_for(open_experts(self._choice), NAME)
        if self._prior == "encoder":
            fitted = with_encoder(fitted, experts.folder)
        return experts, fitted


def routing_layer(fitted: FittedRouter, folder: Path | None) -> int:
    """The layer whose tokens are routed."""
    return int(setting(fitted, "layer", int, folder))


def setting(fitted: FittedRouter, name: str, kind: type, folder: Path | None) -> Any:
    """A setting of a fitted file, its type checked.

    Raises:
        FormatError: it is missing or of another type.
    """
    value = fitted.settings.get(name)
    if type(value) is int and kind is float:
        value = float(value)
    if type(value) is not kind:
        raise FormatError(
            f"{fitted_path(folder or Path(), fitted.router)} cannot be used: its setting '{name}' is "
            f"{value!r:.40}; fit the router again"
        )
    return value


def scar_settings(
    fitted: FittedRouter, folder: Path | None, given: dict[str, Any] | None = None
) -> ScarSettings:
    """The settings of a fitted file, with what the user gave instead."""
    from gem_scar.attention import ScarSettings

    kinds = {
        "temperature": float,
        "top_p": float,
        "max_experts": int,
        "tau": float,
        "prior_weight": float,
        "hard": bool,
    }
    values = {name: setting(fitted, name, kind, folder) for name, kind in kinds.items()}
    if fitted.settings.get("radius") is not None:
        values["radius"] = setting(fitted, "radius", float, folder)
    if values["temperature"] <= 0:
        raise FormatError(
            f"{fitted_path(folder or Path(), fitted.router)} cannot be used: its temperature is "
            f"{values['temperature']}, not above 0; fit the router again"
        )
    return ScarSettings(**(values | (given or {})))


def cluster_attention(
    fitted: FittedRouter, folder: Path | None, given: dict[str, Any] | None = None
) -> nn.Module:
    """The module of the routing layer, from a fitted file.

    Raises:
        FormatError: a tensor is missing or of the wrong shape.
    """
    import torch

    from gem_scar.attention import ClusterAttention

    query = tensor(fitted, "query", (None, None), folder)
    keys = tensor(fitted, "keys", (None, query.shape[0]), folder)
    values = tensor(fitted, "values", (keys.shape[0], len(fitted.experts)), folder)
    return ClusterAttention(
        torch.from_numpy(query),
        torch.from_numpy(keys),
        torch.from_numpy(values),
        scar_settings(fitted, folder, given),
    )


def classifier(
    fitted: FittedRouter, name: str, width: int | None, folder: Path | None
) -> SourceClassifier:
    """The classifier of the prior `name`, from a fitted file.

    Args:
        fitted: the file.
        name: `prior` for the early one, or `encoder`.
        width: of its features; None where any will do.
        folder: of the set.

    Raises:
        FormatError: a tensor or setting is missing or not as it must be.
    """
    import torch

    from gem_scar.prior import SourceClassifier

    weight = tensor(fitted, f"{name}.weight", (None, width), folder)
    bias = tensor(fitted, f"{name}.bias", (len(weight),), folder)
    owners = tensor(fitted, f"{name}.owners", (len(weight), len(fitted.experts)), folder)
    thresholds = tensor(fitted, f"{name}.thresholds", (len(weight),), folder)
    return SourceClassifier(
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        torch.from_numpy(owners),
        torch.from_numpy(thresholds),
        setting(fitted, "prior_temperature", float, folder),
    )


def early_prior(fitted: FittedRouter, folder: Path | None) -> EarlyPrior:
    """The early prior, from a fitted file.

    Raises:
        FormatError: a tensor or setting is missing or not as it must be.
    """
    from gem_scar.prior import PooledClassifier
    from gemcore.routing import EarlyPrior

    module = PooledClassifier(classifier(fitted, "prior", None, folder))
    return EarlyPrior(
        layers=setting(fitted, "prior_layers", int, folder),
        module=module,
        longest=setting(fitted, "prior_longest", int, folder),
    )


def encoder_prior(fitted: FittedRouter, folder: Path | None) -> EncoderPrior:
    """The encoder's prior, from a fitted file that `with_encoder` gave; the encoder is fetched if need be.

    Raises:
        FormatError: a tensor or setting is missing or not as it must be.
        GemError: the encoder cannot be fetched.
    """
    from gem_scar import encoder_files
    from gem_scar.encoder import SCHEME
    from gem_scar.prior import EmbeddingClassifier
    from gemcore.routing import EncoderPrior

    files = encoder_files.minilm_files()
    model = setting(fitted, "model", str, folder)
    if model != files.digest:
        raise FormatError(
            f"{fitted_path(folder or Path(), NAME)} was fitted with another encoder ({model:.12}…) than "
            f"this GEM has ({files.digest:.12}…): fit the router again"
        )
    module = EmbeddingClassifier(
        files.network(SCHEME),
        classifier(fitted, "encoder", files.shape.hidden_size, folder),
    )
    return EncoderPrior(
        module=module, tokenizer_json=files.tokenizer_json(), longest=files.shape.longest
    )
