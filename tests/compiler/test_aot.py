"""Whole decoders compiled ahead of time for this machine, against the same under TVM's runtime."""

from __future__ import annotations

import ctypes
import shutil
import threading

import attrs
import numpy as np
import pytest

from gem_host.processor import choose_level
from gemcore.build import compile_bundle
from gemcore.compiler import instructions
from gemcore.compiler.aot import compile_ahead
from gemcore.compiler.aot_link import Toolchain, link_shared
from gemcore.compiler.lower import lower
from gemcore.errors import GemError
from gemcore.models.decoder import causal_placement
from gemcore.reports import DelegationReport, Readiness
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.mapped_weights import map_weights
from gemcore.testing.ahead import AheadLibrary, aligned_bytes

HOST_TOOLS = Toolchain(
    compiler=("cc",),
    linker=("cc", "-nostdlib", "-Wl,-z,defs"),
    hide="-Wl,--version-script={}",
)
POSITIONS = 64


@attrs.frozen
class AheadTarget:
    """This machine, ahead of time."""

    def describe(self):
        return {"ahead": True}

    def readiness(self):
        return Readiness(execution="native")

    def build(self, exported, config, folder):
        level = choose_level("auto")
        # Fewer tokens at a time are quicker to compile, and give the same bits.
        isa = attrs.evolve(getattr(instructions, level.kernels), token_tiles=(2, 1))
        module = lower(exported, config, isa)
        ahead = compile_ahead(module, level.target, exported, config, folder)
        link_shared(ahead, HOST_TOOLS, folder, folder / "libgem_model.so")
        return DelegationReport(target="ahead", unit="cpu", execution="native", operations=())


def ahead_of(parts, checkpoint, folder):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler 'cc' in PATH")
    parts = attrs.evolve(parts, target=AheadTarget(), names=parts.names | {"target": "ahead"})
    return compile_bundle(checkpoint, parts, folder)


def in_memory(content: bytes) -> np.ndarray:
    file = aligned_bytes(len(content))
    file[...] = np.frombuffer(content, np.uint8)
    return file


def opened(bundle, **sizes) -> AheadLibrary:
    file = in_memory((bundle.folder / "weights.safetensors").read_bytes())
    sizes = {"positions": POSITIONS, "tokens": 40, "rows": 40} | sizes
    return AheadLibrary(bundle.folder / "libgem_model.so", file, **sizes)


def tokens_of(config, count, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocabulary_size, count, np.int32)


def placed(start, count):
    return np.ascontiguousarray(causal_placement(start, count).numpy())


@pytest.fixture(scope="module")
def ahead_bundle(tiny, tiny_parts, tmp_path_factory):
    return ahead_of(tiny_parts, tiny, tmp_path_factory.mktemp("ahead") / "tiny.gem")


@pytest.fixture(scope="module")
def routed_ahead(routed_bundle, routed_parts, tiny, tmp_path_factory):
    return ahead_of(routed_parts, tiny, tmp_path_factory.mktemp("ahead") / "routed.gem")


@pytest.fixture
def ours(ahead_bundle) -> AheadLibrary:
    return opened(ahead_bundle)


@pytest.fixture
def theirs(tiny_session):
    return tiny_session._executor


def test_passes_of_all_lengths_give_the_same_bits(tiny, ours, theirs):
    cache, start = KVCache(tiny.config), 0
    for count, wanted in ((1, [0]), (13, [12]), (30, [29, 0, 7]), (1, [0]), (4, [0, 1, 2, 3])):
        tokens, rows = tokens_of(tiny.config, count, count), np.array(wanted, np.int32)
        placement = placed(start, count)
        expected = theirs.forward(tokens, placement, rows, cache)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_array_equal(ours.forward(tokens, placement, rows), expected)
        start += count


def test_feeding_a_text_is_greedy_decoding(tiny, ours, theirs):
    cache = KVCache(tiny.config)
    given = tokens_of(tiny.config, 32)
    expected = theirs.forward(given, placed(0, 32), np.array([31], np.int32), cache)[0]
    got = ours.feed(given)
    for step in range(8):
        np.testing.assert_array_equal(got, expected)
        chosen = np.array([expected.argmax()], np.int32)
        row = np.zeros(1, np.int32)
        expected = theirs.forward(chosen, placed(32 + step, 1), row, cache)[0]
        got = ours.feed(chosen)
    assert ours.code.gem_rewind(ours.model, ctypes.c_int64(0)) == 0
    np.testing.assert_array_equal(ours.feed(given), opened_again(ours, given))


def opened_again(library, given):
    library.code.gem_rewind(library.model, ctypes.c_int64(0))
    library.cache[...] = 0
    return library.feed(given)


