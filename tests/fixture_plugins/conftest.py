"""Plugins of every sort of trouble; `tests/cli/conftest.py` builds and installs them."""

# Most of them are meant to fail when imported, so pytest must not look for tests in them.
collect_ignore_glob = ["*"]
