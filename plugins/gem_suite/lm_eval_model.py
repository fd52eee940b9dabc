"""GEM as a model of EleutherAI's lm-evaluation-harness, which is imported only when it is asked for.

    from gem_suite.lm_eval_model import register_gem
    register_gem()
    lm_eval.simple_evaluate(model="gem", model_args={"model": "smollm2-135m"}, tasks=["piqa"])

lm-eval 0.4.13 finds models only in its own package, or when they were registered in the same process.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gem_suite.engines import ENGINES
from gem_suite.lm_eval_requests import (
    GenerationOptions,
    continuations,
    encode_pairs,
    likelihoods,
    text_likelihoods,
)
from gemcore.errors import FormatError, GemError, UsageError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gem_suite.engines import Engine
    from gem_suite.runner_model import ModelDescription

MODEL_NAME = "gem"
"""What lm-eval's `--model` says."""

# Unicode says that this is never a character of a text, so it can mark a place in one.
_MARK = "\ufdd1 "

_TEXTS = ("model", "router", "quantizer", "target", "kv_cache", "bundle", "recipe", "engine")
_OTHERS = ("strict", "threads", "context_length", "seed")
MODEL_ARGUMENTS = (*_TEXTS, *_OTHERS)
"""What `--model_args` may say: `bundle`, or what to build; `engine`; and how to run it."""


def register_gem() -> None:
    """Make `gem` a model of lm-eval in this process, unless it is one already.

    Raises:
        GemError: lm-eval is not installed.
    """
    registry = harness_module("lm_eval.api.registry")
    # The registry fills itself with lm-eval's own models only while it is empty.
    harness_module("lm_eval.models")
    if MODEL_NAME not in registry.model_registry:
        registry.register_model(MODEL_NAME)(model_class())


