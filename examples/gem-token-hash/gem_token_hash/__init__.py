"""gem-token-hash: a router for GEM.

GEM imports this module for every command, so it imports neither torch nor tvm; `router.py` may.
"""

from __future__ import annotations

from collections.abc import Iterator

from gemcore import hookimpl
from gemcore.records import Option, RouterRecord


@hookimpl
def gem_routers() -> Iterator[RouterRecord]:
    """Yield the router `token-hash`."""
    yield RouterRecord(
        name="token-hash",
        summary="sends each token to the expert that its hash falls on, for fun",
        loader="gem_token_hash.router:TokenHashRouter",
        options=(
            Option(name="experts", type=str, help="a set's name or its folder"),
            Option(
                name="weight",
                type=float,
                default=0.5,
                minimum=0,
                maximum=1,
                help="how much the expert works",
            ),
        ),
        capabilities=frozenset({"per-token"}),
    )
