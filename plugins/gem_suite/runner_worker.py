"""Whoever does the work: one engine that asks pieces of tasks and scores the answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.errors import TaskError
from gem_suite.runner_answers import answer_requests, shared_likelihoods
from gemcore.errors import GemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gem_suite.engines import Engine
    from gem_suite.engines_text import TokenPair
    from gem_suite.requests import Request
    from gem_suite.tasks import Task


@attrs.frozen(kw_only=True)
class Piece:
    """A piece of work.

    Attributes:
        task: its name.
        places: of the items in `Task.documents`.
        missing: those of them whose scores are not there yet.
    """

    task: str
    places: tuple[int, ...]
    missing: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Record:
    """One scored item.

    Attributes:
        task: its name.
        sample: the item as it stands under `samples`, of JSON values only.
        cut: how many of its texts lost their beginning to the model's context.
    """

    task: str
    sample: Mapping[str, Any]
    cut: int = 0

    @property
    def document(self) -> int:
        """The item's `doc_id`."""
        number: int = self.sample["doc_id"]
        return number


@attrs.frozen(kw_only=True)
class Done:
    """What came of a piece of work.

    Attributes:
        piece: the work.
        records: its missing items, in order; none where there was a problem.
        problem: why the task cannot be finished; empty where nothing is wrong.
    """

    piece: Piece
    records: tuple[Record, ...] = ()
    problem: str = ""


@attrs.define
class _Current:
    """The task that a worker is at."""

    name: str
    task: Task
    engine: Engine
    requests: list[Request]
    known: dict[TokenPair, float]


class Worker:
    """Asks pieces of tasks, one after the other.

    Args:
        engine: who answers.
        load: gives a task by its name.
        chat: put prompts into the model's chat template.
    """

    def __init__(self, engine: Engine, load: Callable[[str], Task], *, chat: bool) -> None:
        self._engine = engine
        self._load = load
        self._chat = chat
        self._current: _Current | None = None

    def run(self, piece: Piece) -> Done:
        """Ask and score what is missing of a piece.

        An engine whose sums depend on the company is asked the whole piece again, so that every item
        gets the score that it would have had without an interruption.
        """
        try:
            current = self._at(piece.task)
            places = piece.missing if self._engine.exact else piece.places
            requests = [current.requests[place] for place in places]
            answers = answer_requests(
                current.engine, requests, chat=self._chat, known=current.known
            )
            missing = set(piece.missing)
            records = [
                Record(
                    task=piece.task,
                    sample=_plain(
                        current.task,
                        current.task.score(current.task.documents[place], request, answer.outcome)
                        | ({} if answer.prior is None else {"prior": dict(answer.prior)}),
                    ),
                    cut=answer.cut,
                )
                for place, request, answer in zip(places, requests, answers, strict=True)
                if place in missing
            ]
        except GemError as error:
            return Done(piece=piece, problem=str(error))
        return Done(piece=piece, records=tuple(records))

    def _at(self, name: str) -> _Current:
        if self._current is None or self._current.name != name:
            task = self._load(name)
            requests = [task.request(document) for document in task.documents]
            engine = self._engine.for_domain(task.benchmark.domain)
            known = shared_likelihoods(engine, requests, chat=self._chat)
            self._current = _Current(name, task, engine, requests, known)
        return self._current


def _plain(task: Task, sample: Mapping[str, Any]) -> dict[str, Any]:
    """The sample as JSON gives it back."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(sample, allow_nan=False))
    except ValueError:
        raise TaskError(
            f"task '{task.benchmark.name}', item {sample['doc_id']}: a score is not a finite number; "
            "the model's weights are damaged or its precision is too low"
        ) from None
    return plain
