"""Running a compiled decoder in another program: on an emulator, say, of the processor it is for.

The program is started with the words `serve PLAN DESCRIPTOR`: a file as `gemcore.runtime.plan` writes it,
and an inherited file descriptor of the memory in which the KV caches lie. On stdin it gets requests and on
stdout it gives answers, all numbers little-endian. A request is four int32, (operation, cache, tokens, rows),
and what belongs to it:

1 bind     `tokens` is the number of the cache's tensors, keys and values in turn; for each six int64: offset
           in the shared memory, rank, and four sizes. A cache that has grown is bound again.
2 forward  tokens int32 `[tokens]`, placement int32 `[tokens, 5]`, rows int32 `[rows]`, and for a model with
           experts the prior float32 `[tokens, experts]`
3 prior    tokens, placement
4 routes   tokens, placement, prior
5 free     nothing, and there is no answer

An answer is int32 status, int32 0, int64 bytes, and so many bytes: where the status is 0 the float32 result,
otherwise a sentence. The program ends when its stdin does.
"""

from __future__ import annotations

import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gemcore.bundle import WEIGHTS
from gemcore.errors import GemError
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.plan import PLAN, bundle_plan
from gemcore.runtime.shared_memory import SharedMemory

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.models.config import ModelConfig
    from gemcore.reports import Execution

BIND, FORWARD, PRIOR, ROUTES, FREE = range(1, 6)
_REQUEST = struct.Struct("<4i")
_TENSOR = struct.Struct("<6q")
_ANSWER = struct.Struct("<iiq")


class ProcessExecutor:
    """A compiled decoder in another program. Not for several threads at once.

    Args:
        command: what to start; the words of the protocol follow it.
        plan: what `gemcore.runtime.plan.bundle_plan` gave for the bundle.
        experts, vocabulary: of the model.
        machine: what it runs on, in words.
        execution: whether that is the hardware that the model is for.

    Raises:
        GemError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        plan: str,
        *,
        experts: int,
        vocabulary: int,
        machine: str,
        execution: Execution = "emulated",
    ) -> None:
        self.machine, self.execution = machine, execution
        self._experts, self._vocabulary = experts, vocabulary
        self._shared = SharedMemory()
        folder = Path(tempfile.mkdtemp(prefix="gem-"))
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = folder / PLAN
        path.write_text(plan, encoding="utf-8")
        # A file, since nobody reads a pipe until something has gone wrong.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        words = [*command, "serve", str(path), str(self._shared.descriptor)]
        self._process = _start(words, self._said, self._shared.descriptor)
        self._stop = weakref.finalize(self, _stop, self._process, self._said)
        self._caches: weakref.WeakKeyDictionary[KVCache, tuple[int, list[int]]] = (
            weakref.WeakKeyDictionary()
        )
        self._next = 0

    def new_cache(self, config: ModelConfig, scheme: str) -> KVCache:
        """An empty cache in memory that the program shares."""
        return KVCache(config, scheme=scheme, zeros=self._shared.zeros)

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Run one pass; see `Executor.forward`."""
        # As in this process, the first row stands in where none is wanted.
        wanted = rows if len(rows) else np.zeros(1, np.int32)
        number = self._bound(cache)
        parts = [tokens, placement, wanted, *([] if prior is None else [prior])]
        logits = self._ask(FORWARD, number, len(tokens), len(wanted), parts)
        return logits.reshape(len(wanted), self._vocabulary)[: len(rows)]

    def prior(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the model's first layers, or its encoder, for the prior; see `Executor.prior`."""
        return self._ask(PRIOR, self._bound(cache), len(tokens), 0, [tokens, placement])

    def routes(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        prior: npt.NDArray[np.float32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the routers; see `Executor.routes`."""
        said = self._ask(ROUTES, self._bound(cache), len(tokens), 0, [tokens, placement, prior])
        return said.reshape(-1, len(tokens), self._experts)

    def close(self) -> None:
        """End the program; it also ends with this object."""
        self._stop()
        self._remove()

    def _bound(self, cache: KVCache) -> int:
        """The number of a cache, bound again where it has moved."""
        offsets = [self._shared.offset(array) for array in cache.arrays]
        number, known = self._caches.get(cache, (self._next, None))
        if known != offsets:
            shapes = [array.shape for array in cache.arrays]
            records = [
                _TENSOR.pack(offset, len(shape), *shape, *[0] * (4 - len(shape)))
                for offset, shape in zip(offsets, shapes, strict=True)
            ]
            self._ask(BIND, number, len(records), 0, [np.frombuffer(b"".join(records), np.int64)])
            self._caches[cache] = (number, offsets)
            self._next = max(self._next, number + 1)
        return number

    def _ask(
        self, operation: int, cache: int, tokens: int, rows: int, parts: Sequence[Any]
    ) -> npt.NDArray[np.float32]:
        if not self._stop.alive:
            raise GemError(f"the model on {self.machine} was closed: open the bundle again")
        try:
            into, out = self._process.stdin, self._process.stdout
            assert into is not None
            assert out is not None
            into.write(_REQUEST.pack(operation, cache, tokens, rows))
            for part in parts:
                into.write(np.ascontiguousarray(part).tobytes())
            into.flush()
            status, _, size = _ANSWER.unpack(_exactly(out, _ANSWER.size))
            answer = _exactly(out, size)
        except (BrokenPipeError, EOFError) as error:
            raise GemError(self._end()) from error
        if status:
            reason = answer.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise GemError(f"the compiled model failed on {self.machine}: {reason[-1]}")
        return np.frombuffer(bytearray(answer), np.float32)

    def _end(self) -> str:
        """Why the program has ended, as a sentence."""
        code = self._process.wait()
        if code == -signal.SIGILL:
            return (
                f"the compiled model met an instruction that {self.machine} does not have (SIGILL): "
                "compile it for the instructions of this processor"
            )
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return (
            f"the program that runs the model on {self.machine} ended with {how}: "
            f"{said[-1] if said else 'it said nothing'}"
        )


def emulated(bundle: Bundle, emulator: Sequence[str], runner: str, library: str) -> ProcessExecutor:
    """Start a bundle's `runner` on an emulator, with one thread.

    Args:
        bundle: whose files they are.
        emulator: the command; its first three words name the machine: what it is and its processor.
        runner: file of the bundle that is started.
        library: file of the bundle that the runner loads; the runner itself where it holds the model.

    Raises:
        GemError: the emulator cannot be started.
    """
    folder, manifest = bundle.folder.absolute(), bundle.manifest
    return ProcessExecutor(
        [*emulator, str(folder / runner)],
        bundle_plan(bundle, str(folder / library), str(folder / WEIGHTS), 1),
        experts=len(manifest.experts),
        vocabulary=manifest.config.vocabulary_size,
        machine=" ".join(emulator[:3]),
    )


def _start(words: Sequence[str], said: IO[bytes], shared: int) -> subprocess.Popen[bytes]:
    try:
        with _no_core_files():
            return subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                pass_fds=(shared,),
            )
    except OSError as error:
        said.close()
        raise GemError(f"cannot start {words[0]}: {error.strerror}") from error


@contextmanager
def _no_core_files() -> Iterator[None]:
    """An emulator writes the memory of a program that fails to the working folder; not these."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _stop(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    said.close()


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """So many bytes; EOFError where the stream ends before."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data
