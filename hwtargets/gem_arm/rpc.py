"""Running a bundle on a board that is reached over TVM's RPC.

Such a server does whatever it is told, and neither side proves who it is (TVM's own documentation says so):
use it in a network that you trust. Library and weights are sent to the board when the bundle is opened, and
the caches stay there; only tokens and logits travel afterwards.
"""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gemcore.bundle import WEIGHTS
from gemcore.errors import GemError, UsageError
from gemcore.models.cache_layout import KEY_BLOCK, cache_dtype, cache_shapes
from gemcore.reports import Execution
from gemcore.runtime.executor import FORWARD, PRIOR, ROUTES
from gemcore.runtime.kv_cache import FIRST_CAPACITY, KVCache
from gemcore.runtime.mapped_weights import map_weights

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.models.config import ModelConfig

TIMEOUT = 600
"""Seconds after which a server that says nothing is given up."""

_ADDRESS = re.compile(r"\[?([^\[\]]+)\]?:(\d{1,5})\Z")


def open_remote(bundle: Bundle, library: str, address: str) -> RemoteExecutor:
    """Open a bundle on the board whose RPC server listens at `address`, `host:port`.

    Raises:
        UsageError: that is no address.
        GemError: nobody answers there, or the board cannot load the model.
    """
    matched = _ADDRESS.match(address)
    if matched is None or not 0 < int(matched[2]) < 2**16:
        raise UsageError(f"--rpc wants HOST:PORT such as 192.168.1.20:9090, not '{address}'")
    from tvm import rpc

    try:
        session = rpc.connect(matched[1], int(matched[2]), session_timeout=TIMEOUT)
    except (RuntimeError, OSError) as error:
        raise GemError(
            f"no TVM RPC server answers at {address}: start one on the board with "
            "'python -m tvm.exec.rpc_server --host 0.0.0.0 --port "
            f"{matched[2]}', and check address and network"
        ) from error
    try:
        return RemoteExecutor(session, bundle, library, address)
    except RuntimeError as error:
        raise GemError(f"the board at {address} cannot load the model: {_reason(error)}") from error


class RemoteCache(KVCache):
    """A KV cache on the board; `tensors` are handles of memory there."""

    def __init__(self, config: ModelConfig, scheme: str, device: Any, capacity: int) -> None:
        self._device = device
        super().__init__(config, capacity, scheme)

    def reserve(self, positions: int) -> None:
        """Make room for `positions`; what was written is sent here and back, and stays."""
        context = self._config.context_length
        if positions > context:
            raise UsageError(
                f"{positions} tokens do not fit the model's context of {context}: shorten the text"
            )
        if positions <= self.capacity:
            return
        wanted = max(positions, min(2 * self.capacity, context))
        capacity = -(-wanted // KEY_BLOCK) * KEY_BLOCK
        shapes = cache_shapes(self._config, capacity, self._scheme)
        old = list(self.tensors)
        self.tensors.clear()
        for i in range(2 * self._config.layers):
            array = np.zeros(shapes[i % 2], cache_dtype(self._scheme))
            if old:
                before = old[i].numpy()
                array[:, : before.shape[1]] = before
            self.tensors.append(_sent(array, self._device))
        self.capacity = capacity

    @property
    def bytes(self) -> int:
        """Memory that the cache takes on the board, in bytes."""
        shapes = cache_shapes(self._config, self.capacity, self._scheme)
        item = np.dtype(cache_dtype(self._scheme)).itemsize
        return self._config.layers * item * sum(int(np.prod(shape)) for shape in shapes)

    def copy(self, positions: int) -> KVCache:
        """Another cache on the board with the same content."""
        other = RemoteCache(self._config, self._scheme, self._device, self.capacity)
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            theirs.copyfrom(mine.numpy())
        other.reserve(positions)
        return other


class RemoteExecutor:
    """A compiled decoder on a board. Not for several threads at once."""

    execution: Execution = "native"

    def __init__(self, session: Any, bundle: Bundle, library: str, address: str) -> None:
        self.machine = f"the board at {address}"
        self._session, self._device = session, session.cpu(0)
        # Under a name of its own, so that two bundles on one board stay apart.
        name = f"{bundle.manifest.files[library]['sha256'][:16]}.so"
        # As bytes: TVM does not close a file that it is given by name.
        session.upload(bytearray((bundle.folder / library).read_bytes()), name)
        module = session.load_module(name)
        machine = module["vm_load_executable"]()
        machine["vm_initialization"](1, 0, 2)
        self._machine = machine
        arrays = map_weights(bundle.folder / WEIGHTS, bundle.manifest.weights)
        self._weights = [_sent(array, self._device) for array in arrays]
        self._array = session.get_function("ffi.Array")
        self._bound: weakref.WeakKeyDictionary[KVCache, tuple[int, Any]] = (
            weakref.WeakKeyDictionary()
        )

    def new_cache(self, config: ModelConfig, scheme: str) -> KVCache:
        """An empty cache on the board."""
        capacity = min(FIRST_CAPACITY // 16, config.context_length)
        return RemoteCache(config, scheme, self._device, capacity)

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Run one pass; see `Executor.forward`."""
        wanted = rows if len(rows) else np.zeros(1, np.int32)
        given = [tokens, placement, wanted, *([] if prior is None else [prior])]
        return self._call(FORWARD, given, cache)[: len(rows)]

    def prior(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the model's first layers, or its encoder, for the prior; see `Executor.prior`."""
        return self._call(PRIOR, [tokens, placement], cache)

    def routes(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        prior: npt.NDArray[np.float32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the routers; see `Executor.routes`."""
        return self._call(ROUTES, [tokens, placement, prior], cache)

    def _call(
        self, name: str, given: list[npt.NDArray[Any]], cache: KVCache
    ) -> npt.NDArray[np.float32]:
        capacity, bound = self._bound.get(cache, (0, None))
        try:
            if capacity != cache.capacity:
                bound = self._array(*cache.tensors, *self._weights)
                self._bound[cache] = (cache.capacity, bound)
            sent = [_sent(array, self._device) for array in given]
            result: npt.NDArray[np.float32] = self._machine[name](*sent, bound).numpy()
        except RuntimeError as error:
            raise GemError(f"{self.machine} failed: {_reason(error)}") from error
        return result


def _sent(array: npt.NDArray[Any], device: Any) -> Any:
    import tvm

    return tvm.runtime.tensor(np.ascontiguousarray(array), device)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
