"""Answers are those that a session gives, and references cost no second reading."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_suite.engines import CompiledEngine, answer_prompts

IDS = st.lists(st.integers(3, 200), min_size=1, max_size=20).map(tuple)


def alone(session, text, **options):
    return session.generate(text, chat=False, **options).text


def test_answers_are_those_of_a_session(tiny_session):
    engine = CompiledEngine(tiny_session)
    texts = [f"once upon a time {'very ' * (n % 5)}number {n}" for n in range(20)]
    prompts = [engine.tokenizer.encode_prompt(text) for text in texts]
    answers = answer_prompts(engine, prompts, [()] * 20, max_tokens=12, stop=["e"])
    expected = [alone(tiny_session, text, max_tokens=12, stop=["e"]) for text in texts]
    assert [text for text, _ in answers] == expected
    assert {value for _, value in answers} == {0.0}


@settings(max_examples=20)
@given(
    start=IDS,
    rest=st.lists(st.tuples(IDS, st.one_of(st.just(()), IDS)), min_size=1, max_size=20),
)
def test_references_are_scored_as_by_a_session(tiny_bundle, start, rest):
    from gemcore.api import open_session

    session = open_session(tiny_bundle.folder)
    engine = CompiledEngine(session)
    prompts = [(*start, *own) for own, _ in rest]
    references = [reference for _, reference in rest]
    answers = answer_prompts(engine, prompts, references, max_tokens=3, stop=[])
    without = answer_prompts(engine, prompts, [()] * len(prompts), max_tokens=3, stop=[])
    assert [text for text, _ in answers] == [text for text, _ in without]
    for prompt, reference, (_, value) in zip(prompts, references, answers, strict=True):
        if reference:
            (score,) = session.score_tokens([(prompt, reference)])
            assert value == score.log_likelihood


def test_what_all_prompts_begin_with_is_read_once(tiny_session):
    engine = CompiledEngine(tiny_session)
    read = []

    class Counting:
        tokenizer, context_length, slots = engine.tokenizer, engine.context_length, engine.slots

        def forward(self, prior=None):
            passes = engine.forward()

            def forward(tokens, placement, rows):
                read.extend(tokens.tolist())
                return passes(tokens, placement, rows)

            return forward

        def groups(self, pairs):
            yield None, pairs

    prompts = [(*range(10, 90), 100 + n) for n in range(10)]
    answer_prompts(Counting(), prompts, [()] * 10, max_tokens=1, stop=[])
    assert sorted(read) == [*range(10, 90), *range(100, 110)]


def test_many_references_of_many_tokens(tiny_session):
    engine = CompiledEngine(tiny_session)
    prompts = [(10 + n, 50) for n in range(16)]
    references = [tuple(range(60, 100))] * 16
    answers = answer_prompts(engine, prompts, references, max_tokens=2, stop=[])
    expected = tiny_session.score_tokens(list(zip(prompts, references, strict=True)))
    assert [value for _, value in answers] == [score.log_likelihood for score in expected]


def test_no_prompts_give_no_answers(tiny_session):
    assert answer_prompts(CompiledEngine(tiny_session), [], [], max_tokens=4, stop=[]) == []


@pytest.mark.parametrize("length", [250, 255])
def test_prompts_that_nearly_fill_the_context(tiny_session, length):
    engine = CompiledEngine(tiny_session)
    prompts = [(5,) * length, (6,) * 3]
    answers = answer_prompts(engine, prompts, [(7,), (8,)], max_tokens=256 - length, stop=[])
    expected = tiny_session.score_tokens([(prompts[0], (7,)), (prompts[1], (8,))])
    assert [value for _, value in answers] == [score.log_likelihood for score in expected]
