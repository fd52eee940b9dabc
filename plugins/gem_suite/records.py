"""What a benchmark is: frozen records that say where its data comes from and how it is asked."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.preparation import PREPARATIONS
from gem_suite.schema import TASK_TYPES
from gem_suite.templates import field_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")

LOWER_IS_BETTER = frozenset({"bits_per_byte", "byte_perplexity", "word_perplexity"})
"""The metrics of which less is better."""

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "acc": "the likeliest choice is right",
        "acc_norm": "the choice likeliest per character is right",
        "acc_bytes": "the choice likeliest per UTF-8 byte is right",
        "acc_calibrated": "the choice that gains most over a content-free prompt is right",
        "mrr": "one over the rank of the right choice",
        "balanced_acc": "accuracy averaged over classes, then over subdomains",
        "f1_macro": "F1 averaged over the classes that occur",
        "f1_weighted": "F1 averaged over classes, weighted by how often each is right",
        "exact_match": "the answer equals a reference",
        "f1": "token F1 with the best reference, or entity F1 from summed counts",
        "precision": "share of the entities found that are right",
        "recall": "share of the right entities that are found",
        "bits_per_byte": "bits that the reference costs, per byte of it",
        "byte_perplexity": "two to the power of bits per byte",
        "word_perplexity": "perplexity per word of the original text",
    }
)
"""Every metric, with what it says."""

ANSWER_TYPES = ("text", "number", "math", "mixed")
"""How generated answers are compared: as words, as the last number, as LaTeX, as words or numbers."""

GROUPS = ("", "lang", "subdomain")
"""What few-shot examples may have to share with the item that is asked."""

SPAN_RULES = ("content", "capitalised")
"""Which words candidate entities may begin and end with."""


OTHER_THINGS = (
    "a word",
    "an idea",
    "an action",
    "a property",
    "a number",
    "a method",
    "a group of people",
    "a period of time",
)
"""What words may be that are no entity."""

INPUT_FIELDS = (
    "context",
    "question",
    "text",
    "passage",
    "body",
    "plain",
    "premise",
    "span",
    "lettered",
)
"""The template fields that hold an item's own words."""


def _frozen_texts(values: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(values))


def _frozen_tables(values: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    return MappingProxyType({key: _frozen_texts(table) for key, table in values.items()})


def _frozen_any(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(values))


def _tuple(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _template(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    field_names(value)


def _one_of(names: Iterable[str]) -> Any:
    allowed = tuple(names)

    def check(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in allowed:
            listed = ", ".join(repr(name) for name in allowed)
            raise ValueError(f"'{attribute.name}' is {value!r}, which is none of {listed}")

    return check


def _at_least(minimum: int) -> Any:
    def check(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"'{attribute.name}' is {value!r}: a whole number from {minimum} on")

    return check


@attrs.frozen(kw_only=True)
class PromptForm:
    """How an item is put into words. All texts are templates (`gem_suite.templates`).

    The fields of a template are those of the item (`context`, `question`, `text`, `subdomain`,
    `subject` (the subdomain in words), `lang`, `answer`, `rationale`), `lettered` (the choices as
    lines "A. …"), `choice` (the choice or label words), `span` (a candidate entity), what the
    preparation adds, and the words of the item's language.

    Attributes:
        context: what the model reads.
        continuation: what is scored after it, once for each choice. A context that contains
            `{choice}` and a continuation that does not make partial evaluation.
        delimiter: stands between context and continuation and belongs to the continuation.
        description: the task in words, before everything else; a chat's system message.
        reference: what a right generated answer looks like, in examples and for bits per byte.
        labels: words for labels that are not words.
        words: by language, words for templates; "en" serves languages that have none.
        fillers: what takes the place of an item in content-free prompts, for calibration; none
            where calibration makes no sense.
        masked: the fields that a filler replaces; what is left out belongs to the task, such as a
            question that all items share.
        preparation: the name of a function of `gem_suite.preparation`.
        stop: generation ends before the first of these.
        max_tokens: generation ends after so many tokens.
    """

    context: str = attrs.field(validator=_template)
    continuation: str = attrs.field(default="{choice}", validator=_template)
    delimiter: str = " "
    description: str = attrs.field(default="", validator=_template)
    reference: str = attrs.field(default="{answer}", validator=_template)
    labels: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen_texts)
    words: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict, converter=_frozen_tables)
    fillers: tuple[str, ...] = attrs.field(default=(), converter=_tuple)
    masked: tuple[str, ...] = attrs.field(default=INPUT_FIELDS, converter=_tuple)
    preparation: str = attrs.field(default="", validator=_one_of(["", *PREPARATIONS]))
    stop: tuple[str, ...] = attrs.field(default=(), converter=_tuple)
    max_tokens: int = attrs.field(default=32, validator=_at_least(1))


@attrs.frozen(kw_only=True)
class FewShot:
    """Where examples come from.

    Attributes:
        count: how many stand before each item, unless the user says otherwise.
        source: "train", or "test": then the item that is asked is never among them.
        group: examples share this field with the item, as far as there are enough of them.
    """

    count: int = attrs.field(default=0, validator=_at_least(0))
    source: str = attrs.field(default="train", validator=_one_of(["train", "test"]))
    group: str = attrs.field(default="", validator=_one_of(GROUPS))


@attrs.frozen(kw_only=True)
class HubSource:
    """A data set of the Hugging Face Hub, and how its columns map to the schema.

    Attributes:
        dataset: its id.
        configs: the configurations to join; empty for the only one.
        config_field: the field of the schema that a configuration's name becomes; "" for none.
        split: the split of the test items.
        train_split: the split of the examples; "" where there is none.
        columns: by field of the schema: how it is made from a row (`gem_suite.hub`).
    """

    dataset: str
    configs: tuple[str, ...] = attrs.field(default=(), converter=_tuple)
    config_field: str = attrs.field(default="", validator=_one_of(["", "lang", "subdomain"]))
    split: str = "test"
    train_split: str = ""
    columns: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen_any)


@attrs.frozen(kw_only=True)
class Entities:
    """How entities are proposed to the model, which then says of which type they are, if any.

    Attributes:
        rule: "content": a candidate begins and ends with a content word; "capitalised": with a word
            that has a capital letter or a digit.
        longest: tokens in a candidate, at most.
        others: what a candidate may be instead of an entity, in words; the likeliest stands for
            "no entity".
        by_subdomain: the types to choose among, where subdomains differ; all of the labels' types
            where empty.
    """

    rule: str = attrs.field(default="content", validator=_one_of(SPAN_RULES))
    longest: int = attrs.field(default=4, validator=_at_least(1))
    others: tuple[str, ...] = attrs.field(default=OTHER_THINGS, converter=_tuple)
    by_subdomain: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen_any)


