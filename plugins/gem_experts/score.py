"""What experts score on their own domain: bits per byte of held-out text and of right answers.

Each expert is always on (`static:expert=NAME`) and set against the base model, item by item, with the
same bootstrap draw for both.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from gem_study.routing_runs import BASE, STATIC, whole_path, with_experts
from gem_study.subjects import Bench, Subject, Surroundings, measure_all
from gem_suite.runner_tasks import SuiteSettings, suite_plans
from gem_tradeoff.bootstrap import RESAMPLES, Estimate, Floats, estimate
from gem_tradeoff.results import CORPUS, ResultFile, bits_score, has_bits, read_results
from gem_tradeoff.scores import match, resampled_scores
from gemcore.errors import UsageError, unknown_name
from gemcore.experts.files import CARD, read_card, writing

if TYPE_CHECKING:
    from gemcore.experts.card import ExpertCard
    from gemcore.recipe import Recipe

TEXT_TYPES = (CORPUS, "lm_perplexity")
MAIN, ANSWERS = "bits per byte, held-out text", "bits per byte, answers"
"""What tables call the figures."""


@attrs.frozen(kw_only=True)
class Score:
    """Bits per byte of base and expert.

    Attributes:
        tasks: behind it; of several it is the mean over them.
        change: against the base, as a share; below 0 is better.
    """

    tasks: tuple[str, ...]
    base: Estimate
    expert: Estimate
    change: Estimate

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {**attrs.asdict(self), "tasks": list(self.tasks)}


@attrs.frozen(kw_only=True)
class ExpertScores:
    """What one expert scores on its own domain.

    Attributes:
        text: on the domain's held-out corpus; None where there is none.
        answers: of the right answers of the domain's tasks; None where there are none.
        each: by task.
    """

    name: str
    domain: str
    text: Score | None
    answers: Score | None
    each: Mapping[str, Score]

    def to_json(self) -> dict[str, Any]:
        """As values of JSON."""
        return {
            "name": self.name,
            "domain": self.domain,
            "text": None if self.text is None else self.text.to_json(),
            "answers": None if self.answers is None else self.answers.to_json(),
            "tasks": {name: score.to_json() for name, score in self.each.items()},
        }


@attrs.frozen(kw_only=True)
class ScoreRun:
    """What to measure.

    Attributes:
        recipe: of the base; its router is not looked at.
        experts: the set's name or folder.
        cards: of the experts that are measured.
        bench: how; its tasks and domains are those of the experts.
    """

    recipe: Recipe
    experts: str | None
    cards: tuple[ExpertCard, ...]
    bench: Bench


def chosen_cards(cards: Mapping[str, ExpertCard], names: Sequence[str]) -> tuple[ExpertCard, ...]:
    """The experts that are named, or all; UsageError where there is none of a name."""
    for name in names:
        if name not in cards:
            raise unknown_name("expert", name, cards)
    return tuple(cards[name] for name in dict.fromkeys(names or cards))


def score_experts(
    run: ScoreRun, surroundings: Surroundings, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[list[ExpertScores], list[str]]:
    """Measure the base on all domains of the experts, and each expert on its own.

    Returns:
        The scores, and tasks that failed, as sentences.

    Raises:
        UsageError: the data has nothing of an expert's domain.
        GemError: a model cannot be compiled, or a file cannot be written.
    """
    from gemcore.plugins import get_host

    host = get_host()
    domains = tuple(dict.fromkeys(card.domain for card in run.cards))
    settings = {domain: _settings(run.bench.settings, (domain,)) for domain in domains}
    whole = attrs.evolve(run.bench, settings=_settings(run.bench.settings, domains))
    base = Subject(label="base", recipe=run.recipe.with_changes(router=BASE))
    (measured,), problems = measure_all([base], whole, surroundings)
    base_results = read_results(measured.output)
    found = []
    for card in run.cards:
        label = f"{STATIC}:expert={card.name}"
        words = with_experts(label, whole_path(run.experts), host)
        subject = Subject(label=label, recipe=run.recipe.with_changes(router=words))
        bench = attrs.evolve(run.bench, settings=settings[card.domain])
        (one,), failed = measure_all([subject], bench, surroundings, "expert")
        problems += failed
        found.append(
            expert_scores(
                card.name,
                card.domain,
                base_results,
                read_results(one.output),
                resamples=resamples,
                seed=seed,
            )
        )
    return found, problems


def _settings(settings: SuiteSettings, domains: tuple[str, ...]) -> SuiteSettings:
    """The settings for some domains; UsageError where the data has nothing of one."""
    known = {plan.domain for plan in suite_plans(attrs.evolve(settings, domains=()))}
    for domain in domains:
        if domain not in known:
            raise UsageError(
                f"the data has nothing of the domain '{domain}': it has {', '.join(sorted(known))}"
            )
    return attrs.evolve(settings, domains=domains)


def expert_scores(
    name: str,
    domain: str,
    base: ResultFile,
    expert: ResultFile,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ExpertScores:
    """Set an expert's results on its domain against the base's.

    Bits per byte of the answers are the mean over tasks of each one's; tasks that failed in one of
    the files are left out.
    """
    lacking = {
        name
        for name in base.tasks.keys() ^ expert.tasks.keys()
        for task in [base.tasks.get(name) or expert.tasks[name]]
        if task.domain == domain
    }
    mine, other = match([base, expert], domains=[domain], leave_out=lacking)
    rows = {
        task: resampled_scores([mine[task], other[task]], bits_score, resamples, seed)
        for task in mine
        if has_bits(mine[task])
    }
    corpora = [task for task in rows if mine[task].task_type == CORPUS]
    answers = [task for task in rows if mine[task].task_type not in TEXT_TYPES]
    return ExpertScores(
        name=name,
        domain=domain,
        text=_score(rows, corpora) if corpora else None,
        answers=_score(rows, answers) if answers else None,
        each={task: _score(rows, [task]) for task in rows},
    )


def _score(rows: Mapping[str, Floats], tasks: Sequence[str]) -> Score:
    values = np.asarray(np.mean([rows[task] for task in tasks], axis=0))
    base, expert = values[:, 0], values[:, 1]
    return Score(
        tasks=tuple(tasks),
        base=estimate(base),
        expert=estimate(expert),
        change=estimate((expert - base) / base),
    )


def write_scores(folder: Path, scores: ExpertScores) -> None:
    """Put the figures into the card in an expert's folder, at once; its tensors are not touched.

    The figure of tables is that of held-out text, or of answers where there is no text.

    Raises:
        GemError: the card cannot be written.
    """
    card = read_card(folder)
    kept = dict(card.scores)
    # The last one that is there becomes the figure of tables.
    for key, name, score in (("answers", ANSWERS, scores.answers), ("text", MAIN, scores.text)):
        if score is None:
            continue
        kept[f"measured_{key}"] = {
            "base": round(score.base.value, 6),
            "expert": round(score.expert.value, 6),
            "change": round(score.change.value, 6),
            "low": round(score.change.low, 6),
            "high": round(score.change.high, 6),
        }
        main = {"base": round(score.base.value, 6), "expert": round(score.expert.value, 6)}
        kept["main"] = {"name": name, **main}
    values = attrs.evolve(card, scores=kept).to_json()
    path = folder / CARD
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with writing(path):
        try:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
