"""Requests of lm-evaluation-harness are answered as the model itself says; nothing of it is needed."""

import itertools
import math

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite import lm_eval_requests
from gem_suite.engines import CompiledEngine
from gem_suite.engines_eager import EagerEngine
from gem_suite.lm_eval_requests import (
    GenerationOptions,
    continuations,
    encode_pairs,
    encode_rendered_pair,
    likelihoods,
    text_likelihoods,
)
from gemcore.errors import UsageError
from gemcore.models.eager import EagerModel
from gemcore.text.sampling import SamplingSettings

TEXTS = [("The cat", " sat"), ("The cat", " ran"), ("", "Nothing before"), ("A dog ", "barked")]


@pytest.fixture(scope="module")
def eager(tiny):
    return EagerEngine(tiny)


@pytest.fixture
def compiled(tiny_session):
    return CompiledEngine(tiny_session)


def log_probabilities(tiny, ids):
    """Of every next token after each of `ids`, by one pass of the model: float64 `[ids, vocabulary]`."""
    rows = EagerModel(tiny).logits(list(ids)).astype(np.float64)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def test_likelihoods_are_those_of_the_model_itself(tiny, eager):
    pairs, cut = encode_pairs(eager, TEXTS)
    assert cut == 0
    found = dict(likelihoods(eager, pairs))
    assert sorted(found) == [0, 1, 2, 3]
    for number, (context, continuation) in enumerate(pairs):
        rows = log_probabilities(tiny, context + continuation)[len(context) - 1 : -1]
        value, greedy = found[number]
        expected = sum(rows[place, token] for place, token in enumerate(continuation))
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == (rows.argmax(axis=1).tolist() == list(continuation))


def test_the_likeliest_continuation_is_called_greedy(tiny, eager):
    context = tuple(eager.tokenizer.encode_prompt("The cat"))
    likeliest = int(EagerModel(tiny).logits(list(context))[-1].argmax())
    others = [(context, (token,)) for token in (likeliest, (likeliest + 1) % 200)]
    found = dict(likelihoods(eager, others))
    assert (found[0][1], found[1][1]) == (True, False)


def test_equal_pairs_are_scored_once_and_all_answered(compiled, monkeypatch):
    asked = []
    score = lm_eval_requests.score_pairs
    monkeypatch.setattr(
        lm_eval_requests,
        "score_pairs",
        lambda engine, pairs: asked.append(list(pairs)) or score(engine, pairs),
    )
    pairs, _ = encode_pairs(compiled, [*TEXTS, *TEXTS, ("Anything", "")])
    found = dict(likelihoods(compiled, pairs))
    assert [len(batch) for batch in asked] == [len(TEXTS)]
    assert [found[number] for number in range(4)] == [found[number] for number in range(4, 8)]
    assert found[8] == (0.0, True)


@pytest.mark.parametrize("limit", ["BATCH_PAIRS", "BATCH_TOKENS"])
def test_batches_change_no_score(compiled, monkeypatch, limit):
    pairs, _ = encode_pairs(compiled, TEXTS)
    together = dict(likelihoods(compiled, pairs))
    monkeypatch.setattr(lm_eval_requests, limit, 1)
    assert dict(likelihoods(compiled, pairs)) == together


def test_what_is_too_long_loses_its_beginning(compiled):
    long = "x" * (compiled.context_length + 50)
    pairs, cut = encode_pairs(compiled, [(long, " end"), ("short", " end")])
    assert cut == 1
    assert len(pairs[0][0] + pairs[0][1]) == compiled.context_length + 1
    assert pairs[0][1] == pairs[1][1]
    found = dict(likelihoods(compiled, pairs))
    assert all(math.isfinite(value) for value, _ in found.values())


def harness_windows(ids, prefix, length):
    """Inputs and predictions of `get_rolling_token_windows` with a context of 1, from its docstring.

    The first window predicts what fits; each later one predicts as many new tokens as fit, after as
    much text as there is room for.
    """
    begin, done = [prefix, *ids], 0
    while done < len(ids):
        end = min(done + length, len(ids))
        inputs = begin[max(0, end - length) : end]
        yield inputs, ids[done:end]
        done = end


@pytest.mark.parametrize("length", [1, 20, 256, 257, 600])
def test_whole_texts_are_scored_in_the_windows_of_the_harness(tiny, eager, length):
    text = ("All happy families are alike; " * 25)[:length]
    ids = eager.tokenizer.encode(text, special=False)
    prefix = eager.tokenizer.token_id(eager.tokenizer.eos_token)
    expected = 0.0
    for inputs, predicted in harness_windows(ids, prefix, eager.context_length):
        rows = log_probabilities(tiny, inputs)[-len(predicted) :]
        expected += sum(rows[place, token] for place, token in enumerate(predicted))
    found = dict(text_likelihoods(eager, ["other", text, ""]))
    assert found[1] == pytest.approx(expected, rel=1e-5)
    assert found[2] == 0.0


