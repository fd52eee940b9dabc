"""Sets: experts that go together, and how they lie for a router."""

from __future__ import annotations

import hashlib

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import FormatError, UsageError
from gemcore.experts.card import unit_order
from gemcore.experts.expert_set import ExpertSet, expert_folders, read_set
from gemcore.experts.files import Expert, write_expert
from gemcore.models.layout import EMBEDDING, weight_units
from gemcore.testing.experts import tiny_expert
from gemcore.testing.tiny import tiny_checkpoint, tiny_config

MODEL = tiny_checkpoint()
UNITS = [unit.name for unit in weight_units(MODEL.config) if unit.name != EMBEDDING]


def test_a_folder_is_read_in_the_order_of_names(folder, tiny):
    experts = read_set(folder)
    assert experts.names == ("code", "law", "medicine")
    assert (experts.rank, experts.base_name, experts.folder) == (4, "tiny", folder)
    assert experts.units == tuple(UNITS)
    shapes = [unit.shape for unit in weight_units(tiny.config) if unit.name != EMBEDDING]
    assert experts.bytes == 3 * sum((rows + columns) * 4 * 2 for rows, columns in shapes)
    experts.check_base(tiny)
    assert experts.expert("law").card.domain == "law"
    with pytest.raises(UsageError, match="unknown expert 'lwa': did you mean 'law'"):
        experts.expert("lwa")


def test_the_digest_is_that_of_names_and_files_in_order(folder):
    digest = hashlib.sha256()
    for name in ("code", "law", "medicine"):
        sha256 = hashlib.sha256((folder / name / "expert.safetensors").read_bytes()).hexdigest()
        digest.update(f"{name}\0{sha256}\n".encode())
    experts = read_set(folder)
    assert experts.digest == digest.hexdigest()
    turned = ExpertSet(experts=experts.experts[::-1])
    assert turned.digest != experts.digest


@given(
    st.lists(st.sets(st.sampled_from(UNITS), min_size=1), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_stacked_holds_every_delta_and_zeros_elsewhere(chosen, rank):
    experts = [
        tiny_expert(f"e{i}", MODEL, rank=rank, units=units) for i, units in enumerate(chosen)
    ]
    stacked = ExpertSet(experts=experts).stacked()
    units = sorted(set().union(*chosen), key=unit_order)
    assert list(stacked) == [f"{unit}.{part}" for unit in units for part in ("down", "up")]
    shapes = {unit.name: unit.shape for unit in weight_units(MODEL.config)}
    for unit in units:
        rows, columns = shapes[unit]
        down, up = stacked[f"{unit}.down"], stacked[f"{unit}.up"]
        assert down.shape == (len(chosen), columns, rank)
        assert up.shape == (len(chosen), rank, rows)
        assert down.dtype == up.dtype == np.float16
        for i, expert in enumerate(experts):
            if unit in chosen[i]:
                assert down[i].tobytes() == expert.tensors[f"{unit}.down"].tobytes()
                assert up[i].tobytes() == expert.tensors[f"{unit}.up"].tobytes()
            else:
                assert not down[i].any()
                assert not up[i].any()


def test_another_base_is_refused_by_both_names(folder, tiny):
    other = attrs.evolve(tiny_checkpoint(tiny.config, seed=1), name="other")
    with pytest.raises(UsageError) as caught:
        read_set(folder).check_base(other)
    text = str(caught.value)
    assert "is for base model 'tiny' (fingerprint " in text
    assert "but model 'other' has fingerprint " in text


@pytest.mark.parametrize("layers", [1, 2])
def test_deltas_of_other_shapes_than_the_models(tiny, layers):
    """A card that claims the right base for the wrong deltas."""
    narrow = tiny_checkpoint(tiny_config(intermediate_size=64, layers=2))
    kind = "layers.1.feed_forward.down" if layers == 2 else "layers.1.attention.qkv"
    base = tiny_checkpoint(tiny_config(layers=layers))
    expert = tiny_expert("law", narrow, units=[kind])
    right = tiny_expert("law", base).card.base
    experts = ExpertSet(experts=[attrs.evolve(expert, card=attrs.evolve(expert.card, base=right))])
    words = "but model 'tiny' has [64, 96]" if layers == 2 else "has no such unit"
    with pytest.raises(FormatError, match=kind) as caught:
        experts.check_base(base)
    assert words in str(caught.value)


def test_experts_that_do_not_go_together(tiny):
    law = tiny_expert("law", tiny)
    other = attrs.evolve(tiny_checkpoint(tiny.config, seed=1), name="other")
    wide = tiny_expert("wide", tiny_checkpoint(tiny_config(intermediate_size=128)))
    wide = attrs.evolve(wide, card=attrs.evolve(wide.card, base=law.card.base))
    for second, words in (
        (law, "two experts are called 'law'"),
        (tiny_expert("code", tiny, rank=3), "'law' has rank 4, but expert 'code' has rank 3"),
        (tiny_expert("code", other), "'tiny' (fingerprint "),
        (tiny_expert("code", other), "expert 'code' is for 'other'"),
        (wide, "for weights feed_forward.gate_up of shape [192, 64], but expert 'wide'"),
    ):
        with pytest.raises(FormatError) as caught:
            ExpertSet(experts=[law, second])
        assert words in str(caught.value)


def test_what_is_no_expert_is_passed_over(folder, expert):
    write_expert(folder / ".finance-half", expert.card, expert.tensors)
    (folder / "notes").mkdir()
    (folder / "router.scar.safetensors").write_bytes(b"")
    assert [path.name for path in expert_folders(folder)] == ["code", "law", "medicine"]
    assert read_set(folder).names == ("code", "law", "medicine")


def test_folders_without_experts(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        read_set(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no experts"):
        read_set(tmp_path)
    assert expert_folders(tmp_path / "nowhere") == ()


def test_a_folder_that_was_renamed(folder):
    (folder / "law").rename(folder / "justice")
    with pytest.raises(FormatError, match="holds an expert called 'law': rename the folder"):
        read_set(folder)


def test_one_damaged_expert_is_named(folder):
    path = folder / "law" / "expert.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="law/expert.safetensors cannot be used"):
        read_set(folder)


def test_experts_need_not_be_files(tiny):
    experts = ExpertSet(experts=[tiny_expert("a", tiny), tiny_expert("b", tiny)])
    assert experts.title == "the expert set"
    assert len(experts.digest) == 64
    assert all(isinstance(expert, Expert) for expert in experts.experts)
