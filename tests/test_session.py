from __future__ import annotations

import numpy as np
import pytest

from gemcore.errors import UsageError
from gemcore.session import EncodedPrompt
from gemcore.text.sampling import SamplingSettings
from tests.conftest import open_tiny

PROMPT = "tell me a tale of the sea"


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_greedy_answer_is_the_argmax_of_the_logits(tiny_session):
    tokens = tiny_session.encode_prompt(PROMPT)
    result = tiny_session.generate(PROMPT, max_tokens=20)
    assert result.prompt_tokens == len(tokens)
    whole = [*tokens, *result.token_ids]
    expected = tiny_session.logits(whole).argmax(1)[len(tokens) - 1 : -1]
    assert list(result.token_ids) == expected.tolist()


def test_stream_joins_to_the_answer(tiny_session):
    stream = tiny_session.stream(PROMPT, max_tokens=20)
    pieces = list(stream)
    assert stream.result is not None
    assert "".join(pieces) == stream.result.text
    assert stream.result == tiny_session_result(tiny_session, stream.result)


@pytest.mark.parametrize("chat", [True, False])
def test_an_encoded_prompt_gives_the_answer_of_its_text(tiny_session, chat):
    tokens = tuple(tiny_session.encode_prompt(PROMPT, chat=chat))
    encoded = tiny_session.generate(EncodedPrompt(tokens), max_tokens=8)
    plain = tiny_session.generate(PROMPT, max_tokens=8, chat=chat)
    assert (encoded.token_ids, encoded.prompt_tokens) == (plain.token_ids, len(tokens))


@pytest.mark.parametrize("count", [0, 100_000])
def test_an_encoded_prompt_must_fit_too(tiny_session, count):
    with pytest.raises(UsageError, match=r"^the prompt (is empty|has 100000 tokens)"):
        tiny_session.generate(EncodedPrompt((1,) * count))


def tiny_session_result(session, result):
    """The same generation again, with the times of the first."""
    import attrs

    again = session.generate(PROMPT, max_tokens=20)
    assert again.cached_tokens > 0
    return attrs.evolve(
        again,
        ttft=result.ttft,
        decode_seconds=result.decode_seconds,
        cached_tokens=result.cached_tokens,
    )


def test_prefill_equals_token_by_token(tiny_session):
    tokens = tiny_session.encode_prompt(PROMPT)
    whole = tiny_session.logits(tokens)
    tiny_session.forget()
    single = np.stack([tiny_session.feed([token]) for token in tokens])
    assert np.array_equal(whole, single)


def test_threads_change_no_bit(tiny_bundle):
    tokens = list(range(3, 60))
    one = open_tiny(tiny_bundle, threads=1).logits(tokens)
    assert np.array_equal(one, open_tiny(tiny_bundle).logits(tokens))


def test_cached_prefix_changes_no_bit(tiny_session):
    tiny_session.generate("tell me a tale of the sun", max_tokens=5)
    warm = tiny_session.generate(PROMPT, max_tokens=12)
    assert warm.cached_tokens > 5
    tiny_session.forget()
    cold = tiny_session.generate(PROMPT, max_tokens=12)
    assert cold.cached_tokens == 0
    assert warm.token_ids == cold.token_ids


def test_cache_grows_beyond_its_first_capacity(tiny_session):
    tokens = (np.arange(250) % 200 + 3).tolist()
    whole = tiny_session.logits(tokens)
    tiny_session.forget()
    for start in range(0, 250, 37):
        last = tiny_session.feed(tokens[start : start + 37])
    assert np.array_equal(whole[-1], last)


def test_seed_repeats_and_differs(tiny_session):
    def sample(seed):
        settings = SamplingSettings(temperature=50.0, seed=seed)
        return tiny_session.generate(PROMPT, max_tokens=16, sampling=settings).token_ids

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_repetition_penalty_sees_the_prompt(tiny_session):
    settings = SamplingSettings(repetition_penalty=1e6)
    result = tiny_session.generate(PROMPT, max_tokens=30, sampling=settings)
    assert len(set(result.token_ids)) == len(result.token_ids)


