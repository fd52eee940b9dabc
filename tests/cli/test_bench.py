"""`gem bench` and its profile, as text and as JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gemcore.cli.bench import bench, profile_tables
from gemcore.profile import KernelProfile, PhaseProfile, Profile
from gemcore.runtime.traffic import Traffic


@pytest.fixture
def run(tiny_bundle, monkeypatch):
    monkeypatch.setattr("gemcore.runtime.bandwidth.BYTES", 2**20)
    monkeypatch.setattr("gemcore.runtime.bandwidth.largest_cache", lambda: 0)
    small = ["--prompt-tokens", "9", "--new-tokens", "4", "--repetitions", "2", "--threads", "1"]

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(
            bench, ["--bundle", str(tiny_bundle.folder), *small, *arguments], catch_exceptions=False
        )
        assert done.exit_code == 0
        return done.stdout

    return invoke


def test_profile_as_json(run):
    values = json.loads(run("--profile", "--json"))
    found = values["profile"]
    assert found["threads"] == values["threads"] == 1
    assert found["prefill"]["tokens"] == 9
    decode = found["decode"]
    assert decode["microseconds"] == pytest.approx(1e6 / values["decode_tokens_per_s"])
    rate = decode["memory_bytes"] * values["decode_tokens_per_s"]
    assert decode["memory_gb_per_s"] == pytest.approx(rate / 1e9)
    assert decode["limit_share"] == pytest.approx(rate / 1e9 / found["bandwidth_limit_gb_per_s"])
    assert {kernel["name"] for kernel in decode["kernels"]} >= {"attention", "rope_append"}


def test_without_profile_there_is_none(run):
    assert "profile" not in json.loads(run("--json"))
    assert "GMAC" not in run()


def test_profile_as_text(run):
    text = run("--profile")
    assert "memory gives" in text
    assert "prefill, a prompt of 9 tokens" in text
    assert "decode, one token" in text
    assert "attention" in text


def test_the_table_shows_the_numbers():
    product = KernelProfile(
        name="qlinear_64_64",
        calls=2,
        microseconds=30.0,
        traffic=Traffic(read=4e5, written=1e3, memory=3e5, multiply_accumulates=6e6),
    )
    rounding = KernelProfile(
        name="quantize_64", calls=1, microseconds=10.0, traffic=Traffic(read=256, written=80)
    )
    phase = PhaseProfile(
        tokens=1,
        kernels=(product, rounding),
        machine_calls=7,
        machine_microseconds=2.5,
        instrumented_microseconds=61.0,
        microseconds=50.0,
    )
    both = Profile(bandwidth_limit=20e9, threads=2, prefill=phase, decode=phase)
    lines = profile_tables(both)
    assert lines[1] == "memory gives 20.0 GB/s to 2 threads"
    decode = lines[lines.index("", 3) + 1 :]
    assert len({len(line) for line in decode[:3]}) == 1
    assert decode[1].split() == [
        "qlinear_64_64", "2", "30.0", "75.0%", "0.400", "0.001", "0.300", "10.0", "50.0%", "200.0",
    ]  # fmt: skip
    assert decode[2].split()[-3:] == ["-", "-", "-"]
    assert decode[3].split()[:5] == ["all", "kernels", "3", "40.0", "100.0%"]
    assert "takes 50.0 us, 20.0% of it in no kernel" in decode[4]
    assert "61.0 us" in decode[5]
    # 0.3 MB in 50 us.
    assert decode[6].endswith(
        "0.300 MB a token, at 20000.0 tokens/s 6.0 GB/s, 30.0% of what memory gives"
    )
