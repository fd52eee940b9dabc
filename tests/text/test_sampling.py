"""Samplers, against the logits processors of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gemcore.errors import GemError, UsageError
from gemcore.text.sampling import Sampler, SamplingSettings, keep_top_k, keep_top_p

# Logits that differ clearly, so that no two tokens are equally likely: the order of equals is open.
LOGITS = hnp.arrays(
    np.float32,
    st.integers(2, 60),
    elements=st.integers(-400, 400).map(lambda value: value / 16),
    unique=True,
)


def reference(logits: np.ndarray, recent: list[int], settings: SamplingSettings) -> np.ndarray:
    """Probabilities `[vocabulary]` by transformers, in the order of its `generate`."""
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process

    steps: list[Any] = []
    if settings.repetition_penalty != 1.0:
        penalty = settings.repetition_penalty
        steps.append(logits_process.RepetitionPenaltyLogitsProcessor(penalty))
    if settings.temperature != 1.0:
        steps.append(logits_process.TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        steps.append(logits_process.TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        steps.append(logits_process.TopPLogitsWarper(settings.top_p))
    if settings.min_p > 0.0:
        steps.append(logits_process.MinPLogitsWarper(settings.min_p))
    ids = torch.tensor([recent], dtype=torch.long)
    scores = torch.from_numpy(logits.copy())[None]
    for step in steps:
        scores = step(ids, scores)
    return torch.softmax(scores.double(), dim=-1)[0].numpy()


def only_penalty(penalty: float) -> SamplingSettings:
    return SamplingSettings(temperature=1.0, repetition_penalty=penalty)


def dense(sampler: Sampler, logits: np.ndarray, recent: list[int]) -> np.ndarray:
    ids, probabilities = sampler.distribution(logits, recent)
    found = np.zeros(logits.size)
    found[ids] = probabilities
    return found


@given(
    logits=LOGITS,
    recent=st.lists(st.integers(0, 59), max_size=10),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 20, 100]),
    top_p=st.sampled_from([1.0, 0.95, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.1, 1.0]),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
)
def test_distribution_equals_transformers(
    logits: np.ndarray,
    recent: list[int],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
) -> None:
    recent = [token for token in recent if token < logits.size]
    settings = SamplingSettings(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
    )
    sampler = Sampler(settings)
    # The penalty may make two logits equal; which one a filter drops then is open.
    assume(np.unique(reference(logits, recent, only_penalty(penalty))).size == logits.size)
    expected = reference(logits, recent, settings)
    np.testing.assert_allclose(dense(sampler, logits, recent), expected, rtol=2e-4, atol=1e-9)


@given(LOGITS, st.integers(1, 60))
def test_top_k_keeps_the_highest(logits: np.ndarray, k: int) -> None:
    expected = sorted(np.argsort(-logits, kind="stable")[:k])
    assert keep_top_k(logits, k).tolist() == expected


def test_top_k_keeps_all_that_equal_the_last() -> None:
    assert keep_top_k(np.array([1, 2, 2, 3, 0], np.float32), 2).tolist() == [1, 2, 3]


@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p_is_the_smallest_set_that_reaches_p(logits: np.ndarray, top_p: float) -> None:
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    kept = probabilities[keep_top_p(probabilities, top_p)]
    dropped = probabilities[~keep_top_p(probabilities, top_p)]
    assert kept.size
    assert kept.min() >= dropped.max(initial=0.0)
    assert kept.sum() >= top_p - 1e-9
    assert kept.sum() - kept.min() <= top_p + 1e-9


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=1.0, seed=7),
        SamplingSettings(temperature=1.5, top_k=12, seed=8),
        SamplingSettings(temperature=0.9, top_p=0.8, min_p=0.03, seed=9),
    ],
)
def test_samples_follow_the_distribution(settings: SamplingSettings) -> None:
    logits = np.random.default_rng(3).normal(0, 1.2, 30).astype(np.float32)
    expected = reference(logits, [], settings) * 20_000
    sampler = Sampler(settings)
    counts = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=30)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    # Wilson-Hilferty: the cube root of chi-square / freedom is nearly normal; 4 standard errors.
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * np.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square < limit


@given(LOGITS)
def test_temperature_0_takes_the_highest(logits: np.ndarray) -> None:
    assert Sampler(SamplingSettings()).sample(logits) == int(np.argsort(-logits)[0])


def test_temperature_0_takes_the_lowest_id_of_equals() -> None:
    assert Sampler(SamplingSettings()).sample(np.array([0, 5, 1, 5], np.float32)) == 1


@given(LOGITS)
def test_the_smallest_temperature_takes_the_highest_too(logits: np.ndarray) -> None:
    tiny = Sampler(SamplingSettings(temperature=5e-324, seed=0))
    assert tiny.sample(logits) == int(np.argmax(logits))


def test_the_penalty_changes_the_greedy_choice() -> None:
    sampler = Sampler(SamplingSettings(repetition_penalty=2.0))
    logits = np.array([3.0, 2.0, -1.0], np.float32)
    assert sampler.looks_back
    assert sampler.sample(logits, []) == 0
    # Penalized once, however often the token was there.
    assert sampler.sample(logits, [0, 0]) == 1
    negative = np.array([-1.0, -1.5], np.float32)
    assert sampler.sample(negative, [0]) == 1
    assert logits.tolist() == [3.0, 2.0, -1.0]


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    for settings in (
        SamplingSettings(temperature=1.0, seed=1),
        SamplingSettings(temperature=1.0, top_k=3, top_p=0.99, seed=1),
    ):
        sampler = Sampler(settings)
        assert {sampler.sample(logits) for _ in range(200)} == {1, 3}


def test_a_seed_repeats_the_draws() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingSettings(temperature=1.0, seed=seed))
        return [sampler.sample(logits) for _ in range(20)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
    assert draws(None) != draws(None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_one_sentence(bad: float, temperature: float) -> None:
    sampler = Sampler(SamplingSettings(temperature=temperature))
    with pytest.raises(GemError, match=f"the model gave {bad} as the logit of token 2"):
        sampler.sample(np.array([1.0, 2.0, bad], np.float32))


def test_logits_of_another_shape_are_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"logits of shape \[1, 3\] must be \[vocabulary\]"):
        Sampler(SamplingSettings()).sample(np.zeros((1, 3), np.float32))


def test_recent_ids_out_of_range_are_one_sentence() -> None:
    sampler = Sampler(SamplingSettings(repetition_penalty=1.1))
    with pytest.raises(UsageError, match="run from 1 to 3, but there are 3 logits"):
        sampler.sample(np.zeros(3, np.float32), [1, 3])


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("temperature", -0.1, "a number of at least 0"),
        ("temperature", float("nan"), "a number of at least 0"),
        ("temperature", "hot", "a number of at least 0"),
        ("temperature", True, "a number of at least 0"),
        ("top_k", -1, "a whole number of at least 0"),
        ("top_k", 1.5, "a whole number of at least 0"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.1, "above 0 and at most 1"),
        ("min_p", -0.1, "from 0 to 1"),
        ("min_p", 1.01, "from 0 to 1"),
        ("repetition_penalty", 0, "a number above 0"),
        ("repetition_penalty", float("inf"), "a number above 0"),
        ("seed", -1, "a whole number of at least 0"),
        ("seed", 0.5, "a whole number of at least 0"),
    ],
)
def test_bad_settings_are_one_sentence(name: str, value: Any, rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingSettings(**{name: value})
    assert str(caught.value) == f"{name} must be {rule}, not {value!r}"


def test_the_likeliest_token_needs_no_random_numbers(monkeypatch):
    def refuse(seed):
        raise AssertionError("random numbers were asked for")

    logits = np.array([0.0, 2.0, 1.0], np.float32)
    drawing = Sampler(SamplingSettings(temperature=1.0))
    monkeypatch.setattr(np.random, "default_rng", refuse)
    assert Sampler(SamplingSettings()).sample(logits) == 1
    with pytest.raises(AssertionError, match="asked for"):
        drawing.sample(logits)
