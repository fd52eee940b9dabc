"""SCAR from fitting to weights, on a tiny model."""

import shutil

import attrs
import numpy as np
import pytest
import torch

from gem_scar.fit import fit_set
from gem_scar.fitted import fitted_path, read_fitted
from gem_scar.hidden_states import FirstLayers
from gem_scar.router import ScarRouter
from gemcore.errors import UsageError
from gemcore.experts.expert_set import read_set

NAMES = ("code", "law", "medicine")


@pytest.fixture
def fitted(host, folder, examples_of, small):
    """A set's folder with a fitted router in it."""
    fit_set(read_set(folder), examples_of(NAMES), small)
    return folder


def weights_of(router, tiny, text):
    """Mean weights of the experts on an unseen text, and its prior."""
    net = FirstLayers(tiny, 1)
    after = next(net.states([net.tokens(text)], (1,)))[1]
    prior = router.prior_network().module(after)
    module = router.layer_module(1)
    found = module(net.norm(after).detach(), prior.expand(len(after), -1))
    return found.mean(0).detach(), prior.detach()


def test_unseen_texts_get_their_experts(fitted, tiny, text):
    router = ScarRouter(experts=str(fitted))
    assert router.layer_module(0) is None
    for i, label in enumerate(NAMES):
        weights, prior = weights_of(router, tiny, text(label, 1000))
        assert int(prior.argmax()) == i
        assert int(weights.argmax()) == i
        assert weights.sum() <= 1.0001
        assert weights[i] > 0.5


def test_general_examples_get_none(host, folder, tiny, text, examples_of, small):
    fit_set(read_set(folder), examples_of((*NAMES, "none")), small)
    weights, prior = weights_of(ScarRouter(experts=str(folder)), tiny, text("none", 1000))
    assert prior.sum() < 0.5
    assert weights.sum() < 0.3


def test_the_same_seed_gives_the_same_file(fitted, examples_of, small):
    before = fitted_path(fitted, "scar").read_bytes()
    fit_set(read_set(fitted), examples_of(NAMES), small)
    assert fitted_path(fitted, "scar").read_bytes() == before
    fit_set(read_set(fitted), examples_of(NAMES), attrs.evolve(small, seed=1))
    assert fitted_path(fitted, "scar").read_bytes() != before


def test_options_replace_what_was_fitted(fitted):
    router = ScarRouter(experts=str(fitted), tau=0.25, max_experts=1, hard=True, prior="none")
    settings = router.layer_module(1).settings
    assert (settings.tau, settings.max_experts, settings.hard) == (0.25, 1, True)
    assert settings.top_p == ScarRouter(experts=str(fitted)).layer_module(1).settings.top_p
    assert router.prior_network() is None


def test_the_content_depends_on_experts_and_file(fitted, examples_of, small):
    before = ScarRouter(experts=str(fitted)).content()
    assert before == ScarRouter(experts=str(fitted)).content()
    fit_set(read_set(fitted), examples_of(NAMES), attrs.evolve(small, seed=1))
    assert ScarRouter(experts=str(fitted)).content() != before


def test_a_new_expert_gets_keys_and_the_others_keep_their_bits(
    host, folder, tiny, text, examples_of, small
):
    whole = read_set(folder)
    rest = folder.parent / "rest"
    rest.mkdir()
    for name in ("code", "medicine"):
        (folder / name).rename(rest / name)
    fit_set(read_set(rest), examples_of(("code", "medicine")), small)
    before = read_fitted(rest, "scar")
    (folder / "law").rename(rest / "law")
    with pytest.raises(UsageError, match="'law' has joined"):
        ScarRouter(experts=str(rest)).layer_module(1)
    texts = [text("law", i) for i in range(8)]
    ScarRouter().extend(rest, "law", texts)
    after = read_fitted(rest, "scar")
    assert after.experts == whole.names
    count = len(before.tensors["keys"])
    assert np.array_equal(after.tensors["keys"][:count], before.tensors["keys"])
    assert np.array_equal(after.tensors["query"], before.tensors["query"])
    assert np.array_equal(after.tensors["values"][:count, [0, 2]], before.tensors["values"])
    assert not after.tensors["values"][:count, 1].any()
    assert np.array_equal(after.tensors["prior.weight"][:-1], before.tensors["prior.weight"])
    owners = before.tensors["prior.owners"]
    assert np.array_equal(after.tensors["prior.owners"][:-1, [0, 2]], owners)
    assert after.tensors["prior.owners"][:, 1].tolist() == [0] * len(owners) + [1]
    router = ScarRouter(experts=str(rest))
    for i, label in enumerate(NAMES):
        assert int(weights_of(router, tiny, text(label, 1000))[0].argmax()) == i
    first = fitted_path(rest, "scar").read_bytes()
    ScarRouter().extend(rest, "law", texts)
    assert fitted_path(rest, "scar").read_bytes() == first


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("code", "law"), "expert 'medicine' has 0 example texts"),
        ((*NAMES, "lawn"), "unknown expert 'lawn': did you mean 'law'?"),
    ],
)
def test_wrong_examples_are_refused(host, folder, labels, said, examples_of, small):
    found = [attrs.evolve(e, text="x") for e in examples_of(("code",), 2)]
    found = [attrs.evolve(e, label=label) for label in labels for e in found]
    with pytest.raises(UsageError) as error:
        fit_set(read_set(folder), found, small)
    assert said in str(error.value)


def test_a_layer_that_is_not_there_is_refused(host, folder, examples_of, small):
    with pytest.raises(UsageError, match="layer 2 cannot route: model 'tiny' has layers 0 to 1"):
        fit_set(read_set(folder), examples_of(NAMES), attrs.evolve(small, layer=2))


def test_texts_read_together_are_read_alone(tiny, text):
    net = FirstLayers(tiny, 1)
    texts = [net.tokens(text("law", i, 20 + i)) for i in range(4)]
    together = [state[1] for state in net.states(texts, (0, 1))]
    for tokens, state in zip(texts, together, strict=True):
        alone = next(net.states([tokens], (1,)))[1]
        torch.testing.assert_close(state, alone)


def test_an_expert_that_has_gone_is_forgotten_and_the_others_keep_their_bits(fitted, tiny, text):
    before = read_fitted(fitted, "scar")
    shutil.rmtree(fitted / "code")
    router = ScarRouter(experts=str(fitted))
    with pytest.raises(UsageError, match="'code' has gone"):
        router.experts()
    router.forget(fitted, "code")
    after = read_fitted(fitted, "scar")
    assert after.experts == ("law", "medicine")
    kept = before.tensors["values"][:, 0] == 0
    assert np.array_equal(after.tensors["keys"], before.tensors["keys"][kept])
    assert np.array_equal(after.tensors["values"], before.tensors["values"][kept][:, 1:])
    others = before.tensors["prior.owners"][:, 0] == 0
    assert np.array_equal(after.tensors["prior.weight"], before.tensors["prior.weight"][others])
    assert after.tensors["prior.owners"].shape == (others.sum(), 2)
    assert after.settings == before.settings
    weights, prior = weights_of(ScarRouter(experts=str(fitted)), tiny, text("law", 1000))
    assert int(prior.argmax()) == int(weights.argmax()) == 0
