"""What the core asks of a target before it uses one, and what it says where the answer is no."""

from __future__ import annotations

import attrs
import pytest

from gemcore.api import build_parts, load
from gemcore.build import compile_bundle
from gemcore.bundle import open_bundle
from gemcore.errors import BundleError, GemError, UsageError
from gemcore.plugins import get_host
from gemcore.recipe import Recipe
from gemcore.records import TargetRecord
from gemcore.reports import (
    DelegatedOperation,
    DelegationReport,
    Readiness,
    delegated,
)
from gemcore.runtime.settings import OpenSettings
from gemcore.targets import (
    check_can_open,
    check_capabilities,
    check_machine,
    check_no_fallback,
    needed_capabilities,
    refuse_fallback,
)

OPERATIONS = (
    DelegatedOperation(operation="qlinear", unit="npu", count=2, multiply_accumulates=90),
    DelegatedOperation(operation="attention", unit="npu", count=1, multiply_accumulates=10),
    DelegatedOperation(operation="add", unit="npu", count=1, multiply_accumulates=0),
)


def report(elsewhere):
    operations = delegated(OPERATIONS, elsewhere)
    return DelegationReport(
        target="my-npu", unit="npu", execution="predicted", operations=operations
    )


def test_work_elsewhere_is_refused_with_its_share_and_reason():
    found = report({"attention": ("cpu", "no softmax"), "add": ("cpu", "small")})
    assert found.share() == 0.9
    with pytest.raises(GemError) as caught:
        refuse_fallback(found)
    assert str(caught.value) == (
        "target 'my-npu' leaves 10.0% of the multiply-accumulates to other units: attention on cpu "
        "(no softmax); drop --require-target to accept that"
    )


def test_work_without_products_may_be_elsewhere():
    refuse_fallback(report({"add": ("cpu", "small")}))


def test_a_report_comes_back_from_json():
    found = attrs.evolve(report({"add": ("cpu", "small")}), unverified=("its speed",))
    assert DelegationReport.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("able", "sentence"),
    [
        (
            {"q8-g32", "cache-f16"},
            "target 'my-npu' has no kernel for the scheme 'q4a-g32' of weight 'head': choose a "
            "quantizer with q8-g32",
        ),
        (
            {"q4a-g32", "cache-q8"},
            "target 'my-npu' has no kernel for kv-cache 'f16': choose one of q8",
        ),
        (
            {"q4a-g32", "cache-f16", "vocabulary-bands"},
            "target 'my-npu' has no kernels for models with a router: choose '--router none'",
        ),
        (
            {"q4a-g32", "cache-f16"},
            "target 'my-npu' has no embedding in bands, as the plan has it: add bands=1 to the quantizer",
        ),
    ],
)
def test_what_a_target_cannot_do_is_named(able, sentence):
    needs = needed_capabilities({"head": "q4a-g32"}, "f16", routed=True, bands=True)
    with pytest.raises(GemError) as caught:
        check_capabilities("my-npu", able, needs)
    assert str(caught.value) == sentence
    check_capabilities("my-npu", {"q4a-g32", "cache-f16", "routed_lora", "vocabulary-bands"}, needs)


def test_a_scheme_without_kernel_is_refused_before_anything_is_packed(tiny, tiny_parts, tmp_path):
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(name)

    class Quantizer:
        plan = tiny_parts.quantizer.plan
        apply = Untouched()

    parts = attrs.evolve(tiny_parts, quantizer=Quantizer(), capabilities=frozenset({"cache-f16"}))
    with pytest.raises(GemError, match="has no kernel for the scheme"):
        compile_bundle(tiny, parts, tmp_path / "model.gem")
    assert not list(tmp_path.iterdir())


class Unready:
    def readiness(self):
        return Readiness(execution="none", build="no compiler: install one", run="no device")


def test_what_is_missing_ends_building_and_opening(tiny, tiny_parts, tmp_path):
    with pytest.raises(GemError, match=r"^no compiler: install one$"):
        compile_bundle(tiny, attrs.evolve(tiny_parts, target=Unready()), tmp_path / "model.gem")
    record = TargetRecord(name="my-npu", summary="none", loader="a:b", capabilities={"rpc"})
    with pytest.raises(GemError, match=r"^no device$"):
        check_can_open(record, Unready(), OpenSettings())
    check_can_open(record, Unready(), OpenSettings(rpc="board:9090"))
    without = attrs.evolve(record, capabilities=())
    with pytest.raises(UsageError, match="target 'my-npu' cannot be reached over RPC: drop --rpc"):
        check_can_open(without, Unready(), OpenSettings(rpc="board:9090"))


def test_a_bundle_without_fallback_is_accepted(tiny_bundle):
    check_no_fallback(open_bundle(tiny_bundle.folder))
    broken = attrs.evolve(tiny_bundle.manifest, delegation={})
    with pytest.raises(GemError, match="does not say which unit does what: compile"):
        check_no_fallback(attrs.evolve(tiny_bundle, manifest=broken))


def test_a_bundle_of_another_machine_is_refused(tiny_bundle):
    machine = tiny_bundle.manifest.target_details["machine"]
    check_machine(tiny_bundle, "my-npu", machine)
    with pytest.raises(BundleError) as caught:
        check_machine(tiny_bundle, "my-npu", "npu64")
    assert str(caught.value) == (
        f"bundle {tiny_bundle.folder} was compiled for {machine}, and target 'my-npu' is npu64: "
        "compile the model again"
    )


def test_a_product_of_int8_counts_what_brings_its_sums_back_to_float32(tiny_bundle):
    operations = DelegationReport.from_json(tiny_bundle.manifest.delegation).operations
    assert all(o.float_operations == 0 for o in operations if o.operation != "qlinear")
    products = next(o for o in operations if o.operation == "qlinear")
    # For 32 products a conversion, a product of scales and two additions; the head has no minima to add.
    config = tiny_bundle.manifest.config
    head = config.hidden_size * config.vocabulary_size
    assert products.float_operations * 32 == products.multiply_accumulates * 4 - head


@pytest.mark.parametrize(
    ("target", "asked", "given"),
    [("host", "auto", "f16"), ("npu", "auto", "q8"), ("npu", "f16", "f16"), ("host", "q8", "q8")],
)
def test_a_target_says_which_cache_it_prefers(target, asked, given):
    parts = build_parts(Recipe().with_changes(target=target, kv_cache=asked), get_host())
    assert parts.kv_cache == given
    assert parts.preferred_cache == ("q8" if target == "npu" else "f16")


def test_a_target_prefers_a_cache_that_there_is():
    with pytest.raises(ValueError, match="preferred_cache"):
        TargetRecord(name="my-npu", summary="none", loader="a:b", preferred_cache="q3")


def test_what_cannot_run_is_refused_before_a_model_is_looked_for():
    with pytest.raises(GemError, match="target 'ethos-u85' cannot be executed here"):
        load("no-such-model", target="ethos-u85")
    with pytest.raises(UsageError, match="target 'host' cannot be reached over RPC"):
        load("no-such-model", rpc="board:9090")
