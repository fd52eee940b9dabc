"""Tracing the decoder."""

from __future__ import annotations

import pytest
import torch

from gemcore.compiler.export import CALL_INPUTS, export_decoder
from gemcore.compiler.operations import CONTEXT, count_operations
from gemcore.models.decoder import Decoder
from gemcore.models.layout import weight_units
from gemcore.reports import DelegationReport
from gemcore.testing import tiny_config
from gemcore.testing.routed import SignRouter, tiny_experts

CONFIG = tiny_config(tied_head=False, qkv_bias=True)


def schemes(scheme: str) -> dict[str, str]:
    return {unit.name: scheme for unit in weight_units(CONFIG)}


@pytest.fixture(scope="module")
def exported():
    return export_decoder(CONFIG, schemes("q4a-g32"))


def test_weights_are_inputs_in_the_order_of_the_parameters(exported):
    with torch.device("meta"):
        expected = dict(Decoder(CONFIG, schemes("q4a-g32")).named_parameters())
    assert exported.weights == tuple(expected)
    assert exported.call_inputs == len(CALL_INPUTS)
    assert not exported.program.state_dict
    names = exported.program.graph_signature.user_inputs
    shapes = {node.name: node.meta["val"].shape for node in exported.program.graph.nodes
              if node.op == "placeholder"}  # fmt: skip
    first = len(CALL_INPUTS) + 2 * CONFIG.layers
    assert [shapes[name] for name in names[first:]] == [p.shape for p in expected.values()]


def test_sizes_stay_open(exported):
    nodes = [node for node in exported.program.graph.nodes if node.op == "placeholder"]
    tokens, placement, rows, keys, values = (node.meta["val"].shape for node in nodes[:5])
    assert all(isinstance(n, torch.SymInt) for n in (tokens[0], rows[0], keys[1], values[1]))
    assert placement[0] == tokens[0]
    (logits,) = next(n for n in exported.program.graph.nodes if n.op == "output").args[0]
    assert logits.meta["val"].shape[1] == CONFIG.vocabulary_size


def test_a_routed_model_takes_a_prior():
    routers = [SignRouter() for _ in range(CONFIG.layers)]
    experts = tiny_experts(CONFIG)
    exported = export_decoder(CONFIG, schemes("q8-g32"), router=routers, experts=experts)
    assert exported.call_inputs == len(CALL_INPUTS) + 1
    prior = list(exported.program.graph.nodes)[len(CALL_INPUTS)]
    tokens, known = prior.meta["val"].shape
    assert isinstance(tokens, torch.SymInt)
    assert known == len(experts.names)
    assert "layers.1.feed_forward.down.up" in exported.weights
    counted = {o.operation: o for o in count_operations(exported.program, CONFIG, "cpu")}
    assert counted["routed_lora_q8"].count == 4 * CONFIG.layers
    work = sum(experts.rank * sum(u.shape) for u in weight_units(CONFIG)[1:-1])
    assert counted["routed_lora_q8"].multiply_accumulates == work


@pytest.mark.parametrize(("scheme", "name"), [("q4a-g32", "qlinear"), ("f16", "linear_f16")])
def test_operations_are_counted_with_their_work(scheme, name):
    program = export_decoder(CONFIG, schemes(scheme)).program
    operations = count_operations(program, CONFIG, "avx2")
    counted = {o.operation: o for o in operations}
    linears = weight_units(CONFIG)[1:]  # the embedding is looked up, not multiplied
    assert counted[name].count == len(linears)
    assert counted[name].multiply_accumulates == sum(unit.parameters for unit in linears)
    assert counted["embedding"].count == 1
    assert counted["embedding"].multiply_accumulates == 0
    attention = counted["attention"]
    assert attention.count == CONFIG.layers
    # A score and a share of the output for every channel of every head.
    channels = CONFIG.heads * CONFIG.head_dim
    assert attention.multiply_accumulates == 2 * CONFIG.layers * channels * CONTEXT
    works = [o.multiply_accumulates for o in operations]
    assert works == sorted(works, reverse=True)
    assert {o.unit for o in operations} == {"avx2"}
    report = DelegationReport(target="t", unit="avx2", execution="native", operations=operations)
    assert report.share() == 1
    assert report.share("npu") == 0
