"""The routers that SCAR is compared with."""

import numpy as np
import pytest
import torch

import gem_routers
from gem_routers.arrow import ArrowMixture, ArrowRouter, key
from gem_routers.oracle import OracleRouter
from gem_routers.prompt import LikeliestExpert, PromptRouter
from gem_routers.static import StaticRouter
from gem_routers.xlora import MixingRouter
from gemcore.errors import UsageError
from gemcore.experts.expert_set import read_set
from gemcore.plugins import PluginHost
from gemcore.testing.experts import write_tiny_set

HIDDEN = 64
NAMES = ("static", "prompt", "arrow", "xlora", "oracle")


def inputs(count=9, experts=3):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, HIDDEN, generator=generator)
    prior = torch.rand(count, experts, generator=generator) / experts
    prior[0] = 0
    return hidden, prior


@pytest.fixture
def with_head(folder, fit_head):
    """A set with a fitted head of `xlora`."""
    return fit_head(folder)


@pytest.fixture
def routers(with_head):
    """A router of each kind that can be had without a fitted prior."""
    choice = str(with_head)
    return [
        StaticRouter(experts=choice, expert="law", weight=0.5),
        OracleRouter(experts=choice),
        ArrowRouter(experts=choice, top_k=2),
        MixingRouter(experts=choice),
    ]


def test_every_record_leads_to_a_router():
    host = PluginHost()
    host.add(gem_routers, name="gem_routers")
    assert sorted(record.name for record in host.routers()) == sorted(NAMES)
    for name in NAMES:
        host.create(host.select("router", name))


def test_weights_are_shares_and_tokens_alone_get_the_same(routers):
    hidden, prior = inputs()
    for router in routers:
        module = router.layer_module(0)
        weights = module(hidden, prior).detach()
        assert weights.shape == prior.shape
        assert weights.dtype == torch.float32
        assert (weights >= 0).all()
        assert (weights.sum(-1) <= 1.0001).all()
        alone = torch.cat([module(hidden[[i]], prior[[i]]) for i in range(len(hidden))])
        torch.testing.assert_close(alone.detach(), weights)
        assert router.prior("some text") is None
        assert router.experts().names == ("code", "law", "medicine")


def test_modules_export(routers):
    hidden, prior = inputs()
    count = torch.export.Dim("tokens", min=1, max=512)
    for module in [*(router.layer_module(0) for router in routers), LikeliestExpert(0.3)]:
        exported = torch.export.export(
            module.eval(),
            (hidden, prior),
            dynamic_shapes={"hidden": {0: count}, "prior": {0: count}},
        )
        assert torch.equal(exported.module()(hidden[:4], prior[:4]), module(hidden[:4], prior[:4]))


def test_only_arrow_routes_more_than_once(routers):
    assert [router.layer_module(1) is None for router in routers] == [True, True, False, True]


def test_the_content_follows_the_experts(routers, tiny, tmp_path):
    write_tiny_set(tmp_path / "other", tiny, ("law", "medicine"))
    for router, other in zip(
        routers,
        [
            StaticRouter(experts=str(tmp_path / "other")),
            OracleRouter(experts=str(tmp_path / "other")),
        ],
        strict=False,
    ):
        assert router.content() != other.content()


def test_static_gives_its_expert_its_weight(folder):
    weights = StaticRouter(experts=str(folder), expert="law", weight=0.5).layer_module(0)(*inputs())
    assert weights.unique(dim=0).tolist() == [[0.0, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("expert", "said"), [(None, "static:expert=NAME with one of code, law"), ("lwa", "'law'?")]
)
def test_static_needs_an_expert_that_exists(folder, expert, said):
    with pytest.raises(UsageError) as error:
        StaticRouter(experts=str(folder), expert=expert).layer_module(0)
    assert said in str(error.value)


def test_oracle_does_as_it_is_told(folder):
    hidden, prior = inputs()
    assert torch.equal(OracleRouter(experts=str(folder)).layer_module(0)(hidden, prior), prior)


def test_prompt_takes_the_likeliest_or_none():
    prior = torch.tensor([[0.2, 0.6, 0.1], [0.4, 0.3, 0.2], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    weights = LikeliestExpert(0.5)(torch.zeros(4, HIDDEN), prior)
    assert weights.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert not LikeliestExpert(0.0)(torch.zeros(1, HIDDEN), prior[3:]).any()


def test_prompt_without_a_fitted_prior_says_how_to_fit_one(folder):
    with pytest.raises(UsageError, match="gem experts fit-router --router scar"):
        PromptRouter(experts=str(folder)).prior_network()


def test_arrow_keys_are_what_numpy_says(folder):
    expert = read_set(folder).experts[0]
    unit = "layers.0.attention.qkv"
    down, up = expert.tensors[f"{unit}.down"], expert.tensors[f"{unit}.up"]
    delta = (down.astype(np.float64) @ up.astype(np.float64)).T  # [out, in]
    expected = np.linalg.svd(delta)[2][0]
    found = key(down, up)
    assert abs(abs(found @ expected) - 1) < 1e-9
    assert abs(np.linalg.norm(found) - 1) < 1e-9


def test_arrow_mixes_the_best_by_softmax():
    keys = torch.eye(4)[:3]
    hidden = torch.tensor([[1.0, -3.0, 2.0, 9.0]])
    weights = ArrowMixture(keys, 2, 0.5)(hidden, torch.zeros(1, 3))[0]
    best = np.exp([6.0, 4.0]) / np.exp([6.0, 4.0]).sum()
    np.testing.assert_allclose(weights.numpy(), [0, *best], atol=1e-6)


def test_arrow_needs_deltas_where_it_looks(tiny, tmp_path):
    write_tiny_set(tmp_path / "set", tiny, units=["layers.1.feed_forward.down"])
    with pytest.raises(UsageError, match=r"needs deltas on attention\.qkv"):
        ArrowRouter(experts=str(tmp_path / "set")).layer_module(1)


def test_xlora_without_a_head_says_how_to_fit_one(folder):
    with pytest.raises(UsageError, match="gem experts fit-router --router xlora"):
        MixingRouter(experts=str(folder)).layer_module(0)


def test_xlora_mixes_all(with_head):
    hidden, prior = inputs()
    weights = MixingRouter(experts=str(with_head)).layer_module(0)(hidden, prior)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(hidden)))


def test_options_have_bounds():
    host = PluginHost()
    host.add(gem_routers, name="gem_routers")
    for words in ("static:weight=1.5", "arrow:top_k=0", "prompt:confidence=2"):
        with pytest.raises(UsageError):
            host.select("router", words)
