"""GEM and its peers on the same weights: prefill, decode, memory and perplexity, side by side.

    python benchmarks/peers.py [--systems gem,llama.cpp-q4_0] [--rounds 5] [-o FILE] ...

`make bench-peers` makes an environment for the peers and runs this; docs/benchmarks.md explains what
is measured, and how. Nothing is installed from here: a peer that is not there is left out.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Compare, or be one of the processes that are compared."""
    try:
        import attrs  # noqa: F401
        import numpy as np  # noqa: F401
    except ImportError as error:
        # A worker says it too, and its log keeps it.
        print(f"Error: {error}: install attrs and numpy for {sys.executable}", file=sys.stderr)
        return 1
    if sys.argv[1:] == ["worker"]:
        from peer_comparison import worker

        # From here on this folder must hide no module that a measured system imports.
        del sys.path[0]
        worker.main()
        return 0
    from peer_comparison import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
