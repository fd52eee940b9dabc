"""`gem experts list`, `show`, `add` and `remove`."""

from __future__ import annotations

import json
import subprocess
import sys

import attrs
import numpy as np
import pytest
from safetensors.numpy import save_file

from gem_experts.cli_show import units_in_words
from gemcore.experts.expert_set import read_set
from gemcore.experts.files import read_expert, write_expert
from gemcore.models.config import expected_shapes
from gemcore.testing.experts import tiny_expert
from gemcore.testing.tiny import tiny_checkpoint, tiny_config


@pytest.fixture
def finance(tiny, tmp_path):
    """The folder of an expert that is in no set."""
    expert = tiny_expert("finance", tiny)
    return write_expert(tmp_path / "finance", expert.card, expert.tensors).folder


def write_adapter(folder, config, rank=4, modules=("o_proj", "down_proj"), **settings):
    """A LoRA adapter of random values."""
    generator = np.random.default_rng(1)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        if name.split(".")[-2] in modules:
            stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            a = generator.standard_normal((rank, shape[1])).astype(np.float32)
            b = generator.standard_normal((shape[0], rank)).astype(np.float32)
            tensors |= {f"{stem}A.weight": a, f"{stem}B.weight": b}
    folder.mkdir()
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank} | settings
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def refused(outcome, words, code=2):
    found, out, err = outcome
    assert (found, out) == (code, "")
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("gem: ")
    assert words in lines[0]


def test_help_lists_all_commands(gem):
    code, out, _ = gem("--help")
    assert code == 0
    for name in ("list", "show", "add", "remove"):
        assert f"\n  {name} " in out


def test_the_group_and_the_plugin_import_nothing_slow():
    program = "import sys, gem_experts, gem_experts.cli; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert "gem_experts.cli" in loaded
    assert not loaded & {"numpy", "torch", "tvm", "rich", "gemcore.experts.files"}


def test_list(gem, shipped):
    code, out, err = gem("list")
    assert code == 0
    size = sum(t.nbytes for t in read_expert(shipped / "law").tensors.values())
    score = "bits per byte 1 (base 1.25, -20.0 %)"
    assert out.splitlines() == [
        "NAME      DOMAIN    RANK  SIZE     LICENCE     SCORE",
        *(
            f"{name:<8}  {name:<8}  4     {size / 1000:.1f} kB  Apache-2.0  {score}"
            for name in ("code", "law", "medicine")
        ),
    ]
    assert err == f"set clinic, for tiny: {shipped}\n"
    assert gem("list", "--experts", shipped)[1] == out


def test_list_in_json(gem, shipped):
    (shipped / "router.learner.safetensors").write_bytes(b"")
    values = json.loads(gem("list", "--json")[1])
    experts = read_set(shipped)
    assert values["set"] == "clinic"
    assert values["folder"] == str(shipped)
    assert values["routers"] == ["learner"]
    assert values["base"] == experts.base
    assert values["bytes"] == experts.bytes == sum(one["bytes"] for one in values["experts"])
    law = experts.expert("law").card
    assert values["experts"][1].items() >= law.to_json().items()
    assert gem("list")[2].endswith("; fitted routers: learner\n")


def test_show(gem, shipped):
    code, out, _ = gem("show", "law")
    card = read_expert(shipped / "law").card
    assert code == 0
    for words in (
        "law (expert)",
        "random deltas called law",
        f"tiny, fingerprint {card.base}",
        "attention.qkv of layers 0-1, attention.out of layers 0-1",
        "10 steps, seed 0",
        "gem experts train --domain law",
        "noise: 3 items, 300 B, CC0-1.0",
        "base: 1.25",
        card.sha256,
    ):
        assert words in out
    values = json.loads(gem("show", "law", "--json")[1])
    assert values.items() >= card.to_json().items()
    refused(gem("show", "lwa"), "unknown expert 'lwa': did you mean 'law'?")


def test_units_in_words():
    units = [f"layers.{i}.attention.qkv" for i in (0, 1, 2, 5, 7, 8)]
    assert units_in_words([*units, "layers.3.feed_forward.down"]) == [
        "attention.qkv of layers 0-2, 5, 7-8",
        "feed_forward.down of layers 3",
    ]


