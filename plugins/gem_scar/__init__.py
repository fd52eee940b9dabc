"""SCAR, GEM's own router: sparse attention of every token over cluster keys of the experts."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import Option, RouterRecord


@hookimpl
def gem_routers() -> Iterator[RouterRecord]:
    """Yield the router `scar`."""
    yield RouterRecord(
        name="scar",
        summary="sparse attention over cluster keys: each token gets the experts it needs, or none",
        loader="gem_scar.router:ScarRouter",
        reference_url="https://arxiv.org/abs/2503.22698",
        options=(
            Option(name="experts", type=str, help="a set's name or its folder"),
            Option(
                name="prior",
                type=str,
                choices=("early", "encoder", "none"),
                help="what reads the prompt beforehand; as fitted if not given",
            ),
            Option(
                name="top_p",
                type=float,
                minimum=0,
                maximum=1,
                above_minimum=True,
                help="mass of the clusters that are kept; as fitted if not given",
            ),
            Option(name="max_experts", type=int, minimum=1, help="the most experts of a token"),
            Option(
                name="tau",
                type=float,
                minimum=0,
                maximum=1,
                help="entropy, as a share of the largest, above which no expert works",
            ),
            Option(
                name="hard",
                type=bool,
                help="the expert with most mass works in full, all others not at all",
            ),
        ),
        capabilities=frozenset({"per-token", "prior", "fit", "extend"}),
    )
