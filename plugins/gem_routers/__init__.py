"""Routers to compare SCAR with; each is also a short example of how a router is written."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import Option, RouterRecord

_EXPERTS = Option(name="experts", type=str, help="a set's name or its folder")


@hookimpl
def gem_routers() -> Iterator[RouterRecord]:
    """Yield the routers `static`, `prompt`, `arrow`, `xlora` and `oracle`."""
    yield RouterRecord(
        name="static",
        summary="one expert for every token, whatever the text",
        loader="gem_routers.static:StaticRouter",
        options=(
            _EXPERTS,
            Option(name="expert", type=str, help="the expert that works"),
            Option(name="weight", type=float, default=1.0, minimum=0, maximum=1),
        ),
    )
    yield RouterRecord(
        name="prompt",
        summary="one expert for a whole prompt, by a classifier; none where it is not confident",
        loader="gem_routers.prompt:PromptRouter",
        reference_url="https://arxiv.org/abs/2410.07490",
        options=(
            _EXPERTS,
            Option(
                name="confidence",
                type=float,
                default=0.5,
                minimum=0,
                maximum=1,
                help="share that an expert needs to work",
            ),
        ),
        capabilities=frozenset({"prior", "fit"}),
    )
    yield RouterRecord(
        name="arrow",
        summary="keys from the experts' own singular vectors, nothing trained",
        loader="gem_routers.arrow:ArrowRouter",
        reference_url="https://arxiv.org/abs/2405.11157",
        options=(
            _EXPERTS,
            Option(name="top_k", type=int, default=4, minimum=1, help="experts of each token"),
            Option(name="temperature", type=float, default=1.0, minimum=0, above_minimum=True),
        ),
        capabilities=frozenset({"per-token"}),
    )
    yield RouterRecord(
        name="xlora",
        summary="a learned mixture of all experts for every token",
        loader="gem_routers.xlora:MixingRouter",
        reference_url="https://arxiv.org/abs/2402.07148",
        options=(_EXPERTS,),
        capabilities=frozenset({"per-token", "fit"}),
    )
    yield RouterRecord(
        name="oracle",
        summary="the weights that the caller gives with a request; for measurements",
        loader="gem_routers.oracle:OracleRouter",
        options=(_EXPERTS,),
        # A run that knows which expert is right tells this router; see `gem eval suite`.
        capabilities=frozenset({"labelled"}),
    )
