import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import UsageError
from gemcore.options import (
    PluginChoice,
    format_words,
    parse_table,
    parse_words,
    resolve_options,
)
from gemcore.records import Option

SCHEMA = (
    Option(name="experts", type=int, default=2, minimum=1, maximum=8),
    Option(name="top_p", type=float, default=0.9, minimum=0, above_minimum=True, maximum=1),
    Option(name="learned", type=bool, default=False),
    Option(name="mode", type=str, default="soft", choices=("soft", "hard")),
    Option(name="note", type=str),
    Option(name="limit", type=float, default=math.inf, allow_non_finite=True),
)

names = st.from_regex(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?", fullmatch=True)
keys = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(',"\\= \n'))


@given(names, st.dictionaries(keys, texts, max_size=4))
def test_words_round_trip(name, options):
    choice = PluginChoice(name, options)
    assert parse_words(format_words(choice)) == choice


@given(st.text(max_size=40) | st.text(string.ascii_letters + ':=,"\\ ', max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        choice = parse_words(text)
    except UsageError:
        return
    assert parse_words(format_words(choice)) == choice


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "experts": st.integers(1, 8),
            "top_p": st.floats(0, 1, exclude_min=True),
            "learned": st.booleans(),
            "mode": st.sampled_from(["soft", "hard"]),
            "note": texts,
            "limit": st.floats(allow_nan=False),
        },
    )
)
def test_typed_values_survive_being_written_as_words(values):
    typed = resolve_options(SCHEMA, values, "router 'r'")
    words = format_words(PluginChoice("r", values))
    assert resolve_options(SCHEMA, parse_words(words).options, "router 'r'") == typed
    assert set(typed) == {option.name for option in SCHEMA}
    assert {key: typed[key] for key in values} == values


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("scar", {}),
        ("scar:", {}),
        ("scar: a = 1 , b=two words ", {"a": "1", "b": "two words"}),
        ("scar:a=,b=x=y", {"a": "", "b": "x=y"}),
        (r'scar:a="1,\"2\" \\",b=3', {"a": r'1,"2" \ '.rstrip(), "b": "3"}),
        ("scar:path=C:/x", {"path": "C:/x"}),
    ],
)
def test_words_by_example(text, options):
    assert parse_words(text) == PluginChoice("scar", options)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no plugin name"),
        (":a=1", "has no plugin name"),
        ("scar:a", "'a' is not of the form option=value"),
        ("scar:a=1,", "'' is not of the form option=value"),
        ("scar:=1", "'=1' is not of the form option=value"),
        ("scar:a=1,a=2", "gives option 'a' twice"),
        ('scar:a="open', "cannot read 'a=\"open'"),
        ('scar:a="x"y', "cannot read"),
        (r'scar:a="\n"', "cannot read"),
    ],
)
def test_malformed_words(text, problem):
    with pytest.raises(UsageError) as caught:
        parse_words(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"expert": 2}, "unknown option 'expert': did you mean 'experts'? Available: experts, "),
        ({"experts": "two"}, "option 'experts' must be a whole number, not 'two'"),
        ({"experts": "2.0"}, "option 'experts' must be a whole number, not '2.0'"),
        ({"experts": 2.0}, "option 'experts' is 2.0, which is a number, not a whole number"),
        ({"experts": True}, "option 'experts' is true, which is true or false, not a whole"),
        ({"experts": "0"}, "option 'experts' is 0, which is below the minimum 1"),
        ({"experts": "9"}, "option 'experts' is 9, which is above the maximum 8"),
        ({"experts": "9" * 5000}, "option 'experts' must be a whole number"),
        ({"experts": "٣"}, "option 'experts' must be a whole number"),
        ({"experts": [1]}, "option 'experts' is [1], which is a list, not a whole number"),
        ({"top_p": "0"}, "option 'top_p' is 0, which is not above 0"),
        ({"top_p": "nan"}, "option 'top_p' is nan, which is not a finite number"),
        ({"top_p": math.inf}, "option 'top_p' is inf, which is not a finite number"),
        ({"top_p": "1e999"}, "option 'top_p' is 1e999, which is not a finite number"),
        ({"top_p": "1_0"}, "option 'top_p' must be a number, not '1_0'"),
        ({"learned": "maybe"}, "option 'learned' must be true or false, not 'maybe'"),
        ({"learned": 1}, "option 'learned' is 1, which is a whole number, not true or false"),
        ({"mode": "medium"}, "option 'mode' is medium, which is none of soft, hard"),
        ({"note": 5}, "option 'note' is 5, which is a whole number, not text"),
    ],
)
def test_values_that_are_not_allowed(given, problem):
    with pytest.raises(UsageError) as caught:
        resolve_options(SCHEMA, given, "router 'r'")
    assert str(caught.value).startswith("router 'r': ")
    assert problem in str(caught.value)


def test_defaults_fill_in_and_numbers_become_floats():
    values = resolve_options(SCHEMA, {"top_p": 1, "learned": "ON", "limit": "-inf"}, "r")
    assert values == {
        "experts": 2,
        "top_p": 1.0,
        "learned": True,
        "mode": "soft",
        "note": None,
        "limit": -math.inf,
    }
    assert type(values["top_p"]) is float


def test_a_plugin_without_options_says_so():
    with pytest.raises(UsageError, match="router 'none' takes no options, but 'a' is given"):
        resolve_options((), {"a": "1"}, "router 'none'")


@pytest.mark.parametrize("table", [{}, {"name": ""}, {"name": 3}, {"top_p": 1}])
def test_tables_need_a_name(table):
    with pytest.raises(UsageError, match="'router' is a table without a name"):
        parse_table(table, "'router'")


def test_tables_keep_their_types():
    table = {"name": "scar", "experts": 2, "learned": True}
    assert parse_table(table, "router") == PluginChoice("scar", {"experts": 2, "learned": True})
