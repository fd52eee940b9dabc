"""Experts and their router, which count in a budget and have no choice."""

import attrs
import pytest

from gem_hybrid.beside import beside_weights, set_bytes
from gemcore.build import bundle_key
from gemcore.errors import UsageError
from gemcore.testing import tiny_checkpoint, tiny_config, write_tiny_set


@pytest.fixture
def experts(tiny, tmp_path, host):
    """The folder of a set with a router's file, and the bytes of both."""
    folder = tmp_path / "set"
    found = write_tiny_set(folder, tiny, ("code", "law"))
    (folder / "router.small.safetensors").write_bytes(bytes(100))
    (folder / "router.scar.safetensors").write_bytes(bytes(1000))
    return str(folder), found.bytes + 1000


def test_each_expert_and_the_largest_router_have_a_line(tiny, experts):
    folder, size = experts
    found = beside_weights(tiny, folder)
    assert [entry.unit for entry in found] == ["experts.code", "experts.law", "router.scar"]
    assert sum(entry.bytes for entry in found) == set_bytes(folder) == size
    assert {entry.scheme for entry in found} == {"f16", "as fitted"}


def test_a_set_without_a_router_has_none(tiny, tmp_path, host):
    write_tiny_set(tmp_path / "set", tiny, ("code",))
    (found,) = beside_weights(tiny, str(tmp_path / "set"))
    assert found.unit == "experts.code"


def test_a_budget_is_shared_with_them(tiny, make, experts):
    folder, size = experts
    options = {"rounding": "nearest"}
    alone = make(budget="60000", **options).plan(tiny)
    shared = make(budget=str(60_000 + size), experts=folder, **options).plan(tiny)
    assert shared.entries == alone.entries
    assert sum(entry.bytes for entry in shared.beside) == size
    with pytest.raises(
        UsageError, match=f"allows 1000 bytes, but the experts .* take {size}: allow"
    ):
        make(budget="1kB", experts=folder, **options).plan(tiny)
    with pytest.raises(
        UsageError, match=f"less {size} of experts and their router, allows 9 bytes"
    ):
        make(budget=str(size + 9), experts=folder, **options).plan(tiny)


def test_bits_a_weight_do_not_pay_for_them(tiny, make, experts):
    plan = make(bits=6, rounding="nearest", experts=experts[0]).plan(tiny)
    assert plan.entries == make(bits=6, rounding="nearest").plan(tiny).entries
    assert plan.beside


def test_experts_of_another_model_are_refused(make, experts):
    other = tiny_checkpoint(tiny_config(hidden_size=96))
    with pytest.raises(UsageError, match="is for base model"):
        make(bits=6, experts=experts[0]).plan(other)


def test_another_set_makes_another_bundle(tiny, make, experts, tiny_parts):
    key = {
        bundle_key("model", attrs.evolve(tiny_parts, quantizer=made))
        for made in (make(budget="60000"), make(budget="60000", experts=experts[0]))
    }
    assert len(key) == 2
    with pytest.raises(UsageError, match="give a plan or experts, not both"):
        make(plan="x.toml", experts=experts[0])
