"""Data sets of the Hub: rows of their shapes become items of the schema."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import attrs
import pytest

from gem_suite.errors import DataError, TaskError
from gem_suite.hub import convert_rows, hub_documents


def rows_of(benchmark, *rows, config=""):
    return list(convert_rows(benchmark, ((config, row) for row in rows)))


ARC = {
    "id": "Mercury_1",
    "question": "Why?",
    "choices": {"text": ["a", "b"], "label": ["1", "2"]},
    "answerKey": "2 ",
}
ROWS = [
    ("arc_challenge", ARC, {"choices": ("a", "b"), "answer": 1, "id": "Mercury_1"}),
    (
        "piqa",
        {"goal": "Why?", "sol1": "a", "sol2": "b", "label": 1},
        {"question": "Why?", "choices": ("a", "b"), "answer": 1, "id": "piqa-00000"},
    ),
    (
        "winogrande",
        {"sentence": "The _ fell.", "option1": "a", "option2": "b", "answer": "2"},
        {"question": "The _ fell.", "answer": 1},
    ),
    (
        "hellaswag",
        {"activity_label": "Roof", "ctx": "He", "endings": ["a", "b"], "label": "1"},
        {"context": "Roof: He", "choices": ("a", "b"), "answer": 1},
    ),
    (
        "headqa_en",
        {"qtext": "Why?", "answers": [{"atext": "a"}, {"atext": "b"}], "ra": 2, "category": "c"},
        {"choices": ("a", "b"), "answer": 1, "subdomain": "c"},
    ),
    (
        "pubmedqa",
        {"id": "7", "context": {"contexts": ["A", "B"]}, "question": "Is it?",
         "final_decision": "no"},
        {"context": "A\nB", "answer": 1, "label_names": ("yes", "no", "maybe")},
    ),
    (
        "ncbi_disease",
        {"id": "0", "tokens": ["a", "b"], "ner_tags": [0, 1]},
        {"text": "a b", "tokens": ("a", "b"), "answer": (0, 1)},
    ),
    ("sciq", {"support": "", "question": "?", "distractor1": "a", "distractor2": "b",
              "distractor3": "c", "correct_answer": "d"},
     {"choices": ("a", "b", "c", "d"), "answer": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_rows_are_converted(benchmarks, name, row, expected):
    (document,) = rows_of(benchmarks[name], row)
    assert {key: getattr(document, key) for key in expected} == expected
    assert document.task_type == benchmarks[name].task_type


def test_configurations_become_a_field(benchmarks):
    row = {"premise": "a", "question": "cause", "choice1": "b", "choice2": "c", "label": 0}
    (document,) = rows_of(benchmarks["xcopa"], row, config="et")
    assert document.lang == "et"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "no 'question'"),
        ({"answerKey": "9"}, "'answer' cannot be made from"),
        (
            {"choices": {"label": []}},
            "the data set has the columns answerKey, choices, id, question",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(benchmarks, change, message):
    with pytest.raises(DataError) as caught:
        rows_of(benchmarks["arc_challenge"], ARC, ARC | change)
    assert str(caught.value).startswith("allenai/ai2_arc, row 1: ")
    assert message in str(caught.value)


def test_the_library_is_asked_for_each_configuration(benchmarks, monkeypatch):
    asked = []

    def load_dataset(dataset, config, *, split):
        asked.append((dataset, config, split))
        return [{"question": "?", "choices": ["a", "b"], "answer": 0}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    documents = hub_documents(benchmarks["mmlu_law"])
    assert asked == [
        ("cais/mmlu", subject, "test")
        for subject in ("professional_law", "international_law", "jurisprudence")
    ]
    assert [document.index for document in documents] == [0, 1, 2]
    assert [document.subdomain for document in documents] == [config for _, config, _ in asked]
    hub_documents(benchmarks["mmlu_law"], train=True)
    assert asked[-1][2] == "dev"


def test_what_the_library_raises_concerns_this_task_alone(benchmarks, monkeypatch):
    def load_dataset(dataset, config, *, split):
        raise ConnectionError("no route\nat all")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(TaskError, match="task 'piqa': cannot load 'baber/piqa' from the Hub: no r"):
        hub_documents(benchmarks["piqa"])


def test_without_the_library_there_is_advice(benchmarks, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"pip install 'gemcore\[suite\]'"):
        hub_documents(benchmarks["piqa"])


def test_a_benchmark_without_a_data_set_must_come_from_a_folder(benchmarks):
    with pytest.raises(TaskError, match="task 'gsm8k' has no a data set|has no data set"):
        hub_documents(benchmarks["gsm8k"])
    lone = attrs.evolve(
        benchmarks["piqa"], hub=attrs.evolve(benchmarks["piqa"].hub, train_split="")
    )
    with pytest.raises(TaskError, match="has no examples on the Hub"):
        hub_documents(lone, train=True)
