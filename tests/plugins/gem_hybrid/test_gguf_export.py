"""GGUF files of plans: the `gguf` package and GEM read from them what the packed weights stand for."""

import attrs
import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import quants

from gem_hybrid.cli import quantize
from gem_hybrid.gguf_export import check_exportable, write_float_gguf, write_gguf
from gem_uniform.quantizer import UniformQuantizer
from gemcore import schemes
from gemcore.errors import UsageError
from gemcore.formats.gguf import gguf_name, load_gguf, permute_rows
from gemcore.models.eager import EagerModel
from gemcore.models.layout import norm_sources, weight_units
from gemcore.models.weights import pack_checkpoint
from gemcore.packing import unpack_weight
from gemcore.reports import Plan, PlanEntry
from gemcore.schemes import SCHEMES, Scheme, fits, get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config
from gemcore.text.tokenizer import Tokenizer

SHAPE = tiny_config(context_length=256, tied_head=False, qkv_bias=True, hidden_size=64)


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(SHAPE)


def mixed_plan(checkpoint):
    """Every scheme there is, one after the other."""
    entries, names = [], sorted(SCHEMES)
    for number, unit in enumerate(weight_units(checkpoint.config)):
        fitting = [n for n in names if fits(get_scheme(n), unit.shape) is None]
        name = fitting[number % len(fitting)]
        entries.append(PlanEntry(unit=unit.name, scheme=name, reason="test", bytes=0))
    return Plan(quantizer="mixed", entries=tuple(entries))


def tolerance(scheme, values):
    """Zero points become float16 minima, which are no larger than the values at a group's ends."""
    return 2.0**-11 * 2 * np.abs(values).max() if scheme.byte_factors else 0


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory):
    plan = mixed_plan(checkpoint)
    weights, _ = pack_checkpoint(checkpoint, plan)
    path = tmp_path_factory.mktemp("gguf") / "mixed.gguf"
    write_gguf(path, checkpoint, plan, weights)
    return path, plan, weights


def test_the_gguf_package_reads_the_packed_values(written, checkpoint):
    path, plan, weights = written
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    heads = {"q_proj": SHAPE.heads, "k_proj": SHAPE.kv_heads}
    for unit in weight_units(SHAPE):
        scheme, start = get_scheme(plan.schemes()[unit.name]), 0
        expected = unpack_weight(weights[f"{unit.name}.packed"], scheme, unit.shape[0])
        for source in unit.sources:
            found = tensors[gguf_name(source)]
            values = quants.dequantize(found.data, found.tensor_type)
            part = expected[start : start + len(values)]
            count = heads.get(source.split(".")[-2])
            if count is not None:
                part = permute_rows(part, count)
            np.testing.assert_allclose(values, part, rtol=0, atol=tolerance(scheme, part))
            start += len(values)
    for source in norm_sources(SHAPE).values():
        found = tensors[gguf_name(source)].data
        np.testing.assert_array_equal(found, checkpoint.tensors[source].to_float32())
    assert len(tensors) == len(checkpoint.tensors)


def test_float_models_come_back_as_they_were(checkpoint, tmp_path):
    path = tmp_path / "float.gguf"
    write_float_gguf(path, checkpoint)
    found = load_gguf(path)
    assert found.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert found.tensors[name].encoding == "F32"
        np.testing.assert_array_equal(found.tensors[name].to_float32(), tensor.to_float32())
    ids = [1, 5, 2, 30]
    np.testing.assert_allclose(
        EagerModel(found).logits(ids), EagerModel(checkpoint).logits(ids), atol=1e-5
    )


def test_gem_reads_the_same_model(written, checkpoint):
    path, plan, weights = written
    found = load_gguf(path)
    # GGUF files have float32 numbers.
    assert found.config == attrs.evolve(SHAPE, norm_epsilon=float(np.float32(SHAPE.norm_epsilon)))
    assert found.licence == checkpoint.licence
    for unit in weight_units(SHAPE):
        scheme = get_scheme(plan.schemes()[unit.name])
        values = np.concatenate([found.tensors[name].to_float32() for name in unit.sources])
        expected = unpack_weight(weights[f"{unit.name}.packed"], scheme, unit.shape[0])
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance(scheme, expected))
    for name in unit.bias_sources:
        np.testing.assert_array_equal(
            found.tensors[name].to_float32(), checkpoint.tensors[name].to_float32()
        )


