"""A routed model from its router to answers: built, opened, and asked with several priors."""

from __future__ import annotations

import ctypes

import attrs
import numpy as np
import pytest
import torch

from gem_suite.engines import CompiledEngine, answer_prompts, score_pairs
from gemcore.api import open_session
from gemcore.build import bundle_key, compile_bundle
from gemcore.errors import UsageError
from gemcore.models.eager import EagerModel
from gemcore.models.routed import routed_weights
from gemcore.models.weights import pack_checkpoint
from gemcore.routing import EarlyPrior, routing_of
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.experts import write_tiny_set
from gemcore.testing.routed import MeanPrior, SignRouter

TEXT = [5, 9, 30, 44, 7, 61, 8, 90, 12]
PAIRS = [((5, 9, 30), (44, 7)), ((5, 9, 30), (61,)), ((8, 90, 12, 7), (33, 2)), ((5, 9), (30, 8))]


@attrs.frozen(eq=False)
class Listening:
    """A router that does as the prior says, where a channel of the hidden state is positive."""

    set: object
    network: EarlyPrior | None = None

    def prior(self, prompt):
        return None

    def experts(self):
        return self.set

    def layer_module(self, layer):
        return SignRouter() if layer == 1 else None

    def prior_network(self):
        return self.network

    def content(self):
        return self.set.digest


@pytest.fixture(scope="module")
def experts(tiny, tmp_path_factory):
    return write_tiny_set(tmp_path_factory.mktemp("experts"), tiny, scale=1.0)


@pytest.fixture(scope="module")
def network():
    prior = MeanPrior(64, 3)
    torch.nn.init.normal_(prior.scores, std=3.0, generator=torch.Generator().manual_seed(0))
    return EarlyPrior(layers=1, module=prior, longest=4)


def parts_with(tiny_parts, router):
    return attrs.evolve(tiny_parts, router=router, names=tiny_parts.names | {"router": "listening"})


@pytest.fixture(scope="module")
def told(tiny, tiny_parts, experts, tmp_path_factory):
    """A session whose prior only the caller knows."""
    folder = tmp_path_factory.mktemp("told") / "told.gem"
    compile_bundle(tiny, parts_with(tiny_parts, Listening(experts)), folder)
    return open_session(folder, threads=1)


@pytest.fixture(scope="module")
def routed(tiny, tiny_parts, experts, network, tmp_path_factory):
    """A session with a prior of the model's own."""
    folder = tmp_path_factory.mktemp("routed") / "routed.gem"
    compile_bundle(tiny, parts_with(tiny_parts, Listening(experts, network)), folder)
    return open_session(folder, threads=1)


@pytest.fixture(scope="module")
def eager(tiny, tiny_parts, experts, network):
    router = Listening(experts)
    routing = routing_of(router, "listening", tiny)
    plan = tiny_parts.quantizer.plan(tiny)
    packed, _ = pack_checkpoint(tiny, plan)
    weights = routed_weights(packed, routing.shape(), experts.stacked(), routing.modules)
    return EagerModel(
        tiny, plan.schemes(), weights, router=routing.modules, experts=routing.shape()
    )


def test_the_bundle_says_what_is_in_it(told, routed) -> None:
    assert told.bundle.manifest.experts == ("code", "law", "medicine")
    assert (told.bundle.manifest.prior_tokens, routed.bundle.manifest.prior_tokens) == (0, 4)


def test_without_a_prior_the_base_model_answers(told, tiny_session) -> None:
    assert np.array_equal(told.logits(TEXT), tiny_session.logits(TEXT))


def test_tokens_can_be_fed_before_anything_is_asked(told, tiny_session) -> None:
    fresh = open_session(told.bundle.folder, threads=1)
    tiny_session.forget()
    assert np.array_equal(fresh.feed(TEXT), tiny_session.feed(TEXT))


