from __future__ import annotations

import json
import math

import attrs
import numpy as np
import pytest
import torch

from gem_experts.training.export import expert_name
from gem_experts.training.job import ExpertSettings, Job, run_job
from gem_experts.training.loop import LoopSettings, general_terms, read_general, task_loss
from gem_experts.training.measure import bits_per_byte
from gem_experts.training.model import trained
from gem_experts.training.preservation import PreservationSettings
from gem_experts.training.sequences import make_pass
from gemcore.errors import UsageError
from gemcore.experts.files import read_expert
from gemcore.experts.fingerprint import base_fingerprint
from gemcore.formats.huggingface import load_folder
from gemcore.models.eager import EagerModel

from .test_model import lively, texts_of


class StopError(Exception):
    """The process is killed."""


def job_for(folder, **changes):
    values = {
        "expert": ExpertSettings(rank=4, layers=(1, 2)),
        "loop": LoopSettings(steps=8, learning_rate=2e-2),
        "preservation": PreservationSettings(fisher_texts=4),
        "seed": 0,
        "general_batch": 128,
        "checkpoint_every": 3,
        "command": "gem experts train --domain law_x",
        "base_name": "tiny",
        "folder": folder,
    }
    return Job(**{**values, **changes})


def run(job, tiny, material, stop_at=None):
    losses = []

    def step_done(standing, steps):
        losses.append(standing.history[-1])
        if standing.step == stop_at:
            raise StopError

    outcome = run_job(job, tiny, material, lambda *_: None, step_done)
    return outcome, losses


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_training_lowers_the_loss_and_the_card_says_so(tiny, material, tmp_path, precision):
    loop = LoopSettings(steps=25, learning_rate=2e-2, precision=precision)
    job = job_for(tmp_path / "law", loop=loop, preservation=None)
    outcome, losses = run(job, tiny, material(preserve=False))
    assert losses[-1]["loss"] < 0.8 * losses[0]["loss"]
    expert = read_expert(outcome.folder)
    card = expert.card
    assert (card.name, card.domain, card.base_name) == ("law_x", "law_x", "tiny")
    assert card.base == base_fingerprint(tiny)
    assert (card.rank, card.steps, card.seed) == (4, 25, 0)
    assert card.units == ("layers.1.attention.qkv", "layers.1.feed_forward.down")
    assert card.command == job.command
    assert [source.name for source in card.data] == ["free_law", "paid_law", "corpus: law_x"]
    assert card.licence.startswith("not to be passed on: the licences of paid_law")
    found = card.scores["bits_per_byte_domain"]
    assert found["expert"] < 0.9 * found["base"]
    assert card.scores["main"] == {
        "name": "bits per byte, law_x, held out",
        "base": found["base"],
        "expert": found["expert"],
    }
    assert "bits_per_byte_general" in card.scores
    assert not job.state_folder.exists()


def test_permissive_data_makes_an_expert_that_can_be_passed_on(tiny, material, tmp_path):
    job = job_for(tmp_path / "law", preservation=None, loop=LoopSettings(steps=1))
    outcome, _ = run(job, tiny, material(preserve=False, licences="permissive"))
    assert read_expert(outcome.folder).card.licence == "Apache-2.0"


def test_scores_are_those_of_the_stored_expert(tiny, material, tmp_path):
    job = job_for(tmp_path / "law", preservation=None)
    texts = material(preserve=False)
    outcome, _ = run(job, tiny, texts)
    expert = read_expert(outcome.folder)
    # Folded into the base: W + (down @ up).T.
    model = EagerModel(tiny)
    for unit in expert.card.units:
        down, up = (expert.tensors[f"{unit}.{end}"].astype(np.float32) for end in ("down", "up"))
        weight = model.decoder.get_submodule(unit).weight
        weight.data = weight.data + torch.from_numpy((down @ up).T)
    nats = size = 0.0
    for text in texts.heldout:
        logits = torch.from_numpy(model.logits(text.tokens[:-1].tolist()))
        targets = torch.from_numpy(text.tokens[1:]).long()
        nats += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        size += text.bytes
    expected = nats / math.log(2) / size
    found = expert.card.scores["bits_per_byte_domain"]["expert"]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("full", [False, True])
def test_a_killed_run_goes_on_to_the_same_bytes(tiny, material, tmp_path, full):
    expert = ExpertSettings(rank=4, layers=(1, 2), full=full)
    texts = material()
    whole, all_losses = run(job_for(tmp_path / "a" / "law", expert=expert), tiny, texts)
    job = job_for(tmp_path / "b" / "law", expert=expert)
    with pytest.raises(StopError):
        run(job, tiny, texts, stop_at=5)
    assert not job.folder.exists()
    outcome, losses = run(job, tiny, texts)
    # States are written every third step.
    assert [record["step"] for record in losses] == [4, 5, 6, 7, 8]
    assert losses == all_losses[3:]
    assert content(outcome.folder) == content(whole.folder)
    other, _ = run(job_for(tmp_path / "c" / "law", expert=expert, seed=1), tiny, texts)
    if not full:
        assert content(other.folder) != content(whole.folder)


