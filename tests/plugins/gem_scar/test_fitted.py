"""Files of fitted routers, sound and not."""

import json

import attrs
import numpy as np
import pytest
from safetensors.numpy import save

from gem_scar.fitted import (
    FittedRouter,
    check_experts,
    fitted_path,
    read_fitted,
    tensor,
    write_fitted,
)
from gemcore.errors import FormatError, UsageError
from gemcore.experts.expert_set import read_set
from gemcore.experts.files import remove_folder


@pytest.fixture
def fitted(folder):
    """What a router might have learned for the experts in `folder`."""
    experts = read_set(folder)
    return FittedRouter(
        router="scar",
        base=experts.base,
        experts=experts.names,
        sha256=tuple(expert.digest for expert in experts.experts),
        settings={"layer": 1, "tau": 0.5},
        tensors={"keys": np.arange(6, dtype=np.float32).reshape(2, 3)},
    )


def test_what_was_written_is_read(folder, fitted):
    path = write_fitted(folder, fitted)
    assert path == folder / "router.scar.safetensors"
    found = read_fitted(folder, "scar")
    assert attrs.asdict(found, filter=lambda a, _: a.name not in ("tensors", "digest")) == (
        attrs.asdict(fitted, filter=lambda a, _: a.name not in ("tensors", "digest"))
    )
    assert np.array_equal(found.tensors["keys"], fitted.tensors["keys"])
    check_experts(found, read_set(folder))
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_a_missing_file_says_how_to_make_it(folder):
    with pytest.raises(UsageError, match="gem experts fit-router --router scar"):
        read_fitted(folder, "scar")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "format version is 2, but this GEM reads 1"),
        ({"format_version": "1"}, "format version is '1'"),
        ({"router": "arrow"}, "fitted for router 'arrow', not for 'scar'"),
        ({"sha256": ["a"]}, "not two lists of the same length"),
        ({"experts": "law"}, "not two lists of the same length"),
        ({"settings": 3}, "fields of wrong types"),
        ({"more": 3}, "must have exactly"),
    ],
)
def test_malformed_metadata_are_refused(folder, fitted, change, said):
    header = {
        "format_version": 1,
        "router": "scar",
        "base": fitted.base,
        "experts": list(fitted.experts),
        "sha256": list(fitted.sha256),
        "settings": {},
    }
    content = save(dict(fitted.tensors), metadata={"router": json.dumps(header | change)})
    fitted_path(folder, "scar").write_bytes(content)
    with pytest.raises(FormatError) as error:
        read_fitted(folder, "scar")
    assert said in str(error.value)


@pytest.mark.parametrize("metadata", [None, {"router": "[1]"}, {"router": "{"}, {"other": "{}"}])
def test_files_of_another_kind_are_refused(folder, fitted, metadata):
    fitted_path(folder, "scar").write_bytes(save(dict(fitted.tensors), metadata=metadata))
    with pytest.raises(FormatError):
        read_fitted(folder, "scar")


@pytest.mark.parametrize("length", [0, 4, 20, -8])
def test_truncated_files_are_refused(folder, fitted, length):
    path = write_fitted(folder, fitted)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FormatError):
        read_fitted(folder, "scar")


def test_values_that_are_not_finite_are_refused(folder, fitted):
    write_fitted(folder, attrs.evolve(fitted, tensors={"keys": np.float32([[np.nan]])}))
    with pytest.raises(FormatError, match="tensor 'keys' holds NaN"):
        read_fitted(folder, "scar")


def test_other_types_are_refused(folder, fitted):
    content = save({"keys": np.zeros(2, np.float64)}, metadata={"router": "{}"})
    fitted_path(folder, "scar").write_bytes(content)
    with pytest.raises(FormatError, match="F64"):
        read_fitted(folder, "scar")


def test_the_difference_of_experts_is_named(folder, fitted):
    remove_folder(folder / "law")
    with pytest.raises(UsageError, match="'law' has gone; fit it again"):
        check_experts(fitted, read_set(folder))
    changed = attrs.evolve(fitted, experts=("code", "medicine"), sha256=("0", fitted.sha256[2]))
    with pytest.raises(UsageError, match="'code' has changed"):
        check_experts(changed, read_set(folder))
    with pytest.raises(UsageError, match="base model with fingerprint 000"):
        check_experts(attrs.evolve(fitted, base="0" * 64), read_set(folder))


@pytest.mark.parametrize(("name", "shape"), [("query", (2, 3)), ("keys", (2, 4)), ("keys", (2,))])
def test_tensors_must_have_their_shape(folder, fitted, name, shape):
    with pytest.raises(FormatError, match=f"'{name}'"):
        tensor(fitted, name, shape, folder)
