"""Plans as files: written, edited by hand, read, refused."""

import pytest

from gem_hybrid.plan_file import plan_text, read_plan, write_plan
from gem_uniform.quantizer import q4a_g32
from gemcore.errors import UsageError
from gemcore.testing import tiny_checkpoint, tiny_config


@pytest.fixture
def written(tiny, tmp_path):
    """A plan in a file."""
    path = tmp_path / "plan.toml"
    plan = q4a_g32(head="q8-g32").plan(tiny)
    write_plan(path, tiny, plan, ("two\nlines",))
    return path, plan


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_written_is_read(tiny, written):
    path, plan = written
    found = read_plan(path, tiny, "hybrid:plan=x")
    assert found.schemes() == plan.schemes()
    assert [e.bytes for e in found.entries] == [e.bytes for e in plan.entries]
    assert found.quantizer == "hybrid:plan=x"
    assert path.read_text().startswith("# two lines\nformat = 1\n")
    assert [p.name for p in path.parent.iterdir() if "tmp" in p.name] == []


def test_it_can_be_edited(tiny, written):
    path, _ = written
    changed(path, '"layers.0.attention.out" = "q4a-g32"', '"layers.0.attention.out" = "f16"')
    found = read_plan(path, tiny, "x")
    assert found.schemes()["layers.0.attention.out"] == "f16"
    assert {e.unit: e.bytes for e in found.entries}["layers.0.attention.out"] == 64 * 64 * 2


def test_odd_names_of_models_are_quoted(tiny, tmp_path):
    import tomllib

    import attrs

    odd = attrs.evolve(tiny, name='a "b"\\\x7f\n\udc80é')
    text = plan_text(odd, q4a_g32(head="q8-g32").plan(tiny))
    assert tomllib.loads(text)["model"] == 'a "b"\\\x7f\n?é'


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"q8-g32"', '"q9-g32"', "embedding: unknown scheme 'q9-g32': did you mean 'q8-g32'"),
        ('"q8-g32"', "8", "gives no precision for weight 'embedding'"),
        ('"embedding"', '"embeding"', "unknown weight 'embeding': did you mean 'embedding'"),
        ("format = 1", "format = 7", "has format 7, but this GEM reads format 1"),
        ("format = 1", "formal = 1", "is no plan: it lacks 'format'"),
        ("format = 1", "format = 1\nbits = 4", "unknown key 'bits'"),
        ("format = 1", "format =", "is not valid TOML"),
    ],
)
def test_mistakes_are_one_sentence(tiny, written, old, new, sentence):
    path, _ = written
    changed(path, old, new)
    with pytest.raises(UsageError, match="plan") as caught:
        read_plan(path, tiny, "x")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value).split("TOML")[0]


def test_another_model_is_refused(written):
    path, _ = written
    with pytest.raises(UsageError, match=r"was made for another model \('tiny'\) than 'tiny'"):
        read_plan(path, tiny_checkpoint(seed=1), "x")


def test_a_weight_that_is_missing_or_does_not_fit(tmp_path):
    narrow = tiny_checkpoint(tiny_config(hidden_size=48))
    path = tmp_path / "plan.toml"
    write_plan(path, narrow, q4a_g32(head="q8-g32").plan(narrow))
    changed(path, '"embedding" = "f16"', '"embedding" = "q8-g32"')
    with pytest.raises(UsageError, match="embedding cannot be q8-g32: its 48 inputs are not"):
        read_plan(path, narrow, "x")
    changed(path, '"embedding"', "#")
    with pytest.raises(UsageError, match="gives no precision for weight 'embedding'"):
        read_plan(path, narrow, "x")


def test_files_that_are_no_plans(tiny, tmp_path):
    with pytest.raises(UsageError, match="no such plan"):
        read_plan(tmp_path / "none.toml", tiny, "x")
    with pytest.raises(UsageError, match="cannot read the plan"):
        read_plan(tmp_path, tiny, "x")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_plan(tmp_path / "bytes", tiny, "x")
