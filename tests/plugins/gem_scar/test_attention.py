"""Cluster attention against a NumPy version that sorts."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gem_scar.attention import LEAST_SHARE, ClusterAttention, ScarSettings, kept_by_mass, rank_of

HIDDEN, WIDTH, EXPERTS = 24, 6, 3


def module(settings, seed=0, general=2):
    generator = torch.Generator().manual_seed(seed)
    owners = [0, 0, 1, 1, 2, 2] + [EXPERTS] * general
    values = torch.eye(EXPERTS + 1)[owners][:, :EXPERTS]
    query = torch.randn(WIDTH, HIDDEN, generator=generator) / HIDDEN**0.5
    keys = torch.randn(len(owners), WIDTH, generator=generator)
    return ClusterAttention(query, keys, values, settings)


def tokens(count=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randn(count, HIDDEN, generator=generator)
    prior = (
        torch.rand(count, EXPERTS, generator=generator) / EXPERTS
    )  # sums on both sides of a half
    prior[::3] = 0  # no opinion
    return hidden, prior


def scar(net, hidden, prior):
    """SCAR in float64 NumPy, token by token, with sorts and branches."""
    s = net.settings
    query, keys, values = (t.double().numpy() for t in (net.query.T, net.keys.T, net.values))
    result = np.zeros((len(hidden), values.shape[1]))
    for t in range(len(hidden)):
        q = query @ hidden[t].double().numpy()
        scores = [-np.sum((q - k) ** 2) / 2 for k in keys]
        if s.radius is not None:
            scores.append(-(s.radius**2) / 2)
        scores = np.array(scores) / s.temperature
        p = prior[t].double().numpy()
        if p.sum() > 0:
            for c, row in enumerate(values):
                share = p[row.argmax()] if row.any() else 1 - p.sum()
                scores[c] += s.prior_weight * np.log(max(share, 1e-6))
        mass = np.exp(scores - scores.max())
        mass /= mass.sum()
        shares = [*(mass @ values), mass[~values.any(1)].sum()]
        if 0 < p.sum() < 0.5:
            continue
        entropy = -sum(max(x, 1e-6) * np.log(max(x, 1e-6)) for x in shares) / np.log(len(shares))
        if entropy > s.tau:
            continue
        total = general = 0.0
        for c in sorted(range(len(mass)), key=lambda c: (-mass[c], c)):
            if total >= s.top_p:
                break
            total += mass[c]
            result[t] += mass[c] * values[c]
            general += mass[c] * (not values[c].any())
        order = sorted(range(EXPERTS), key=lambda e: (-result[t, e], e))
        result[t, order[1 if s.hard else s.max_experts :]] = 0
        if s.hard:
            result[t] = result[t] > max(general, 1e-6)
    return result


@pytest.mark.parametrize(
    "settings",
    [
        ScarSettings(tau=1.0),
        ScarSettings(tau=1.0, max_experts=1, top_p=0.5),
        ScarSettings(tau=1.0, max_experts=3, top_p=1.0, temperature=2.0),
        ScarSettings(tau=0.5, radius=2.5, prior_weight=0.3),
        ScarSettings(tau=0.7, radius=4.0, hard=True),
    ],
)
def test_it_is_the_sorted_version(settings):
    net = module(settings)
    hidden, prior = tokens()
    weights = net(hidden, prior)
    expected = scar(net, hidden, prior)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.detach().numpy(), expected, atol=1e-5)
    assert expected.any()


def test_rows_are_shares():
    net = module(ScarSettings(tau=1.0, top_p=1.0, max_experts=3), general=0)
    hidden, prior = tokens()
    weights = net(hidden, prior)
    assert (weights >= 0).all()
    total = prior.sum(-1)
    asked = (total == 0) | (total >= LEAST_SHARE)
    assert asked.any()
    assert not asked.all()
    torch.testing.assert_close(weights.sum(-1), asked.float())


def test_the_gate_gives_exact_zeros():
    net = module(ScarSettings(tau=0.0))
    assert not net(*tokens()).any()


def test_a_far_token_takes_the_general_path():
    net = module(ScarSettings(tau=1.0, radius=3.0))
    hidden, prior = tokens()
    assert net(hidden, 0 * prior).any()
    assert not net(1000 * hidden, 0 * prior).any()


def test_a_prior_moves_tokens_to_its_expert():
    net = module(ScarSettings(tau=1.0))
    hidden, _ = tokens()
    prior = torch.zeros(len(hidden), EXPERTS)
    prior[:, 1] = 1.0
    weights = net(hidden, prior)
    assert (weights[:, [0, 2]] < 1e-3).all()
    assert (weights[:, 1] > 0.5).all()


def test_a_prior_of_zeros_is_no_opinion():
    net = module(ScarSettings(tau=1.0, prior_weight=0.0))
    hidden, prior = tokens()
    sure = prior / prior.sum(-1, keepdim=True).clamp(min=1e-6)
    assert torch.equal(net(hidden, sure), net(hidden, 0 * prior))


def test_a_prior_for_the_general_path_turns_experts_off():
    net = module(ScarSettings(tau=1.0, prior_weight=0.0, hard=True))
    hidden, _ = tokens()
    prior = torch.zeros(len(hidden), EXPERTS)
    prior[:, 1] = LEAST_SHARE - 0.01
    assert not net(hidden, prior).any()
    prior[:, 2] = 0.02
    assert net(hidden, prior).any()


def test_hard_experts_need_more_mass_than_the_general_path():
    net = module(ScarSettings(tau=1.0, hard=True, radius=2.5))
    hidden, prior = tokens()
    mass = net.mass(hidden, 0 * prior)
    experts = mass @ net.values
    general = 1 - experts.sum(-1)
    weights = net(hidden, 0 * prior)
    assert 0 < weights.sum() < len(hidden)
    assert (experts.amax(-1) > general)[weights.any(-1)].all()


def test_tokens_are_independent():
    net = module(ScarSettings(tau=0.6, radius=4.0))
    hidden, prior = tokens()
    alone = torch.cat([net(hidden[i : i + 1], prior[i : i + 1]) for i in range(len(hidden))])
    torch.testing.assert_close(net(hidden, prior), alone)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=9).filter(any),
    st.floats(0.01, 1.0),
)
def test_the_kept_set_is_the_smallest(counts, top_p):
    mass = torch.tensor([counts], dtype=torch.float32)
    mass = mass / mass.sum()
    kept = kept_by_mass(mass, top_p)[0] > 0
    values = mass[0].double().numpy()
    total = values[kept.numpy()].sum()
    assert total >= top_p - 1e-5
    sizes = [
        len(chosen)
        for n in range(1, len(counts) + 1)
        for chosen in itertools.combinations(values, n)
        if sum(chosen) >= top_p + 1e-5
    ]
    if sizes:
        assert int(kept.sum()) <= min(sizes)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_ranks_are_those_of_a_stable_sort(values):
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    expected = [order.index(i) for i in range(len(values))]
    assert rank_of(torch.tensor([values], dtype=torch.float32))[0].tolist() == expected


def test_it_exports_for_any_number_of_tokens():
    net = module(ScarSettings(tau=0.7, radius=4.0))
    hidden, prior = tokens()
    count = torch.export.Dim("tokens", min=1, max=512)
    exported = torch.export.export(
        net, (hidden, prior), dynamic_shapes={"hidden": {0: count}, "prior": {0: count}}
    )
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not any("sort" in name or "topk" in name or "item" in name for name in names)
    ours = exported.module()
    for n in (1, 7, 40):
        assert torch.equal(ours(hidden[:n], prior[:n]), net(hidden[:n], prior[:n]))
