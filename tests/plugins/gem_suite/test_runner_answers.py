"""Requests in, answers in their order out; equal texts once; long texts cut and counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_suite.engines import CompiledEngine
from gem_suite.engines_text import encode_pair
from gem_suite.requests import Request
from gem_suite.runner_answers import answer_requests, shared_likelihoods

WORDS = st.text(st.sampled_from("abc "), min_size=1, max_size=8)
REQUESTS = st.one_of(
    st.builds(
        lambda pairs: Request(kind="likelihood", pairs=tuple(pairs)),
        st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    ),
    st.builds(lambda text: Request(kind="text", text=text), WORDS),
    st.builds(
        lambda prompt, reference, most: Request(
            kind="generate", prompt=prompt, pairs=((prompt, reference),), max_tokens=most
        ),
        WORDS,
        WORDS,
        st.integers(1, 3),
    ),
)


@settings(max_examples=20)
@given(requests=st.lists(REQUESTS, max_size=8))
def test_each_answer_is_the_one_that_its_request_gets_alone(tiny_bundle, requests):
    from gemcore.api import open_session

    session = open_session(tiny_bundle.folder)
    engine = CompiledEngine(session)
    together = answer_requests(engine, requests)
    assert together == [answer_requests(engine, [request])[0] for request in requests]
    known = shared_likelihoods(engine, requests)
    assert together == answer_requests(engine, requests, known=known)
    for request, answer in zip(requests, together, strict=True):
        if request.kind != "text":
            pairs = [encode_pair(engine.tokenizer, *pair) for pair in request.pairs]
            expected = [score.log_likelihood for score in session.score_tokens(pairs)]
            assert list(answer.outcome.likelihoods) == expected


def test_what_requests_share_is_scored_once(tiny_session):
    engine = CompiledEngine(tiny_session)
    free = tuple(("N/A\nLabel:", f" {label}") for label in ("good", "bad"))
    requests = [
        Request(kind="likelihood", pairs=((f"item {n}\nLabel:", " good"), *free)) for n in range(5)
    ]
    known = shared_likelihoods(engine, requests)
    assert set(known) == {encode_pair(engine.tokenizer, *pair) for pair in free}
    changed = dict.fromkeys(known, -1.5)
    answers = answer_requests(engine, requests, known=changed)
    assert all(answer.outcome.likelihoods[1:] == (-1.5, -1.5) for answer in answers)


def test_long_texts_are_cut_and_counted(tiny_session):
    engine = CompiledEngine(tiny_session)
    long = "abc " * 100
    requests = [
        Request(kind="likelihood", pairs=((long, " a"), ("ab", " c"), (long, " b"))),
        Request(kind="generate", prompt=long, pairs=((long, " a"),), max_tokens=500, stop=("c",)),
        Request(kind="text", text=long),
    ]
    likelihood, generated, text = answer_requests(engine, requests)
    # A long text is scored in windows, so nothing of it is left out.
    assert (likelihood.cut, generated.cut, text.cut) == (2, 2, 0)
    ids = engine.tokenizer.encode_prompt(long.rstrip())
    last = engine.tokenizer.encode("  a", special=False)
    (expected,) = tiny_session.score_tokens([([*ids, *last][-257 : -len(last)], last)])
    assert likelihood.outcome.likelihoods[0] == expected.log_likelihood
    kept = engine.tokenizer.decode(engine.tokenizer.encode_prompt(long)[-128:])
    alone = tiny_session.generate(kept, max_tokens=128, stop=["c"], chat=False)
    assert generated.outcome.text == alone.text


def test_with_a_template_the_answer_is_that_of_a_chat(tiny_session):
    engine = CompiledEngine(tiny_session)
    request = Request(
        kind="generate",
        prompt="Be brief.\nHow?",
        system="Be brief.\n",
        pairs=(("Be brief.\nHow?", " so"),),
        max_tokens=5,
    )
    (answer,) = answer_requests(engine, [request], chat=True)
    expected = tiny_session.generate("How?", system="Be brief.", max_tokens=5)
    assert answer.outcome.text == expected.text
    ids = tiny_session.encode_prompt("How?", system="Be brief.")
    (score,) = tiny_session.score_tokens([(ids, engine.tokenizer.encode("so", special=False))])
    assert answer.outcome.likelihoods == (pytest.approx(score.log_likelihood, abs=0),)


def test_saying_nothing_is_certain(tiny_session):
    request = Request(kind="likelihood", pairs=(("ab", ""), ("ab", "c")))
    (answer,) = answer_requests(CompiledEngine(tiny_session), [request])
    assert answer.outcome.likelihoods[0] == 0.0
    assert answer.outcome.likelihoods[1] < 0.0
