"""The models of a study of preservation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gem_study.preservation import Specialised
from gem_study.routing_runs import BASE, whole_path, with_experts
from gem_study.subjects import Bench, Subject, Surroundings, check_names, measure_all
from gem_suite.runner_tasks import SuiteSettings, suite_plans
from gem_tradeoff.results import read_results
from gemcore.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from gemcore.plugins import PluginHost
    from gemcore.recipe import Recipe


@attrs.frozen(kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        subjects: the models.
        members: by label: its kind, its domain (None: all domains), and the label of its base.
        domains: that are looked at.
    """

    subjects: tuple[Subject, ...]
    members: Mapping[str, tuple[str, str | None, str]]
    domains: tuple[str, ...]


def plan_models(
    recipe: Recipe,
    full: Mapping[str, str],
    preserved: Mapping[str, str],
    *,
    experts: str | None,
    router: str,
    engine: str = "compiled",
) -> Plan:
    """Which models a study runs: the base, fine-tuned models, single experts, and the router.

    Args:
        recipe: of the base.
        full, preserved: by domain the folder of the fine-tuned model.
        experts: the set's name or folder.
        router: of the routed model, as `--router` takes it.
        engine: of base and fine-tuned models; experts are always compiled.

    Raises:
        UsageError: no domain is named, a folder is missing, or there is no expert for a domain.
    """
    from gemcore.experts.library import open_set
    from gemcore.plugins import get_host

    domains = tuple(dict.fromkeys([*full, *preserved]))
    if not domains:
        raise UsageError("name at least one fine-tuned model: --full law=FOLDER")
    for path in (*full.values(), *preserved.values()):
        if not Path(path).exists():
            raise UsageError(f"there is no model at {path}")
    host = get_host()
    chosen = whole_path(experts)
    by_domain: dict[str, str] = {}
    for expert in open_set(chosen, host).experts:
        by_domain.setdefault(expert.card.domain, expert.card.name)
    for domain in domains:
        if domain not in by_domain:
            raise unknown_name("domain of an expert", domain, by_domain)
    base = "base" if engine == "compiled" else f"base-{engine}"
    plain = recipe.with_changes(router=BASE)
    subjects = [Subject(label=base, recipe=plain, engine=engine)]
    members: dict[str, tuple[str, str | None, str]] = {}
    for kind, folders in (("full", full), ("preserved", preserved)):
        for domain, path in folders.items():
            label = f"{kind}-{domain}"
            tuned = plain.with_changes(model=str(Path(path).expanduser().absolute()))
            subjects.append(Subject(label=label, recipe=tuned, engine=engine))
            members[label] = (kind, domain, base)
    if engine != "compiled":
        subjects.append(Subject(label="base", recipe=plain))
    for domain in domains:
        label = f"single-{domain}"
        words = with_experts(f"static:expert={by_domain[domain]}", chosen, host)
        subjects.append(Subject(label=label, recipe=recipe.with_changes(router=words)))
        members[label] = ("single", domain, "base")
    words = with_experts(router, chosen, host)
    subjects.append(Subject(label="routed", recipe=recipe.with_changes(router=words)))
    members["routed"] = ("routed", None, "base")
    _check_parts(subjects, host)
    check_names(subjects, "model")
    return Plan(subjects=tuple(subjects), members=members, domains=domains)


def text_tasks(settings: SuiteSettings, general: str) -> SuiteSettings:
    """The settings with nothing but held-out corpora and general text to run.

    Raises UsageError where the data has no such general text.
    """
    plans = suite_plans(settings)
    corpora = [plan.name for plan in plans if plan.folder is not None and plan.folder.is_corpus]
    if general not in {plan.name for plan in plans}:
        raise unknown_name("task", general, {plan.name for plan in plans})
    return attrs.evolve(settings, tasks=(*corpora, general))


def run_models(
    plan: Plan, bench: Bench, surroundings: Surroundings
) -> tuple[list[Specialised], list[str]]:
    """Measure every model; see `gem_study.subjects.measure_all`.

    Returns:
        The specialised models with their results, and tasks that failed, as sentences.
    """
    measured, problems = measure_all(plan.subjects, bench, surroundings)
    results = {one.label: read_results(one.output) for one in measured}
    found = [
        Specialised(kind=kind, domain=domain, results=results[label], base=results[base])
        for label, (kind, own, base) in plan.members.items()
        for domain in ([own] if own is not None else plan.domains)
    ]
    return found, problems


def _check_parts(subjects: Sequence[Subject], host: PluginHost) -> None:
    """Raise UsageError for what does not exist, so that no error comes after hours of work."""
    from gemcore.api import build_parts

    for subject in subjects:
        build_parts(subject.recipe, host)