def test_finish_reasons(tiny_session, tiny_bundle):
    assert tiny_session.generate(PROMPT, max_tokens=3).finish_reason == "length"
    text = tiny_session.generate(PROMPT, max_tokens=30).text
    stop = text[5:8]
    cut = tiny_session.generate(PROMPT, max_tokens=30, stop=[stop])
    assert (cut.finish_reason, cut.text) == ("stop", text[: text.index(stop)])
    short = open_tiny(tiny_bundle, context_length=60)
    result = short.generate(PROMPT, max_tokens=200)
    assert result.finish_reason == "context"
    assert result.prompt_tokens + len(result.token_ids) == 60


def test_scores_are_sums_of_log_probabilities(tiny_session):
    prefix, texts = "the sea is", [" deep", " blue and wide", " red"]
    scores = tiny_session.score(prefix, texts)
    for text, score in zip(texts, scores, strict=True):
        begin = len(tiny_session.tokenizer.encode_prompt(prefix))
        tokens = tiny_session.tokenizer.encode_prompt(prefix + text)
        table = log_softmax(tiny_session.logits(tokens))
        steps = [table[i - 1, tokens[i]] for i in range(begin, len(tokens))]
        assert score.tokens == len(steps)
        assert score.log_likelihood == pytest.approx(sum(steps), rel=1e-6)
    likeliest = tiny_session.generate(prefix, max_tokens=3, chat=False)
    assert tiny_session.score(prefix, [likeliest.text])[0].greedy


def test_perplexity_is_that_of_all_tokens(tiny_session):
    text = "the sea is deep and the sea is blue"
    tokens = tiny_session.tokenizer.encode_prompt(text)
    table = log_softmax(tiny_session.logits(tokens))
    loss = -np.mean([table[i - 1, tokens[i]] for i in range(1, len(tokens))])
    result = tiny_session.perplexity(text)
    assert result.perplexity == pytest.approx(np.exp(loss), rel=1e-6)
    assert result.tokens == len(tokens) - 1
    size = len(text.encode()) - 1
    assert result.bits_per_byte == pytest.approx(loss * result.tokens / np.log(2) / size, rel=1e-6)


def test_perplexity_windows_score_each_token_once(tiny_session):
    text = "the sea is deep and the sea is blue " * 3
    tokens = tiny_session.tokenizer.encode_prompt(text)
    loss = 0.0
    scored = 1
    for start in range(0, len(tokens), 8):
        piece = tokens[start : start + 24]
        table = log_softmax(tiny_session.logits(piece))
        for i in range(max(1, scored - start), len(piece)):
            loss -= table[i - 1, piece[i]]
            scored = start + i + 1
    result = tiny_session.perplexity(text, window=24, stride=8)
    assert result.tokens == scored - 1 == len(tokens) - 1
    assert result.perplexity == pytest.approx(np.exp(loss / result.tokens), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.generate(""), "the prompt is empty"),
        (lambda s: s.generate("  \n"), "the prompt is empty"),
        (lambda s: s.generate([]), "at least one message"),
        (lambda s: s.generate("a " * 400), "the context holds 256"),
        (lambda s: s.generate("hi", max_tokens=0), "max_tokens must be at least 1, not 0"),
        (lambda s: s.generate("hi", chat=False, system="x"), "needs the chat template"),
        (lambda s: s.logits([]), "no tokens"),
        (lambda s: s.logits([270]), "token id 270 is outside the vocabulary of 270"),
        (lambda s: s.logits([-1]), "token id -1 is outside"),
        (lambda s: s.feed([1] * 257), "257 tokens do not fit the model's context of 256"),
        (lambda s: s.score("a", [""]), "continuation is empty"),
        (lambda s: s.perplexity("a"), "at least 2 tokens"),
        (lambda s: s.perplexity("a b c", window=8, stride=8), "stride"),
        (lambda s: s.generate([{"role": "robot", "content": "x"}]), "unknown role 'robot'"),
    ],
)
def test_mistakes_are_one_sentence(tiny_session, call, message):
    with pytest.raises(UsageError, match=message):
        call(tiny_session)


