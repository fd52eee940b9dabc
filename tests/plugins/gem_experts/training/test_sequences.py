from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_experts.training.data import Example
from gem_experts.training.sequences import (
    Mixture,
    TokenText,
    encode_example,
    encode_text,
    make_pass,
    pack,
    usable,
)
from gemcore.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer.from_text_data(tiny.text)


def token_text(length, first=0):
    tokens = np.arange(first, first + length + 1, dtype=np.int32)
    return TokenText(tokens=tokens, weights=np.ones(length, np.float32), bytes=length)


def test_answers_count_more_than_prompts(tokenizer):
    example = Example(source="s", prompt="Is it?", answer=" Yes")
    (found,) = encode_example(tokenizer, example, 100, 0.25)
    assert tokenizer.decode(found.tokens) == "Is it? Yes"
    # Of the prompt one token fewer is foreseen, for nothing stands before the first.
    prompt, whole = (len(tokenizer.encode_prompt(text)) for text in ("Is it?", "Is it? Yes"))
    assert found.weights.tolist() == [0.25] * (prompt - 1) + [1.0] * (whole - prompt)
    assert found.bytes == 10


def test_long_questions_lose_their_beginning(tokenizer):
    example = Example(source="s", prompt="abcdefghij", answer=" xyz")
    (found,) = encode_example(tokenizer, example, 6, 0.5)
    assert tokenizer.decode(found.tokens) == "hij xyz"
    assert found.weights.tolist() == [0.5, 0.5, 1, 1, 1, 1]
    (found,) = encode_example(tokenizer, Example(source="s", prompt="a", answer=" tuvwxyz"), 4)
    assert found.length == 4
    assert found.weights.tolist() == [1] * 4


@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), longest=st.integers(1, 20)
)
def test_every_token_of_a_text_is_foreseen_once(tokenizer, text, longest):
    found = encode_text(tokenizer, text, longest)
    assert all(piece.length <= longest for piece in found)
    foreseen = np.concatenate([piece.tokens[1:] for piece in found])
    assert foreseen.tolist() == tokenizer.encode(text, special=False)
    assert sum(piece.bytes for piece in found) == len(text.encode())
    assert found[0].tokens[0] == tokenizer.token_id("<|endoftext|>")


@given(st.lists(st.integers(1, 50), max_size=60))
def test_passes_hold_every_text_once_and_no_more_than_fit(lengths):
    texts = [token_text(length, first=n) for n, length in enumerate(lengths)]
    packed = pack(texts, 50)
    assert all(sum(text.length for text in chosen) <= 50 for chosen in packed)
    assert sorted(map(id, texts)) == sorted(id(text) for chosen in packed for text in chosen)
    total = sum(lengths)
    # First fit leaves at most one pass half empty, as long as all passes stay open.
    if len(packed) <= 16:
        assert len(packed) <= 2 * -(-total // 50) + 1


def test_a_pass_places_each_text_for_itself():
    first, second = token_text(3, 10), token_text(2, 20)
    second = TokenText(tokens=second.tokens, weights=np.array([0, 0.5], np.float32), bytes=7)
    made = make_pass([first, second])
    assert made.tokens.tolist() == [10, 11, 12, 20, 21]
    assert made.placement.tolist() == [
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [2, 2, 0, 0, 0],
        [0, 3, 0, 0, 3],
        [1, 4, 0, 0, 3],
    ]
    assert made.rows.tolist() == [0, 1, 2, 4]
    assert made.targets.tolist() == [11, 12, 13, 22]
    assert made.weights.tolist() == [1, 1, 1, 0.5]
    assert made.texts.tolist() == [0, 0, 0, 1]
    assert made.bytes == 10


def mixture(**changes):
    texts = tuple(token_text(10, 100 * n) for n in range(6))
    questions = tuple(token_text(5, 10000 + 100 * n) for n in range(60))
    return Mixture(
        **{"texts": texts, "questions": questions, "batch_tokens": 25, "seed": 3, **changes}
    )


def flat(passes):
    return [made.tokens.tolist() for made in passes]


def test_epochs_are_repeatable_and_differ():
    assert flat(mixture().epoch(0)) == flat(mixture().epoch(0))
    assert flat(mixture().epoch(0)) != flat(mixture().epoch(1))
    assert flat(mixture().epoch(0)) != flat(mixture(seed=4).epoch(0))


@pytest.mark.parametrize(("share", "questions"), [(0.5, 12), (0.75, 4), (1.0, 0)])
def test_the_share_of_plain_text(share, questions):
    tokens = np.concatenate([made.tokens for made in mixture(text_share=share).epoch(0)])
    assert (tokens < 10000).sum() == 60
    assert (tokens >= 10000).sum() == 5 * questions


def test_one_kind_alone_is_taken_whole():
    assert sum(made.tokens.size for made in mixture(texts=()).epoch(0)) == 300
    assert sum(made.tokens.size for made in mixture(questions=()).epoch(0)) == 60
    assert sum(made.tokens.size for made in mixture(text_share=0).epoch(0)) == 300


def test_skipped_passes_are_those_that_came_first():
    whole, rest = mixture().passes(), mixture().passes(skip=7)
    first = [next(whole).tokens.tolist() for _ in range(20)]
    assert first[7:] == [next(rest).tokens.tolist() for _ in range(13)]


def test_what_is_too_short_is_left_out():
    single = TokenText(tokens=np.zeros(1, np.int32), weights=np.zeros(0, np.float32))
    assert usable([single, token_text(1)])[0].length == 1