def test_answers_are_those_of_the_model_itself(tiny, eager):
    model = EagerModel(tiny)
    prompts = ["once", "once upon", "a time"]
    options = GenerationOptions(max_tokens=6)
    found = dict(continuations(eager, [(prompt, options) for prompt in prompts]))
    for number, prompt in enumerate(prompts):
        ids = eager.tokenizer.encode_prompt(prompt)
        begin = len(ids)
        for _ in range(6):
            ids.append(int(model.logits(ids)[-1].argmax()))
            if ids[-1] in eager.tokenizer.stop_token_ids:
                break
        assert found[number] == eager.tokenizer.decode(ids[begin:])


def test_answers_end_before_a_stop_text_and_keep_their_order(compiled):
    free = GenerationOptions(max_tokens=12)
    whole = dict(continuations(compiled, [("once upon", free)]))[0]
    assert len(whole) > 2
    ended = GenerationOptions(max_tokens=12, stop=(whole[2],))
    short = GenerationOptions(max_tokens=1)
    prompts = [("once upon", options) for options in (ended, free, short, ended)]
    found = dict(continuations(compiled, prompts))
    expected = whole[: whole.index(whole[2])]
    assert [found[number] for number in (0, 1, 3)] == [expected, whole, expected]
    assert len(compiled.tokenizer.encode(found[2], special=False)) <= 1


def test_a_long_prompt_is_cut_where_its_answer_would_not_fit(compiled):
    end = "the very end of it"
    room = compiled.context_length // 2
    long = "y" * compiled.context_length + end
    options = GenerationOptions(max_tokens=compiled.context_length)
    (answer,) = [text for _, text in continuations(compiled, [(long, options)])]
    kept = compiled.tokenizer.decode(compiled.tokenizer.encode_prompt(long)[-room:])
    half = GenerationOptions(max_tokens=room)
    assert dict(continuations(compiled, [(kept, half)])) == {0: answer}


def test_sampled_answers_repeat_with_their_seed_and_differ_between_requests(compiled):
    options = GenerationOptions(max_tokens=12, sampling=SamplingSettings(temperature=50.0))
    prompts = [("once upon", options)] * 3
    first, again, other = (
        [text for _, text in sorted(continuations(compiled, prompts, seed=seed))]
        for seed in (1, 1, 100)
    )
    assert first == again
    assert len(set(first)) == 3
    assert not set(first) & set(other)


def test_control_tokens_of_a_rendered_chat_are_tokens(compiled):
    tokenizer = compiled.tokenizer
    chat = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    context, continuation = encode_rendered_pair(tokenizer, chat, "Hello")
    whole = tokenizer.encode(chat + "Hello", special=True)
    assert [*context, *continuation] == whole
    # As in lm-eval, white space at the end of the context is scored with the continuation.
    assert tokenizer.decode(continuation) == "\nHello"
    assert whole.count(1) == 2
    plain = encode_pairs(compiled, [(chat, "Hello")])[0][0]
    assert 1 not in plain[0]


@pytest.mark.parametrize("continuation", ["Hello", "<|endoftext|>Hello"])
def test_a_rendered_chat_of_nothing_is_the_token_that_begins_a_text(compiled, continuation):
    tokenizer = compiled.tokenizer
    begin = tokenizer.token_id("<|endoftext|>")
    begins = attrs.evolve(tokenizer, bos_token="<|endoftext|>")
    expected = ((begin,), tuple(tokenizer.encode("Hello", special=False)))
    assert encode_rendered_pair(begins, "", continuation) == expected


def test_a_rendered_chat_begins_with_one_token_that_begins_a_text(compiled):
    tokenizer = compiled.tokenizer
    assert tokenizer.add_bos is False
    begins = attrs.evolve(tokenizer, add_bos=True, bos_token="<|im_start|>")
    for text in ("<|im_start|>user\nHi", "Hi"):
        assert lm_eval_requests.encode_rendered(begins, text).count(1) == 1


@given(
    until=st.one_of(st.none(), st.text(max_size=3), st.lists(st.text(max_size=3), max_size=4)),
    name=st.sampled_from(["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"]),
    length=st.integers(1, 4096),
)
def test_lengths_and_stop_texts_are_read(until, name, length):
    options = GenerationOptions.from_harness({"until": until, name: length})
    texts = [until] if isinstance(until, str) else until or []
    assert set(options.stop) == set(texts) - {""}
    assert options.max_tokens == length
    assert options.sampling == SamplingSettings()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.5}, {}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": 0, "top_k": 5}, {}),
        ({"do_sample": True, "top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"do_sample": False, "repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
    ],
)
def test_sampling_is_that_of_the_harness(asked, expected):
    assert GenerationOptions.from_harness(asked).sampling == SamplingSettings(**expected)


def test_the_first_of_several_lengths_counts():
    for names in itertools.permutations(["max_gen_toks", "max_tokens"]):
        given_ = {name: {"max_gen_toks": 3, "max_tokens": 9}[name] for name in names}
        assert GenerationOptions.from_harness(given_).max_tokens == 3
    assert GenerationOptions.from_harness({}).max_tokens == 256


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"num_beams": 4}, "num_beams is 4"),
        ({"until": [3]}, r"until is \[3\]"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0"),
        ({"temperature": -1.0}, "temperature must be"),
    ],
)
def test_settings_that_cannot_be_kept_are_errors(asked, message):
    with pytest.raises(UsageError, match=message):
        GenerationOptions.from_harness(asked)