def test_an_unfinished_training_with_other_settings_is_refused(tiny, material, tmp_path):
    job = job_for(tmp_path / "law")
    texts = material()
    with pytest.raises(StopError):
        run(job, tiny, texts, stop_at=4)
    other = attrs.evolve(job, loop=LoopSettings(steps=9))
    with pytest.raises(UsageError, match="--restart"):
        run(other, tiny, texts)


def test_an_existing_result_is_never_replaced(tiny, material, tmp_path):
    (tmp_path / "law").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        run(job_for(tmp_path / "law"), tiny, material())


def test_preservation_holds_general_text(tiny, material, tmp_path):
    # A base that knows general text, and so has something to lose.
    expert = ExpertSettings(full=True)
    schooling = job_for(
        tmp_path / "base",
        expert=expert,
        loop=LoopSettings(steps=22, learning_rate=3e-3),
        preservation=None,
    )
    base, _ = run(schooling, tiny, material(domain="daily", preserve=False))
    tiny = load_folder(base.folder)
    texts = material()
    loop = LoopSettings(steps=50, learning_rate=1e-2)
    strict = PreservationSettings(epsilon=0.02, rate=0.1, fisher_texts=4)
    rises = {}
    for name, preservation in (("free", None), ("held", strict)):
        job = job_for(tmp_path / name, loop=loop, preservation=preservation)
        outcome, losses = run(job, tiny, texts)
        rises[name] = outcome.scores["bits_per_byte_general"]["change"]
    assert rises["free"] > 0.1
    assert rises["held"] < 0.5 * rises["free"]
    assert losses[-1]["alpha"] > losses[0]["alpha"]
    assert losses[-1]["penalty"] > 0
    assert outcome.scores["bits_per_byte_domain"]["change"] < -0.05


def test_a_whole_model_opens_as_a_folder(tiny, material, tmp_path):
    expert = ExpertSettings(full=True)
    loop = LoopSettings(steps=4, learning_rate=1e-3)
    outcome, _ = run(job_for(tmp_path / "law", expert=expert, loop=loop), tiny, material())
    opened = load_folder(outcome.folder)
    assert opened.config == tiny.config
    assert opened.text.tokenizer_json == tiny.text.tokenizer_json
    assert opened.text.chat_template == tiny.text.chat_template
    assert opened.text.stop_token_ids == tiny.text.stop_token_ids
    assert base_fingerprint(opened) != base_fingerprint(tiny)
    report = json.loads((outcome.folder / "training.json").read_text())
    assert report["steps"] == 4
    assert report["scores"] == outcome.scores
    # Trained, and nearly what it was.
    before, after = (EagerModel(model).logits([5, 6, 7]) for model in (tiny, opened))
    assert 0 < np.abs(before - after).max() < 0.5 * np.abs(before).max()


def test_general_terms(tiny):
    decoder = lively(tiny)
    made = make_pass(texts_of([12, 7]))
    (general,) = read_general(decoder, [made], "f32")
    apart, rise = general_terms(decoder, general, decoder.head.weight)
    base, own = general.nats, float(task_loss(decoder, made).detach())
    assert rise == pytest.approx((own - base) / base, rel=1e-4)
    assert float(apart.detach()) > 0
    for name, parameter in trained(decoder).items():
        if name.endswith(".up"):
            parameter.data.zero_()
    apart, rise = general_terms(decoder, general, decoder.head.weight)
    assert rise == pytest.approx(0, abs=1e-6)
    assert float(apart.detach()) == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_the_task_by_differences(tiny):
    decoder = lively(tiny)
    made = make_pass(texts_of([14, 9]))
    parameters = trained(decoder)
    task_loss(decoder, made).backward()
    generator = torch.Generator().manual_seed(9)
    moves = {n: torch.randn(p.shape, generator=generator) for n, p in parameters.items()}
    expected = sum(float((moves[n] * p.grad).sum()) for n, p in parameters.items())
    ends = []
    for sign in (1, -1):
        for name, parameter in parameters.items():
            parameter.data += sign * 1e-3 * moves[name]
        with torch.no_grad():
            ends.append(float(task_loss(decoder, made)))
        for name, parameter in parameters.items():
            parameter.data -= sign * 1e-3 * moves[name]
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(expected, rel=0.02)


def test_bits_per_byte_of_the_base(tiny):
    decoder = lively(tiny)
    (text,) = texts_of([30])
    logits = torch.from_numpy(EagerModel(tiny).logits(text.tokens[:-1].tolist()))
    nats = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(text.tokens[1:]).long(), reduction="sum"
    )
    found = bits_per_byte(decoder, [text], 64, expert=False)
    assert found == pytest.approx(float(nats) / math.log(2) / text.bytes, rel=1e-5)


def test_names_of_experts():
    assert expert_name("domain_adaptive") == "domain_adaptive"
    assert expert_name("Recht & Gesetz") == "recht---gesetz"
    assert expert_name("__") == "expert"
