from __future__ import annotations

import pytest

from gem_experts.training.data import domains_of, examples_of, read_training_data
from gem_suite.catalog import make_benchmark
from gem_suite.errors import DataError
from gem_suite.schema import parse_document
from gemcore.errors import UsageError

from .conftest import LAW, choice, write_benchmark


def test_only_what_may_be_passed_on(data):
    found = read_training_data(data, "law_x", {})
    assert {example.source for example in found.examples} == {"free_law"}
    (source,) = found.sources
    assert (source.name, source.licence, source.items) == ("free_law", "MIT", 6)
    assert source.bytes == sum(len(e.prompt + e.answer) for e in found.examples) == found.bytes
    assert found.left_out["paid_law"] == "CC BY-NC 4.0"
    # Whose the corpus is nobody knows.
    assert any(name.startswith("corpus") for name in found.left_out)


def test_all_licences(data):
    found = read_training_data(data, "law_x", {}, licences="all")
    assert [source.name for source in found.sources] == ["free_law", "paid_law", "corpus: law_x"]
    assert [e.answer for e in found.examples if e.is_text] == [LAW] * 8
    assert found.left_out == {}


def test_the_right_answer_is_learned(data):
    example = read_training_data(data, "law_x", {}).examples[0]
    assert "Is clause 0 binding?" in example.prompt
    assert example.answer.strip() == "It binds."


def test_excluded_benchmarks(data):
    found = read_training_data(data, "law_x", {}, licences="all", exclude=["free_law"])
    assert {e.source for e in found.examples} == {"paid_law", "corpus_law_x"}
    assert found.left_out == {"free_law": "excluded"}
    # A benchmark of another domain may be named, too: the command gives one list for all.
    assert read_training_data(data, "law_x", {}, exclude=["cats"]).sources[0].items == 6


def test_excluding_a_source_of_the_corpus_leaves_its_paragraphs_out(data):
    folder = data / "finance"
    write_benchmark(data, "finance", "convfinqa", "MIT", [choice("Did it rise?", "Yes.", "No.")])
    page = "net income rose because of higher volumes . " * 12
    (folder / "corpus.txt").write_text(f"{page}\n\nshort and of doubtful origin\n", "utf-8")
    kept = read_training_data(data, "finance", {})
    assert [e.answer.strip() for e in kept.examples if e.is_text] == [page.strip()]
    with pytest.raises(UsageError, match="has no data that may be used"):
        read_training_data(data, "finance", {}, exclude=["convfinqa"])


def test_parts_of_a_benchmark(data):
    items = [choice("Who won?", "Ann.", "Bob.", subdomain=part) for part in ("cnn", "race", "cnn")]
    write_benchmark(data, "talk", "coqa", "mixed by source: Apache (CNN)", items)
    found = read_training_data(data, "talk", {})
    assert found.sources[0].items == 2
    assert found.left_out == {"coqa, 1 items": "mixed by source: Apache (CNN)"}
    assert read_training_data(data, "talk", {}, licences="all").sources[0].items == 3


def test_entities_are_asked_one_by_one():
    benchmark = make_benchmark(
        {
            "name": "names",
            "title": "Names",
            "domain": "d",
            "task_type": "token_classification",
            "licence": "MIT",
        }
    )
    values = {
        "id": "0",
        "task_type": "token_classification",
        "tokens": ["Ann", "Lee", "likes", "green", "tea"],
        "label_names": ["O", "B-Person", "I-Person"],
        "answer": [1, 2, 0, 0, 0],
    }
    found = list(examples_of(benchmark, parse_document(values, "here", 0)))
    assert len(found) == 2
    assert "Ann Lee" in found[0].prompt
    assert "Person".lower() in found[0].answer.lower()
    assert found[1].answer.strip() == benchmark.entities.others[0].strip()
    assert "Ann" not in found[1].prompt.rsplit("\n", 1)[-1].replace("Ann Lee likes", "")


def test_plain_texts_have_no_prompt():
    benchmark = make_benchmark(
        {"name": "t", "title": "T", "domain": "d", "task_type": "lm_perplexity", "licence": "MIT"}
    )
    values = {"id": "0", "task_type": "lm_perplexity", "text": "Once.", "answer": ""}
    (example,) = examples_of(benchmark, parse_document(values, "here", 0))
    assert example.is_text
    assert example.answer == "Once."


def test_unknown_names(data):
    assert domains_of(data) == ("daily", "law_x")
    with pytest.raises(UsageError, match="unknown domain 'law': did you mean 'law_x'"):
        read_training_data(data, "law", {})
    with pytest.raises(UsageError, match="unknown benchmark 'dogs'"):
        read_training_data(data, "law_x", {}, exclude=["dogs"])


def test_nothing_that_may_be_used(data):
    write_benchmark(data, "closed", "secret", "none stated", [choice("Q?", "A", "B")])
    message = r"no data that may be used \(secret: none stated\): try --licences all"
    with pytest.raises(UsageError, match=message):
        read_training_data(data, "closed", {})


def test_empty_corpus_and_broken_source(data):
    (data / "law_x" / "corpus.txt").write_text("\n\n", "utf-8")
    with pytest.raises(DataError, match="is empty"):
        read_training_data(data, "law_x", {})
    (data / "daily" / "cats" / "SOURCE.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"SOURCE\.json cannot be read"):
        read_training_data(data, "daily", {})