def harness_module(name: str) -> Any:
    """A module of lm-eval; GemError where it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise GemError(
            "lm-evaluation-harness is not installed: install it with pip install 'gemcore[lm-eval]'"
        ) from None


def open_model(given: Mapping[str, Any]) -> tuple[Engine, ModelDescription]:
    """The engine that `--model_args` ask for, and what it says of itself.

    Args:
        given: values by name, as lm-eval has read them; see `MODEL_ARGUMENTS`.

    Raises:
        UsageError: a name or value is unknown, or two do not go together.
        GemError: the model cannot be built or opened.
    """
    from gem_suite.engines import CompiledEngine
    from gem_suite.runner_model import describe_bundle, describe_checkpoint
    from gemcore.cli.build_options import open_for_command, read_recipe

    for name in given:
        if name not in MODEL_ARGUMENTS:
            raise unknown_name("model argument", name, MODEL_ARGUMENTS)
    # lm-eval makes numbers of texts that look like one.
    values = {key: str(value) if key in _TEXTS else value for key, value in given.items()}
    engine = values.pop("engine", "compiled")
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    paths = {key: Path(values.pop(key)) for key in ("bundle", "recipe") if key in values}
    strict = bool(values.pop("strict", False))
    values.pop("seed", None)
    recipe = read_recipe(paths.get("recipe"), values)
    if engine == "compiled":
        session = open_for_command(recipe, paths.get("bundle"), strict=strict)
        return CompiledEngine(session), describe_bundle(session.bundle, session.context_length)
    if "bundle" in paths:
        raise UsageError("engine=float32 needs the model itself: give model=NAME, not bundle=")
    from gem_suite.engines_eager import EagerEngine
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host

    checkpoint = load_checkpoint(recipe.model, get_host())
    eager = EagerEngine(
        checkpoint, threads=recipe.run.threads, context_length=recipe.run.context_length
    )
    return eager, describe_checkpoint(checkpoint, recipe.run.context_length)


def render_chat(engine: Engine, messages: Sequence[Mapping[str, Any]], *, answer: bool) -> str:
    """A chat as one text, as the harness's Hugging Face backend renders it.

    Args:
        engine: whose chat template is used.
        messages: with `role` and `content`.
        answer: the text ends where an answer begins; else the last message stays open, to go on.

    Raises:
        UsageError: the model has no chat template.
        FormatError: its chat template fails.
    """
    chat = [{"role": each["role"], "content": each["content"]} for each in messages]
    if not answer:
        chat[-1]["content"] += _MARK
    try:
        text = engine.template.render(chat, add_generation_prompt=answer)
    except FormatError:
        without = [message for message in chat if message["role"] != "system"]
        if len(without) in (0, len(chat)):
            raise
        # Some templates refuse a system message.
        text = engine.template.render(without, add_generation_prompt=answer)
    if answer:
        return text
    place = text.rfind(_MARK.strip())
    if place < 0:
        raise FormatError("the chat template drops the last message, so it cannot be left open")
    # A template that trims messages has taken the mark's space, and would take that before it.
    return text[:place] if text.startswith(_MARK, place) else text[:place].rstrip()


def model_class() -> Any:
    """The class that lm-eval makes a model of.

    A function, because the class it is derived from is lm-eval's.

    Raises:
        GemError: lm-eval is not installed.
    """
    base: Any = harness_module("lm_eval.api.model").LM

    class GemModel(base):  # type: ignore[misc]
        """A compiled model, or its float32 weights in torch.

        Args:
            device: of no effect; GEM computes where its target says, and lm-eval's command line
                says "cuda:0" where nobody has said anything.
            batch_size, max_batch_size: of no effect; passes are as full as the cache allows.
            given: see `MODEL_ARGUMENTS`.
        """

        def __init__(
            self,
            *,
            device: str | None = None,
            batch_size: Any = None,
            max_batch_size: Any = None,
            **given: Any,
        ) -> None:
            super().__init__()
            self.seed = _seed(given.get("seed", 0))
            self.engine, self.description = open_model(given)
            self._rendered = False

        @property
        def max_length(self) -> int:
            """The most tokens that are read together."""
            return self.engine.context_length

        @property
        def tokenizer_name(self) -> str:
            """What the harness files its cached requests under."""
            return f"gem-{self.description.name}-{self.description.identity[:16]}".replace(
                "/", "__"
            )

        def loglikelihood(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            """Log-likelihood of each continuation in nats, and whether it is the likeliest."""
            texts = [request.args for request in requests]
            pairs, cut = encode_pairs(self.engine, texts, rendered=self._rendered)
            if cut:
                warnings.warn(
                    f"{cut} of {len(texts)} texts are longer than the context of "
                    f"{self.max_length} tokens and lose their beginning",
                    stacklevel=2,
                )
            found = likelihoods(self.engine, pairs)
            return self._collect("loglikelihood", requests, found, disable_tqdm)

        def loglikelihood_rolling(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[float]:
            """Log-likelihood of each whole text, in nats."""
            found = text_likelihoods(self.engine, [request.args[0] for request in requests])
            return self._collect("loglikelihood_rolling", requests, found, disable_tqdm)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """How each text goes on, up to the first stop text."""
            prompts = [
                (request.args[0], GenerationOptions.from_harness(request.args[1]))
                for request in requests
            ]
            found = continuations(self.engine, prompts, rendered=self._rendered, seed=self.seed)
            return self._collect("generate_until", requests, found, disable_tqdm)

        def apply_chat_template(
            self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
        ) -> str:
            """A chat as one text; from now on, control tokens in texts are read as such."""
            self._rendered = True
            return render_chat(self.engine, chat_history, answer=add_generation_prompt)

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            """The template that is used, for the harness's result file; None without one."""
            if chat_template is False or chat_template is None:
                return None
            if isinstance(chat_template, str) and chat_template != "default":
                raise unknown_name("chat template", chat_template, ["default"])
            if self.engine.template.source is None:
                raise UsageError("the model has no chat template: drop --apply_chat_template")
            return self.engine.template.source

        def get_model_info(self) -> dict[str, Any]:
            """What the harness's result file says of the model."""
            return {
                "gem_model": self.description.name,
                "gem_engine": self.description.engine,
                "gem_identity": self.description.identity,
                "gem_bundle": self.description.bundle,
                "gem_recipe": dict(self.description.recipe),
                "max_length": self.max_length,
            }

        def _collect(
            self,
            kind: str,
            requests: Sequence[Any],
            found: Iterator[tuple[int, Any]],
            disable_tqdm: bool,
        ) -> list[Any]:
            """Answers in the order of their requests, each cached as soon as it is there."""
            title = f"Running {kind} requests"
            answers: list[Any] = [None] * len(requests)
            with import_module("tqdm").tqdm(
                total=len(requests), desc=title, disable=disable_tqdm
            ) as bar:
                for number, answer in found:
                    answers[number] = answer
                    self.cache_hook.add_partial(kind, requests[number].args, answer)
                    bar.update()
            return answers

    return GemModel


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"seed is {value!r}: it must be a whole number of at least 0")
    return value
