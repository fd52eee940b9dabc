"""Requests and their digest."""

from __future__ import annotations

import attrs
import pytest

from gem_suite.requests import Request, digest

REQUEST = Request(kind="generate", pairs=(("a", " b"),), prompt="a", stop=("\n",), max_tokens=3)


def test_equal_requests_have_equal_digests():
    assert digest([REQUEST, REQUEST]) == digest(iter([REQUEST, attrs.evolve(REQUEST)]))
    assert digest([REQUEST]) != digest([REQUEST, REQUEST])
    assert len(digest([])) == 64


@pytest.mark.parametrize(
    "change",
    [{"pairs": (("a ", "b"),)}, {"prompt": "b"}, {"stop": ()}, {"max_tokens": 4}, {"text": "x"},
     {"system": "a"}, {"delimiter": ""}, {"kind": "likelihood"}],
)  # fmt: skip
def test_any_change_changes_the_digest(change):
    assert digest([attrs.evolve(REQUEST, **change)]) != digest([REQUEST])
