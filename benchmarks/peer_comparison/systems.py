"""Which systems can be compared, and where the engine of each one is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from peer_comparison.errors import ComparisonError

GEM = "gem"


@attrs.frozen(kw_only=True)
class System:
    """One column of the comparison.

    Attributes:
        name: what users type.
        summary: what it is, in a few words.
        module: under `peer_comparison.engines`; has `prepare(model, options)` and `load(request)`.
        options: what its module is told.
    """

    name: str
    summary: str
    module: str
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def is_gem(self) -> bool:
        """Whether it runs in GEM's own environment."""
        return self.module == "gem"


def _llama(kind: str, *, flash: bool = True) -> System:
    return System(
        name=f"llama.cpp-{kind.lower()}{'' if flash else '-no-flash'}",
        summary=f"llama.cpp, {kind}{'' if flash else ', without flash attention'}",
        module="llamacpp",
        options={"type": kind, "flash": flash},
    )


def _torch(mode: str, dtype: str) -> System:
    how = "compiled" if mode == "compile" else "eager"
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    return System(
        name=f"torch-{mode}-{short}",
        summary=f"torch {how}, {dtype}",
        module="torch_llama",
        options={"mode": mode, "dtype": dtype},
    )


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System(name=GEM, summary="GEM, as it builds by default", module="gem"),
            System(
                name="gem-q8-cache",
                summary="GEM, keys and values in 8 bits",
                module="gem",
                options={"kv_cache": "q8"},
            ),
            _llama("Q4_0"),
            # Slower at first, but it decodes faster far into a context.
            _llama("Q4_0", flash=False),
            _llama("Q4_1"),
            _llama("Q8_0"),
            System(
                name="openvino-int4",
                summary="OpenVINO, int4 asymmetric, groups of 32",
                module="openvino_int4",
                options={"head": "all"},
            ),
            System(
                name="openvino-int4-last",
                summary="OpenVINO, the same, head cut to the last token",
                module="openvino_int4",
                options={"head": "last"},
            ),
            _torch("eager", "float32"),
            _torch("compile", "float32"),
            _torch("eager", "bfloat16"),
            _torch("compile", "bfloat16"),
        )
    }
)
"""Every system by name; `gem:QUANTIZER` is one too."""

DEFAULT = tuple(name for name in SYSTEMS if not name.endswith("bf16"))
"""What is compared unless the user chooses; bfloat16 was not quicker, and takes long to compile."""


def find_systems(names: Sequence[str]) -> list[System]:
    """The systems that `names` name, in that order.

    Raises:
        ComparisonError: a name is unknown or comes twice, or there is none.
    """
    found = [_find(name) for name in names]
    if not found:
        raise ComparisonError(f"--systems names no system; there are {', '.join(SYSTEMS)}")
    for name in names:
        if names.count(name) > 1:
            raise ComparisonError(
                f"--systems names {name} {names.count(name)} times; once is enough"
            )
    return found


def _find(name: str) -> System:
    if name in SYSTEMS:
        return SYSTEMS[name]
    family, colon, quantizer = name.partition(":")
    if family == GEM and colon and quantizer:
        return System(
            name=name,
            summary=f"GEM, quantizer {quantizer}",
            module="gem",
            options={"quantizer": quantizer},
        )
    near = difflib.get_close_matches(name, SYSTEMS, n=1)
    hint = f" did you mean '{near[0]}'?" if near else ""
    raise ComparisonError(
        f"unknown system '{name}':{hint} There are {', '.join(SYSTEMS)}, and gem:QUANTIZER"
    )
