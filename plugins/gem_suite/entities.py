"""Named entities by likelihood: candidate spans, the best labelling of a sentence, and counts.

A small language model cannot be trusted to copy out a list of entities, but it can say how much
likelier "a disease" becomes after a phrase. So candidates are cut from the sentence by rule, the
model gives each a margin for every type over being no entity, and the sentence is labelled with the
set of disjoint candidates whose margins, each counted once for every token, sum to most. That is
exact decoding of a semi-Markov model (Sarawagi and Cohen, 2004).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gem_suite.records import Entities

Span = tuple[int, int, str]
"""First token, the token after the last, type."""

# Words that no entity begins or ends with: articles, prepositions, pronouns, auxiliaries.
_FUNCTION_WORDS = frozenset(
    """
    a about after all also although among an and any are as at based be because been before being
    between both but by can could did do does during each either for from had has have he her him
    his however i if in into is it its least less may me might more most must my neither no nor not
    of on onto or other our over per same several shall she should since so some such than that the
    their them then there therefore these they this those through thus to under until upon us used
    using via was we were what when where whether which while who whom whose will with within
    without would you your
    """.split()  # noqa: SIM905
)
_SENTENCE_MARKS = frozenset(".,;:?!")


def types_of(label_names: Sequence[str]) -> tuple[str, ...]:
    """Entity types of BIO labels, in their order.

    >>> types_of(["O", "B-Disease", "I-Disease"])
    ('Disease',)
    """
    return tuple(dict.fromkeys(label[2:] for label in label_names if label != "O"))


def candidate_spans(tokens: Sequence[str], entities: Entities) -> list[tuple[int, int]]:
    """First token and token after the last of every candidate, in order.

    A candidate begins and ends with a word that the rule allows, holds no mark that ends a clause,
    and is at most `entities.longest` tokens long.
    """
    edges = [_may_be_edge(token, entities.rule) for token in tokens]
    spans = []
    for start in range(len(tokens)):
        if not edges[start]:
            continue
        for end in range(start + 1, min(len(tokens), start + entities.longest) + 1):
            if tokens[end - 1] in _SENTENCE_MARKS:
                break
            if edges[end - 1]:
                spans.append((start, end))
    return spans


def _may_be_edge(token: str, rule: str) -> bool:
    if token.lower() in _FUNCTION_WORDS:
        return False
    if rule == "capitalised":
        return any(character.isupper() or character.isdigit() for character in token)
    return any(character.isalpha() for character in token)


def entity_spans(labels: Sequence[str]) -> list[Span]:
    """The entities of BIO labels; an I- that continues nothing begins an entity, as in CoNLL.

    >>> entity_spans(["B-A", "I-A", "O", "I-B"])
    [(0, 2, 'A'), (3, 4, 'B')]
    """
    spans: list[Span] = []
    for place, label in enumerate(labels):
        if label == "O":
            continue
        prefix, kind = label[:2], label[2:]
        if prefix == "I-" and spans and spans[-1][1:] == (place, kind):
            spans[-1] = (spans[-1][0], place + 1, kind)
        else:
            spans.append((place, place + 1, kind))
    return spans


def best_labelling(
    spans: Sequence[tuple[int, int]], margins: Sequence[Sequence[float]], types: Sequence[str]
) -> list[Span]:
    """The disjoint spans, with types, whose weights sum to most; only positive ones count.

    Args:
        spans: candidates.
        margins: `[spans, types]`, nats by which each type is likelier than no entity.
        types: names of the types.

    Returns:
        The chosen spans in order; the weight of one is its margin times its length in tokens.
    """
    length = max((end for _, end in spans), default=0)
    by_end: list[list[tuple[int, float, str]]] = [[] for _ in range(length + 1)]
    for (start, end), row in zip(spans, margins, strict=True):
        best = max(range(len(types)), key=row.__getitem__)
        if row[best] > 0:
            by_end[end].append((start, row[best] * (end - start), types[best]))
    totals = [0.0] * (length + 1)
    chosen: list[tuple[int, str] | None] = [None] * (length + 1)
    for end in range(1, length + 1):
        totals[end] = totals[end - 1]
        for start, weight, kind in by_end[end]:
            if totals[start] + weight > totals[end]:
                totals[end], chosen[end] = totals[start] + weight, (start, kind)
    result: list[Span] = []
    place = length
    while place > 0:
        step = chosen[place]
        if step is None:
            place -= 1
        else:
            result.append((step[0], place, step[1]))
            place = step[0]
    return result[::-1]


def count_matches(predicted: Sequence[Span], wanted: Sequence[Span]) -> tuple[int, int, int]:
    """True positives, false positives, false negatives: boundaries and type must be right."""
    right = len(set(predicted) & set(wanted))
    return right, len(predicted) - right, len(wanted) - right
