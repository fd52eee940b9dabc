"""The table at the end of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.cli_table import domain_means, result_lines


def results_of(tasks):
    """A result file of `{name: (domain, value, chance)}`; chance None: less is better."""
    return {
        "results": {
            name: {"m,none": value, "m_stderr,none": 0.01, "bits_per_byte,none": 1.25}
            for name, (_, value, _) in tasks.items()
        },
        "configs": {
            name: {
                "domain": domain,
                "main_metric": "m",
                "chance": chance or 0.0,
                "higher_is_better": chance is not None,
            }
            for name, (domain, _, chance) in tasks.items()
        },
        "n-samples": {name: {"original": 300, "effective": 100} for name in tasks},
        "truncated": dict.fromkeys(tasks, 0),
    }


def test_every_task_has_a_line_and_every_domain_a_mean():
    results = results_of(
        {"a": ("law", 0.5, 0.25), "b": ("law", 0.75, 0.5), "corpus": ("law", 1.5, None)}
    )
    lines = list(result_lines(results))
    assert lines[0].split() == [
        "task",
        "domain",
        "metric",
        "value",
        "chance",
        "items",
        "bits",
        "per",
        "byte",
    ]
    assert lines[1].split() == ["a", "law", "m", "0.500", "±", "0.010", "0.250", "100", "1.250"]
    assert lines[3].split() == ["corpus", "law", "m", "1.500", "±", "0.010", "100", "1.250"]
    assert lines[-1].split() == ["law", "0.417", "2", "tasks"]


def test_what_is_not_there_is_left_blank():
    results = results_of({"a": ("law", 0.5, 0.25)})
    results["results"]["a"] = {"m,none": 0.5, "m_stderr,none": "N/A"}
    results["truncated"]["a"] = 3
    lines = list(result_lines(results))
    assert lines[1].split() == ["a", "law", "m", "0.500", "0.250", "100"]
    assert lines[-1].endswith("lost their beginning: a 3")
    assert "  law  0.333  1 task" in lines


def test_no_task_gives_no_table():
    assert list(result_lines(results_of({}))) == []


@given(
    scores=st.lists(
        st.tuples(st.sampled_from("xy"), st.floats(0, 1), st.floats(0, 0.9)), min_size=1
    )
)
def test_a_guess_is_zero_and_perfection_one(scores):
    tasks = {f"t{number}": score for number, score in enumerate(scores)}
    means = domain_means(results_of(tasks))
    for domain, (mean, count) in means.items():
        own = [(value, chance) for d, value, chance in scores if d == domain]
        assert count == len(own)
        assert mean == pytest.approx(sum((v - c) / (1 - c) for v, c in own) / len(own))
    assert set(means) == {domain for domain, _, _ in scores}
