"""The fixtures that pytest finds by itself, and the folder for a first try."""

import json

import pytest

from gemcore.experts.expert_set import read_set
from gemcore.models.sources import load_checkpoint
from gemcore.plugins import get_host
from gemcore.testing.__main__ import main


def test_model_and_experts_belong_together(gem_checkpoint, gem_experts):
    gem_experts.check_base(gem_checkpoint)
    assert gem_experts.names == ("code", "law", "medicine")


def test_the_folder_holds_the_same_model(gem_checkpoint, gem_model_folder):
    found = load_checkpoint(str(gem_model_folder), get_host())
    assert found.config == gem_checkpoint.config
    for name, tensor in gem_checkpoint.tensors.items():
        assert (found.tensors[name].to_float32() == tensor.to_float32()).all()


@pytest.mark.slow
def test_the_bundle_answers_and_comes_out_of_the_cache(gem_bundle, gem_session):
    assert gem_bundle.manifest.router == "none"
    tokens = gem_session.tokenizer.encode_prompt("hello")
    assert gem_session.logits(tokens).shape == (len(tokens), gem_session.config.vocabulary_size)


def test_a_folder_to_try_a_plugin_with(tmp_path, capsys):
    assert main([str(tmp_path)]) == 0
    assert "experts code, law, medicine" in capsys.readouterr().out
    model = load_checkpoint(str(tmp_path / "model"), get_host())
    read_set(tmp_path / "experts").check_base(model)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--help"]])
def test_anything_else_is_wrong_usage(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == "usage: python -m gemcore.testing FOLDER\n"


def test_checks_that_compile_are_marked_slow():
    from gemcore.testing import RouterConformance, fixtures

    class Item:
        def __init__(self, function):
            self.function, self.markers = function, []

        def add_marker(self, marker):
            self.markers.append(marker.name)

    items = [
        Item(RouterConformance.test_compiled_it_routes_as_in_torch),
        Item(RouterConformance.test_can_be_made),
    ]
    fixtures.pytest_collection_modifyitems(items)
    assert [item.markers for item in items] == [["slow"], []]
