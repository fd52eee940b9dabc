"""What goes says so, in one place, to whoever still uses it."""

from __future__ import annotations

import warnings
from datetime import date

import pytest

from gemcore._deprecated import OWN, Deprecation, GemDeprecationWarning, warn_deprecated

TABLE = {
    "gemcore.old": Deprecation(since="0.2", removal=date(2027, 3, 1), instead="gemcore.new"),
}


def old() -> None:
    warn_deprecated("gemcore.old", TABLE)


def test_a_warning_names_dates_and_replacement_and_points_at_the_caller() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old()
    (warning,) = caught
    assert warning.category is GemDeprecationWarning
    assert warning.filename == __file__
    assert str(warning.message) == (
        "gemcore.old is deprecated since 0.2 and goes on 2027-03-01: use gemcore.new"
    )


def test_what_is_not_deprecated_has_no_warning() -> None:
    with pytest.raises(KeyError):
        warn_deprecated("gemcore.load", OWN)


def test_records_give_authors_of_plugins_the_public_names() -> None:
    from gemcore import records

    assert records.Deprecation is Deprecation
    assert records.GemDeprecationWarning is GemDeprecationWarning
