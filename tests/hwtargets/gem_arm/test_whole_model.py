"""The whole default model for a Raspberry Pi 4, emulated, beside the same model on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from gem_arm.linux import raspberry_pi_4
from gemcore.api import load

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. A train from one to the other "
    "takes about eleven hours, which is why most people fly."
)
PROMPT_TOKENS, NEW_TOKENS = 32, 8


@pytest.mark.slow
@pytest.mark.parametrize("router", ["none", "scar"])
def test_the_default_model_gives_the_logits_and_the_tokens_of_this_machine(router):
    ready = raspberry_pi_4().readiness()
    if reason := ready.build or ready.run:
        pytest.skip(reason)
    here, there = (load(router=router, target=target) for target in ("host", "rpi4"))
    assert there.machine == "qemu-aarch64 -cpu cortex-a72"
    tokens = here.encode_prompt(TEXT, chat=False)[:PROMPT_TOKENS]
    assert len(tokens) == PROMPT_TOKENS
    np.testing.assert_allclose(there.logits(tokens), here.logits(tokens), rtol=0, atol=2e-3)
    assert greedy(there, tokens) == greedy(here, tokens)
    library = there.bundle.manifest.files["model.so"]
    assert library["size"] < 2e6


def greedy(session, tokens):
    """The likeliest tokens behind a prompt, one at a time."""
    from gemcore.session import EncodedPrompt

    answer = session.generate(EncodedPrompt(tuple(tokens)), max_tokens=NEW_TOKENS)
    assert answer.token_ids
    return answer.token_ids