def test_add_and_remove(gem, finance, own, shipped):
    code, out, err = gem("add", finance)
    assert (code, err) == (
        0,
        f"copied the experts of 'clinic' to {own}: from now on those are used\n",
    )
    assert out == f"added 'finance' to {own}: rank 4, 8 units, 11.8 kB\n"
    assert read_set(own).names == ("code", "finance", "law", "medicine")
    assert read_set(shipped).names == ("code", "law", "medicine")
    assert "finance" in gem("list")[1]
    code, out, err = gem("add", finance, "--name", "money")
    assert (code, err) == (0, "")
    assert read_set(own).expert("money").card.domain == "finance"
    assert gem("remove", "law") == (0, f"removed 'law' from {own}\n", "")
    assert read_set(own).names == ("code", "finance", "medicine", "money")
    refused(gem("remove", "law"), "unknown expert 'law': Available: code, finance, medicine, money")
    refused(gem("add", finance), "an expert called 'finance' already: give --name")


@pytest.mark.parametrize(
    ("rank", "words"),
    [(2, "rank 2 to 4: exact, only zeros were added"), (6, "rank 6 to 4: the deltas changed by ")],
)
def test_another_rank(gem, tiny, own, tmp_path, rank, words):
    expert = tiny_expert("finance", tiny, rank=rank)
    write_expert(tmp_path / "finance", expert.card, expert.tensors)
    refused(gem("add", tmp_path / "finance"), f"has rank {rank}, but those of ")
    assert not own.exists()
    code, out, _ = gem("add", tmp_path / "finance", "--to-rank", 4)
    assert code == 0
    assert out.startswith(words)
    assert read_set(own).expert("finance").card.rank == 4


def test_a_new_folder_becomes_a_set(gem, finance, tmp_path):
    place = tmp_path / "deep" / "set"
    assert gem("add", finance, "--experts", place)[0] == 0
    assert read_set(place).names == ("finance",)
    refused(gem("remove", "finance", "--experts", place), "is the only expert", code=2)


def test_a_lora_adapter(gem, tiny, own, tmp_path):
    folder = write_adapter(tmp_path / "Poems", tiny.config, base_model_name_or_path="someone/tiny")
    code, out, err = gem("add", folder, "--licence", "MIT", "--domain", "poetry")
    assert code == 0
    assert "the adapter says that it is for 'someone/tiny', and its shapes fit 'tiny'" in err
    assert "added 'poems'" in out
    card = read_set(own).expert("poems").card
    assert (card.domain, card.licence, card.rank) == ("poetry", "MIT", 4)
    assert card.base == read_set(own).base


def test_a_lora_adapter_of_another_rank_and_into_a_new_set(gem, tiny, tmp_path):
    folder = write_adapter(tmp_path / "poems", tiny.config, modules=("q_proj", "v_proj"))
    refused(gem("add", folder), "has rank 8, but those of")
    place = tmp_path / "new"
    refused(gem("add", folder, "--experts", place), "name the base model with --model")
    assert not place.exists()
    code, out, err = gem("add", folder, "--experts", place, "-m", "tiny", "--to-rank", 4)
    assert (code, err) == (0, "")
    assert "rank 8 to 4: the deltas changed by " in out
    read_set(place).check_base(tiny)


def test_an_adapter_of_another_model(gem, own, tmp_path):
    folder = write_adapter(tmp_path / "poems", tiny_config(intermediate_size=128))
    refused(gem("add", folder), "does not fit base model 'tiny': its delta of ")
    refused(gem("add", folder, "-m", "tyni"), "'tyni'")
    folder = write_adapter(tmp_path / "dora", tiny_config(), use_dora=True)
    refused(gem("add", folder), "it sets 'use_dora'", code=1)
    assert not own.exists()


