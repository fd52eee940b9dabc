"""The conformance suites find what is wrong, and name the plugin in the message."""

import sys
import unittest
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch

from gem_uniform.quantizer import UniformQuantizer
from gemcore.errors import GemError, UsageError
from gemcore.hookspecs import hookimpl
from gemcore.plugins import PluginHost
from gemcore.records import (
    BenchmarkRecord,
    MetricRecord,
    QuantizerRecord,
    RouterRecord,
    TargetRecord,
)
from gemcore.reports import DeviceProfile, MetricResult, Sourced
from gemcore.testing import (
    BenchmarkConformance,
    MetricConformance,
    QuantizerConformance,
    RouterConformance,
    TargetConformance,
    material,
)

RECORDS = {
    "router": ("gem_routers", RouterRecord),
    "quantizer": ("gem_quantizers", QuantizerRecord),
    "metric": ("gem_metrics", MetricRecord),
    "target": ("gem_targets", TargetRecord),
    "benchmarks": ("gem_benchmarks", BenchmarkRecord),
}


@pytest.fixture
def suite(monkeypatch):
    """Makes a suite for an object that is no installed plugin."""

    def make(base, thing, **members):
        module = SimpleNamespace(make=lambda: thing() if callable(thing) else thing)
        monkeypatch.setitem(sys.modules, "plugin_of_this_test", module)
        hook, record = RECORDS[base.kind]
        capabilities = members.pop("capabilities", frozenset())

        @hookimpl(specname=hook)
        def records():
            yield record(
                name="bad",
                summary="a bad one",
                loader="plugin_of_this_test:make",
                capabilities=capabilities,
            )

        host = PluginHost()
        host.add(
            SimpleNamespace(records=records), name="bad", distribution="gem-bad", version="3.1"
        )
        return type("Suite", (base,), {"plugin": "bad", "host": lambda self: host, **members})()

    return make


def failure(check):
    with pytest.raises((AssertionError, GemError)) as error:
        check()
    return " ".join(str(error.value).split())


# Routers


