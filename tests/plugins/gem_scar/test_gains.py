"""What experts save on answers, against a model into which each expert was added."""

import math

import attrs
import numpy as np
import pytest
import torch

from gem_scar.calibrate import saving
from gem_scar.gains import answer_gains
from gem_scar.gather import Gathered
from gem_suite.engines_text import encode_pair
from gemcore.experts.expert_set import read_set
from gemcore.models.decoder import Decoder, dense_schemes, load_weights, new_caches
from gemcore.models.weights import dense_weights
from gemcore.text.tokenizer import Tokenizer

PAIRS = [("A cat sat", " on the mat."), ("", "Nobody asked."), ("x = 1; y =", " 2"), ("Only", "")]


def nats(tiny, changed, context, said):
    """The mean loss of an answer, all tokens of one text at once, by plain log-softmax."""
    with torch.device("meta"):
        decoder = Decoder(tiny.config, dense_schemes(tiny.config), float_arithmetic=True)
    load_weights(decoder, {**dense_weights(tiny), **changed})
    ids = [*context, *said]
    slots = np.arange(len(ids))
    nothing = np.zeros_like(slots)
    placement = np.stack([slots, slots, nothing, nothing, nothing], axis=1).astype(np.int32)
    caches = new_caches(tiny.config, 64, torch.float32)
    with torch.no_grad():
        hidden = decoder.hidden(
            torch.tensor(ids, dtype=torch.int32), torch.from_numpy(placement), caches
        )
        shares = torch.log_softmax(decoder.head(decoder.norm(hidden)).double(), -1)
    places = range(len(context) - 1, len(ids) - 1)
    return -sum(float(shares[i, ids[i + 1]]) for i in places) / len(said)


def test_gains_are_those_of_models_with_the_expert_added(tiny, folder):
    experts = read_set(folder)
    seen = []
    found = answer_gains(tiny, experts, PAIRS, 64, lambda *done: seen.append(done))
    assert found.shape == (4, 3)
    assert found[3].tolist() == [0, 0, 0]
    assert seen[-1] == (4, 4)
    tokenizer = Tokenizer.from_text_data(tiny.text)
    dense = dense_weights(tiny)
    for column, expert in enumerate(experts.experts):
        changed = {}
        for unit in expert.card.units:
            down, up = (np.float32(expert.tensors[f"{unit}.{end}"]) for end in ("down", "up"))
            changed[f"{unit}.weight"] = dense[f"{unit}.weight"] + (down @ up).T
        for row, (prompt, answer) in enumerate(PAIRS[:3]):
            pair = encode_pair(tokenizer, prompt, answer)
            expected = nats(tiny, {}, *pair) - nats(tiny, changed, *pair)
            assert float(found[row, column]) == pytest.approx(expected, abs=2e-5)
            assert not math.isclose(expected, 0, abs_tol=1e-5)


@pytest.fixture
def data():
    """Two texts, the second one's own expert being worse for it than the first expert."""
    return Gathered(
        labels=torch.tensor([0, 1]),
        sources=torch.tensor([0, 1]),
        pooled=torch.zeros(2, 4),
        states=torch.zeros(3, 2),
        owners=torch.tensor([0, 1, 1]),
        gains=torch.tensor([[0.5, -1.0], [0.25, -0.25]]),
    )


def test_what_weights_save(data):
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert saving(data, weights).tolist() == [0.5, 0.0, -0.25]
    unmeasured = attrs.evolve(data, gains=None)
    assert saving(unmeasured, weights).tolist() == [1.0, 0.0, 1.0]


def test_use_is_measured_where_it_can_be(data):
    choices, owners = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    assert data.useful(choices, owners).tolist() == [True, True, False]
    assert attrs.evolve(data, gains=None).useful(choices, owners).tolist() == [True, False, True]


def test_a_selection_takes_its_gains_along(data):
    rest = data.of_texts(torch.tensor([False, True]))
    assert rest.gains.tolist() == [[0.25, -0.25]]
    assert attrs.evolve(data, gains=None).of_texts(torch.tensor([True, True])).gains is None
