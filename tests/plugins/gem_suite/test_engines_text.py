"""Token ids by lm-eval's conventions, checked against its functions as published, rewritten here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_suite.engines import CompiledEngine
from gem_suite.engines_text import Encoder, chat_messages, encode_pair, first_token, fit, windows
from gemcore.errors import UsageError
from gemcore.testing.tiny import tiny_checkpoint
from gemcore.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_text_data(tiny_checkpoint().text)
BEGIN = TOKENIZER.token_id("<|endoftext|>")
TEXT = st.text(st.sampled_from("ab \n<|é"), max_size=12)


def lm_eval_pair(context, continuation):
    """`TemplateLM._encode_pair` and the empty context of `loglikelihood`, lm-eval 0.4."""

    def encode(text):
        return TOKENIZER.encode(text, special=False)

    if context == "":
        return [BEGIN], encode(continuation)
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole = encode(context + continuation)
    length = len(encode(context))
    return whole[:length], whole[length:]


def lm_eval_windows(tokens, prefix, max_seq_len, context_len=1):
    """`get_rolling_token_windows` with `make_disjoint_window`, lm-eval 0.4."""

    def disjoint(a, b):
        return a[: len(a) - (len(b) - 1)], b

    if not tokens:
        return
    pred_len = max_seq_len - context_len + 1
    first = min(max_seq_len, len(tokens))
    yield disjoint([prefix, *tokens[: first - 1]], tokens[:first])
    predicted = first
    while predicted < len(tokens):
        count = min(len(tokens) - predicted, pred_len)
        end = predicted + count
        yield disjoint(tokens[end - max_seq_len - 1 : end - 1], tokens[end - count : end])
        predicted += count


@given(context=TEXT, continuation=TEXT.filter(bool))
def test_pairs_are_those_of_lm_eval(context, continuation):
    expected = lm_eval_pair(context, continuation)
    found = encode_pair(TOKENIZER, context, continuation)
    if context and not context.strip():
        # lm-eval would score nothing after nothing; here the text's first token has one before it.
        assert found[0] == (BEGIN,)
        assert list(found[1]) == TOKENIZER.encode(context + continuation, special=False)
    else:
        assert tuple(map(list, found)) == expected


def test_a_pair_always_has_a_context_and_saying_nothing_is_no_token():
    assert encode_pair(TOKENIZER, "", "a") == ((BEGIN,), (TOKENIZER.encode("a", special=False)[0],))
    assert encode_pair(TOKENIZER, "ab", "")[1] == ()
    assert encode_pair(TOKENIZER, "ab ", "")[1] == tuple(TOKENIZER.encode(" ", special=False))


def test_a_continuation_that_melts_into_the_context_keeps_a_token():
    class Melting:
        bos_token = eos_token = None

        def encode_prompt(self, text):
            return [1, 2, 3] if text == "ab" else [1, 2, 9]

    assert encode_pair(Melting(), "ab", "c") == ((1, 2), (9,))


def test_a_tokenizer_without_a_first_token_is_refused():
    with pytest.raises(UsageError, match="no token that begins or ends a text"):
        first_token(Tokenizer.from_json(tiny_checkpoint().text.tokenizer_json))


@given(ids=st.lists(st.integers(3, 9), max_size=40), length=st.integers(1, 12))
def test_windows_are_those_of_lm_eval(ids, length):
    found = list(windows(ids, 1, length))
    assert [(list(a), list(b)) for a, b in found] == list(lm_eval_windows(ids, 1, length))
    assert [token for _, scored in found for token in scored] == ids
    assert all(len(a) + len(b) - 1 <= length for a, b in found)


@given(
    context=st.lists(st.integers(0, 9), min_size=1, max_size=20).map(tuple),
    continuation=st.lists(st.integers(0, 9), max_size=20).map(tuple),
    length=st.integers(1, 25),
)
def test_a_pair_is_cut_from_the_left_as_in_lm_eval(context, continuation, length):
    (kept, scored), was_cut = fit((context, continuation), length)
    whole = context + continuation
    assert was_cut == (len(whole) > length + 1)
    assert kept + scored == whole[-(length + 1) :]
    assert kept
    assert scored == continuation[len(continuation) - min(len(continuation), length) :]


def test_chat_contexts_become_messages_and_continuations_their_answer(tiny_session):
    engine = CompiledEngine(tiny_session)
    encoder = Encoder(engine=engine, chat=True)
    context, continuation = encoder.pair("Say so.\n\nHow?\nAnswer:", " well", "Say so.\n\n", " ")
    messages = [
        {"role": "system", "content": "Say so."},
        {"role": "user", "content": "How?\nAnswer:"},
    ]
    rendered = engine.template.render(messages)
    assert rendered.endswith("<|im_start|>assistant\n")
    assert list(context) == engine.tokenizer.encode(rendered, special=True)
    assert list(continuation) == engine.tokenizer.encode("well", special=False)
    assert encoder.prompt("Say so.\n\nHow?\nAnswer:", "Say so.\n\n", 8) == (context, False)
    assert chat_messages("How?", "") == [{"role": "user", "content": "How?"}]


def test_prompts_are_cut_from_the_left(tiny_session):
    engine = CompiledEngine(tiny_session)
    encoder = Encoder(engine=engine)
    ids = engine.tokenizer.encode_prompt("ab" * 200)
    assert encoder.prompt("ab" * 200, "", 16) == (tuple(ids[-240:]), True)
    assert encoder.prompt("", "", 16) == ((first_token(engine.tokenizer),), False)
