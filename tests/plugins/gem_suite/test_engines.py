"""The two engines agree, and the one that is chosen is opened."""

import numpy as np
import pytest

from gem_suite.engines import (
    CompiledEngine,
    EngineChoice,
    answer_prompts,
    open_engine,
    score_pairs,
)
from gem_suite.engines_eager import EagerEngine
from gemcore.errors import UsageError
from gemcore.models.eager import EagerModel
from gemcore.perplexity import measure

PAIRS = [((5, 6, 7), (8, 9)), ((5, 6, 7), (10,)), ((5, 6, 11, 12), (13, 14, 15)), ((20,), (21,))]


@pytest.fixture(scope="module")
def eager(tiny):
    return EagerEngine(tiny)


def test_float32_scores_are_those_of_the_model_itself(tiny, eager):
    reference = EagerModel(tiny)
    for (context, continuation), score in zip(PAIRS, score_pairs(eager, PAIRS), strict=True):
        rows = reference.logits([*context, *continuation])[len(context) - 1 : -1].astype(float)
        probabilities = np.exp(rows - rows.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        expected = sum(np.log(probabilities[i, t]) for i, t in enumerate(continuation))
        assert score.log_likelihood == pytest.approx(expected, rel=1e-6, abs=1e-5)
        assert score.greedy == all(probabilities.argmax(axis=1) == np.array(continuation))


def test_compiled_scores_are_near_those_of_float32(eager, tiny_session):
    compiled = CompiledEngine(tiny_session)
    for ours, theirs in zip(score_pairs(compiled, PAIRS), score_pairs(eager, PAIRS), strict=True):
        # Four bits of a random model are far off, but not as far as another token would be.
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=0.2)
        assert ours.tokens == theirs.tokens


def test_float32_answers_token_by_token_as_the_model_itself(tiny, eager):
    model = EagerModel(tiny)
    prompts = [eager.tokenizer.encode_prompt(text) for text in ("once", "once upon", "a time")]
    answers = answer_prompts(eager, prompts, [()] * 3, max_tokens=6, stop=[])
    for prompt, (text, _) in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model.logits(ids)[-1].argmax()))
            if ids[-1] in eager.tokenizer.stop_token_ids:
                break
        assert text == eager.tokenizer.decode(ids[len(prompt) :])


def test_the_cache_of_float32_keeps_what_it_has_when_it_grows(tiny):
    fresh, grown = EagerEngine(tiny), EagerEngine(tiny)
    score_pairs(grown, PAIRS)
    pairs = [(tuple(range(3, 150 + n)), (n + 3,)) for n in range(60)]
    for ours, theirs in zip(score_pairs(fresh, pairs), score_pairs(grown, pairs), strict=True):
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, abs=1e-5)


def test_the_chosen_engine_is_opened(tiny_bundle, tiny_folder):
    compiled = open_engine(EngineChoice(name="compiled", bundle=tiny_bundle.folder), threads=1)
    assert (compiled.exact, compiled.context_length) == (True, 256)
    eager = open_engine(EngineChoice(name="float32", model=str(tiny_folder), context_length=99))
    assert (eager.exact, eager.context_length, eager.slots) == (False, 99, 256)
    assert eager.template.source == compiled.template.source
    with pytest.raises(UsageError, match="unknown engine 'onnx'"):
        open_engine(EngineChoice(name="onnx"))


def test_bits_of_a_text_are_those_of_perplexity_and_of_its_first_token(tiny_session):
    from gem_suite.requests import Request
    from gem_suite.runner_answers import answer_requests

    engine = CompiledEngine(tiny_session)
    text = "once upon a time " * 3
    (answer,) = answer_requests(engine, [Request(kind="text", text=text)])
    ids = engine.tokenizer.encode_prompt(text)
    (first,) = tiny_session.score_tokens([((0,), ids[:1])])
    # `perplexity` does not know the token before the text, so the rest is scored after it here.
    (rest,) = tiny_session.score_tokens([((0, *ids[:1]), ids[1:])])
    expected = first.log_likelihood + rest.log_likelihood
    assert answer.outcome.likelihoods == (pytest.approx(expected, abs=1e-9),)
    assert measure(text, engine.tokenizer, tiny_session.logits).tokens == len(ids) - 1