def test_what_the_library_says_of_itself(tiny, ours, ahead_bundle):
    config, facts = tiny.config, ours.facts
    assert (facts.interface, facts.vocabulary, facts.layers) == (
        1,
        config.vocabulary_size,
        config.layers,
    )
    assert (facts.experts, facts.routing, facts.prior) == (0, 0, 0)
    assert (facts.context, facts.caches, facts.block) == (
        config.context_length,
        2 * config.layers,
        16,
    )
    ours.code.gem_weight_name.restype = ctypes.c_char_p
    names = [ours.code.gem_weight_name(i).decode() for i in range(facts.weights)]
    assert tuple(names) == ahead_bundle.manifest.weights
    arrays = map_weights(ahead_bundle.folder / "weights.safetensors", names)
    assert [ours.code.gem_weight_bytes(i) for i in range(facts.weights)] == [
        a.nbytes for a in arrays
    ]
    assert ours.code.gem_weight_name(facts.weights) is None


def test_the_workspace_grows_with_what_a_pass_is_asked_for(ours):
    one, many, wide = (ours.workspace_bytes(*sizes) for sizes in ((1, 1), (40, 1), (40, 40)))
    assert one < many < wide
    tokens = np.arange(40, dtype=np.int32)
    ours.use_workspace(many)
    ours.forward(tokens, placed(0, 40), np.zeros(1, np.int32))
    ours.use_workspace(one)
    with pytest.raises(
        GemError, match=r"^the workspace has \d+ bytes left for a pass that needs \d+"
    ):
        ours.forward(tokens, placed(0, 40), np.zeros(1, np.int32))


@pytest.mark.parametrize(
    ("tokens", "field", "value", "rows", "message"),
    [
        ([270], None, 0, [0], "there is no token 270: the vocabulary has 270"),
        ([-1], None, 0, [0], "there is no token -1: "),
        ([0], 0, 256, [0], "there is no position 256: the model's context has 256"),
        ([0], 1, 64, [0], "there is no cache slot 64: the cache has 64"),
        ([0], 3, 65, [0], "token 0 is placed where it cannot be, in a cache of 64"),
        ([0], 4, 3, [0], "token 0 is placed where it cannot be"),
        ([0], None, 0, [1], "there is no row 1: the pass has 1 tokens"),
        ([], None, 0, [0], "a pass has 0 tokens, and needs at least 1"),
        ([0], None, 0, [], "a pass has 0 wanted rows, and needs at least 1"),
    ],
)  # fmt: skip
def test_a_pass_that_would_leave_its_memory_is_refused(ours, tokens, field, value, rows, message):
    placement = placed(0, max(len(tokens), 1))
    if field is not None:
        placement[0, field] = value
    with pytest.raises(GemError, match=f"^{message}"):
        ours.forward(np.array(tokens, np.int32), placement, np.array(rows, np.int32))


def test_a_text_that_is_longer_than_the_cache_is_refused(ours):
    ours.feed(np.zeros(40, np.int32))
    with pytest.raises(GemError, match="^cannot take 25 tokens: the cache has room for 24 more"):
        ours.feed(np.zeros(25, np.int32))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"norm.gain"', b'"norm.gone"', "the file's weight norm.gain is missing"),
        (b'"F32"', b'"F16"', "the file's weight .* has another type"),
        (b'"data_offsets":[0,', b'"data_offsets":[9,', "the file's weight .* has another size"),
    ],
)
def test_a_file_of_other_weights_is_refused(ahead_bundle, old, new, message):
    raw = (ahead_bundle.folder / "weights.safetensors").read_bytes()
    assert old in raw
    damaged = in_memory(raw.replace(old, new, 1))
    library = ahead_bundle.folder / "libgem_model.so"
    with pytest.raises(GemError, match=f"^{message}"):
        AheadLibrary(library, damaged, positions=16, tokens=1)


@pytest.mark.parametrize("size", [0, 7, 8, 100, 5000])
def test_a_file_that_is_cut_off_is_refused(ahead_bundle, size):
    raw = (ahead_bundle.folder / "weights.safetensors").read_bytes()
    assert len(raw) > size
    library = ahead_bundle.folder / "libgem_model.so"
    with pytest.raises(GemError, match="^the (weights are no safetensors file|file's weight )"):
        AheadLibrary(library, in_memory(raw[:size]), positions=16, tokens=1)


def test_weights_that_lie_askew_are_refused(ahead_bundle):
    raw = (ahead_bundle.folder / "weights.safetensors").read_bytes()
    askew = in_memory(b"\0" * 8 + raw)[8:]
    with pytest.raises(GemError, match=r"^the weight .* must begin at a multiple of 64 bytes"):
        AheadLibrary(ahead_bundle.folder / "libgem_model.so", askew, positions=16, tokens=1)


