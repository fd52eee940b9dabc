"""How much memory this process has used."""

from __future__ import annotations

from pathlib import Path


def peak_memory_bytes() -> int:
    """The most physical memory that this process has used so far, mapped files included.

    Linux's own count of the process: `ru_maxrss` may be that of the process that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
