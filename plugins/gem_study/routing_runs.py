"""The models of a study of routing: the base, the oracle, and every router."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from gem_study.routing_records import Routed
from gem_study.sources import result_config
from gem_study.subjects import Bench, Subject, Surroundings, check_names, measure_all
from gem_suite.runner_tasks import SuiteSettings, suite_plans
from gem_tradeoff.results import read_results
from gemcore.errors import GemError, UsageError
from gemcore.options import PluginChoice, parse_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemcore.plugins import PluginHost
    from gemcore.recipe import Recipe

BASE, ORACLE, STATIC = "none", "oracle", "static"


def with_experts(router: str, experts: str | None, host: PluginHost) -> str:
    """A router as users type it, with the set of experts that a study is of.

    Raises UsageError where there is no such router.
    """
    choice = parse_words(router)
    record = host.select("router", PluginChoice(choice.name)).record
    takes = any(option.name == "experts" for option in record.options)
    if experts is None or not takes or "experts" in choice.options:
        return str(choice)
    return str(PluginChoice(choice.name, {"experts": experts, **choice.options}))


def whole_path(experts: str | None) -> str | None:
    """A set's name, or the path of its folder from the root: bundles outlive a working directory."""
    from gemcore.experts.library import looks_like_folder

    if experts is not None and (looks_like_folder(experts) or Path(experts).is_dir()):
        return str(Path(experts).expanduser().absolute())
    return experts


def router_subjects(
    recipe: Recipe, routers: Sequence[str], experts: str | None, *, singles: bool = False
) -> list[Subject]:
    """The base, the oracle, and each router, all known to exist before any work is done.

    Args:
        recipe: of every model, apart from the router.
        routers: as `--router` takes them.
        experts: the set's name or folder; None for the default one.
        singles: also every expert of the set, always on.

    Raises:
        UsageError: there is no such router or set, or a router is named twice.
    """
    from gemcore.api import build_parts
    from gemcore.plugins import get_host

    host = get_host()
    chosen = whole_path(experts)
    labels = [BASE, ORACLE, *routers]
    if singles:
        from gemcore.experts.library import open_set

        labels += [f"{STATIC}:expert={name}" for name in open_set(chosen, host).names]
    labels = [*dict.fromkeys(labels)]
    subjects = []
    for label in labels:
        one = Subject(
            label=label, recipe=recipe.with_changes(router=with_experts(label, chosen, host))
        )
        build_parts(one.recipe, host)
        subjects.append(one)
    check_names(subjects, "router")
    return subjects


def without_corpora(settings: SuiteSettings) -> SuiteSettings:
    """The same settings, with held-out corpora left out unless tasks are named: they answer nothing."""
    if settings.tasks:
        return settings
    names = tuple(
        plan.name
        for plan in suite_plans(settings)
        if plan.folder is None or not plan.folder.is_corpus
    )
    return attrs.evolve(settings, tasks=names)


def run_routers(
    subjects: Sequence[Subject], bench: Bench, surroundings: Surroundings
) -> tuple[list[Routed], list[str]]:
    """Measure every model; see `gem_study.subjects.measure_all`.

    Returns:
        The models with their results, base and oracle first, and tasks that failed, as sentences.
    """
    measurements, problems = measure_all(subjects, bench, surroundings, "router")
    found = [
        Routed(
            label=one.label,
            results=read_results(one.output),
            experts=one.model.experts,
            always=_always(one.label),
        )
        for one in measurements
    ]
    return found, problems


def read_routed(paths: Sequence[Path]) -> list[Routed]:
    """Result files that exist already: the base, the oracle, then the others in their order.

    Raises:
        UsageError: a file is not there, or there is not one base and one oracle.
        FormatError: it is no result file.
    """
    found = []
    for path in paths:
        results = read_results(path)
        config = result_config(path)
        experts = config.get("experts", {})
        if not isinstance(experts, dict) or not all(isinstance(d, str) for d in experts.values()):
            raise UsageError(
                f"{path}: 'experts' of its config is {experts!r:.60}, not their domains"
            )
        label = _label(path, config)
        found.append(Routed(label=label, results=results, experts=experts, always=_always(label)))
    bases = [one for one in found if not one.experts]
    oracles = [one for one in found if _name(one.label) == ORACLE]
    for kind, some in (("base model (router 'none')", bases), (f"router '{ORACLE}'", oracles)):
        if len(some) != 1:
            raise UsageError(
                f"regret needs one result file of the {kind}, and there are {len(some)} of it among "
                f"{', '.join(map(str, paths))}"
            )
    others = [one for one in found if one not in (*bases, *oracles)]
    return [*bases, *oracles, *others]


def _label(path: Path, config: Mapping[str, Any]) -> str:
    recipe = config.get("recipe")
    words = recipe.get("router") if isinstance(recipe, dict) else None
    if not isinstance(words, str):
        return path.stem
    try:
        choice = parse_words(words)
    except GemError:
        return path.stem
    options = {name: value for name, value in choice.options.items() if name != "experts"}
    return str(PluginChoice(choice.name, options))


def _always(label: str) -> str | None:
    """The expert that always works, of a router as users type it."""
    if _name(label) != STATIC:
        return None
    expert = parse_words(label).options.get("expert")
    return None if expert is None else str(expert)


def _name(label: str) -> str:
    """A router's name, without options and distribution."""
    return label.partition(":")[0].rpartition("/")[2].strip()