def test_another_base_names_both(gem, own, tmp_path, tiny):
    other = attrs.evolve(tiny_checkpoint(tiny.config, seed=1), name="other")
    expert = tiny_expert("finance", other)
    write_expert(tmp_path / "finance", expert.card, expert.tensors)
    refused(gem("add", tmp_path / "finance"), "for base model 'tiny' (fingerprint ")
    refused(gem("add", tmp_path / "finance"), "is for 'other'")
    assert not own.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such folder: nowhere"),
        (["{empty}"], "is no expert: there is neither card.json"),
        (["{finance}", "--name", "Not A Name"], "an expert cannot be called 'Not A Name'"),
        (["{finance}", "--to-rank", "0"], "the rank must be from 1 to 1024, not 0"),
        (["{finance}", "--licence", "MIT"], "--licence is for LoRA adapters"),
        (["{finance}", "--experts", "clinc"], "did you mean 'clinic'?"),
        (["{finance}", "--examples", "nowhere"], "no such file: nowhere"),
    ],
)
def test_wrong_words(gem, own, finance, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    given = [word.format(finance=finance, empty=tmp_path / "empty") for word in words]
    refused(gem("add", *given), message)
    assert not own.exists()


def test_damaged_files(gem, own, finance, shipped):
    path = finance / "expert.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    refused(gem("add", finance), "truncated", code=1)
    assert not own.exists()
    (shipped / "law" / "card.json").write_text("{")
    refused(gem("list"), "is not usable JSON", code=1)
    assert gem("show", "code")[0] == 0
    assert gem("remove", "law")[0] == 0
    assert gem("list")[0] == 0


AGAIN = "was fitted to the experts as they were: fit it again with gem experts fit-router"


def test_fitted_routers_that_must_be_fitted_again(gem, finance, own, shipped):
    file = shipped / "router.router.safetensors"
    file.write_bytes(b"fitted")
    code, _, err = gem("add", finance)
    assert code == 0
    assert err.splitlines()[1:] == [f"router 'router' of this set {AGAIN}"]
    assert (own / file.name).read_bytes() == b"fitted"
    code, _, err = gem("remove", "law")
    assert (code, err) == (0, f"router 'router' of this set {AGAIN}\n")
    assert (own / file.name).read_bytes() == b"fitted"


def test_routers_learn_from_examples(gem, finance, own, shipped, learned, tmp_path):
    (shipped / "router.learner.safetensors").write_bytes(b"fitted")
    (shipped / "router.gone.safetensors").write_bytes(b"fitted")
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n\n  two \n")
    code, out, err = gem("add", finance, "--examples", texts)
    assert code == 0
    assert learned == [(own, "finance", ("one", "two"))]
    assert out.splitlines()[1:] == ["router 'learner' has learned 'finance' from 2 examples"]
    assert f"router 'gone' of this set {AGAIN} (unknown router 'gone'" in err
    code, _, err = gem("add", finance, "--name", "money")
    assert "or remove 'money' and add it with --examples FILE" in err
    assert len(learned) == 1


def test_a_router_that_fails_to_learn(gem, finance, own, shipped, tmp_path):
    (shipped / "router.failing.safetensors").write_bytes(b"fitted")
    texts = tmp_path / "texts.txt"
    texts.write_text("one")
    code, _, err = gem("add", finance, "--examples", texts)
    assert code == 2
    last = err.splitlines()[-1]
    assert "expert 'finance' was added, but router 'failing' could not learn it: one ex" in last
    assert "finance" in read_set(own).names


def test_routers_forget_an_expert_that_has_gone(gem, own, shipped, learned):
    (shipped / "router.learner.safetensors").write_bytes(b"fitted")
    (shipped / "router.gone.safetensors").write_bytes(b"fitted")
    code, out, err = gem("remove", "law")
    assert code == 0
    assert learned == [(own, "law")]
    assert out.splitlines()[-1] == "router 'learner' has forgotten 'law'"
    assert f"router 'gone' of this set {AGAIN} (unknown router 'gone'" in err


def test_a_router_that_fails_to_forget(gem, own, shipped):
    (shipped / "router.failing.safetensors").write_bytes(b"fitted")
    code, _, err = gem("remove", "law")
    assert code == 1
    last = err.splitlines()[-1]
    assert "expert 'law' was removed, but router 'failing' could not forget it: the file" in last
    assert "law" not in read_set(own).names
