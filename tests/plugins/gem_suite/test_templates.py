"""Templates are filled in once, and nothing in them runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.templates import field_names, fill
from gemcore.errors import UsageError


@given(st.lists(st.one_of(st.text(), st.sampled_from(["a", "b"]).map(lambda name: (name,)))))
def test_values_stand_where_their_names_stood(parts):
    values = {"a": "{b} {c", "b": ""}
    template = "".join(
        part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else f"{{{part[0]}}}"
        for part in parts
    )
    expected = "".join(part if isinstance(part, str) else values[part[0]] for part in parts)
    assert fill(template, values) == expected
    assert field_names(template) == {part[0] for part in parts if not isinstance(part, str)}


@pytest.mark.parametrize("template", ["{", "}", "a {b.c}", "{0}", "{a!r}", "{a[0]}", "{ a }"])
def test_anything_else_in_braces_is_refused(template):
    with pytest.raises(ValueError, match="lone"):
        field_names(template)


def test_an_unknown_name_is_an_error_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown template field 'contex': did you mean 'context'"):
        fill("{contex}", {"context": ""})