def test_tensors_of_the_caller_may_lie_anywhere(tiny, ours):
    """Compiled code reads and writes vectors, for which some processors want whole addresses."""
    tokens, placement, rows = (
        tokens_of(tiny.config, 30),
        placed(0, 30),
        np.arange(30, dtype=np.int32),
    )
    expected = ours.forward(tokens, placement, rows)
    moved = [askew(array) for array in (tokens, placement, rows)]
    logits = askew(np.full_like(expected, np.nan))
    places = [ctypes.c_void_p(array.ctypes.data) for array in (*moved, logits)]
    count = ctypes.c_int64(30)
    at = (ours.model, places[0], places[1], count, places[2], count, None, places[3])
    assert ours.code.gem_forward(*at) == 0
    np.testing.assert_array_equal(logits, expected)


def askew(array):
    """The same numbers, at an odd multiple of four bytes."""
    memory = aligned_bytes(array.nbytes + 4)[4:]
    moved = memory.view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def test_threads_change_no_bit(tiny, ours):
    tokens, rows = tokens_of(tiny.config, 30), np.arange(30, dtype=np.int32)
    expected = ours.forward(tokens, placed(0, 30), rows)
    tasks_seen = []
    run_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_void_p)
    launcher_type = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, run_type, ctypes.c_void_p, ctypes.c_int32
    )

    @launcher_type
    def launcher(context, run, data, tasks):
        tasks_seen.append(tasks)
        results = []
        threads = [
            threading.Thread(target=lambda k=k: [results.append(run(i, data)) for i in range(k, tasks, 2)])
            for k in range(2)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return min(results)

    assert ours.code.gem_use_threads(ours.model, launcher, None, 2) == 0
    ours.use_workspace(ours.workspace_bytes(30, 30))
    np.testing.assert_array_equal(ours.forward(tokens, placed(0, 30), rows), expected)
    assert tasks_seen
    assert set(tasks_seen) == {12}


def test_an_observer_sees_every_kernel(ours):
    seen = []
    observer_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32)
    observer = observer_type(lambda context, name, after: seen.append((name.decode(), after)))
    ours.code.gem_use_observer(observer, None)
    ours.feed(np.zeros(1, np.int32))
    ours.code.gem_use_observer(None, None)
    assert [after for _, after in seen] == [0, 1] * (len(seen) // 2)
    assert seen[0][0].startswith("embedding")
    assert sum(name.startswith("attention") for name, after in seen if after) == 2


def test_a_router_comes_along(tiny, routed_bundle, routed_ahead):
    from gemcore.api import open_session

    theirs = open_session(routed_bundle.folder)._executor
    ours = opened(routed_ahead)
    assert (ours.facts.experts, ours.facts.routing, ours.facts.prior) == (3, 2, 1)
    tokens, placement, rows = (
        tokens_of(tiny.config, 29),
        placed(0, 29),
        np.arange(29, dtype=np.int32),
    )
    prior = theirs.prior(tokens[:4], placement[:4], KVCache(tiny.config))
    assert np.ptp(prior) > 0.1
    np.testing.assert_array_equal(ours.prior(tokens[:4], placement[:4]), prior)
    priors = np.repeat(prior[None], 29, 0)
    cache = KVCache(tiny.config)
    expected = theirs.forward(tokens, placement, rows, cache, priors)
    np.testing.assert_array_equal(ours.forward(tokens, placement, rows, priors), expected)
    routes = theirs.routes(tokens, placement, priors, KVCache(tiny.config))
    np.testing.assert_array_equal(ours.routes(tokens, placement, priors), routes)
    np.testing.assert_array_equal(ours.feed(tokens, prior), expected[-1])


@pytest.mark.slow
@pytest.mark.parametrize("router", ["none", "scar"])
def test_the_whole_default_model(router, default_model_path, tmp_path):
    """32 tokens and the next 8, greedily: the same bits with and without TVM's runtime."""
    from gemcore.api import build_parts, load
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host
    from gemcore.recipe import Recipe

    model = str(default_model_path)
    session = load(model, router=router, threads=1)
    parts = build_parts(Recipe().with_changes(router=router), get_host())
    ours = opened(ahead_of(parts, load_checkpoint(model, get_host(), None), tmp_path / "a.gem"))
    theirs, cache = session._executor, KVCache(session.config)
    tokens = np.array(session.encode_prompt("Once upon a time " * 20, chat=False)[:32], np.int32)
    prior = None
    if router == "scar":
        prior = theirs.prior(tokens, placed(0, 32), cache)
        np.testing.assert_array_equal(ours.prior(tokens, placed(0, 32)), prior)
    priors = None if prior is None else np.repeat(prior[None], 32, 0)
    expected = theirs.forward(tokens, placed(0, 32), np.array([31], np.int32), cache, priors)[0]
    got = ours.feed(tokens, prior)
    for step in range(32, 40):
        np.testing.assert_array_equal(got, expected)
        chosen, row = np.array([expected.argmax()], np.int32), np.zeros(1, np.int32)
        one = None if priors is None else priors[:1]
        expected = theirs.forward(chosen, placed(step, 1), row, cache, one)[0]
        got = ours.feed(chosen, prior)
