"""Names of precisions, sizes, and result files that are there already."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_study.records import ModelSize
from gem_study.sources import file_name, read_measured, split_precisions
from gem_suite.runner_model import describe_bundle
from gemcore.errors import FormatError, UsageError
from gemcore.options import parse_words

names = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
values = st.one_of(names, st.text("ab ,:=", min_size=1, max_size=6).map(lambda text: f'"{text}"'))
precisions = st.tuples(names, st.dictionaries(names, values, max_size=3)).map(
    lambda pair: (
        pair[0]
        + (":" + ",".join(f"{key}={value}" for key, value in pair[1].items()) if pair[1] else "")
    )
)


@given(st.lists(precisions, min_size=1, max_size=5))
def test_what_was_joined_with_commas_is_split_again(parts):
    found = split_precisions(",".join(parts))
    assert found == tuple(parts)
    assert [parse_words(part).name for part in found] == [part.split(":")[0] for part in parts]


def test_spaces_and_empty_parts():
    assert split_precisions(" f16 , ,q8-g32,") == ("f16", "q8-g32")
    assert split_precisions("") == ()
    assert split_precisions('a:b="open') == ('a:b="open',)


def test_file_names():
    assert file_name("f16") == "f16.json"
    assert file_name("q4a-g32:head=f16") == "q4a-g32-head=f16.json"
    assert file_name("../evil/x") == "evil-x.json"


def test_the_size_of_a_compiled_model(tiny_bundle):
    model = describe_bundle(tiny_bundle, 256)
    size = ModelSize(bytes=model.weights_bytes, bits_per_weight=model.bits_per_weight)
    assert size.bytes == (tiny_bundle.folder / "weights.safetensors").stat().st_size
    # 4 bits, and a scale and a minimum of 16 bits for each 32; the head has 8 bits and a scale.
    assert 4 + 32 / 32 <= size.bits_per_weight <= 8.5 * 1.1


def test_files_name_their_precision_and_size(files, make):
    assert [one.label for one in read_measured(files)] == ["f16", "q8-g32", "q4a-g32", "q4s-g32"]
    assert {one.size for one in read_measured(files)} == {ModelSize()}
    given_sizes = read_measured(files, [4, 3, 2, 1])
    assert [one.size.bytes for one in given_sizes] == [4, 3, 2, 1]
    data = make({})
    data["config"] |= {"weights_bytes": 1000, "bits_per_weight": 4.5}
    files[0].write_text(json.dumps(data))
    assert read_measured(files)[0].size == ModelSize(bytes=1000, bits_per_weight=4.5)
    data["config"] |= {"weights_bytes": "many", "bits_per_weight": True, "engine": "eager-float32"}
    files[0].write_text(json.dumps(data))
    assert read_measured(files)[0].size == ModelSize()
    assert read_measured(files)[0].label == "float32"


def test_files_of_the_same_precision_go_by_their_names(files, make, tmp_path):
    files[1].write_text(json.dumps(make({}, quantizer="f16")))
    assert [one.label for one in read_measured(files[:2])] == ["f16", "q8-g32"]
    (tmp_path / "again").mkdir()
    copy = tmp_path / "again" / files[0].name
    copy.write_text(files[0].read_text())
    assert [one.label for one in read_measured([files[0], copy])] == [str(files[0]), str(copy)]


def test_what_is_wrong_is_said(files, tmp_path):
    with pytest.raises(UsageError, match="gives 2 sizes for 4 files"):
        read_measured(files, [1, 2])
    with pytest.raises(UsageError, match="no such file"):
        read_measured([tmp_path / "none.json"])
    files[0].write_text("{}")
    with pytest.raises(FormatError, match="field 'results' is missing"):
        read_measured(files)
