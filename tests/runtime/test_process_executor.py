"""Models in another program: what is asked, what comes back, and the sentence where nothing does."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest

from gemcore.errors import GemError
from gemcore.runtime.plan import bundle_plan
from gemcore.runtime.process_executor import ProcessExecutor
from gemcore.runtime.shared_memory import SharedMemory
from gemcore.testing import tiny_config

CONFIG = tiny_config(layers=1)

ANSWERING = """
import mmap, struct, sys
assert sys.argv[1] == "serve"
given, said = sys.stdin.buffer, sys.stdout.buffer
bound = {}
while head := given.read(16):
    operation, cache, tokens, rows = struct.unpack("<4i", head)
    status, answer = 0, b""
    if operation == 1:
        records = [struct.unpack("<6q", given.read(48)) for _ in range(tokens)]
        assert [record[1] for record in records] == [4, 3]
        bound[cache] = mmap.mmap(int(sys.argv[3]), 64, offset=records[0][0])
    else:
        values = struct.unpack(f"<{tokens}i", given.read(4 * tokens))
        given.read(20 * tokens + (4 * rows if operation == 2 else 0))
        # The first token goes into the cache, where the other side sees it.
        bound[cache][0] = values[0]
        status = int(values[0] == 13)
        answer = b"first line\\nthe last line" if status else struct.pack("<4f", *values[:1] * 4)
    said.write(struct.pack("<iiq", status, 0, len(answer)) + answer)
    said.flush()
"""
ENDING = "import sys; print('out of memory', file=sys.stderr); sys.exit(3)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
ILLEGAL = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


def started(program):
    return ProcessExecutor(
        [sys.executable, "-c", program], "gem-plan 1\nend\n", experts=0, vocabulary=4,
        machine="a test",
    )  # fmt: skip


def passed(executor, token):
    one = np.array([token], np.int32)
    cache = executor.new_cache(CONFIG, "f16")
    placement, rows = np.zeros((1, 5), np.int32), np.zeros(1, np.int32)
    return cache, executor.forward(one, placement, rows, cache)


def test_logits_come_back_and_the_cache_is_shared():
    executor = started(ANSWERING)
    cache, logits = passed(executor, 7)
    np.testing.assert_array_equal(logits, [[7, 7, 7, 7]])
    assert cache.arrays[0].reshape(-1).view(np.uint8)[0] == 7
    other, _ = passed(executor, 9)
    assert other.arrays[0].reshape(-1).view(np.uint8)[0] == 9
    assert cache.arrays[0].reshape(-1).view(np.uint8)[0] == 7
    executor.close()
    with pytest.raises(GemError, match="the model on a test was closed: open the bundle again"):
        passed(executor, 7)


def test_an_error_of_the_model_is_its_last_line():
    with pytest.raises(GemError, match=r"^the compiled model failed on a test: the last line$"):
        passed(started(ANSWERING), 13)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (ENDING, "ended with exit code 3: out of memory"),
        (KILLED, "ended with signal SIGKILL: it said nothing"),
        (ILLEGAL, r"met an instruction that a test does not have \(SIGILL\): compile it for"),
    ],
)
def test_a_program_that_ends_is_one_sentence(program, sentence):
    with pytest.raises(GemError, match=sentence):
        passed(started(program), 7)


def test_a_program_that_is_not_there():
    with pytest.raises(GemError, match=r"^cannot start /no/such/emulator: No such file"):
        ProcessExecutor(["/no/such/emulator"], "", experts=0, vocabulary=4, machine="a test")


def test_the_program_ends_with_its_executor():
    executor = started(ANSWERING)
    process = executor._process
    assert process.poll() is None
    del executor
    gc.collect()
    assert process.poll() == 0


def test_shared_arrays_are_zero_aligned_and_apart():
    shared = SharedMemory()
    one, other = shared.zeros((3, 5), np.float16), shared.zeros((70000,), np.uint8)
    one[...] = 1
    assert not other.any()
    assert (shared.offset(one), shared.offset(other)) == (0, 65536)
    assert os.pread(shared.descriptor, 2, 0) == np.float16(1).tobytes()
    with pytest.raises(KeyError):
        shared.offset(np.zeros(3))


def test_a_plan_tells_what_the_manifest_says(tiny_bundle):
    lines = bundle_plan(tiny_bundle, "model.so", "weights.safetensors", 2).splitlines()
    assert (lines[0], lines[-1]) == ("gem-plan 1", "end")
    values = dict(line.split(" ", 1) for line in lines[1:-1] if not line.startswith("weight "))
    assert (values["library"], values["threads"]) == ("model.so", "2")
    config = tiny_bundle.manifest.config
    assert values["vocabulary"] == str(config.vocabulary_size)
    keys = (config.kv_heads, 1, config.head_dim, 16)
    assert values["cache"].startswith("float16 4 " + " ".join(map(str, keys)))
    weights = [line.split() for line in lines if line.startswith("weight ")]
    assert len(weights) == len(tiny_bundle.manifest.weights)
    size = (tiny_bundle.folder / "weights.safetensors").stat().st_size
    items = {"float32": 4, "float16": 2, "uint8": 1, "int32": 4}
    for _, dtype, offset, rank, *shape in weights:
        assert len(shape) == int(rank)
        assert int(offset) + items[dtype] * int(np.prod([int(n) for n in shape])) <= size
