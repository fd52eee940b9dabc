"""A bundle on a board over RPC, the board being a server on this machine."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from gem_arm.linux import LIBRARY, raspberry_pi_4
from gem_arm.rpc import RemoteCache, open_remote
from gemcore.errors import GemError, UsageError
from gemcore.runtime.settings import OpenSettings
from gemcore.session import Session


@pytest.fixture(scope="module")
def address():
    from tvm import rpc

    server = rpc.Server(host="127.0.0.1", port=9190, port_end=9290, silent=True)
    yield f"127.0.0.1:{server.port}"
    server.terminate()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_session_over_rpc_gives_the_same_bits(tiny_bundle, tiny_session, address):
    session = Session(tiny_bundle, open_remote(tiny_bundle, LIBRARY, address))
    tokens = [int(i) for i in np.random.default_rng(0).integers(0, 200, 20)]
    np.testing.assert_array_equal(session.logits(tokens), tiny_session.logits(tokens))
    given = {"max_tokens": 6, "chat": False}
    there = session.generate("one two three", **given)
    assert there.token_ids == tiny_session.generate("one two three", **given).token_ids
    assert session.machine == f"the board at {address}"
    assert session._cache.bytes > 0


def test_a_remote_cache_grows_and_is_copied(tiny_bundle, tiny_session, address):
    executor = open_remote(tiny_bundle, LIBRARY, address)
    session = Session(tiny_bundle, executor)
    session._cache = RemoteCache(session.config, "f16", executor._device, 32)
    tokens = [3, 4, 5, 6] * 10
    session.feed(tokens[:20])
    assert session._cache.capacity == 32
    np.testing.assert_array_equal(session.feed(tokens[20:]), tiny_session.feed(tokens))
    assert session._cache.capacity == 64
    other = session.fork()
    np.testing.assert_array_equal(session.feed([4]), other.feed([4]))


def test_nobody_answers(tiny_bundle):
    port = free_port()
    with pytest.raises(
        GemError, match=f"^no TVM RPC server answers at 127.0.0.1:{port}: start one"
    ):
        raspberry_pi_4().open(tiny_bundle, OpenSettings(rpc=f"127.0.0.1:{port}"))


@pytest.mark.parametrize("address", ["board", "board:", ":9090", "board:99999", ""])
def test_what_is_no_address_is_refused(tiny_bundle, address):
    with pytest.raises(UsageError, match="--rpc wants HOST:PORT such as"):
        open_remote(tiny_bundle, LIBRARY, address)
