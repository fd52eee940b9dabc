"""Scores of many continuations, where every common beginning is read once.

The texts form a trie. A part of it that is worth it, a family, has the path to a branching node for
its prefix, read once; below it each branch has a stretch of the cache of its own, a lane, in which
its paths are read one after the other, each from where it leaves the one before. All lanes advance
in the same passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.scoring import PASS_ROWS, PASS_TOKENS, Score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from gem_suite.engines_text import TokenPair
    from gemcore.scoring import Forward

REREAD = 0.1
"""A node's branches become families of their own where that reads at most this share again."""


@attrs.define(eq=False)
class Node:
    """One token after the tokens above it.

    Attributes:
        token: its id; -1 of the root, which is no token.
        depth: tokens from the first one to this, this included.
        above: the node before it.
        below: nodes by token that follow it.
        asked: pairs whose continuation goes on after it, each with the token that follows.
        size: nodes below it.
        height: tokens on the longest path that begins with it.
    """

    token: int
    depth: int
    above: Node | None
    below: dict[int, Node] = attrs.Factory(dict)
    asked: list[tuple[int, int]] = attrs.Factory(list)
    size: int = 0
    height: int = 1


@attrs.frozen
class Family:
    """A prefix and the branches that are read behind it."""

    prefix: tuple[Node, ...]
    branches: tuple[Node, ...]

    @property
    def slots(self) -> int:
        """Cache positions that it takes."""
        return len(self.prefix) + sum(branch.height for branch in self.branches)


@attrs.frozen
class Segment:
    """Nodes that are read one after the other, and where.

    Attributes:
        nodes: each the one after the node before it.
        slot: of the first node.
        prefix: first slot and end of the prefix that they see.
        start: first slot of their lane, which they see up to themselves.
    """

    nodes: Sequence[Node]
    slot: int
    prefix: tuple[int, int]
    start: int


def score_trie(pairs: Sequence[TokenPair], forward: Forward, slots: int, usual: int) -> list[Score]:
    """Scores of continuations after their contexts, in the order of `pairs`.

    Args:
        pairs: ids of a context and of its continuation, both at least one; best all different.
        forward: runs one pass; see `gemcore.scoring.Forward`.
        slots: the most cache positions that `forward` has; no pair may have more inputs.
        usual: cache positions that are in use at a time, unless one text alone has more.
    """
    totals = np.zeros(len(pairs))
    greedy = np.ones(len(pairs), np.bool_)
    for families in _rounds(_families(_trie(pairs)), min(slots, usual), slots):
        for wave in _waves(families):
            for part in _passes(wave):
                _run(part, forward, totals, greedy)
    return [
        Score(
            log_likelihood=float(totals[number]),
            tokens=len(continuation),
            greedy=bool(greedy[number]),
        )
        for number, (_, continuation) in enumerate(pairs)
    ]


def _trie(pairs: Sequence[TokenPair]) -> Node:
    root = Node(-1, 0, None)
    nodes: list[Node] = []
    contexts: dict[tuple[int, ...], Node] = {}

    def follow(node: Node, token: int) -> Node:
        found = node.below.get(token)
        if found is None:
            found = node.below[token] = Node(token, node.depth + 1, node)
            nodes.append(found)
        return found

    for number, (context, continuation) in enumerate(pairs):
        node = contexts.get(context)
        if node is None:
            node = root
            for token in context:
                node = follow(node, token)
            contexts[context] = node
        for place, token in enumerate(continuation):
            node.asked.append((number, token))
            if place + 1 < len(continuation):
                node = follow(node, token)
    for node in reversed(nodes):
        above = node.above
        assert above is not None
        above.size += 1 + node.size
        above.height = max(above.height, 1 + node.height)
    return root


def _families(root: Node) -> Iterator[Family]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        while len(node.below) == 1:
            (node,) = node.below.values()
        branches = list(node.below.values())
        reread = node.depth * (len(branches) - 1)
        if branches and reread <= REREAD * (node.depth + node.size):
            waiting += reversed(branches)
        else:
            yield Family(_path(node), tuple(branches))


def _path(node: Node) -> tuple[Node, ...]:
    path = []
    here: Node | None = node
    while here is not None and here.token >= 0:
        path.append(here)
        here = here.above
    return tuple(reversed(path))


