"""How a bundle is to be opened; what a command line says about it."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class OpenSettings:
    """Where a model computes, and with how much of it.

    Attributes:
        threads: how many threads compute; None for all cores.
        rpc: `host:port` of a TVM RPC server on the device; None for this machine.
    """

    threads: int | None = None
    rpc: str | None = None