def test_a_given_prior_is_used_and_kept_through_the_answer(told, eager, tiny_session) -> None:
    prior = {"law": 0.75, "code": 0.25}
    told.forget()
    result = told.generate("once upon", max_tokens=5, chat=False, prior=prior)
    ids = told.encode_prompt("once upon", chat=False)
    for token in result.token_ids:
        assert token == eager.logits(ids, [0.25, 0.75, 0.0])[-1].argmax()
        ids.append(token)
    # The same prompt with another prior must not go on with what was read under the first.
    plain = told.generate("once upon", max_tokens=5, chat=False)
    assert plain.cached_tokens == 0
    assert told.generate("once upon", max_tokens=5, chat=False).cached_tokens == len(ids) - 6
    expected = tiny_session.generate("once upon", max_tokens=5, chat=False)
    assert plain.token_ids == expected.token_ids


def test_the_prior_comes_from_the_first_tokens(routed, eager) -> None:
    prior = routed.prior_of(TEXT)
    assert prior.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(prior, routed.prior_of(TEXT[:4]))
    assert not np.array_equal(prior, routed.prior_of(TEXT[1:]))
    assert np.array_equal(routed.logits(TEXT), eager.logits(TEXT, prior))


def test_asking_for_the_prior_leaves_the_model_its_threads(routed) -> None:
    fresh = open_session(routed.bundle.folder, threads=2)
    library = ctypes.CDLL(str(fresh.bundle.folder / "model.so"))

    def pool() -> int | None:
        return ctypes.c_void_p.in_dll(library, "__TVMBackendParallelLaunch").value

    own = pool()
    assert fresh.prior_of(TEXT) is not None
    assert pool() == own
    fresh.routes(TEXT)
    assert pool() == own


def test_scores_are_those_of_each_context_alone(routed, eager) -> None:
    engine = CompiledEngine(routed)
    found = [score.log_likelihood for score in score_pairs(engine, PAIRS)]
    assert found == [score.log_likelihood for score in routed.score_tokens(PAIRS)]
    for (context, continuation), value in zip(PAIRS, found, strict=True):
        rows = eager.logits([*context, *continuation], routed.prior_of(context)).astype(float)
        rows = rows[len(context) - 1 : -1]
        logs = rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)
        expected = sum(logs[i, token] for i, token in enumerate(continuation))
        assert value == pytest.approx(expected, abs=1e-5)


def test_answers_in_the_suite_are_those_of_a_session(routed) -> None:
    engine = CompiledEngine(routed)
    prompts = [tuple(routed.encode_prompt(text, chat=False)) for text in ("one two", "a cat sat")]
    answers = answer_prompts(engine, prompts, [(7,), ()], max_tokens=4, stop=[])
    batch = routed.generate_batch(["one two", "a cat sat"], max_tokens=4, chat=False)
    assert [text for text, _ in answers] == [result.text for result in batch]
    assert answers[0][1] == routed.score_tokens([(prompts[0], (7,))])[0].log_likelihood


def test_an_unknown_expert_is_named(told) -> None:
    with pytest.raises(UsageError, match="unknown expert 'lawyer'"):
        told.generate("once", prior={"lawyer": 1.0})


def test_experts_of_another_base_are_refused(tiny_parts, experts, tmp_path) -> None:
    other = tiny_checkpoint(tiny_config(context_length=256), seed=9)
    with pytest.raises(UsageError, match="base"):
        compile_bundle(other, parts_with(tiny_parts, Listening(experts)), tmp_path / "x.gem")
    assert not (tmp_path / "x.gem").exists()


def test_other_experts_make_another_bundle(tiny, tiny_parts, experts, tmp_path) -> None:
    others = write_tiny_set(tmp_path, tiny, names=("code", "law"))
    keys = {
        bundle_key(tiny.identity, parts_with(tiny_parts, Listening(chosen)))
        for chosen in (experts, others, experts)
    }
    assert len(keys) == 2
