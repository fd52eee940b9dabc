"""A journal gives back what was written whole, and nothing of another run."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gem_suite.runner_worker import Record
from gem_suite.store import journal_path, open_journal, write_result
from gemcore.errors import FormatError, GemError, UsageError

IDENTITY = {"model": "a" * 8, "limit": 8, "tasks": {"one": "1" * 8, "two": "2" * 8}}
VALUES = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5))
RECORDS = st.lists(
    st.builds(
        lambda task, number, value, cut: Record(
            task=task, sample={"doc_id": number, "acc": value}, cut=cut
        ),
        st.sampled_from(["one", "two"]),
        st.integers(0, 50),
        VALUES,
        st.integers(0, 3),
    ),
    max_size=12,
    unique_by=lambda record: (record.task, record.document),
)


def fill(path, records, identity=IDENTITY):
    path.unlink(missing_ok=True)
    with open_journal(path, identity) as journal:
        journal.append(records)


def read(path, identity=IDENTITY, **options):
    with open_journal(path, identity, **options) as journal:
        return [record for items in journal.records.values() for record in items.values()]


def by_name(records):
    return sorted(records, key=lambda record: (record.task, record.document))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS)
def test_what_was_written_is_there_again(tmp_path, records):
    path = tmp_path / "a.journal"
    fill(path, records)
    assert by_name(read(path)) == by_name(records)
    assert by_name(read(path)) == by_name(records)
    assert read(path, restart=True) == []
    assert read(path) == []


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS.filter(bool), data=st.data())
def test_a_torn_journal_keeps_its_whole_lines(tmp_path, records, data):
    path = tmp_path / "a.journal"
    fill(path, records)
    content = path.read_bytes()
    length = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:length])
    whole = content[:length].count(b"\n") - 1
    assert by_name(read(path)) == by_name(records[: max(whole, 0)])


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish\n",
        b"[]\n",
        b'{"task": "one", "cut": 0}\n',
        b'{"task": "one", "cut": -1, "sample": {"doc_id": 1}}\n',
        b'{"task": "one", "cut": 0, "sample": {"doc_id": true}}\n',
        b'{"task": 1, "cut": 0, "sample": {"doc_id": 1}}\n',
        b"[" * 10_000 + b"\n",
    ],
)
def test_damage_in_the_middle_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "a.journal"
    fill(path, [Record(task="one", sample={"doc_id": 1})])
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(FormatError, match=r"a\.journal, line 3: .* --restart"):
        read(path)
    assert read(path, restart=True) == []


def test_a_line_without_end_is_refused_before_it_is_all_read(tmp_path, monkeypatch):
    path = tmp_path / "a.journal"
    fill(path, [])
    monkeypatch.setattr("gem_suite.store.MAX_LINE_BYTES", 1000)
    path.write_bytes(path.read_bytes() + b"x" * 5000)
    with pytest.raises(FormatError, match="line 2"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "b"}, "its model is 'aaaaaaaa', not 'b'"),
        ({"limit": 9}, "its limit is 8, not 9"),
        ({"seed": 1}, "its seed is None, not 1"),
        ({"tasks": {"one": "1" * 8}}, "it has 2 tasks where this run has 1"),
        ({"tasks": {"one": "1" * 8, "two": "3"}}, "the items of task 'two' are others now"),
    ],
)
def test_the_journal_of_another_run_is_refused(tmp_path, changes, reason):
    path = tmp_path / "a.journal"
    fill(path, [Record(task="one", sample={"doc_id": 1})])
    with pytest.raises(UsageError) as caught:
        read(path, {**IDENTITY, **changes})
    assert reason in str(caught.value)
    assert "--restart" in str(caught.value)
    assert len(read(path)) == 1


def test_a_task_that_could_not_be_read_may_be_corrected(tmp_path):
    path = tmp_path / "a.journal"
    broken = {**IDENTITY, "tasks": {**IDENTITY["tasks"], "two": None}}
    fill(path, [Record(task="one", sample={"doc_id": 1})], broken)
    assert len(read(path)) == 1
    # From now on its items are known.
    with pytest.raises(UsageError, match="task 'two' are others"):
        read(path, {**IDENTITY, "tasks": {**IDENTITY["tasks"], "two": "9"}})
    assert len(read(path, broken)) == 1


def test_a_file_of_another_kind_is_no_journal(tmp_path):
    path = tmp_path / "a.journal"
    path.write_text(json.dumps({"results": {}}) + "\n")
    with pytest.raises(FormatError, match="no journal of this version"):
        read(path)


def test_two_processes_do_not_write_one_journal(tmp_path):
    path = tmp_path / "a.journal"
    with open_journal(path, IDENTITY), pytest.raises(UsageError, match="another process"):
        read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.journal"]


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path):
    path = tmp_path / "file" / "a.journal"
    (tmp_path / "file").write_text("")
    with pytest.raises(GemError, match="cannot write"):
        read(path)


def test_result_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    assert journal_path(path).name == "a.json.journal"
    write_result(path, {"value": 0.1, "text": "é"})
    assert json.loads(path.read_text("utf-8")) == {"value": 0.1, "text": "é"}
    with pytest.raises(ValueError, match="JSON"):
        write_result(path, {"value": float("nan")})
    with pytest.raises(GemError, match="cannot write"):
        write_result(tmp_path / "none" / "a.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
