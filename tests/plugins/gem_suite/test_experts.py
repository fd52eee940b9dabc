"""Experts in a run of the suite: who is told the label, and the priors in the result file."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest

from gem_suite.engines import CompiledEngine
from gem_suite.experts import expert_domains, labelled_experts, prior_shares
from gem_suite.runner_engine import Workforce, compiled_work
from gem_suite.runner_tasks import SuiteSettings, load_planned, prepare, suite_plans
from gem_suite.runner_worker import Piece
from gemcore.build import compile_bundle
from gemcore.experts.files import write_expert
from gemcore.plugins import get_host
from gemcore.testing.experts import tiny_expert


@pytest.fixture
def data(tmp_path, items):
    for domain in ("law", "cooking"):
        folder = tmp_path / "data" / domain / f"{domain}_exam"
        folder.mkdir(parents=True)
        row = items["multiple_choice"] | {"question": f"What of {domain}?"}
        (folder / "test.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
        source = {"task_type": "multiple_choice", "license": "MIT"}
        (folder / "SOURCE.json").write_text(json.dumps(source))
        (folder.parent / "corpus.heldout.txt").write_text("Some text of it.\n")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def told_bundle(tiny, tiny_parts, tmp_path_factory):
    """The tiny model with the router `oracle` and two experts, one of another name than its domain."""
    folder = tmp_path_factory.mktemp("sets")
    for name, domain in (("justice", "law"), ("medicine", "medicine")):
        expert = tiny_expert(name, tiny, scale=1.0, domain=domain)
        write_expert(folder / name, expert.card, expert.tensors)
    host = get_host()
    words = f"oracle:experts={folder}"
    parts = attrs.evolve(
        tiny_parts,
        router=host.create(host.select("router", words)),
        names=tiny_parts.names | {"router": words},
    )
    return compile_bundle(tiny, parts, tmp_path_factory.mktemp("bundles") / "told.gem")


def samples(bundle, settings, workforce=None):
    """The samples of every task, as a run has them, and what it says of the model."""
    from gemcore.api import open_session

    model, work = compiled_work(open_session(bundle.folder), settings, workforce or Workforce())
    tasks = {plan.name: prepare(load_planned(plan, settings)) for plan in suite_plans(settings)}
    pieces = [
        Piece(task=name, places=places, missing=places)
        for name, prepared in tasks.items()
        for places in prepared.pieces
    ]
    done = list(work(pieces, tasks))
    assert not any(one.problem for one in done)
    return {one.piece.task: [record.sample for record in one.records] for one in done}, model


@pytest.mark.parametrize("workers", [1, 2])
def test_the_oracle_is_told_the_expert_of_a_task(told_bundle, data, workers):
    workforce = Workforce(workers=workers, threads=1)
    settings = SuiteSettings(data=data, bits_only=True)
    found, model = samples(told_bundle, settings, workforce)
    assert dict(model.experts) == {"justice": "law", "medicine": "medicine"}
    assert [sample["prior"] for sample in found["law_exam"]] == [{"justice": 1.0}] * 2
    assert [sample["prior"] for sample in found["cooking_exam"]] == [{}] * 2
    assert "prior" not in found["corpus_law"][0]
    # An independent way to the same numbers: a session with that prior.
    from gemcore.api import open_session
    from gemcore.scoring import score_pairs

    session = open_session(told_bundle.folder)
    text = "Some text of it."
    for domain, given in (("law", {"justice": 1.0}), ("cooking", {})):
        ids = session.tokenizer.encode(text, special=False)
        start = session.tokenizer.token_id(session.tokenizer.bos_token or "<|endoftext|>")
        prior = session.prior_of((), given)
        (score,) = score_pairs([([start], ids)], session.passes_aside(prior=prior), 256)
        bits = found[f"corpus_{domain}"][0]["bits"]
        assert bits == pytest.approx(-score.log_likelihood / np.log(2), rel=1e-6)


def test_each_request_has_the_prior_of_its_own_context(routed_bundle, data):
    from gemcore.api import open_session

    found, model = samples(routed_bundle, SuiteSettings(data=data))
    # No plugin brings this router, so nobody knows the domains.
    assert dict(model.experts) == {"code": "code", "law": "law", "medicine": "medicine"}
    session = open_session(routed_bundle.folder)
    tokens = session.tokenizer.encode_prompt("Question: What of law?\nAnswer:")
    expected = prior_shares(session.prior_of(tokens), session.bundle.manifest.experts)
    assert [sample["prior"] for sample in found["law_exam"]] == [expected] * 2
    assert "prior" not in found["corpus_law"][0]


def test_the_beginning_of_a_text_is_no_opinion(routed_bundle):
    from gemcore.api import open_session

    engine = CompiledEngine(open_session(routed_bundle.folder))
    groups = list(engine.groups([((0,), (5, 6)), ((7, 8), (9,)), ((7, 8), (10,))]))
    assert [len(pairs) for _, pairs in groups] == [1, 2]
    assert groups[0][0].tolist() == [0, 0, 0]
    assert groups[1][0].sum() == pytest.approx(1, abs=1e-5)


def test_models_without_experts_have_neither(tiny_bundle, tiny_session):
    manifest = tiny_bundle.manifest
    assert dict(expert_domains(manifest, get_host())) == {}
    assert labelled_experts(manifest, get_host()) is None
    assert CompiledEngine(tiny_session).experts == ()


def test_shares_are_written_to_four_digits_and_those_near_zero_are_not():
    shares = prior_shares(np.array([0.98765432, 0.000123456, 1e-7], np.float32), ("a", "b", "c"))
    assert shares == {"a": 0.9877, "b": 0.0001235}
