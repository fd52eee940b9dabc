"""Adding and removing: one expert changes, and no other's file."""

from __future__ import annotations

import attrs
import pytest

from gemcore.errors import GemError, UsageError
from gemcore.experts import files
from gemcore.experts.changes import add_expert, remove_expert
from gemcore.experts.expert_set import read_set
from gemcore.experts.library import SetPlace
from gemcore.testing.experts import tiny_expert
from gemcore.testing.tiny import tiny_checkpoint


@pytest.fixture
def place(folder):
    """The set as the user's own."""
    return SetPlace(name="clinic", folder=folder)


@pytest.fixture
def shipped(folder, tmp_path):
    """The set as a plugin brings it."""
    return SetPlace(name="clinic", folder=folder, own_folder=tmp_path / "own" / "clinic")


def state(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def without(found, name):
    return {path: value for path, value in found.items() if not path.startswith(f"{name}/")}


def test_others_keep_their_bytes_and_times(place, folder, expert):
    (folder / "router.scar.safetensors").write_bytes(b"fitted")
    before = state(folder)
    change = add_expert(place, expert)
    assert (change.name, change.folder, change.copied) == ("finance", folder, False)
    after = state(folder)
    assert without(after, "finance") == before
    assert len(after) == len(before) + 2
    assert read_set(folder).names == ("code", "finance", "law", "medicine")
    change = remove_expert(place, "finance")
    assert (change.name, change.folder, change.copied) == ("finance", folder, False)
    assert state(folder) == before
    remove_expert(place, "law")
    assert state(folder) == without(before, "law")
    assert sorted(path.name for path in folder.iterdir()) == [
        "code", "medicine", "router.scar.safetensors",
    ]  # fmt: skip


def test_what_a_plugin_brings_is_copied_first(shipped, folder, expert):
    before = state(folder)
    change = add_expert(shipped, expert)
    assert (change.folder, change.copied) == (shipped.own_folder, True)
    assert state(folder) == before
    assert without(state(shipped.own_folder), "finance") == before
    assert "finance" in read_set(shipped.own_folder).names


def test_removing_from_what_a_plugin_brings(shipped, folder):
    before = state(folder)
    assert remove_expert(shipped, "law").copied
    assert state(folder) == before
    assert state(shipped.own_folder) == without(before, "law")


def test_refused_experts_change_nothing_and_copy_nothing(shipped, folder, tiny):
    other = attrs.evolve(tiny_checkpoint(tiny.config, seed=1), name="other")
    before = state(folder.parent)
    for expert, words in (
        (tiny_expert("law", tiny), "has an expert called 'law' already: give --name"),
        (
            tiny_expert("x", tiny, rank=3),
            "has rank 3, but those of .* have rank 4: give --to-rank 4",
        ),
        (tiny_expert("x", other), "is for base model 'tiny' .* expert 'x' is for 'other'"),
    ):
        with pytest.raises(UsageError, match=words):
            add_expert(shipped, expert)
    with pytest.raises(UsageError, match="unknown expert 'lwa': did you mean 'law'"):
        remove_expert(shipped, "lwa")
    assert state(folder.parent) == before
    assert not shipped.own_folder.exists()


def test_a_full_disk_leaves_the_set_as_it_was(place, folder, expert, monkeypatch):
    def full(path, tensors):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_safetensors", full)
    before = state(folder)
    with pytest.raises(GemError, match="the disk is full"):
        add_expert(place, expert)
    assert state(folder) == before
    assert len(list(folder.iterdir())) == 3


def test_a_new_folder_begins_with_any_expert(tmp_path, expert):
    place = SetPlace(name="new", folder=tmp_path / "new")
    add_expert(place, expert)
    assert read_set(place.folder).names == ("finance",)
    with pytest.raises(UsageError, match="'finance' is the only expert of set 'new': delete"):
        remove_expert(place, "finance")
    assert read_set(place.folder).names == ("finance",)


def test_a_damaged_expert_can_be_removed(place, folder):
    (folder / "law" / "card.json").write_text("{")
    remove_expert(place, "law")
    assert read_set(folder).names == ("code", "medicine")
