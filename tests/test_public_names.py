"""What `gemcore` and `gemcore.testing` export is there, is imported late, and can be found."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("module_name", ["gemcore", "gemcore.testing"])
def test_every_exported_name_leads_to_its_home(module_name: str) -> None:
    module = importlib.import_module(module_name)
    assert dir(module) == module.__all__
    for name in module.__all__:
        found = getattr(module, name)
        assert found is not None, name
        if name != "__version__":
            assert found.__module__.startswith("gemcore.") or name in ("hookimpl", "hookspec")


@pytest.mark.parametrize("module_name", ["gemcore", "gemcore.testing"])
def test_other_names_are_missing_as_from_any_module(module_name: str) -> None:
    module = importlib.import_module(module_name)
    with pytest.raises(AttributeError, match=f"module '{module_name}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
