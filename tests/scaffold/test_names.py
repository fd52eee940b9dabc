"""What new plugins may be called."""

import pytest

from gemcore.errors import UsageError
from gemcore.scaffold.names import plugin_names


@pytest.mark.parametrize("typed", ["token-hash", "gem-token-hash"])
def test_all_names_follow_from_one(typed):
    names = plugin_names(typed, "router")
    assert names.record == "token-hash"
    assert names.distribution == "gem-token-hash"
    assert names.package == "gem_token_hash"
    assert names.class_name == "TokenHashRouter"
    assert names.title == "Token hash"


def test_a_name_that_ends_with_the_kind_does_not_say_it_twice():
    assert plugin_names("my-router", "router").class_name == "MyRouter"
    assert plugin_names("q3-k", "quantizer").class_name == "Q3KQuantizer"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Token_Hash", "'token-hash' would do"),
        ("", "must be lower-case letters"),
        ("../up", "'up' would do"),
        ("8bit", "begin with a letter"),
        ("a--b", "'a-b' would do"),
        ("x" * 41, "at most 40 characters"),
        ("naïve", "'na-ve' would do"),
        ("a\nb", "'a-b' would do"),
        ("%(x)s", "'x-s' would do"),
    ],
)
def test_names_that_cannot_be_are_refused_with_one_that_can(name, said):
    with pytest.raises(UsageError) as error:
        plugin_names(name, "router")
    assert said in str(error.value)


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(UsageError, match="there is a router 'scar' already"):
        plugin_names("scar", "router", {"scar", "none"})