def _rounds(families: Iterator[Family], usual: int, most: int) -> Iterator[list[Family]]:
    """Families that fit into the cache together; one that is too large is taken apart."""
    together: list[Family] = []
    used = 0
    for family in families:
        for part in _parts(family, usual, most):
            if together and used + part.slots > usual:
                yield together
                together, used = [], 0
            together.append(part)
            used += part.slots
    if together:
        yield together


def _parts(family: Family, usual: int, most: int) -> Iterator[Family]:
    if family.slots <= usual:
        yield family
        return
    taken: list[Node] = []
    used = len(family.prefix)
    for branch in family.branches:
        if taken and used + branch.height > min(most, max(usual, 2 * len(family.prefix))):
            yield Family(family.prefix, tuple(taken))
            taken, used = [], len(family.prefix)
        taken.append(branch)
        used += branch.height
    yield Family(family.prefix, tuple(taken))


def _waves(families: Sequence[Family]) -> Iterator[list[Segment]]:
    """What can be read at the same time, after all that came before it: prefixes first."""
    first: list[Segment] = []
    lanes: list[Iterator[Segment]] = []
    slot = 0
    for family in families:
        begin, end = slot, slot + len(family.prefix)
        first.append(Segment(family.prefix, begin, (0, 0), begin))
        slot = end
        for branch in family.branches:
            lanes.append(_segments(branch, slot, (begin, end)))
            slot += branch.height
    yield [segment for segment in first if segment.nodes]
    while lanes:
        wave = []
        going = []
        for lane in lanes:
            segment = next(lane, None)
            if segment is not None:
                wave.append(segment)
                going.append(lane)
        lanes = going
        if wave:
            yield wave


def _segments(branch: Node, start: int, prefix: tuple[int, int]) -> Iterator[Segment]:
    """The paths of a branch, depth first, each from the node where it leaves the one before."""
    waiting = [branch]
    nodes: list[Node] = []

    def segment() -> Segment:
        return Segment(nodes, start + nodes[0].depth - branch.depth, prefix, start)

    while waiting:
        node = waiting.pop()
        if nodes and node.above is not nodes[-1]:
            yield segment()
            nodes = []
        nodes.append(node)
        waiting += reversed(node.below.values())
    yield segment()


def _passes(wave: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Parts of a wave that are no longer than a pass may be."""
    part: list[Segment] = []
    tokens = rows = 0
    for whole in wave:
        begin = 0
        for place, node in enumerate(whole.nodes):
            asked = bool(node.asked)
            if tokens == PASS_TOKENS or (asked and rows == PASS_ROWS):
                part.append(_cut(whole, begin, place))
                yield [segment for segment in part if segment.nodes]
                part, tokens, rows, begin = [], 0, 0, place
            tokens += 1
            rows += asked
        part.append(_cut(whole, begin, len(whole.nodes)))
    if tokens:
        yield part


def _cut(segment: Segment, begin: int, end: int) -> Segment:
    return attrs.evolve(segment, nodes=segment.nodes[begin:end], slot=segment.slot + begin)


def _run(
    segments: Sequence[Segment],
    forward: Forward,
    totals: npt.NDArray[np.float64],
    greedy: npt.NDArray[np.bool_],
) -> None:
    """One pass; adds what it says of the pairs."""
    tokens: list[int] = []
    placement: list[tuple[int, ...]] = []
    rows: list[int] = []
    asked: list[tuple[int, int, int]] = []
    for segment in segments:
        for place, node in enumerate(segment.nodes):
            if node.asked:
                asked += [(len(rows), number, target) for number, target in node.asked]
                rows.append(len(tokens))
                # A node that several families read is asked in the first of them.
                node.asked = []
            tokens.append(node.token)
            slot = segment.slot + place
            placement.append((node.depth - 1, slot, *segment.prefix, segment.start))
    logits = forward(
        np.array(tokens, np.int32),
        np.array(placement, np.int32).reshape(-1, PLACEMENT_FIELDS),
        # A pass has at least one row.
        np.array(rows or [len(tokens) - 1], np.int32),
    )
    if not asked:
        return
    places, numbers, targets = np.array(asked, np.int64).T
    largest = logits.max(axis=1)
    sums = np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64))
    chosen = (logits[places, targets] - largest[places]).astype(np.float64)
    np.add.at(totals, numbers, chosen - sums[places])
    greedy[numbers[logits.argmax(axis=1)[places] != targets]] = False
