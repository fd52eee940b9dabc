"""Experts on disk: whole or not there, and refused in one sentence where anything is wrong."""

from __future__ import annotations

import hashlib
import json
import struct

import attrs
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gemcore.errors import FormatError, GemError, UsageError
from gemcore.experts import files
from gemcore.experts.files import CARD, TENSORS, Expert, all_finite, read_expert, write_expert
from gemcore.formats import safetensors_writer

DOWN = "layers.0.attention.qkv.down"


@pytest.fixture
def written(expert, tmp_path):
    """An expert's folder."""
    return write_expert(tmp_path / "finance", expert.card, expert.tensors).folder


def vouch(folder):
    """Make the card vouch for the tensors as they are now."""
    values = json.loads((folder / CARD).read_text())
    values["sha256"] = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    (folder / CARD).write_text(json.dumps(values))


def refusal(folder, kind=FormatError):
    with pytest.raises(kind) as caught:
        read_expert(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_what_was_written_is_read_by_another_library_too(expert, written):
    assert sorted(path.name for path in written.iterdir()) == [CARD, TENSORS]
    found = load_file(written / TENSORS)
    assert set(found) == set(expert.tensors)
    read = read_expert(written)
    for name, tensor in expert.tensors.items():
        assert tensor.tobytes() == found[name].tobytes() == read.tensors[name].tobytes()
    sha256 = hashlib.sha256((written / TENSORS).read_bytes()).hexdigest()
    assert read.card == attrs.evolve(expert.card, sha256=sha256)
    assert (read.digest, read.folder) == (sha256, written)
    assert read.bytes == sum(values.nbytes for values in found.values())
    assert isinstance(read.tensors[DOWN].base, np.ndarray)
    assert not read.tensors[DOWN].flags.writeable


def test_the_delta_of_a_unit(expert, tiny):
    rows, columns = expert.unit_shape("layers.0.attention.qkv")
    config = tiny.config
    assert rows == (config.heads + 2 * config.kv_heads) * config.head_dim
    assert columns == config.hidden_size


def test_a_folder_that_is_there_stays_as_it_is(expert, written):
    before = {path: path.read_bytes() for path in written.iterdir()}
    with pytest.raises(UsageError, match="exists already"):
        write_expert(written, expert.card, expert.tensors)
    assert {path: path.read_bytes() for path in written.iterdir()} == before
    other = attrs.evolve(expert.card, summary="another")
    assert write_expert(written, other, expert.tensors, replace=True).card.summary == "another"
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_only_an_expert_is_replaced(expert, tmp_path):
    precious = tmp_path / "finance" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(UsageError, match="exists already"):
        write_expert(precious.parent, expert.card, expert.tensors, replace=True)
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(expert, tmp_path, monkeypatch, error):
    def fail(path, tensors):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(files, "write_safetensors", fail)
    kind = GemError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind) as caught:
        write_expert(tmp_path / "finance", expert.card, expert.tensors)
    if kind is GemError:
        assert "the disk is full" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written(expert, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GemError, match="cannot write"):
        write_expert(tmp_path / "file" / "finance", expert.card, expert.tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_the_tensor(expert, written, value):
    tensors = {name: np.array(tensor) for name, tensor in expert.tensors.items()}
    tensors[DOWN][3, 1] = value
    with pytest.raises(FormatError, match=f"tensor '{DOWN}' holds NaN or infinite values"):
        write_expert(written.with_name("bad"), expert.card, tensors)
    assert not written.with_name("bad").exists()
    save_file(tensors, written / TENSORS)
    vouch(written)
    text = refusal(written)
    assert f"tensor '{DOWN}' holds NaN or infinite values" in text
    assert str(written) in text


def test_finite_values_are_found_by_their_bits():
    everything = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(everything)
    assert all_finite(everything[finite])
    assert not any(all_finite(everything[~finite][i : i + 1]) for i in range((~finite).sum()))


def test_a_truncated_file(written):
    path = written / TENSORS
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in refusal(written)
    path.write_bytes(b"")
    assert "is empty" in refusal(written)
    path.unlink()
    assert f"there is no {TENSORS}" in refusal(written)


def test_a_header_of_absurd_sizes(written):
    path = written / TENSORS
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    assert "claims a header of 4611686018427387904 bytes" in refusal(written)
    entry = {"dtype": "F16", "shape": [2**40, 4], "data_offsets": [0, 2**43]}
    header = json.dumps({DOWN: entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "truncated" in refusal(written)


def test_a_changed_byte(written):
    path = written / TENSORS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "its card vouches for" in refusal(written)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(DOWN), f"lacks tensors of its card's units: {DOWN}"),
        (lambda t: t.update(more=t[DOWN]), "holds tensors of no unit of its card: more"),
        (lambda t: t.update({DOWN: t[DOWN][:, :2]}), "[in, rank], but the card's rank is 4"),
        (lambda t: t.update({DOWN: t[DOWN][0]}), "has the impossible shape [4]"),
        (lambda t: t.update({DOWN: t[DOWN].astype(np.float32)}), "has type F32, not F16"),
    ],
)
def test_tensors_that_are_not_those_of_the_card(expert, written, change, words):
    tensors = {name: np.array(tensor) for name, tensor in expert.tensors.items()}
    change(tensors)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, written / TENSORS)
    vouch(written)
    assert words in refusal(written)
    with pytest.raises(FormatError):
        Expert(card=expert.card, tensors=tensors)
    with pytest.raises(FormatError):
        write_expert(written.with_name("bad"), expert.card, tensors)
    assert not written.with_name("bad").exists()


def test_a_folder_without_a_card(tmp_path):
    assert f"there is no {CARD}" in refusal(tmp_path, UsageError)
    assert "no expert" in refusal(tmp_path / "nowhere", UsageError)


def test_a_card_that_is_no_json(written):
    (written / CARD).write_text("{")
    assert "is not usable JSON" in refusal(written)


def test_an_unwritten_expert_has_a_digest_of_its_tensors(expert):
    assert expert.card.sha256 == ""
    other = {name: tensor.copy() for name, tensor in expert.tensors.items()}
    assert attrs.evolve(expert, tensors=other).digest == expert.digest
    other[DOWN][0, 0] += 1
    assert attrs.evolve(expert, tensors=other).digest != expert.digest


def test_tensors_lie_where_vector_instructions_like_them(written):
    size = int.from_bytes((written / TENSORS).read_bytes()[:8], "little")
    assert (8 + size) % safetensors_writer.ALIGNMENT == 0
