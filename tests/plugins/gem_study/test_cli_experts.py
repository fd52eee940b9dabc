"""`gem study routing`, `gem study preservation` and `gem experts score` on a tiny model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from gem_experts.cli import experts as experts_command
from gem_scar.fitted import FittedRouter, write_fitted
from gem_study.cli import study
from gem_suite import runner_worker
from gemcore.errors import UsageError
from gemcore.experts.expert_set import read_set
from gemcore.experts.files import read_card
from gemcore.testing.experts import write_tiny_set

DOMAINS = ("code", "law")


def call(command, *arguments):
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def data(tmp_path):
    """Two domains with a task and held-out text each, and general text."""
    for domain in DOMAINS:
        folder = tmp_path / "data" / domain / f"{domain}_exam"
        folder.mkdir(parents=True)
        rows = [
            {
                "id": str(n),
                "task_type": "multiple_choice",
                "question": f"What is {domain} {n}?",
                "choices": [f"it is {n}", "fire", "tea"],
                "answer": 0,
            }
            for n in range(4)
        ]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"task_type": "multiple_choice", "license": "MIT"}
        (folder / "SOURCE.json").write_text(json.dumps(source))
        paragraphs = "\n\n".join(f"Text {n} of {domain}." for n in range(4))
        (tmp_path / "data" / domain / "corpus.heldout.txt").write_text(paragraphs + "\n")
    general = tmp_path / "data" / "law" / "plain"
    general.mkdir()
    rows = [
        {"id": str(n), "task_type": "lm_perplexity", "text": f"Some words {n}.", "answer": ""}
        for n in range(4)
    ]
    (general / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"task_type": "lm_perplexity", "license": "MIT"}
    (general / "SOURCE.json").write_text(json.dumps(source))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def experts(tiny, tmp_path_factory):
    """A set of two experts, and a fitted head of `xlora`, the router that needs no texts."""
    folder = tmp_path_factory.mktemp("sets") / "two"
    found = write_tiny_set(folder, tiny, DOMAINS, scale=0.5, scores={})
    head = FittedRouter(
        router="xlora",
        base=found.base,
        experts=found.names,
        sha256=tuple(expert.digest for expert in found.experts),
        settings={},
        tensors={"weight": np.zeros((2, 64), np.float32), "bias": np.zeros(2, np.float32)},
    )
    write_fitted(folder, head)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch, request):
    """One cache for all tests here, so that each model is compiled once."""
    folder = tmp_path_factory.getbasetemp() / "cache-of-experts"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("GEM_CACHE", str(folder))


@pytest.fixture
def pieces(monkeypatch):
    """Counts what is worked at."""
    done = []
    work = runner_worker.Worker.run

    def counting(self, piece):
        done.append(piece)
        return work(self, piece)

    monkeypatch.setattr(runner_worker.Worker, "run", counting)
    return done


def test_routers_between_base_and_oracle(data, tiny_folder, experts, tmp_path, pieces):
    out = tmp_path / "out"
    arguments = [
        *("routing", "-m", tiny_folder, "--data", data, "--threads", 1, "-o", out),
        *("--experts", experts, "--routers", "xlora,static:expert=law", "--singles"),
        *("--left-out", "code_exam", "--resamples", 100),
    ]
    result = call(study, *arguments)
    names = {"none", "oracle", "xlora", "static-expert=law", "static-expert=code", "study"}
    assert {path.stem for path in out.iterdir()} == names
    found = json.loads((out / "study.json").read_text())
    assert found["groups"] == {"known": ["law_exam"], "left out": ["code_exam"]}
    assert [one["router"] for one in found["routers"]][:2] == ["xlora", "static:expert=law"]
    assert found["best_single"].startswith("static:expert=")
    # For law, the oracle does what law's expert does when it is always on.
    law = found["routers"][1]["all"]["known"]
    assert law["routed"] == law["oracle"] != law["base"]
    oracle = json.loads((out / "oracle.json").read_text())
    assert oracle["samples"]["code_exam"][0]["prior"] == {"code": 1.0}
    assert oracle["config"]["experts"] == {"code": "code", "law": "law"}
    assert found["oracle"]["macro_f1"]["known"]["value"] == 1
    assert "Known benchmarks (1)" in result.stdout
    # Asked again, nothing is measured; and from files it is the same.
    done = len(pieces)
    call(study, *arguments)
    assert len(pieces) == done
    files = [out / f"{name}.json" for name in ("none", "oracle", "xlora")]
    again = tmp_path / "again"
    call(
        *(study, "routing", "--from", *files, "-o", again),
        *("--left-out", "code_exam", "--resamples", 100),
    )
    values = json.loads((again / "study.json").read_text())
    assert values["routers"][0]["all"] == found["routers"][0]["all"]
    assert (again / "study.html").read_text().startswith("<!DOCTYPE html>")


def test_priors_alone(data, tiny_folder, experts, tmp_path, pieces):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="none of the routers has a prior"):
        call(
            *(study, "routing", "-m", tiny_folder, "--data", data, "--threads", 1, "-o", out),
            *("--experts", experts, "--routers", "xlora", "--prior-only"),
        )
    assert pieces == []


def test_what_specialising_forgets(data, tiny_folder, experts, tmp_path):
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_folder, tuned)
    from safetensors.numpy import load_file, save_file

    weights = load_file(tuned / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name] = weights[name] * np.float32(0.5)
    save_file(weights, tuned / "model.safetensors")
    out = tmp_path / "out"
    result = call(
        *(study, "preservation", "-m", tiny_folder, "--data", data, "--threads", 1, "-o", out),
        *("--experts", experts, "--full", f"law={tuned}", "--router", "xlora"),
        *("--general", "plain", "--resamples", 100),
    )
    names = {"base", "full-law", "single-law", "routed", "study"}
    assert {path.stem for path in out.iterdir()} == names
    found = json.loads((out / "study.json").read_text())
    assert found["columns"] == ["code", "law", "general"]
    assert list(found["domains"]["law"]) == ["full", "single", "routed"]
    assert found["domains"]["law"]["full"]["gain"]["value"] != 0
    base = json.loads((out / "base.json").read_text())
    assert sorted(base["results"]) == ["corpus_code", "corpus_law", "plain"]
    assert "full fine-tuning" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["routing", "a.json"], "write --from before"),
        (["routing", "--from", "a.json", "--prior-only"], "--prior-only runs the models"),
        (["preservation", "--full", "law"], "--full 'law' is not of the form DOMAIN=FOLDER"),
        (["preservation", "--full", "law=a,law=b"], "names two models for 'law'"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        call(study, *arguments, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_are_checked_before_any_work(data, experts, tiny_folder, tmp_path, pieces):
    common = ["-m", tiny_folder, "--data", data, "--experts", experts, "-o", tmp_path / "out"]
    for words, sentence in (
        (["routing", "--routers", "skar"], "unknown router 'skar'"),
        (["routing", "--routers", "xlora", "--left-out", "exam"], "unknown benchmark 'exam'"),
        (["preservation", "--general", "plain"], "name at least one fine-tuned model"),
        (["preservation", "--full", "law=none"], "unknown task 'wikitext2'"),
        (["preservation", "--general", "plain", "--full", "law=none"], "no model at none"),
    ):
        with pytest.raises(UsageError, match=sentence):
            call(study, words[0], *common, *words[1:])
    assert pieces == []


def test_experts_are_scored_on_their_own_domain(data, tiny_folder, experts, tmp_path):
    chosen = tmp_path / "set"
    shutil.copytree(experts, chosen)
    before = {path.name: path.read_bytes() for path in (chosen / "law").iterdir()}
    result = call(
        *(experts_command, "score", "law", "--experts", chosen, "-m", tiny_folder),
        *("--data", data, "--threads", 1, "--resamples", 100, "--json", "--write"),
    )
    (found,) = json.loads(result.stdout)
    assert (found["name"], found["domain"]) == ("law", "law")
    assert found["text"]["tasks"] == ["corpus_law"]
    assert found["answers"]["tasks"] == ["law_exam"]
    assert sorted(found["tasks"]) == ["corpus_law", "law_exam", "plain"]
    change = found["text"]["expert"]["value"] / found["text"]["base"]["value"] - 1
    assert found["text"]["change"]["value"] == pytest.approx(change)
    card = read_card(chosen / "law")
    assert card.scores["main"]["expert"] == pytest.approx(
        found["text"]["expert"]["value"], abs=1e-6
    )
    assert card.scores["measured_answers"]["low"] <= card.scores["measured_answers"]["change"]
    # Nothing but the card has changed, and the set is the same to routers.
    after = {path.name: path.read_bytes() for path in (chosen / "law").iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"card.json"}
    assert after.keys() == before.keys()
    assert read_set(chosen).digest == read_set(experts).digest
    with pytest.raises(UsageError, match="unknown expert 'laws'"):
        call(experts_command, "score", "laws", "--experts", chosen, "--data", data)
