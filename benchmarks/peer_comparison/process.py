"""A measured process, from outside."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from peer_comparison.errors import ComparisonError, SystemFailedError

SCRIPT = Path(__file__).resolve().parent.parent / "peers.py"


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: its thread count for every library, and no look at the network.

    How waiting threads wait is left to each library, for it is part of its speed; whether any of them
    keeps a core busy while others are measured is measured (`Worker.busy_seconds`).
    """
    counts = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
    return {
        **os.environ,
        **{f"{name}_NUM_THREADS": str(threads) for name in counts},
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


class Worker:
    """A process that answers requests, one at a time. Use it in a `with` block.

    Args:
        python: the interpreter, of the environment in which the system is installed.
        label: its name in messages.
        log: file to which its stderr is appended.
        threads: for the environment of the process.
        timeout: seconds that any one request may take.
    """

    def __init__(
        self, python: Path, label: str, log: Path, *, threads: int = 1, timeout: float = 1800
    ) -> None:
        self.label = label
        self._log = log
        self._timeout = timeout
        self._rest = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            try:
                self._process = subprocess.Popen(
                    [str(python), str(SCRIPT), "worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=worker_environment(threads),
                    bufsize=0,
                )
            except OSError as error:
                raise ComparisonError(f"cannot start {python}: {error.strerror}") from error

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, what: str, **arguments: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            SystemFailedError: the answer is an error, there is none in time, or the process ended.
        """
        line = json.dumps({"do": what, **arguments}).encode() + b"\n"
        stdin = self._process.stdin
        assert stdin is not None
        try:
            view = memoryview(line)
            while view:
                view = view[stdin.write(view) :]
        except BrokenPipeError:
            raise self._ended(what) from None
        try:
            answer = json.loads(self._read_line(what))
        except ValueError:
            raise SystemFailedError(
                f"its answer to '{what}' is not JSON; see {self._log}"
            ) from None
        if "error" in answer:
            raise SystemFailedError(answer["error"])
        return answer["ok"]

    def busy_seconds(self) -> float | None:
        """Processor time that it has used so far; None where the system does not tell."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return None
        # The name, which is in brackets, may hold blanks.
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read_line(self, what: str) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(self._timeout):
                    self._process.kill()
                    raise SystemFailedError(
                        f"no answer to '{what}' within {self._timeout:.0f} seconds; see {self._log}"
                    )
                piece = os.read(stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._ended(what)
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ended(self, what: str) -> SystemFailedError:
        status = self._process.wait()
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        return SystemFailedError(
            f"its process ended with status {status} during '{what}'"
            f"{f' ({last.strip()})' if last else ''}; see {self._log}"
        )


@attrs.frozen(kw_only=True)
class Launcher:
    """Starts workers.

    Attributes:
        gem_python: interpreter of GEM's environment.
        peer_python: interpreter of the peers' environment.
        logs: folder of the workers' logs.
        start: makes a worker; another one in tests.
    """

    gem_python: Path
    peer_python: Path
    logs: Path
    start: Callable[..., Worker] = Worker

    def worker(self, label: str, *, gem: bool, threads: int = 1) -> Worker:
        """A worker for one system."""
        python = self.gem_python if gem else self.peer_python
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in label)
        return self.start(python, label, self.logs / f"{name}.log", threads=threads)
