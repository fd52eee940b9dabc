"""What to build and how to run it, in one place: from a TOML file, from the command line, or both.

A recipe file has the plugins at the top and the settings of a run in a table:

    model = "smollm2-135m"
    quantizer = "q4a-g32"
    router = {name = "none"}
    kv_cache = "q8"

    [run]
    max_tokens = 64
    temperature = 0.7
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import attrs

from gemcore.errors import UsageError, unknown_name
from gemcore.models.cache_layout import AUTO_CACHE, CACHE_SCHEMES
from gemcore.options import PluginChoice, parse_table, parse_words, resolve_options
from gemcore.records import TYPE_NAMES, Option

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PART_KEYS = ("model", "router", "quantizer", "target")
TOP_KEYS = (*PART_KEYS, "kv_cache", "run")
DEFAULT_MODEL = "smollm2-135m"

RUN_OPTIONS = (
    Option(name="max_tokens", type=int, default=256, minimum=1, help="tokens to generate at most"),
    Option(
        name="temperature",
        type=float,
        default=0.0,
        minimum=0,
        help="divides the logits; 0 takes the most probable token",
    ),
    Option(
        name="top_k", type=int, default=0, minimum=0, help="keep the k best tokens; 0 keeps all"
    ),
    Option(
        name="top_p",
        type=float,
        default=1.0,
        minimum=0,
        above_minimum=True,
        maximum=1,
        help="keep the smallest set of tokens of this probability; 1 keeps all",
    ),
    Option(
        name="min_p",
        type=float,
        default=0.0,
        minimum=0,
        maximum=1,
        help="drop tokens below this share of the best one's probability",
    ),
    Option(
        name="repetition_penalty",
        type=float,
        default=1.0,
        minimum=0,
        above_minimum=True,
        help="makes tokens that are in the text already less likely; 1 changes nothing",
    ),
    Option(name="seed", type=int, minimum=0, maximum=2**63 - 1, help="of the random numbers"),
    Option(name="system", type=str, help="system message of a chat"),
    Option(name="chat", type=bool, default=True, help="put the prompt into the chat template"),
    Option(
        name="prompt_lookup",
        type=int,
        default=0,
        minimum=0,
        maximum=64,
        help="tokens to guess at a time from what the text has said before; 0 for none",
    ),
    Option(
        name="threads", type=int, minimum=1, help="threads that compute; all cores if not given"
    ),
    Option(
        name="context_length",
        type=int,
        minimum=1,
        help="tokens of prompt and answer together; the model's own limit if not given",
    ),
)
"""The settings of `[run]`, which are also the options of `gem run` and `gem chat`."""


def _as_choice(value: str | PluginChoice) -> PluginChoice:
    return value if isinstance(value, PluginChoice) else parse_words(value)


@attrs.frozen(kw_only=True)
class RunSettings:
    """How to generate: a value for each of `RUN_OPTIONS`, which explain and check them."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    system: str | None = None
    chat: bool = True
    prompt_lookup: int = 0
    threads: int | None = None
    context_length: int | None = None

    def __attrs_post_init__(self) -> None:
        for option in RUN_OPTIONS:
            value = getattr(self, option.name)
            optional = value is None and option.default is None
            if not optional and (problem := option.objection(value)):
                raise UsageError(f"run setting '{option.name}' is {value!r}, which {problem}")


