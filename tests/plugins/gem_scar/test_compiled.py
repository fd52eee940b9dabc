"""SCAR in a compiled decoder: the shares that its eager version gives."""

import numpy as np
import pytest
import torch

from gem_host.processor import choose_level
from gem_scar.attention import ClusterAttention, ScarSettings
from gem_scar.prior import PooledClassifier, SourceClassifier
from gem_scar.train import NEVER
from gemcore.compiler import instructions
from gemcore.compiler.build import build_library
from gemcore.compiler.export import export_decoder
from gemcore.compiler.lower import lower
from gemcore.models.decoder import Decoder, causal_placement, load_weights, new_caches
from gemcore.models.layout import weight_units
from gemcore.models.routed import routed_weights
from gemcore.models.weights import pack_checkpoint
from gemcore.reports import Plan, PlanEntry
from gemcore.routing import EarlyPrior
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.schemes import get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.testing.routed import fill_routing, tiny_experts

EXPERTS, TOKENS = 3, 21


class Routed:
    """A tiny routed decoder whose second layer routes by SCAR: eager, and compiled."""

    def __init__(self, folder) -> None:
        self.config = tiny_config(layers=3, context_length=128)
        generator = torch.Generator().manual_seed(0)
        owners = [0, 0, 1, 1, 2, 2, 3]
        self.router = ClusterAttention(
            torch.randn(16, 64, generator=generator) / 8,
            torch.randn(7, 16, generator=generator),
            torch.eye(EXPERTS + 1)[owners][:, :EXPERTS],
            ScarSettings(tau=0.98, radius=6.0, top_p=0.8, temperature=3.0),
        )
        self.prior = PooledClassifier(
            SourceClassifier(
                torch.randn(5, 128, generator=generator) / 4,
                torch.tensor([0.1, 0.0, -0.1, 0.2, NEVER]),
                torch.eye(EXPERTS + 1)[[0, 1, 1, 3, 2]][:, :EXPERTS],
                torch.tensor([-0.8, -0.6, -0.7, -0.5, 0.0]),
                temperature=2.0,
            )
        )
        routers, experts = [None, self.router, None], tiny_experts(self.config)
        names = [unit.name for unit in weight_units(self.config)]
        schemes = dict.fromkeys(names, get_scheme("q8-g32").name)
        entries = [PlanEntry(unit=n, scheme=s, reason="", bytes=0) for n, s in schemes.items()]
        plan = Plan(quantizer="test", entries=tuple(entries))
        base, _ = pack_checkpoint(tiny_checkpoint(self.config), plan)
        self.decoder = Decoder(self.config, schemes, router=routers, experts=experts).eval()
        deltas = {n: w for n, w in fill_routing(self.decoder).items() if ".router." not in n}
        weights = routed_weights(base, experts, deltas, routers, self.prior)
        load_weights(self.decoder, {n: w for n, w in weights.items() if not n.startswith("prior.")})
        early = EarlyPrior(layers=1, module=self.prior)
        exported = export_decoder(
            self.config, schemes, router=routers, experts=experts, prior=early
        )
        level = choose_level("auto")
        isa = getattr(instructions, level.kernels)
        library = folder / "model.so"
        build_library(lower(exported, self.config, isa), level.target, library)
        self.executor = NativeExecutor(library, [weights[name] for name in exported.weights], 1)


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    return Routed(tmp_path_factory.mktemp("routed"))


def inputs(config):
    tokens = np.random.default_rng(1).integers(config.vocabulary_size, size=TOKENS, dtype=np.int32)
    return tokens, causal_placement(0, TOKENS)


def test_logits_are_those_of_the_eager_decoder(routed):
    tokens, placement = inputs(routed.config)
    prior = torch.zeros(TOKENS, EXPERTS)
    prior[::2] = torch.tensor([0.1, 0.6, 0.2])
    seen = []
    watching = routed.router.register_forward_hook(lambda *passed: seen.append(passed[-1]))
    every = torch.arange(TOKENS, dtype=torch.int32)
    with torch.no_grad():
        expected = routed.decoder(
            torch.from_numpy(tokens), placement, every, new_caches(routed.config, 64), prior
        ).numpy()
    watching.remove()
    # Tokens with two experts, with one, and with none.
    assert set((seen[0] > 0).sum(-1).tolist()) == {0, 1, 2}
    found = routed.executor.forward(
        tokens, placement.numpy(), every.numpy(), KVCache(routed.config, 64), prior.numpy()
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_early_prior_is_that_of_the_eager_module(routed):
    tokens, placement = inputs(routed.config)
    with torch.no_grad():
        states = routed.decoder.hidden(
            torch.from_numpy(tokens), placement, new_caches(routed.config, 64), layers=1
        )
        expected = routed.prior(states).numpy()
    found = routed.executor.prior(tokens, placement.numpy(), KVCache(routed.config, 64))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < expected.sum() < 1
