"""The default model, compiled, against its own eager definition and against float32."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import gemcore
from gem_host.processor import LEVELS, missing_flags
from gemcore.api import build_parts
from gemcore.formats.gguf import load_gguf
from gemcore.models.eager import EagerModel
from gemcore.models.weights import pack_checkpoint
from gemcore.perplexity import measure
from gemcore.plugins import get_host
from gemcore.recipe import Recipe

pytestmark = pytest.mark.model

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain photosynthesis to a child.",
    "def fibonacci(n):",
    "List three fruits.",
    "Was ist der Unterschied zwischen Wetter und Klima?",
    "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?",
    "Summarize the plot of Cinderella.",
    "What is 12 times 12?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Write an email that declines a meeting.",
    "Name the planets of the solar system.",
    "What does a compiler do?",
    "Tell me a joke about cats.",
    "How do I tie a bow tie?",
    "¿Cuál es la capital de Perú?",
    "Describe a sunset in one sentence.",
    "What are prime numbers? 🤔",
)


@pytest.fixture(scope="module")
def checkpoint(default_model_path):
    return load_gguf(default_model_path, name="smollm2-135m")


@pytest.fixture(scope="module")
def session(default_model_path):
    return gemcore.load("smollm2-135m")


@pytest.fixture(scope="module")
def eager(checkpoint):
    quantizer = build_parts(Recipe(), get_host()).quantizer
    plan = quantizer.plan(checkpoint)
    weights, report = pack_checkpoint(checkpoint, plan)
    assert (report.lossless, report.bytes_after) == (121, report.bytes_before)
    return EagerModel(checkpoint, plan.schemes(), weights)


@pytest.fixture(scope="module")
def wikitext():
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "benchmarks"
    path = Path(os.environ.get("GEM_DATA", default)) / "domain_adaptive/wikitext2/test.jsonl"
    if not path.is_file():
        pytest.skip(f"the text of wikitext2 is not at {path}: set GEM_DATA")
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_repacked_weights_are_those_of_the_file(checkpoint, eager):
    """q4a-g32 and q8-g32 hold exactly what the file's Q4_1 and Q8_0 blocks hold."""
    from gemcore.models.layout import weight_units
    from gemcore.models.weights import float_unit
    from gemcore.packing import unpack_weight
    from gemcore.schemes import get_scheme

    state = dict(eager.decoder.named_parameters())
    for unit in weight_units(checkpoint.config):
        scheme = get_scheme("q8-g32" if unit.name == "embedding" else "q4a-g32")
        packed = state[f"{unit.name}.packed"].numpy()
        values = unpack_weight(packed, scheme, unit.shape[0])
        assert np.array_equal(values, float_unit(checkpoint, unit)), unit.name


def check_prompt(session, eager, prompt, new_tokens):
    """The compiled answer is the eager model's own, and so is every logit of it."""
    tokens = session.encode_prompt(prompt)
    result = session.generate(prompt, max_tokens=new_tokens)
    whole = [*tokens, *result.token_ids]
    expected = eager.logits(whole)
    assert np.array_equal(session.logits(whole), expected)
    steps = expected.argmax(1)[len(tokens) - 1 : -1]
    assert list(result.token_ids) == steps.tolist()


def test_greedy_answer_and_logits_are_the_eager_ones(session, eager):
    check_prompt(session, eager, PROMPTS[0], 24)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_twenty_greedy_answers_are_the_eager_ones(session, eager, prompt):
    check_prompt(session, eager, prompt, 64)


@pytest.mark.slow
@pytest.mark.parametrize("level", [level.name for level in LEVELS if not missing_flags(level)])
def test_every_instruction_set_gives_the_same_bits(session, level):
    other = gemcore.load("smollm2-135m", target=f"host:instructions={level}")
    tokens = session.encode_prompt(PROMPTS[1])
    assert np.array_equal(session.logits(tokens), other.logits(tokens))


def test_answer_is_paris(session):
    answer = session.generate(PROMPTS[0], system="You are a helpful assistant.", max_tokens=20)
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"


def compare_perplexity(session, checkpoint, texts):
    compiled = session.perplexity(texts)
    reference = measure(texts, session.tokenizer, EagerModel(checkpoint).logits)
    assert compiled.tokens == reference.tokens
    assert compiled.perplexity == pytest.approx(reference.perplexity, rel=0.005)


def test_perplexity_is_that_of_float32(session, checkpoint, wikitext):
    compare_perplexity(session, checkpoint, wikitext[:2])


@pytest.mark.slow
def test_perplexity_of_the_whole_text_is_that_of_float32(session, checkpoint, wikitext):
    compare_perplexity(session, checkpoint, wikitext)