@pytest.mark.parametrize("name", ["q4a-g32", "q4s-g32", "q5a-g32", "q5s-g32", "q8-g32", "f16"])
def test_types_of_the_same_codes_come_back_without_rounding(name, checkpoint, tmp_path):
    quantizer = UniformQuantizer(name, name)
    plan = quantizer.plan(checkpoint)
    weights, _ = quantizer.apply(checkpoint, plan)
    write_gguf(tmp_path / "same.gguf", checkpoint, plan, weights)
    again, report = quantizer.apply(load_gguf(tmp_path / "same.gguf"), plan)
    assert report.lossless == len(plan.entries)
    for key, array in weights.items():
        np.testing.assert_array_equal(again[key], array)


def test_what_no_type_holds_is_refused(checkpoint, monkeypatch, tmp_path):
    six = Scheme(name="q6a-g32", bits=6, has_minimum=True)
    monkeypatch.setitem(schemes.SCHEMES, "q6a-g32", six)
    plan = UniformQuantizer("q4a-g32", "q6a-g32").plan(checkpoint)
    with pytest.raises(UsageError, match="embedding is q6a-g32, which no GGUF type holds exactly"):
        write_gguf(tmp_path / "x.gguf", checkpoint, plan, {})
    assert list(tmp_path.iterdir()) == []
    other = attrs.evolve(checkpoint, config=attrs.evolve(SHAPE, architecture="phi3"))
    with pytest.raises(UsageError, match="of architecture 'phi3', which GEM writes no GGUF"):
        check_exportable(other, mixed_plan(checkpoint))


def test_the_command_writes_one(host, text_file, tmp_path, tiny):
    path = tmp_path / "tiny.gguf"
    words = ["tiny", "-q", "hybrid:bits=6,tokens=1024", "--calibration", str(text_file)]
    result = CliRunner().invoke(quantize, [*words, "--gguf", str(path)])
    assert result.exit_code == 0, result.output
    assert load_gguf(path).config.layers == tiny.config.layers
    with pytest.raises(UsageError, match="leave out --no-measure"):
        CliRunner().invoke(
            quantize, [*words, "--gguf", str(path), "--no-measure"], catch_exceptions=False
        )


@pytest.mark.slow
def test_llama_cpp_writes_what_the_model_would(default_model_path, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    checkpoint = load_gguf(default_model_path)
    names = ("q8-g64", "q5s-g64", "q6-g64", "q4a-g32", "q4s-g64", "f16", "q5a-g64")
    entries = tuple(
        PlanEntry(unit=unit.name, scheme=names[i % len(names)], reason="test", bytes=0)
        for i, unit in enumerate(weight_units(checkpoint.config))
    )
    plan = Plan(quantizer="mixed", entries=entries)
    weights, _ = pack_checkpoint(checkpoint, plan)
    path = tmp_path / "mixed.gguf"
    write_gguf(path, checkpoint, plan, weights)
    other = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, verbose=False)
    tokenizer = Tokenizer.from_text_data(checkpoint.text)
    prompt = "The three states of matter are"
    ids = list(tokenizer.encode_prompt(prompt))
    assert other.tokenize(prompt.encode(), add_bos=checkpoint.text.add_bos) == ids
    written = []
    for token in other.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        written.append(token)
        if len(written) == 24:
            break
    text = other.detokenize(written).decode(errors="replace")
    assert text == tokenizer.decode(written)
    assert len(text) > 40
    # Each token is the likeliest after those before it, or all but: activations are rounded there.
    logits = EagerModel(load_gguf(path)).logits([*ids, *written])[len(ids) - 1 : -1]
    chosen = logits[np.arange(len(written)), written]
    assert (logits.max(axis=1) - chosen).max() < 0.3
    assert (logits.argmax(axis=1) == written).sum() >= len(written) - 2
