"""Templates that try to do harm."""

from __future__ import annotations

from typing import Any

import pytest

from gemcore.errors import FormatError
from gemcore.text import sandbox
from gemcore.text.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hi"}]


def render(source: str) -> str:
    return ChatTemplate(source=source).render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ (messages|first).update.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__code__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{% do messages.clear() %}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% import 'os' as os %}",
        "{{ lipsum.__globals__ }}",
    ],
)
def test_nothing_of_python_can_be_reached_or_changed(source: str) -> None:
    try:
        shown = render(source)
    except FormatError:
        shown = ""
    # Some are refused with an error, and some read as undefined, which shows nothing.
    assert shown == ""
    assert MESSAGES == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{{ range(10**9)|list|length }}", "Range too big"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "steps",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
            "steps",
        ),
        ("{{ 'x' * 10**9 }}", "elements"),
        ("{{ 10**9 * [0] }}", "elements"),
        ("{{ 10 ** 10000 }}", "numbers of more than"),
        ("{% set x = 2 ** 900 %}{{ x * x }}", "numbers of more than"),
        ("{{ '%1000000000d' % 1 }}", "formats text"),
        ("{{ 'x'.ljust(10**9) }}", "unsafe"),
        ("{{ '{:1000000000}'.format(1) }}", "unsafe"),
        ("{{ 'x'|center(10**9) }}", "No filter named 'center'"),
        ("{{ '%1000000000d'|format(1) }}", "No filter named 'format'"),
        ("{{ messages|tojson(indent=10**9) }}", "indents JSON"),
        ("{{ lipsum(n=10**9) }}", "'lipsum' is undefined"),
        (
            "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
            "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "elements",
        ),
        (
            "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
            "{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "elements",
        ),
        (
            "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
            "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
            "elements",
        ),
        (
            "{% macro d(s) %}{{ s }}{{ s }}{% endmacro %}{% set ns = namespace(s='x') %}"
            "{% for i in range(60) %}{% set ns.s = d(ns.s) %}{% endfor %}",
            "elements",
        ),
        (
            "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
            "{% set ns.s = ns.s.replace('x', ns.s) %}{% endfor %}",
            "elements",
        ),
        (
            "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
            "{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}",
            "elements",
        ),
        (
            "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
            "{% set ns.s = ns.s.join([ns.s] * 9) %}{% endfor %}",
            "elements",
        ),
        (
            "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
            "{% set ns.s = ([ns.s] * 9) | join(ns.s) %}{% endfor %}",
            "elements",
        ),
        ("{% set s = 'x' * 10**6 %}{% for i in range(99) %}{{ s }}{% endfor %}", "elements"),
    ],
)
def test_what_would_take_forever_or_fill_memory_is_stopped(source: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        render(source)


def test_slow_steps_are_stopped_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1000))
    monkeypatch.setattr(sandbox.time, "monotonic", lambda: next(times))
    with pytest.raises(FormatError, match="it takes more than 10 seconds"):
        render("{% for i in range(100) %}{% endfor %}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 'a-b'.replace('-', '+') }}{{ 'aaa' | replace('a', 'b', 2) }}", "a+bbba"),
        ("{{ [{'n': 'x'}, {'n': 'y'}] | join('/', attribute='n') }}{{ [1, 2] | join }}", "x/y12"),
        ("{{ '-' * 3 }}{{ 7 % 4 }}{{ 2 ** 8 }}{{ [1] + [2] }}", "---3256[1, 2]"),
        (
            "{% for a in 'xyz' %}{{ loop.index }}/{{ loop.length }}{{ a }} {% endfor %}",
            "1/3x 2/3y 3/3z ",
        ),
        ("{% for k, v in {'a': 1}.items() if v %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{% set b | upper %}text{% endset %}{{ b }}", "TEXT"),
        ("{{ {'é': '<&>'} | tojson }}", '{"é": "<&>"}'),
        ("{{ dict(a=1).a }}", "1"),
    ],
)
def test_ordinary_templates_are_not_disturbed(source: str, expected: str) -> None:
    assert render(source) == expected


def test_a_long_chat_stays_within_the_bounds() -> None:
    messages: list[dict[str, Any]] = MESSAGES * 5000
    source = "{% for m in messages %}{{ m.role.upper() }}{{ m.content.strip() }}{% endfor %}"
    assert ChatTemplate(source=source).render(messages) == "USERHi" * 5000
