"""How thresholds are chosen, against NumPy."""

import numpy as np
import pytest
import torch

from gem_scar.attention import ScarSettings
from gem_scar.calibrate import (
    Trial,
    calibrate_clusters,
    certainty_thresholds,
    choose_tau,
    likeliest_temperature,
    outcome,
    passes,
    prior_shares,
    source_folds,
    unseen_logits,
)
from gem_scar.gather import Gathered
from gem_scar.train import Clusters, train_prior

TEXTS, TOKENS, SOURCES, EXPERTS = 120, 4, 5, 2
OWNERS = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 0]])


def trial() -> Trial:
    """Texts of five sources whose tokens lie about one key each; the last source is nobody's."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.arange(TEXTS) % SOURCES
    labels = torch.tensor([0, 0, 1, 1, EXPERTS])[sources]
    owners = torch.arange(TEXTS).repeat_interleave(TOKENS)
    keys = 6 * torch.eye(SOURCES)
    states = keys[sources][owners] + torch.randn(len(owners), SOURCES, generator=generator)
    logits = 2 * torch.eye(SOURCES)[sources] + torch.randn(TEXTS, SOURCES, generator=generator)
    return Trial(
        clusters=Clusters(query=torch.eye(SOURCES), keys=keys, values=OWNERS, temperature=2.0),
        data=Gathered(
            states=states,
            owners=owners,
            pooled=torch.zeros(TEXTS, 1),
            labels=labels,
            sources=sources,
        ),
        owners=OWNERS,
        logits=3 * logits,
        thresholds=certainty_thresholds(3 * logits, sources, 0.9),
    )


def odds(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    sure = ((shares / shares.sum(-1, keepdims=True)) ** 2).sum(-1)
    return np.log(sure) - np.log1p(-sure)


@pytest.mark.parametrize("familiar", [0.5, 0.8, 1.0])
def test_the_share_of_texts_of_each_source_that_was_asked_for_is_above_its_threshold(familiar):
    logits, sources = trial().logits, trial().data.sources
    found = certainty_thresholds(logits, sources, familiar)
    expected = odds(logits.double().numpy())
    for source in range(SOURCES):
        own = np.quantile(expected[sources.numpy() == source], 1 - familiar)
        assert found[source] == pytest.approx(own, abs=1e-3)


def test_thresholds_count_by_the_shares_of_their_sources():
    logits = torch.tensor([[9.0, 0, 0], [0, 9, 0], [1, 1, 1]])
    sure = odds(logits.double().numpy())
    thresholds = torch.tensor([sure[0] - 0.1, sure[1] + 0.1, sure[0]]).float()
    assert passes(logits, thresholds).tolist() == [True, False, False]


def test_the_temperature_is_the_likeliest():
    logits, sources = trial().logits, trial().data.sources
    found = likeliest_temperature(logits, sources)

    def loss(temperature):
        return float(torch.nn.functional.cross_entropy(logits / temperature, sources))

    assert loss(found) <= min(loss(t) for t in np.linspace(0.2, 8, 200)) + 1e-4
    assert found > 1.2  # the logits were too sure


def test_no_text_is_judged_by_a_prior_that_was_fitted_on_it():
    points = torch.randn(60, 200, generator=torch.Generator().manual_seed(0))
    sources = torch.arange(60) % 2
    own = points @ (fitted := train_prior(points, sources, 2, 1e-3))[0].T + fitted[1]
    unseen = unseen_logits(points, sources, 2, 1e-3, 5)
    # Noise can be learnt by heart, and not be foreseen.
    assert (own.argmax(-1) == sources).float().mean() > 0.95
    assert (unseen.argmax(-1) == sources).float().mean() < 0.75


def test_tokens_beyond_the_radius_are_as_many_as_may_be():
    tried = trial()
    shares = prior_shares(tried, likeliest_temperature(tried.logits, tried.data.sources))
    settings = calibrate_clusters(tried, shares, ScarSettings(temperature=2.0), 0.9)
    nearest = tried.clusters.distances(tried.data.states).amin(-1).sqrt() * 2**0.5
    assert float((nearest <= settings.radius).float().mean()) == pytest.approx(0.9, abs=0.01)
    assert settings.prior_weight > 0


def test_the_gate_is_where_weights_save_most():
    tried = trial()
    shares = prior_shares(tried, likeliest_temperature(tried.logits, tried.data.sources))
    start = calibrate_clusters(tried, shares, ScarSettings(temperature=2.0), 0.9)
    settings, report = choose_tau(tried, shares, start, 2.0)
    assert report == outcome(tried, shares, settings)
    assert report["right"] > 0.6
    assert report["saved"] - 2 * report["lost"] > report["saved"] * 0.8


def test_each_source_is_left_out_once_if_its_label_has_another():
    data = trial().data
    left = [set(data.sources[fold].tolist()) for fold in source_folds(data, 2)]
    assert sorted(source for fold in left for source in fold) == [0, 1, 2, 3]
