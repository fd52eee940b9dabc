"""Findings as text."""

from gemcore.validation.report import Finding, count_failures, lines


def test_what_is_well_takes_one_line_and_the_rest_is_wrapped_below():
    assert list(lines(Finding(check="licence", status="ok", detail="MIT"))) == [
        "ok       licence: MIT"
    ]
    assert list(lines(Finding(check="licence", status="ok"))) == ["ok       licence"]
    failed = Finding(check="licence", status="failed", detail="there is none " * 20)
    first, *rest = lines(failed, 60)
    assert first == "failed   licence"
    assert len(rest) > 3
    assert all(line.startswith(" " * 9) and len(line) <= 60 for line in rest)


def test_only_failures_count():
    statuses = ("ok", "failed", "warning", "skipped", "failed")
    assert count_failures(Finding(check="c", status=status) for status in statuses) == 2
