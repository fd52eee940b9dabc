"""Which experts worked for which token: the compiled routes against the routers in eager torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.api import open_session
from gemcore.errors import UsageError
from gemcore.models.decoder import ExpertShape, causal_placement, new_caches
from gemcore.models.eager import EagerModel
from gemcore.models.routed import routed_weights
from gemcore.models.weights import pack_checkpoint
from gemcore.routes import Routes, token_pieces
from gemcore.routing_time import time_routing
from gemcore.testing.routed import SignRouter

TEXT = [5, 9, 30, 44, 7, 61, 8, 90, 12]
PRIOR = [0.5, 0.25, 0.125]
EXPERTS = ("code", "law", "medicine")


@pytest.fixture(scope="module")
def session(routed_bundle):
    return open_session(routed_bundle.folder, threads=1)


@pytest.fixture(scope="module")
def eager(tiny, tiny_parts, tiny_experts):
    plan = tiny_parts.quantizer.plan(tiny)
    packed, _ = pack_checkpoint(tiny, plan)
    shape = ExpertShape(
        names=tiny_experts.names, rank=tiny_experts.rank, layers=frozenset(tiny_experts.units)
    )
    routers = [SignRouter(), SignRouter()]
    weights = routed_weights(packed, shape, tiny_experts.stacked(), routers)
    return EagerModel(tiny, plan.schemes(), weights, router=routers, experts=shape)


def said_by_routers(eager, tokens, prior):
    """What the routers return while the eager model reads a text: `[routing layers, tokens, experts]`."""
    said = []

    def note(module, given, result):
        said.append(result.numpy())

    hooks = [layer.router.register_forward_hook(note) for layer in eager.decoder.layers]
    eager.logits(tokens, prior)
    for hook in hooks:
        hook.remove()
    return np.stack(said)


def test_routes_are_what_the_routers_say_while_experts_work(eager, session):
    said = said_by_routers(eager, TEXT, PRIOR)
    found = session.routes(TEXT, PRIOR)
    assert said.shape == (2, len(TEXT), 3)
    assert (said[0] != said[1]).any()
    np.testing.assert_array_equal(found.weights, said.mean(axis=0))
    assert found.weights.dtype == np.float32
    assert found.token_ids == tuple(TEXT)
    assert found.experts == EXPERTS
    assert found.prior.tolist() == PRIOR


def test_the_function_that_is_compiled_says_so_in_torch_too(eager):
    said = said_by_routers(eager, TEXT, PRIOR)
    caches = new_caches(eager.config, 16)
    ids, each = torch.tensor(TEXT, dtype=torch.int32), torch.tensor(PRIOR).expand(len(TEXT), -1)
    with torch.no_grad():
        routes = eager.decoder.routes(ids, causal_placement(0, len(TEXT)), caches, each)
    np.testing.assert_array_equal(routes.numpy(), said)


def test_the_prior_is_the_models_own_unless_one_is_given(eager, session):
    own = session.routes(TEXT)
    np.testing.assert_array_equal(own.prior, session.prior_of(TEXT))
    assert own.prior.any()
    said = said_by_routers(eager, TEXT, own.prior)
    np.testing.assert_array_equal(own.weights, said.mean(axis=0))
    given = session.routes(TEXT, {"law": 1.0})
    assert given.prior.tolist() == [0, 1, 0]
    assert not given.weights[:, [0, 2]].any()


def test_long_texts_are_read_in_passes_beside_the_sessions_own(eager, session):
    text = np.random.default_rng(3).integers(3, 260, 200).tolist()
    session.logits(TEXT)
    before = session.fork().feed([4])
    found = session.routes(text, PRIOR)
    said = said_by_routers(eager, text, PRIOR)
    np.testing.assert_array_equal(found.weights, said.mean(axis=0))
    np.testing.assert_array_equal(session.feed([4]), before)


def test_pieces_are_the_whole_text(session):
    tokenizer = session.tokenizer
    text = "a naïve 🙂 line\nand <|im_end|> more"
    tokens = tokenizer.encode(text, special=True)
    pieces = token_pieces(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens, special=True) == text
    assert pieces[tokens.index(tokenizer.token_id("<|im_end|>"))] == "<|im_end|>"
    # A character of four tokens belongs to its last one; one that never ends is shown as broken.
    assert token_pieces(tokenizer, tokenizer.encode("🙂", special=False)) == ("", "", "", "🙂")
    assert token_pieces(tokenizer, tokenizer.encode("🙂", special=False)[:2]) == ("", "\ufffd")
    assert token_pieces(tokenizer, []) == ()


def some_routes(weights, prior=(0.0, 0.5, 0.25)) -> Routes:
    count = len(weights)
    return Routes(
        token_ids=tuple(range(count)),
        pieces=tuple("abcdefgh"[:count]),
        experts=EXPERTS,
        weights=np.array(weights, np.float32),
        prior=np.array(prior, np.float32),
    )


def test_sums_over_a_text():
    routes = some_routes([[0, 0.5, 0.25], [0, 0, 0], [0, 0.25, 0.5], [0, 0, 0.75]])
    assert routes.strongest.tolist() == [1, -1, 2, 2]
    assert routes.general_share == 0.25
    code, law, medicine = routes.uses()
    assert (code.name, code.prior, code.strongest, code.works, code.weight) == ("code", 0, 0, 0, 0)
    assert (law.strongest, law.works, law.weight) == (1, 2, 0.375)
    assert (medicine.strongest, medicine.works, medicine.weight) == (2, 3, 0.5)


def test_json_is_rounded():
    routes = some_routes([[0.12345, 0, 0], [0, 0, 1]], prior=(1 / 3, 0, 0))
    assert routes.to_json() == {
        "experts": list(EXPERTS),
        "prior": [0.333, 0.0, 0.0],
        "general_share": 0.0,
        "pieces": ["a", "b"],
        "weights": [[0.123, 0.0, 0.0], [0.0, 0.0, 1.0]],
    }


def test_routing_alone_can_be_timed(session):
    found = time_routing(session, TEXT, 2)
    assert found.repetitions == 2
    assert found.prior_ms > found.token_ms > 0
    with pytest.raises(UsageError, match="at least 1 repetition, not 0"):
        time_routing(session, TEXT, 0)


def test_what_cannot_be_routed_is_refused(session, tiny_session):
    with pytest.raises(UsageError, match="router 'none' has no experts"):
        tiny_session.routes(TEXT)
    with pytest.raises(UsageError, match="router 'none' has no experts"):
        time_routing(tiny_session, TEXT, 1)
    with pytest.raises(UsageError, match="no tokens"):
        session.routes([])
    with pytest.raises(UsageError, match="outside the vocabulary"):
        session.routes([270])
    with pytest.raises(UsageError, match="context of 256"):
        session.routes([5] * 257)
    with pytest.raises(UsageError, match="unknown expert 'lav'"):
        session.routes(TEXT, {"lav": 1.0})
