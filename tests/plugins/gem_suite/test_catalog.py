"""Records: the built-in ones, those of third parties, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.catalog import (
    builtin_benchmarks,
    by_name,
    parse_benchmarks,
    read_benchmarks,
    without_calibration,
)
from gem_suite.errors import BenchmarkFileError
from gem_suite.schema import TASK_TYPES

GOOD = """
[[benchmark]]
name = "colours"
domain = "art"
task_type = "classification"
licence = "CC0"
[benchmark.prompt]
context = "{text} is"
labels = { r = "red" }
[benchmark.hub]
dataset = "me/colours"
columns = { text = "text", answer = "label", label_names = { value = ["r", "g"] } }
"""


def test_there_are_47_in_eight_domains(benchmarks):
    assert len(benchmarks) == 47
    assert len({record.domain for record in benchmarks.values()}) == 8


def test_every_record_says_what_it_must(benchmarks):
    for record in benchmarks.values():
        assert record.title, record.name
        assert record.licence != "not stated", record.name
        assert record.reference_url.startswith("https://"), record.name
        assert record.note or record.task_type != "generation_qa" or record.name == "tatqa"


def test_a_third_party_needs_no_code(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    (record,) = read_benchmarks(path)
    assert record.name == "colours"
    assert record.metric == "acc_calibrated"
    assert record.prompt.labels == {"r": "red"}
    assert record.prompt.fillers == ("N/A", "[MASK]", "")
    assert record.hub.dataset == "me/colours"
    assert record.hub.split == "test"


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_task_type_has_defaults(task_type):
    text = f'[[benchmark]]\nname = "x"\ndomain = "d"\ntask_type = "{task_type}"\n'
    (record,) = parse_benchmarks(text, "x.toml")
    assert record.metric in record.metrics
    assert record.higher_is_better == (record.metric != "bits_per_byte")


BAD = [
    ('name = "colours"', 'name = "Colours!"', "'name' is 'Colours!'"),
    ('name = "colours"', "", "'name' is missing from a benchmark"),
    ('"classification"', '"sorting"', "'task_type' is 'sorting', none of multiple_choice"),
    ('licence = "CC0"', "licence = 0", "'licence' is 0: it must be text"),
    ('licence = "CC0"', 'lisence = "CC0"', "unknown key of a benchmark 'lisence': did you mean"),
    ('licence = "CC0"', 'metric = "accuracy"', "none of 'acc'"),
    ('licence = "CC0"', 'metrics = ["f1"]', "'metrics' does not hold"),
    ('licence = "CC0"', 'metrics = "acc"', "must be a list of texts"),
    ('licence = "CC0"', "version = 0", "'version' is 0"),
    ('licence = "CC0"', "chance = 1.0", "'chance' is 1.0"),
    ('licence = "CC0"', 'chance = "low"', "must be a number"),
    ('licence = "CC0"', "percent = 1", "must be true or false"),
    ('licence = "CC0"', "few_shot = 3", "'few_shot' is 3: it must be a table"),
    ('licence = "CC0"', 'few_shot = { source = "dev" }', "'source' is 'dev'"),
    ('licence = "CC0"', "few_shot = { count = -1 }", "'count' is -1"),
    ('"{text} is"', '"{text is"', "lone '{'"),
    ('"{text} is"', '"{text.__class__}"', "lone '{'"),
    ('r = "red"', "r = 1", "'labels' holds 1"),
    ("labels = ", "words = ", "it must be a table"),
    ("labels = ", 'preparation = "magic"\nlabels = ', "'preparation' is 'magic'"),
    ('dataset = "me/colours"', "", "'dataset' is missing from hub"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_record_is_named(tmp_path, old, new, message):
    assert old in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(BenchmarkFileError) as caught:
        read_benchmarks(path)
    assert "mine.toml, benchmark 1" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[benchmark", "is not TOML"),
        (b"", "must consist of"),
        (b"other = 1", "it has 'other'"),
        (b"benchmark = 1", "must consist of"),
        (b"benchmark = [1]", "it is no table"),
        (b"\xff", "is not UTF-8"),
        (b"#" * 1_000_001, "is longer than"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(BenchmarkFileError, match=r"mine\.toml.*" + message):
        read_benchmarks(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BenchmarkFileError, match="cannot be read"):
        read_benchmarks(tmp_path / "absent.toml")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    # No text is a whole record, so each must be refused, and in no other way than this.
    with pytest.raises(BenchmarkFileError, match=r"\Ax\.toml"):
        parse_benchmarks(f"[[benchmark]]\n{text}", "x.toml")


def test_two_of_one_name_are_refused():
    with pytest.raises(BenchmarkFileError, match="two benchmarks are called 'hellaswag'"):
        by_name([*builtin_benchmarks(), *builtin_benchmarks()])


def test_without_calibration_the_plain_accuracy_is_left(benchmarks):
    plain = without_calibration(benchmarks["ag_news"])
    assert plain.metric == "acc"
    assert plain.prompt.fillers == ()
    assert "acc_calibrated" not in plain.metrics
    assert without_calibration(benchmarks["piqa"]) is benchmarks["piqa"]


def test_the_record_of_the_documentation_is_one():
    page = Path(__file__).resolve().parents[3] / "docs" / "benchmark-suite.md"
    text = page.read_text(encoding="utf-8")
    (block,) = (part for part in text.split("```") if "[[benchmark]]" in part)
    (record,) = parse_benchmarks(block, "the page")
    assert record.few_shot.count == 4
    assert record.prompt.fillers == ("N/A", "")
