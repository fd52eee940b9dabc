"""The whole default model on the emulated Hexagon processor, beside the same model on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from gem_npu import counting
from gem_npu.target import HexagonTarget
from gemcore.api import load
from gemcore.session import EncodedPrompt

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. A train from one to the other "
    "takes about eleven hours, which is why most people fly."
)
PROMPT_TOKENS, NEW_TOKENS = 32, 8
MOST_VECTORS = 128
"""Multiply-accumulates of one vector instruction."""


@pytest.mark.slow
@pytest.mark.parametrize("router", ["none", "scar"])
def test_the_default_model_gives_the_logits_and_the_tokens_of_this_machine(
    router, tmp_path, monkeypatch
):
    ready = HexagonTarget().readiness()
    if reason := ready.build or ready.run:
        pytest.skip(reason)
    counted = tmp_path / "counts"
    monkeypatch.setenv(counting.VARIABLE, str(counted))
    here, there = load(router=router, kv_cache="q8"), load(router=router, target="npu")
    assert there.bundle.manifest.kv_cache == "q8"  # what this target prefers
    tokens = here.encode_prompt(TEXT, chat=False)[:PROMPT_TOKENS]
    assert len(tokens) == PROMPT_TOKENS
    wanted = here.generate(EncodedPrompt(tuple(tokens)), max_tokens=NEW_TOKENS).token_ids
    assert there.generate(EncodedPrompt(tuple(tokens)), max_tokens=NEW_TOKENS).token_ids == wanted
    for session in (here, there):
        session.forget()
    before = counting.read_counts(counted)
    found = there.feed(tokens[:1])
    np.testing.assert_allclose(found, here.feed(tokens[:1]), rtol=0, atol=2e-3)
    check_vectors(there, counting.since(counting.read_counts(counted), before))
    np.testing.assert_allclose(there.feed(tokens[1:]), here.feed(tokens[1:]), rtol=0, atol=2e-3)


def check_vectors(session, counts):
    """At least 95 % of the work, by the report and by what qemu counted of one token."""
    report = session.bundle.manifest.delegation["operations"]
    work = {unit: sum(e["multiply_accumulates"] for e in report if e["unit"] == unit)
            for unit in ("hvx", "scalar")}  # fmt: skip
    assert work["hvx"] >= 0.95 * sum(work.values())
    products = [c for name, c in counts.items() if name.startswith("qlinear")]
    linear = next(e for e in report if e["operation"] == "qlinear")
    assert sum(c.calls for c in products) == linear["count"]
    # So many vector instructions it takes at least, if HVX made these products.
    assert sum(c.vectors for c in products) >= linear["multiply_accumulates"] / MOST_VECTORS
    assert all(c.vectors == 0 for name, c in counts.items()
               if not name.startswith(("qlinear", "attention")))  # fmt: skip
