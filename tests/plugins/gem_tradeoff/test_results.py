"""Result files: what is read from them, and the sentence for everything that may be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_tradeoff import results as module
from gem_tradeoff.results import bits_score, has_bits, main_score, parse_results, read_results
from gemcore.errors import FormatError, GemError, UsageError


def put(data, path, value):
    """Set the value at a path of keys, or remove it where value is None."""
    *holders, last = path
    for key in holders:
        data = data[key]
    if value is None:
        del data[last]
    else:
        data[last] = value


def test_a_file_is_read(files):
    file = read_results(files[1])
    assert file.name == str(files[1])
    assert file.model == "tiny"
    assert file.specialised_for == "law"
    assert file.domains == ("law", "stem", "healthcare")
    assert file.settings == {"limit": 60, "seed": 0, "chat_template": False}
    task = file.tasks["contracts"]
    assert (task.domain, task.metric, task.chance) == ("law", "acc", 0.25)
    assert task.documents == tuple(range(60))


def test_items_are_sorted_so_that_files_pair_up(make):
    data = make()
    data["samples"]["sums"].reverse()
    data["samples"]["sums"][0]["doc_id"] = "a name"
    documents = parse_results(data, "base").tasks["sums"].documents
    assert documents == (*range(59), "a name")


@pytest.mark.parametrize("task", ["contracts", "clauses", "sums", "diseases", "corpus_law"])
def test_scores_are_those_of_the_file(make, task):
    data = make()
    (reported,) = [v for k, v in data["results"][task].items() if k.endswith(",none")]
    assert main_score(parse_results(data, "base").tasks[task]).value == pytest.approx(reported)


def test_f1_is_of_summed_counts(make):
    data = make()
    rows = [[2, 1, 0], [0, 0, 3]]
    data["samples"]["diseases"] = [
        {"doc_id": number, "counts": counts, "f1": 0.9} for number, counts in enumerate(rows)
    ]
    precision, recall = 2 / 3, 2 / 5
    data["results"]["diseases"]["f1,none"] = 2 * precision * recall / (precision + recall)
    task = parse_results(data, "base").tasks["diseases"]
    assert main_score(task).value == pytest.approx(0.5)


def test_f1_of_nothing_is_zero(make):
    data = make()
    for sample in data["samples"]["diseases"]:
        sample["counts"] = [0, 0, 0]
    data["results"]["diseases"]["f1,none"] = 0.0
    assert main_score(parse_results(data, "base").tasks["diseases"]).value == 0


def test_f1_without_counts_is_a_mean(make):
    data = make()
    for number, sample in enumerate(data["samples"]["diseases"]):
        del sample["counts"]
        sample["f1"] = number % 2
    data["results"]["diseases"]["f1,none"] = 0.5
    assert main_score(parse_results(data, "base").tasks["diseases"]).value == 0.5


def test_bits_per_byte_is_a_quotient_of_sums(make):
    data = make()
    task = parse_results(data, "base").tasks["contracts"]
    samples = data["samples"]["contracts"]
    expected = sum(s["bits"] for s in samples) / sum(s["bytes"] for s in samples)
    assert has_bits(task)
    assert bits_score(task).value == pytest.approx(expected)


def test_items_without_a_reference_add_nothing(make):
    data = make()
    samples = data["samples"]["contracts"]
    for sample in samples[::2]:
        del sample["bits"], sample["bytes"]
    task = parse_results(data, "base").tasks["contracts"]
    expected = sum(s["bits"] for s in samples[1::2]) / sum(s["bytes"] for s in samples[1::2])
    assert has_bits(task)
    assert bits_score(task).value == pytest.approx(expected)
    assert bits_score(task).numerators.shape == (60,)
    for sample in samples[1::2]:
        del sample["bits"]
    task = parse_results(data, "base").tasks["contracts"]
    assert not has_bits(task)
    with pytest.raises(FormatError, match="item 1: 'bits' is missing"):
        bits_score(task)


CONTRACTS = ("samples", "contracts")

WRONG = [
    (("results",), None, "base.json: field 'results' is missing"),
    (("results",), [], "field 'results' is a list, not an object"),
    (("results",), {}, "holds no results: run `gem eval suite`"),
    (("samples",), None, "field 'samples' is missing"),
    (CONTRACTS, None, "task 'contracts': field 'contracts' of samples is missing"),
    (CONTRACTS, [], "task 'contracts': intervals need at least 2 items, and there are 0"),
    (CONTRACTS, [1, 2], "sample 0 has no 'doc_id'"),
    (("configs", "contracts"), 3, "field 'contracts' of configs is a number, not an object"),
    (("configs", "contracts", "domain"), None, "field 'domain' of configs is missing"),
    (("configs", "contracts", "domain"), 1.5, "'domain' of configs is a number, not a string"),
    (("configs", "contracts", "chance"), 1.0, "'chance' is 1.0, not a number from 0 to below 1"),
    (("configs", "contracts", "higher_is_better"), "yes", "is a string, not a boolean"),
    (("results", "contracts", "acc,none"), None, "'acc,none' of the results is None, not a finite"),
    (("config", "specialised_for"), 3, "'specialised_for' is a number, not a domain's name"),
    (("config", "model"), None, "field 'model' of config is missing"),
    ((*CONTRACTS, 7, "doc_id"), 3, "two items have the 'doc_id' 3"),
    ((*CONTRACTS, 7, "doc_id"), 3.5, "sample 7 has no 'doc_id' that is a number or string"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_wrong_fields_are_named(make, path, value, message):
    data = make()
    put(data, path, value)
    with pytest.raises(FormatError) as caught:
        parse_results(data, "base.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


WRONG_ITEMS = [
    ("contracts", "acc", None, "item 4: 'acc' is missing; the item has bits, bytes, doc_id"),
    ("contracts", "acc", "1", "item 4: 'acc' is '1', not a finite number"),
    ("contracts", "acc", float("nan"), "item 4: 'acc' is nan, not a finite number"),
    ("contracts", "acc", 10**400, "'acc' is 1000"),
    ("contracts", "acc", -3, "'acc' is 0.5"),
    ("diseases", "counts", [1, 2], "item 4: 'counts' is [1, 2], not three numbers"),
    ("diseases", "counts", [1, 2, -1], "not three numbers of at least 0"),
    ("diseases", "counts", [1, 2, "3"], "not three numbers of at least 0"),
    ("corpus_law", "bits", -1.0, "bits (least -1) and bytes"),
    ("corpus_law", "bytes", 1e9, "write the file anew with `gem eval suite`"),
]


@pytest.mark.parametrize(("task", "key", "value", "message"), WRONG_ITEMS)
def test_wrong_items_are_named(make, task, key, value, message):
    data = make()
    put(data, ("samples", task, 4, key), value)
    parsed = parse_results(data, "base.json")
    with pytest.raises(FormatError) as caught:
        main_score(parsed.tasks[task])
    assert f"base.json, task '{task}'" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no result file: Expecting value"),
        (b"[1]", "it holds a list, not an object"),
        (b"null", "it holds null, not an object"),
        (b'{"results": NaN}', "it holds NaN, which is no number of JSON"),
        (b"[" * 100_000, "is no result file"),
        (b'{"a": "\xff"}', "is not valid UTF-8: byte 7"),
        (b"1" * 5000, "is no result file"),
    ],
)
def test_files_of_another_kind(tmp_path, content, message):
    file = tmp_path / "some.json"
    file.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_results(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no such file"):
        read_results(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot read .*: Is a directory"):
        read_results(tmp_path)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    file = tmp_path / "large.json"
    file.write_text(" " * 11)
    with pytest.raises(FormatError, match="has 11 bytes: a result file has at most 10"):
        read_results(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.data())
def test_whatever_is_in_a_file_ends_in_a_sentence_or_a_score(make, data):
    content = make(items=4)
    place, path = content, []
    while isinstance(place, dict | list) and place and data.draw(st.integers(0, 4)) < 4:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        path.append(data.draw(st.sampled_from(list(keys))))
        place = place[path[-1]]
    if path:
        put(content, path, data.draw(json_values))
    try:
        for task in parse_results(content, "some.json").tasks.values():
            main_score(task)
    except GemError as error:
        assert str(error).startswith("some.json")  # noqa: PT017
