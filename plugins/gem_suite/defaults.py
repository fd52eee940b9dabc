"""Prompt form and metrics of each task type, for benchmarks that do not say more."""

from __future__ import annotations

from copy import deepcopy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gem_suite.schema import CORPUS

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_FREE = ("N/A", "[MASK]", "")
"""The content-free inputs of Zhao et al. (2021, arXiv 2102.09690)."""

_TEXT_METRICS = ["bits_per_byte", "byte_perplexity", "word_perplexity"]

_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "multiple_choice": {
            "metric": "acc_norm",
            "metrics": ["acc", "acc_norm", "acc_bytes"],
            "prompt": {"context": "{passage}Question: {question}\nAnswer:"},
        },
        "classification": {
            "metric": "acc_calibrated",
            "metrics": ["acc", "acc_calibrated", "f1_macro"],
            "prompt": {"context": "{body}\nLabel:", "fillers": list(CONTENT_FREE)},
        },
        "token_classification": {
            "metric": "f1",
            "metrics": ["f1", "precision", "recall"],
            "chance": 0.0,
            "prompt": {"context": '{text}\n"{span}" is'},
        },
        "generation_qa": {
            "metric": "f1",
            "metrics": ["exact_match", "f1"],
            "chance": 0.0,
            "prompt": {
                "context": "{passage}Question: {question}\nAnswer:",
                "stop": ["\n"],
                "max_tokens": 32,
            },
        },
        "extractive_qa": {
            "metric": "f1",
            "metrics": ["exact_match", "f1"],
            "chance": 0.0,
            "prompt": {
                "context": "Context: {context}\n\nQuestion: {question}\n\nAnswer:",
                "stop": ["\n"],
                "max_tokens": 32,
            },
        },
        "lm_perplexity": {
            "metric": "bits_per_byte",
            "metrics": _TEXT_METRICS,
            "prompt": {"context": "{text}"},
        },
        "open_ended": {
            "metric": "bits_per_byte",
            "metrics": ["bits_per_byte"],
            "prompt": {"context": "User: {question}\n\nAssistant:"},
        },
        CORPUS: {
            "metric": "bits_per_byte",
            "metrics": _TEXT_METRICS,
            "prompt": {"context": "{text}"},
        },
    }
)


def default_fields(task_type: str) -> dict[str, Any]:
    """A fresh table of what a benchmark of this type says unless it says otherwise."""
    return deepcopy(dict(_DEFAULTS[task_type]))
