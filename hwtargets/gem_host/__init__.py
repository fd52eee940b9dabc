"""The machine that GEM runs on, as a target."""

from __future__ import annotations

from collections.abc import Iterator

from gemcore.hookspecs import hookimpl
from gemcore.records import Option, TargetRecord
from gemcore.schemes import SCHEMES


@hookimpl
def gem_targets() -> Iterator[TargetRecord]:
    """Yield the target `host`."""
    yield TargetRecord(
        name="host",
        summary="this machine's processor (x86-64 or ARM, Linux)",
        loader="gem_host.target:HostTarget",
        reference_url="https://tvm.apache.org/docs/",
        options=(
            Option(
                name="instructions",
                type=str,
                default="auto",
                choices=("auto", "vnni512", "avx2", "neon-dot", "neon", "plain"),
                help="instructions that the kernels use; auto takes the best that this machine has",
            ),
        ),
        capabilities=frozenset(
            {"execute", "routed_lora", "vocabulary-bands", "cache-f16", "cache-q8", *SCHEMES}
        ),
    )