@attrs.frozen(kw_only=True)
class Recipe:
    """What to build and how to run it.

    Attributes:
        model: a known name, a file, a folder or a Hub id.
        router, quantizer, target: what was asked for, as words or as a choice;
            `PluginHost.select` checks it.
        kv_cache: how keys and values are cached, one of `gemcore.models.cache_layout.CACHE_SCHEMES`, or
            `auto` for the one that the target prefers.
        run: settings of generation.
    """

    model: str = DEFAULT_MODEL
    router: PluginChoice = attrs.field(factory=lambda: PluginChoice("none"), converter=_as_choice)
    quantizer: PluginChoice = attrs.field(
        factory=lambda: PluginChoice("q4a-g32"), converter=_as_choice
    )
    target: PluginChoice = attrs.field(factory=lambda: PluginChoice("host"), converter=_as_choice)
    kv_cache: str = AUTO_CACHE
    run: RunSettings = RunSettings()

    def __attrs_post_init__(self) -> None:
        if self.kv_cache not in (AUTO_CACHE, *CACHE_SCHEMES):
            raise unknown_name("cache scheme", self.kv_cache, (AUTO_CACHE, *CACHE_SCHEMES))

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Read a recipe file (TOML); what it leaves out has its default.

        Raises:
            UsageError: when the file cannot be read, is not TOML, or holds an unknown key, a value
                of a wrong type or one out of bounds; the message names file and key.
        """
        content = _read(path)
        run = content.pop("run", {})
        _require(str(path), "run", run, dict)
        kv_cache = content.pop("kv_cache", AUTO_CACHE)
        _require(str(path), "kv_cache", kv_cache, str)
        _check_keys(str(path), content, TOP_KEYS)
        return cls(
            **_plugins(content, str(path)),
            kv_cache=kv_cache,
            run=_run_settings(run, f"{path}: [run]"),
        )

    def with_changes(self, **given: Any) -> Recipe:
        """Return this recipe with what was given; None stands for "not given".

        A plugin that is given replaces the recipe's together with its options: the options of one
        router mean nothing to another.

        Args:
            given: `model`, `router`, `quantizer`, `target`, `kv_cache` and the settings of `[run]`, by
                name.

        Raises:
            UsageError: for an unknown name, a value of a wrong type or one out of bounds.
        """
        present = {key: value for key, value in given.items() if value is not None}
        parts = {key: present.pop(key) for key in PART_KEYS if key in present}
        kv_cache = present.pop("kv_cache", self.kv_cache)
        run_keys = [option.name for option in RUN_OPTIONS]
        _check_keys("recipe", present, [*PART_KEYS, "kv_cache", *run_keys])
        current = {key: value for key, value in attrs.asdict(self.run).items() if value is not None}
        settings = resolve_options(RUN_OPTIONS, {**current, **present}, "recipe")
        run = RunSettings(**settings)
        return attrs.evolve(self, **_plugins(parts, "recipe"), kv_cache=kv_cache, run=run)


def _run_settings(run: Mapping[str, Any], title: str) -> RunSettings:
    options = {option.name: option for option in RUN_OPTIONS}
    _check_keys(title, run, options)
    for key, value in run.items():
        # Unlike a word on the command line, text in a file is no number.
        if isinstance(value, str) and options[key].type is not str:
            _require(title, key, value, options[key].type)
    return RunSettings(**resolve_options(RUN_OPTIONS, run, title))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the recipe '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe '{path}' is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the recipe '{path}' is not valid TOML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"the recipe '{path}' is nested too deeply") from error


def _check_keys(title: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    names = tuple(known)
    for key in given:
        if key not in names:
            raise UsageError(f"{title}: {unknown_name('key', key, names)}")


def _require(title: str, key: str, value: Any, *types: type) -> None:
    if type(value) not in types:
        wanted = " or ".join(TYPE_NAMES[kind] for kind in types)
        found = TYPE_NAMES.get(type(value), type(value).__name__)
        raise UsageError(f"{title}: '{key}' must be {wanted}, not {found} ({value!r})")


def _plugins(content: Mapping[str, Any], title: str) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, PluginChoice):
            checked[key] = value
            continue
        _require(title, key, value, str, dict)
        if key != "model":
            table = isinstance(value, dict)
            checked[key] = parse_table(value, f"{title}: '{key}'") if table else parse_words(value)
            continue
        # A model's name may be a path with colons in it: it has no options.
        choice = parse_table(value, f"{title}: 'model'") if isinstance(value, dict) else None
        if choice and choice.options:
            raise UsageError(
                f"{title}: a model takes no options, but '{min(choice.options)}' is given"
            )
        checked[key] = choice.name if choice else value
        if not checked[key].strip():
            raise UsageError(f"{title}: 'model' is empty")
    return checked
