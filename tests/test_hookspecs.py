"""Every hook is documented, and what its documentation shows really works."""

import doctest
import inspect
from pathlib import Path

import pytest

from gemcore import hookspecs
from gemcore.loading import HOOK_RECORDS, new_manager

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("gem_"))
PAGE = Path(__file__).parent.parent / "docs" / "hooks.md"


def test_every_hook_has_a_record_type_and_a_specification():
    assert sorted(HOOK_RECORDS) == HOOKS
    manager = new_manager()
    assert all(getattr(manager.hook, name).has_spec() for name in HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_docstring_says_purpose_result_rule_example_and_version(name):
    text = inspect.getdoc(getattr(hookspecs, name))
    assert text.startswith("Yield the ")
    for part in ("must not import torch or tvm", "Returns:", "Example:", ".. versionadded:: "):
        assert part in text
    assert HOOK_RECORDS[name].__name__ in text


@pytest.mark.parametrize("name", HOOKS)
def test_example_runs(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(hookspecs, name), name, globs={})
    assert any(name in example.source for example in test.examples)
    results = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(test)
    assert results.failed == 0
    assert results.attempted == len(test.examples) > 0


@pytest.mark.parametrize("name", HOOKS)
def test_page_has_a_section_for_the_hook(name):
    assert f"## `{name}`" in PAGE.read_text(encoding="utf-8").splitlines()


def test_code_of_the_page_runs():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted > 0


@pytest.mark.parametrize("name", HOOKS)
def test_a_specification_itself_offers_nothing(name):
    assert tuple(getattr(hookspecs, name)()) == ()
