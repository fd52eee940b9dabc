"""What libraries that are compiled ahead of time have in common."""

from __future__ import annotations

import re

from gemcore.runtime import ahead
from gemcore.runtime.ahead import SOURCES, driver_digest


def test_the_digest_is_of_every_source(monkeypatch, tmp_path):
    for path in SOURCES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(ahead, "SOURCES", tmp_path)
    before = driver_digest()
    assert re.fullmatch("[0-9a-f]{64}", before)
    for name in ("gem.h", "gem_driver.c", "gem_math.c", "gem_runner.c", "gem_tables.h"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        assert driver_digest() != before
        before = driver_digest()
