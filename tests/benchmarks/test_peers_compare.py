"""The order of measuring, systems that fail, and the report."""

from __future__ import annotations

import math

import pytest
from peer_comparison.compare import Comparison, Plan, random_prompt
from peer_comparison.errors import ComparisonError, SystemFailedError
from peer_comparison.process import Launcher
from peer_comparison.records import LoadRequest, Model, Timing
from peer_comparison.report import Spread, ratios, table, to_json, to_markdown
from peer_comparison.systems import DEFAULT, SYSTEMS, find_systems

AROUND = {"command": "peers.py", "processor": "a | b", "cores": 2, "date": "today"}
SPEEDS = {"gem": 1.0, "llama.cpp-q4_0": 2.0, "openvino-int4": 4.0}


class FakeWorker:
    """Answers at once, with timings that grow from round to round."""

    def __init__(self, label, diary, failing):
        self.label = label
        self.diary = diary
        self.failing = failing
        self.runs = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.diary.append((self.label, "close"))

    def busy_seconds(self):
        return 0.0

    def ask(self, what, **arguments):
        self.diary.append((self.label, what, arguments))
        if self.failing.get(self.label) == what:
            raise SystemFailedError("not installed: No module named 'it'")
        if what == "run":
            self.runs += 1
            seconds = SPEEDS[self.label] * self.runs
            return {
                "prompt_tokens": len(arguments["prompt"]),
                "new_tokens": arguments["new_tokens"],
                "ttft": seconds,
                "decode": 3 * seconds,
            }
        if what == "load":
            return {"versions": {self.label: "1"}, "settings": {}}
        prepared = f"where {self.label} is"
        return {"memory": 150_000_000, "score": -2.0, "prepare": prepared}.get(what)


@pytest.fixture
def compare(tmp_path):
    def make(*, failing=None, **plan):
        diary = []

        def start(python, label, log, *, threads):
            diary.append((label, "start", threads))
            return FakeWorker(label, diary, failing or {})

        model = Model(
            name="tiny",
            identity="0" * 64,
            vocabulary_size=100,
            context_length=4096,
            folder=tmp_path,
            gguf=None,
            work=tmp_path,
        )
        settings = {"threads": [1], "prompt_tokens": [8], "new_tokens": 4, "rounds": 3, **plan}
        comparison = Comparison(
            model=model,
            systems=find_systems(list(SPEEDS)),
            plan=Plan(**settings),
            launcher=Launcher(gem_python=None, peer_python=None, logs=tmp_path, start=start),
            say=lambda text: None,
        )
        return comparison, diary

    return make


def words(diary, what):
    return [entry[0] for entry in diary if entry[1] == what]


def test_systems_take_turns_in_the_same_order(compare):
    comparison, diary = compare(threads=[1, 2], prompt_tokens=[8, 16])
    comparison.run()
    order = list(SPEEDS)
    # Each setting: a warm-up and three rounds; then one run each for memory.
    assert words(diary, "run") == order * (4 * 4) + order
    assert words(diary, "load") == order * 2 + order
    threads = [entry[2] for entry in diary if entry[1] == "start"]
    assert threads == [1] * 3 + [1] * 3 + [2] * 3 + [1] * 3


def test_all_are_given_the_same_prompt(compare):
    comparison, diary = compare()
    comparison.run()
    prompts = {tuple(entry[2]["prompt"]) for entry in diary if entry[1] == "run"}
    assert {len(prompt) for prompt in prompts} == {8, 1024 - 4}
    assert tuple(random_prompt(100, 8, 0)) in prompts
    assert all(0 <= token < 100 for prompt in prompts for token in prompt)


def test_each_is_told_where_it_was_prepared(compare):
    comparison, diary = compare()
    comparison.run()
    told = {entry[0]: entry[2]["request"]["prepared"] for entry in diary if entry[1] == "load"}
    assert told == {name: f"where {name} is" for name in SPEEDS}


def test_the_warm_up_does_not_count(compare):
    comparison, _ = compare()
    timings = comparison.run().timings[1, 8]
    assert [timing.ttft for timing in timings["openvino-int4"]] == [8.0, 12.0, 16.0]


