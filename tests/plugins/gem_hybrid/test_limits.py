"""Limits as users type them."""

import pytest

from gem_hybrid.limits import CHOICES, Limit, read_bytes, read_limit, read_schemes
from gemcore.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("80MB", 80_000_000), ("1.5kB", 1500), ("2 GiB", 2 << 30), ("123", 123), ("7 b", 7)],
)
def test_sizes(text, size):
    assert read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "3XB", "1e3", "three", "1,5MB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is no size: write a number of bytes"):
        read_bytes(text)


def test_bits_count_all_weights():
    assert read_limit(None, 4.5, None, 1000) == Limit(bytes=562, words="bits=4.5")
    assert read_limit("1MB", None, None, 1) == Limit(bytes=10**6, words="budget=1MB")
    assert read_limit(None, None, 0.02, 1) == Limit(kl=0.02, words="max_kl=0.02")
    assert read_limit(None, None, None, 1) is None


def test_only_one_limit():
    with pytest.raises(
        UsageError, match="one of budget, bits, max_kl and latency, not budget and bits"
    ):
        read_limit("1MB", 4.0, None, 1)


def test_schemes():
    assert read_schemes(None) == CHOICES
    assert read_schemes(" q8-g32  f16 q8-g32") == ("q8-g32", "f16")
    with pytest.raises(UsageError, match="unknown scheme 'q9': "):
        read_schemes("q9")
    with pytest.raises(UsageError, match="'schemes' is empty"):
        read_schemes(" ")
