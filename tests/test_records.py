import math

import pytest

from gemcore.records import ModelSourceRecord, Option, RouterRecord


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Upper"},
        {"name": "has space"},
        {"name": "a/b"},
        {"name": "a:b"},
        {"name": ""},
        {"name": None},
        {"loader": "no_attribute"},
        {"loader": "os.system('x'):y"},
        {"summary": ""},
        {"summary": "two\nlines"},
        {"options": (Option(name="a", type=int), Option(name="a", type=str))},
        {"options": ["a"]},
    ],
)
def test_records_refuse_what_users_could_not_type_or_read(fields):
    sound = {"name": "sound", "summary": "one line", "loader": "package.module:Class.method"}
    assert RouterRecord(**sound).options == ()
    with pytest.raises((ValueError, TypeError)):
        RouterRecord(**sound | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "not an identifier"},
        {"name": "name"},
        {"type": list},
        {"type": "int"},
        {"default": "2"},
        {"default": True},
        {"default": 9},
        {"default": 0},
        {"choices": (1, "2")},
        {"choices": (3, 4), "default": 5},
    ],
)
def test_options_refuse_declarations_that_contradict_themselves(fields):
    sound = {"name": "width", "type": int, "default": 2, "minimum": 1, "maximum": 8}
    assert Option(**sound).default == 2
    with pytest.raises(ValueError, match="option"):
        Option(**sound | fields)


def test_non_finite_numbers_need_leave():
    with pytest.raises(ValueError, match="is not a finite number"):
        Option(name="x", type=float, default=math.inf)
    assert Option(name="x", type=float, default=math.inf, allow_non_finite=True).default == math.inf


def test_a_source_of_files_has_no_models():
    assert ModelSourceRecord(name="files", summary="files", loader="a:b").models == ()
