"""A model whose prior an encoder gives: the bundle that holds it, and the sessions that ask it."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gem_suite.engines import CompiledEngine, score_pairs
from gemcore.api import open_session
from gemcore.build import compile_bundle
from gemcore.bundle import ENCODER_TOKENIZER
from gemcore.priors import Priors, TextReader
from gemcore.routing import EncoderPrior
from gemcore.routing_time import time_routing
from gemcore.testing.encoder import LettersPrior, letters_tokenizer
from gemcore.testing.routed import SignRouter
from gemcore.text.encoder_tokenizer import EncoderTokenizer
from gemcore.text.tokenizer import Tokenizer

LONGEST = 12


@attrs.frozen(eq=False)
class Reading:
    """A router with an encoder."""

    set: object
    network: EncoderPrior

    def prior(self, prompt):
        return None

    def experts(self):
        return self.set

    def layer_module(self, layer):
        return SignRouter() if layer == 1 else None

    def prior_network(self):
        return self.network


@pytest.fixture(scope="module")
def network():
    module = LettersPrior(200, 3)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return EncoderPrior(module=module, tokenizer_json=letters_tokenizer(), longest=LONGEST)


@pytest.fixture(scope="module")
def session(tiny, tiny_parts, tiny_experts, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading") / "reading.gem"
    names = tiny_parts.names | {"router": "reading"}
    router = Reading(tiny_experts, network)
    compile_bundle(tiny, attrs.evolve(tiny_parts, router=router, names=names), folder)
    return open_session(folder, threads=1)


@pytest.fixture(scope="module")
def expected(network):
    """The prior of a text by the eager module."""
    tokenizer = EncoderTokenizer(source=letters_tokenizer, longest=LONGEST)

    def prior(text):
        with torch.no_grad():
            return network.module(torch.tensor(tokenizer.encode(text), dtype=torch.int32)).numpy()

    return prior


def test_the_bundle_holds_the_tokenizer(session) -> None:
    manifest = session.bundle.manifest
    assert manifest.prior_tokens == LONGEST
    assert ENCODER_TOKENIZER in manifest.files
    assert {"prior.table", "prior.scores"} < set(manifest.weights)


def test_other_bundles_hold_none(tiny_session) -> None:
    assert ENCODER_TOKENIZER not in tiny_session.bundle.manifest.files
    assert tiny_session.bundle.encoder_tokenizer() is None


@pytest.mark.parametrize(
    "text", ["a", "a void contract", "what makes a contract void? " * 9, "é 漢"]
)
def test_the_prior_is_that_of_the_text(session, expected, text) -> None:
    tokens = session.encode_prompt(text, chat=False)
    found = session.prior_of(tokens)
    np.testing.assert_allclose(found, expected(text), rtol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_control_tokens_are_no_text(session, expected) -> None:
    tokens = session.encode_prompt("hello there")
    assert any(session.tokenizer.decode([i]) == "" for i in tokens)
    text = session.tokenizer.decode(tokens)
    assert "hello there" in text
    np.testing.assert_allclose(session.prior_of(tokens), expected(text), rtol=1e-5)
    assert not np.array_equal(session.prior_of(tokens), expected("hello there"))


def test_it_is_what_an_answer_is_made_with(session) -> None:
    text = "once upon a time"
    tokens = session.encode_prompt(text, chat=False)
    prior = session.prior_of(tokens)
    given = session.generate(text, max_tokens=4, chat=False, prior=prior.tolist())
    session.forget()
    assert session.generate(text, max_tokens=4, chat=False).token_ids == given.token_ids
    assert np.array_equal(session.routes(tokens).prior, prior)
    assert session.fork().prior_of(tokens).tolist() == prior.tolist()


def test_the_suite_asks_it_for_each_context(session) -> None:
    contexts = [session.encode_prompt(text, chat=False) for text in ("a b c", "x y z")]
    pairs = [(tuple(context), (7, 8)) for context in contexts]
    found = [score.log_likelihood for score in score_pairs(CompiledEngine(session), pairs)]
    assert found == [score.log_likelihood for score in session.score_tokens(pairs)]
    priors = [prior.tolist() for prior, _ in session.groups_by_prior(pairs)]
    assert priors == [session.prior_of(context).tolist() for context in contexts]
    assert priors[0] != priors[1]


def test_routing_is_timed_with_it(session) -> None:
    timing = time_routing(session, session.encode_prompt("a b c", chat=False), repetitions=2)
    assert timing.prior_ms > 0


def test_the_encoder_gets_its_own_tokens(tiny) -> None:
    asked = []

    class Echo:
        def prior(self, tokens, placement, cache):
            asked.append((tokens.tolist(), placement[:, 0].tolist()))
            return np.zeros(1, np.float32)

    class Roomy:
        def reserve(self, positions):
            """Every text fits."""

    model = Tokenizer.from_text_data(tiny.text)
    encoder = EncoderTokenizer(source=letters_tokenizer, longest=6)
    reader = TextReader(tokenizer=model, encoder=encoder)
    priors = Priors(experts=("law",), longest=6, executor=Echo(), cache=Roomy(), reader=reader)
    priors.of(model.encode("abcdefgh", special=False))
    assert asked == [(encoder.encode("abcdefgh"), [0, 1, 2, 3, 4, 5])]