@pytest.mark.parametrize("when", ["prepare", "load", "run", "score"])
def test_a_peer_that_fails_is_left_out_with_its_reason(compare, when):
    comparison, diary = compare(failing={"llama.cpp-q4_0": when}, texts=[list(range(9))])
    findings = comparison.run()
    assert findings.reasons == {"llama.cpp-q4_0": "not installed: No module named 'it'"}
    assert words(diary, when).count("llama.cpp-q4_0") == 1
    assert set(findings.losses) == {"gem", "openvino-int4"}
    assert "llama.cpp, Q4_0" in to_markdown(comparison, AROUND)
    assert "left out: not installed: No module named 'it'" in to_markdown(comparison, AROUND)
    reported = to_json(comparison, AROUND)["systems"]["llama.cpp-q4_0"]
    assert reported["left_out"] == "not installed: No module named 'it'"


def test_perplexity_is_over_all_tokens_of_all_windows(compare):
    comparison, diary = compare(texts=[list(range(9)), list(range(2000))])
    findings = comparison.run()
    pieces = words(diary, "score").count("gem")
    assert pieces == 4
    assert findings.scored == 8 + 1999
    reported = to_json(comparison, AROUND)["systems"]["gem"]["perplexity"]
    assert math.isclose(reported, math.exp(2.0 * pieces / findings.scored))


def test_the_report_has_medians_ratios_and_memory(compare):
    comparison, _ = compare()
    comparison.run()
    report = to_json(comparison, AROUND)
    theirs = next(row for row in report["results"] if row["system"] == "openvino-int4")
    assert theirs["prefill_tokens_per_s"]["rounds"] == (1.0, 8 / 12, 0.5)
    assert theirs["ttft_ms"]["median"] == 12000.0
    assert theirs["decode_tokens_per_s"]["lowest"] == 3 / 48
    assert theirs["gem_ratio"]["decode"]["median"] == 4.0
    assert report["systems"]["gem"]["peak_memory_mb"] == 150.0
    lines = to_markdown(comparison, AROUND).splitlines()
    row = next(line for line in lines if line.startswith("| OpenVINO"))
    assert "0.7 (0.5 to 1.0)" in row
    assert "4.00 x" in row


def test_ratios_are_taken_round_by_round():
    ours = [Timing(prompt_tokens=10, new_tokens=3, ttft=t, decode=1.0) for t in (1.0, 4.0, 2.0)]
    theirs = [Timing(prompt_tokens=10, new_tokens=3, ttft=t, decode=2.0) for t in (2.0, 4.0, 6.0)]
    found = ratios(ours, theirs)
    assert found["prefill"] == Spread(median=2.0, lowest=1.0, highest=3.0, rounds=(2.0, 1.0, 3.0))
    assert found["decode"].median == 2.0


def test_a_table_keeps_its_columns():
    lines = table(["", "b"], [["a|b", "1\n2"], ["long text", "3"]]).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[2] == "| a\\|b      | 1 2 |"
    assert lines[1] == "| --------- | --: |"


def test_a_request_survives_json(compare, tmp_path):
    comparison, _ = compare()
    request = LoadRequest(
        model=comparison.model, threads=2, context=64, purpose="speed", options={"type": "Q4_0"}
    )
    assert LoadRequest.from_json(request.to_json()) == request


def test_systems_are_found_by_name():
    assert [system.name for system in find_systems(DEFAULT)] == list(DEFAULT)
    [gem] = find_systems(["gem:q8-g32"])
    assert gem.is_gem
    assert gem.options == {"quantizer": "q8-g32"}
    own = {name for name, system in SYSTEMS.items() if system.is_gem}
    assert own == {"gem", "gem-q8-cache"}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["gem", "llama.cpp-q4_2"], "unknown system 'llama.cpp-q4_2': did you mean 'llama.cpp-q4"),
        (["gem:"], "unknown system 'gem:'"),
        (["gem", "gem"], "names gem 2 times"),
        ([], "names no system; there are gem, gem-q8-cache"),
    ],
)
def test_wrong_names_are_explained(names, reason):
    with pytest.raises(ComparisonError, match=reason):
        find_systems(names)