@attrs.frozen(kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: what users type, and the name of its data folder.
        title: its proper name.
        domain: one of the eight, or any other.
        task_type: one of `gem_suite.schema.TASK_TYPES`.
        metric: the main metric.
        metrics: all that are reported, the main one among them.
        licence: of the data.
        reference_url: where it is described.
        prompt: its prompt form.
        chance: expected score of a guess; None where it follows from each item's choices.
        few_shot: where examples come from.
        answer_type: how generated answers are compared, one of `ANSWER_TYPES`.
        tolerance: of numbers, as a share of the reference.
        percent: numbers may be given in percent.
        unanswerable: what a model writes where the question has no answer; "" where all have one.
        entities: of token classification.
        hub: its data set on the Hub; None where it must come from a folder.
        version: raised whenever a change alters scores.
        note: what a reader of the score should know.
    """

    name: str
    title: str = ""
    domain: str
    task_type: str = attrs.field(validator=_one_of(TASK_TYPES))
    metric: str = attrs.field(validator=_one_of(METRICS))
    metrics: tuple[str, ...] = attrs.field(converter=_tuple)
    licence: str = "not stated"
    reference_url: str = ""
    prompt: PromptForm
    chance: float | None = None
    few_shot: FewShot = FewShot()
    answer_type: str = attrs.field(default="text", validator=_one_of(ANSWER_TYPES))
    tolerance: float = 0.0
    percent: bool = False
    unanswerable: str = ""
    entities: Entities = Entities()
    hub: HubSource | None = None
    version: int = attrs.field(default=1, validator=_at_least(1))
    note: str = ""

    @metrics.default
    def _default_metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise ValueError(
                f"'name' is {self.name!r}: it must be lower-case letters, digits, '_', '-' or '.'"
            )
        unknown = sorted(set(self.metrics) - METRICS.keys())
        if unknown:
            raise ValueError(
                f"'metrics' holds {unknown[0]!r}, which is none of {', '.join(METRICS)}"
            )
        if self.metric not in self.metrics:
            raise ValueError(f"'metric' is '{self.metric}', which 'metrics' does not hold")
        if not self.entities.others:
            raise ValueError("'others' of the entities is empty: name what is no entity")
        if "acc_calibrated" in self.metrics and not self.prompt.fillers:
            raise ValueError("'acc_calibrated' needs 'fillers' in the prompt form")
        if self.chance is not None and not 0.0 <= self.chance < 1.0:
            raise ValueError(f"'chance' is {self.chance!r}: it must be from 0 to below 1")

    @property
    def higher_is_better(self) -> bool:
        """Of the main metric."""
        return self.metric not in LOWER_IS_BETTER