class Shares(torch.nn.Module):
    """Says what `rule` makes of hidden states and prior."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, hidden, prior):
        return self.rule(hidden, prior)


class Router:
    def __init__(self, rule):
        self.rule = rule

    def prior(self, prompt):
        return None

    def experts(self):
        return material.experts()

    def layer_module(self, layer):
        return Shares(self.rule) if layer == 0 else None

    def content(self):
        return self.experts().digest

    def fit(self, examples):
        pass


def quarter(hidden, prior):
    return torch.zeros_like(prior) + 0.25


def checks_of(suite):
    return [name for name in dir(suite) if name.startswith("test_")]


def test_a_sound_router_passes_all_that_compiles_nothing(suite):
    sound = suite(RouterConformance, lambda: Router(quarter))
    for name in checks_of(sound):
        check = getattr(sound, name)
        if not getattr(check, "gem_compiles", False):
            check()


@pytest.mark.parametrize(
    ("check", "rule", "said"),
    [
        ("weights_are_shares_of_the_experts", lambda h, p: h[:, :2], "[3, 2] for 3 tokens and 3"),
        ("weights_are_shares_of_the_experts", lambda h, p: p.double(), "torch.float64 [3, 3]"),
        ("weights_are_shares_of_the_experts", lambda h, p: p - 0.1, "must be at least 0"),
        ("weights_are_shares_of_the_experts", lambda h, p: torch.ones_like(p), "sum to at most 1"),
        ("weights_are_shares_of_the_experts", lambda h, p: 0, "int, not a tensor"),
        (
            "weights_are_shares_of_the_experts",
            lambda h, p: h @ h,
            "fails for 3 tokens: RuntimeError",
        ),
        (
            "odd_inputs_give_numbers",
            lambda h, p: p + h[:, :3].abs() / h[:, :3].abs().sum(-1, keepdim=True) / 2,
            "not finite for hidden states of zeros",
        ),
        (
            "each_token_is_routed_alone",
            lambda h, p: torch.sigmoid(h[:, :3].mean(0, keepdim=True)) / 3 + 0 * p,
            "change by",
        ),
        ("the_same_twice", lambda h, p: torch.rand(h.shape[0], 3) / 3, "differ from call to call"),
        (
            "modules_export",
            lambda h, p: p if bool(h.sum() > 0) else p * 0.5,
            "torch.export cannot trace its module of layer 0",
        ),
    ],
)
def test_what_is_wrong_in_a_router_is_found(suite, check, rule, said):
    bad = suite(RouterConformance, lambda: Router(rule))
    message = failure(getattr(bad, f"test_{check}"))
    assert said in message
    assert "router 'bad'" in message


def test_a_prior_that_is_none_is_found(suite):
    class Eager(Router):
        def prior(self, prompt):
            return [0.5, 0.7, 0.1]

    bad = suite(RouterConformance, lambda: Eager(quarter))
    message = failure(bad.test_a_prior_is_a_share_for_each_expert)
    assert message.startswith("router 'bad' of gem-bad 3.1: its prior sums to 1.3")


# Quantizers


@attrs.frozen
class Quantizer:
    """The uniform quantizer of 4 bits, with its plan, weights or report changed."""

    change_plan: object = staticmethod(lambda plan: plan)
    change: object = staticmethod(lambda weights, report: (weights, report))

    def plan(self, checkpoint, calibration=None, budget=None):
        plan = UniformQuantizer("q4a-g32", "q8-g32").plan(checkpoint, calibration, budget)
        return self.change_plan(plan)

    def apply(self, checkpoint, plan, progress=None):
        return self.change(*UniformQuantizer("q4a-g32", "q8-g32").apply(checkpoint, plan, progress))


def first(plan, **changes):
    return attrs.evolve(plan, entries=(attrs.evolve(plan.entries[0], **changes), *plan.entries[1:]))


def worse(weights, report):
    name = "layers.0.attention.qkv.packed"
    return {**weights, name: np.zeros_like(weights[name])}, report


@pytest.mark.parametrize(
    ("check", "changes", "said"),
    [
        (
            "a_plan_names_every_weight_once_with_a_known_scheme",
            {"change_plan": lambda plan: attrs.evolve(plan, entries=plan.entries[1:])},
            "does not name every weight once: see ['embedding']",
        ),
        (
            "a_plan_names_every_weight_once_with_a_known_scheme",
            {"change_plan": lambda plan: first(plan, scheme="q9")},
            "asks for scheme 'q9', which is none of q2z-g32",
        ),
        (
            "the_packed_weights_are_as_planned",
            {"change_plan": lambda plan: first(plan, bytes=3)},
            "its plan says 3 bytes for embedding",
        ),
        (
            "the_packed_weights_are_as_planned",
            {
                "change": lambda weights, report: (
                    {**weights, "embedding.packed": np.zeros(3)},
                    report,
                )
            },
            "'embedding.packed' is float64 [3], but q8-g32 is packed as uint8",
        ),
        (
            "the_report_adds_up",
            {"change": lambda weights, report: (weights, attrs.evolve(report, bytes_after=1))},
            "its report says 1 bytes after packing",
        ),
        (
            "the_error_is_as_declared",
            {"change": worse},
            "of layers.0.attention.qkv is 1.000, above 0.5",
        ),
        (
            "a_budget_is_kept_or_refused",
            {"change_plan": lambda plan: plan},
            None,
        ),
    ],
)
def test_what_is_wrong_in_a_quantizer_is_found(suite, check, changes, said):
    bad = suite(QuantizerConformance, lambda: Quantizer(**changes))
    if said is None:
        getattr(bad, f"test_{check}")()
        return
    message = failure(getattr(bad, f"test_{check}"))
    assert message.startswith("quantizer 'bad' of gem-bad 3.1: ")
    assert said in message


def test_a_budget_that_is_passed_over_is_found(suite):
    class Careless(Quantizer):
        def plan(self, checkpoint, calibration=None, budget=None):
            return super().plan(checkpoint)

    bad = suite(QuantizerConformance, Careless)
    assert "passes over a budget of 1 byte" in failure(bad.test_a_budget_is_kept_or_refused)


def test_a_nan_that_is_quantized_is_found(suite):
    class Blind(Quantizer):
        def apply(self, checkpoint, plan, progress=None):
            return super().apply(material.checkpoint(), plan, progress)

    bad = suite(QuantizerConformance, Blind)
    message = failure(bad.test_weights_that_are_no_numbers_are_refused)
    assert "it quantizes a weight that holds a NaN" in message


# Metrics


def mean(results, **changes):
    value = sum(results["values"]) / len(results["values"])
    return MetricResult(**{"value": value, **changes})


class Metric:
    def __init__(self, rule):
        self.rule = rule

    def compute(self, results):
        if "values" not in results:
            raise UsageError("it needs 'values'")
        return self.rule(results)


KNOWN = (({"values": [1.0, 2.0, 6.0]}, 3.0),)


def test_a_sound_metric_passes(suite):
    sound = suite(MetricConformance, lambda: Metric(mean), known=KNOWN)
    for name in checks_of(sound):
        if "undefined" not in name:
            getattr(sound, name)()
    with pytest.raises(unittest.SkipTest, match="given no results"):
        sound.test_undefined_is_an_error_and_no_number()


@pytest.mark.parametrize(
    ("check", "rule", "said"),
    [
        ("known_answers", lambda r: mean(r, value=3.1), "computes 3.1 where 3.0 is known"),
        ("known_answers", lambda r: 3.0, "returns float, not a MetricResult"),
        (
            "the_interval_holds_the_value",
            lambda r: mean(r, low=4.0, high=5.0),
            "not within its interval",
        ),
        ("the_interval_holds_the_value", lambda r: mean(r, low=1.0), "has only one end"),
        (
            "the_order_of_the_results_means_nothing",
            lambda r: mean(r, value=r["values"][0]),
            "another order",
        ),
        ("the_same_twice", lambda r: mean(r, value=np.random.default_rng().random()), "and then"),
        ("the_same_twice", lambda r: (mean(r), r["values"].append(1.0))[0], "gives MetricResult"),
        ("undefined_is_an_error_and_no_number", mean, "raises ZeroDivisionError"),
    ],
)
def test_what_is_wrong_in_a_metric_is_found(suite, check, rule, said):
    undefined = ({"values": []},)
    known = (({"values": [1.0, 2.0, 6.0]}, 3.0),)
    bad = suite(MetricConformance, lambda: Metric(rule), known=known, undefined=undefined)
    message = failure(getattr(bad, f"test_{check}"))
    assert message.startswith("metric 'bad' of gem-bad 3.1: ")
    assert said in message


def test_a_metric_that_does_not_say_what_it_lacks_is_found(suite):
    class Silent(Metric):
        def compute(self, results):
            return mean(results)

    bad = suite(MetricConformance, lambda: Silent(mean), known=KNOWN)
    assert "raises KeyError" in failure(bad.test_a_missing_name_is_a_usage_error)


def test_a_suite_without_known_answers_fails(suite):
    class TestNothing(MetricConformance):
        pass

    sound = suite(MetricConformance, lambda: Metric(mean))
    with pytest.raises(unittest.SkipTest, match="known answers are in the plugin's own tests"):
        sound.test_known_answers()
    nothing = suite(TestNothing, lambda: Metric(mean))
    type(nothing).__name__ = "TestNothing"
    assert "must give known answers" in failure(nothing.test_known_answers)


# Targets and benchmarks


@attrs.frozen
class Board:
    described: object = attrs.Factory(dict)
    memory: object = None
    cores: int = 1

    def profile(self):
        return DeviceProfile(name="bad", cores=self.cores, memory_bytes=self.memory)

    def describe(self):
        return self.described

    def readiness(self):
        return "ready"

    def build(self, exported, config, folder):
        raise NotImplementedError

    open = export = build


@pytest.mark.parametrize(
    ("check", "fields", "said"),
    [
        ("the_profile_says_where_its_figures_are_from", {"cores": 0}, "has 0 cores"),
        (
            "the_profile_says_where_its_figures_are_from",
            {"memory": Sourced(value=8e9, source=" ")},
            "its memory_bytes has no source",
        ),
        ("what_a_bundle_remembers_is_json", {"described": {"a": {1}}}, "is no JSON"),
        (
            "what_a_bundle_remembers_is_json",
            {"described": {"a": (1,)}},
            "changes when it is written",
        ),
        ("it_says_what_it_is_ready_for", {}, "returns str, not a Readiness"),
        ("it_names_schemes_that_there_are", {}, "name no packing scheme"),
    ],
)
def test_what_is_wrong_in_a_target_is_found(suite, check, fields, said):
    bad = suite(TargetConformance, lambda: Board(**fields), capabilities=frozenset({"execute"}))
    message = failure(getattr(bad, f"test_{check}"))
    assert message.startswith("target 'bad' of gem-bad 3.1: ")
    assert said in message


TABLE = {"name": "a", "domain": "law", "task_type": "classification"}


@pytest.mark.parametrize(
    ("check", "tables", "said"),
    [
        ("there_are_tables", [], "has no benchmarks"),
        ("there_are_tables", [3], "is int, no table"),
        ("there_are_tables", [{**TABLE, "x": {1}}], "holds what no TOML file can"),
        ("each_table_says_what_it_is", [TABLE, TABLE], "two benchmarks are called 'a'"),
        ("each_table_says_what_it_is", [{**TABLE, "domain": ""}], "has no text 'domain'"),
    ],
)
def test_what_is_wrong_in_benchmarks_is_found(suite, check, tables, said):
    bad = suite(BenchmarkConformance, SimpleNamespace(tables=lambda: tables))
    message = failure(getattr(bad, f"test_{check}"))
    assert message.startswith("benchmarks 'bad' of gem-bad 3.1: ")
    assert said in message


def test_a_suite_must_say_what_it_tests():
    assert "must say which plugin it tests" in failure(RouterConformance().test_can_be_made)
