"""Data folders: finding them, records for unknown ones, pieces of a corpus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.errors import DataError
from gem_suite.folders import (
    corpus_documents,
    cut,
    data_folder,
    find_folders,
    folder_benchmark,
    folder_documents,
)
from gemcore.errors import UsageError


def test_the_data_folder_is_named_or_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("GEM_DATA", raising=False)
    with pytest.raises(UsageError, match="no benchmark data: name its folder with --data DIR"):
        data_folder(None)
    monkeypatch.setenv("GEM_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    with pytest.raises(UsageError, match="absent does not exist"):
        data_folder(tmp_path / "absent")


def test_folders_and_corpora_are_found_in_order(tmp_path, write_folder, items):
    write_folder("b", [items["classification"]], domain="two")
    write_folder("a", [items["classification"]], domain="two")
    write_folder("z", [items["classification"]], domain="one")
    (tmp_path / "two" / "corpus.heldout.txt").write_text("Text.", encoding="utf-8")
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    found = find_folders(tmp_path)
    assert list(found) == ["z", "a", "b", "corpus_two"]
    assert found["corpus_two"].is_corpus
    assert found["a"].domain == "two"


def test_two_folders_of_one_name_are_refused(tmp_path, write_folder):
    write_folder("a", [], domain="one")
    write_folder("a", [], domain="two")
    with pytest.raises(DataError, match="two data folders are called 'a'"):
        find_folders(tmp_path)


def test_an_unknown_folder_is_run_by_its_source(tmp_path, write_folder, items):
    write_folder(
        "new",
        [items["multiple_choice"]],
        task_type="multiple_choice",
        metric="acc",
        license="CC0",
        name="New!",
    )
    folder = find_folders(tmp_path)["new"]
    record = folder_benchmark(folder)
    assert (record.title, record.metric, record.licence) == ("New!", "acc", "CC0")
    assert [item.gold for item in folder_documents(folder, record)] == [0]


def test_a_metric_in_other_words_gives_the_default(tmp_path, write_folder):
    write_folder("new", [], task_type="classification", metric="F1, mostly", labels={"a": "A"})
    record = folder_benchmark(find_folders(tmp_path)["new"])
    assert record.metric == "acc_calibrated"
    assert record.prompt.labels == {"a": "A"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"task_type": "sorting"}, "'task_type' is 'sorting'"),
        ({"metric": "acc"}, "'task_type' is None"),
        ({"task_type": "classification", "labels": {"a": 1}}, "'labels' holds 1"),
        ({"task_type": "classification", "labels": ["a"]}, "it must be a table"),
    ],
)
def test_a_bad_source_is_named(tmp_path, write_folder, source, message):
    write_folder("new", [], **source)
    with pytest.raises(DataError) as caught:
        folder_benchmark(find_folders(tmp_path)["new"])
    assert "SOURCE.json" in str(caught.value)
    assert message in str(caught.value)


def test_a_source_must_exist_and_be_json(tmp_path, write_folder):
    folder = write_folder("new", [])
    with pytest.raises(DataError, match=r"SOURCE\.json does not exist"):
        folder_benchmark(find_folders(tmp_path)["new"])
    (folder / "SOURCE.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not usable JSON"):
        folder_benchmark(find_folders(tmp_path)["new"])
    (folder / "SOURCE.json").write_bytes(b" " * 1_000_001)
    with pytest.raises(DataError, match="is longer than"):
        folder_benchmark(find_folders(tmp_path)["new"])


@given(text=st.text(alphabet="ab. \n。", max_size=80), most=st.integers(1, 20))
def test_pieces_joined_are_the_text(text, most):
    pieces = list(cut(text, most))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= most for piece in pieces)


def test_a_cut_prefers_lines_then_sentences_then_spaces():
    assert list(cut("one. two\nthree four", 12)) == ["one. two\n", "three four"]
    assert list(cut("one. two three four", 12)) == ["one. ", "two three ", "four"]
    assert list(cut("abcdef", 4)) == ["abcd", "ef"]


def test_a_corpus_is_cut_into_paragraphs(tmp_path):
    path = tmp_path / "corpus.heldout.txt"
    path.write_text("One\ntwo.\n\n\nThree\n" + "x" * 2500, encoding="utf-8")
    documents = list(corpus_documents(path, "corpus_x"))
    assert [item.text for item in documents] == ["One\ntwo.", "Three\n", "x" * 2000, "x" * 500]
    assert [item.index for item in documents] == [0, 1, 2, 3]


def test_a_corpus_must_be_text(tmp_path):
    path = tmp_path / "corpus.heldout.txt"
    path.write_bytes(b"good\n\xff")
    with pytest.raises(DataError, match="line 2: it is not UTF-8"):
        list(corpus_documents(path, "c"))
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="is empty"):
        list(corpus_documents(path, "c"))