def test_a_batch_scores_as_each_alone(tiny_session):
    requests = [
        ("the sea is", [" deep", " blue and wide", " red"]),
        ("tell me a tale", [" of the sun"]),
        ("the sea is deep and", [" blue", " the sea"]),
    ]
    together = tiny_session.score_batch(requests)
    assert together == [tiny_session.score(prefix, texts) for prefix, texts in requests]


def test_scoring_leaves_the_own_text_alone(tiny_session):
    tokens = tiny_session.encode_prompt(PROMPT)
    expected = tiny_session.logits([*tokens, 7])[-1]
    tiny_session.forget()
    tiny_session.feed(tokens)
    tiny_session.score("the sea is", [" deep", " blue"])
    tiny_session.generate_batch(["tell me a tale", "the sea"], max_tokens=4)
    assert np.array_equal(tiny_session.feed([7]), expected)


def test_a_fork_goes_its_own_way(tiny_session):
    tokens = tiny_session.encode_prompt(PROMPT)
    tiny_session.feed(tokens)
    other = tiny_session.fork()
    mine = np.stack([tiny_session.feed([token]) for token in (5, 6, 7)])
    theirs = np.stack([other.feed([token]) for token in (8, 9)])
    assert np.array_equal(mine, tiny_session.logits([*tokens, 5, 6, 7])[-3:])
    assert np.array_equal(theirs, tiny_session.logits([*tokens, 8, 9])[-2:])


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_answers_side_by_side_are_those_of_each_alone(tiny_session, at_once):
    prompts = [PROMPT, "the sea", "tell me a tale of the sun and the sea and the sun", "a", "b c"]
    alone = [tiny_session.generate(prompt, max_tokens=9) for prompt in prompts]
    found = tiny_session.generate_batch(prompts, max_tokens=9, at_once=at_once)
    assert [a.token_ids for a in found] == [a.token_ids for a in alone]
    assert [a.text for a in found] == [a.text for a in alone]
    assert [a.finish_reason for a in found] == [a.finish_reason for a in alone]


def test_answers_side_by_side_that_fill_the_context(tiny_bundle):
    short = open_tiny(tiny_bundle, context_length=60)
    found = short.generate_batch([PROMPT, PROMPT + " and"], max_tokens=200)
    assert [a.finish_reason for a in found] == ["context", "context"]
    assert found[0].token_ids == short.generate(PROMPT, max_tokens=200).token_ids


@pytest.mark.parametrize("drafted", [1, 4, 16])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_prompt_lookup_changes_no_token(tiny_session, drafted, temperature):
    sampling = SamplingSettings(temperature=temperature, seed=3)
    prompt = "the sea the sea the sun the sea the sea the sun"
    plain = tiny_session.generate(prompt, max_tokens=60, sampling=sampling)
    tiny_session.forget()
    quick = tiny_session.generate(prompt, max_tokens=60, sampling=sampling, prompt_lookup=drafted)
    assert (quick.token_ids, quick.text) == (plain.token_ids, plain.text)
    assert quick.finish_reason == plain.finish_reason
    assert plain.drafted_tokens == 0
    if temperature == 0.0:
        # A random model soon repeats itself, which is easy to foresee.
        assert 0 < quick.accepted_tokens <= quick.drafted_tokens
    # The cache holds the text itself, and no guess that was wrong.
    whole = [*tiny_session.encode_prompt(prompt), *quick.token_ids]
    again = tiny_session.feed([5])
    cached = len(whole) - (1 if quick.finish_reason == "length" else 0)
    assert np.array_equal(again, tiny_session.logits([*whole[:cached], 5])[-1])


@pytest.mark.parametrize("drafted", [-1, 65])
def test_prompt_lookup_has_limits(tiny_session, drafted):
    with pytest.raises(UsageError, match=f"from 0 to 64 tokens, not {drafted}"):
        tiny_session.generate(PROMPT, prompt_lookup=drafted)
