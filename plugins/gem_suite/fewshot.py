"""Few-shot examples: the same ones for the same seed, whatever else is run.

One task asks all its items after the same examples (those of a group, where a benchmark groups
them), so that a model reads them once. lm-eval draws anew for every item; its scores with examples
are therefore not item by item the same.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from gem_suite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gem_suite.records import Benchmark
    from gem_suite.schema import Document


def choose_examples(
    benchmark: Benchmark,
    pool: Sequence[Document],
    document: Document,
    *,
    count: int,
    seed: int = 0,
) -> tuple[Document, ...]:
    """The examples before one item.

    Args:
        benchmark: says where the pool comes from, and what examples share with the item.
        pool: answered items; the test items themselves where the benchmark has no others.
        document: the item that is asked; never among the examples.
        count: how many.
        seed: of the draw.

    Returns:
        Examples of the item's group first chosen, then others where it has too few. Of a
        classification benchmark, the labels take turns.

    Raises:
        TaskError: the pool has too few items.
    """
    if count == 0:
        return ()
    own = benchmark.few_shot.source == "test"
    others = [item for item in pool if not (own and item.index == document.index)]
    if len(others) < count:
        raise TaskError(
            f"task '{benchmark.name}': {count} examples are wanted, but there are only "
            f"{len(others)} to choose from; ask for fewer with --shots"
        )
    # The pool is shuffled whole, so that leaving one item out moves none of the others.
    order = list(pool)
    random.Random(f"{benchmark.name}:{seed}").shuffle(order)
    kept = {item.index for item in others}
    order = [item for item in order if item.index in kept]
    if group := benchmark.few_shot.group:
        wanted = getattr(document, group)
        order.sort(key=lambda item: getattr(item, group) != wanted)
        same = [item for item in order if getattr(item, group) == wanted]
        order = same if len(same) >= count else order
    if benchmark.task_type == "classification":
        order = _labels_in_turn(order)
    return tuple(order[:count])


def _labels_in_turn(items: Sequence[Document]) -> list[Document]:
    """The first item of every label, in order of appearance, then every second one, and so on."""
    seen: dict[int, int] = {}
    ranks = []
    for item in items:
        ranks.append(seen.setdefault(item.gold, 0))
        seen[item.gold] += 1
    places = sorted(range(len(items)), key=lambda place: (ranks[place], place))
    return [items[place] for place in places]
