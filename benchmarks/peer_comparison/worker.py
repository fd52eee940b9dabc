"""A measured process, from inside: JSON lines on stdin and stdout.

Each request is an object with `do` and its arguments; each answer is one with `ok`, or with `error`,
one sentence. Between requests the process sleeps in a read.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from peer_comparison.likelihood import log_likelihood
from peer_comparison.records import Engine, LoadRequest, Model, Timing


@attrs.define
class Worker:
    """One system, or none yet."""

    engine: Engine | None = None

    def export(self, name: str, work: str) -> dict[str, Any]:
        """GEM's model for the peers."""
        from peer_comparison.source import export_model

        return export_model(name, Path(work)).to_json()

    def tokenize(self, name: str, texts: str, limit: int | None) -> list[list[int]]:
        """Token ids of texts."""
        from peer_comparison.source import tokenize

        return tokenize(name, Path(texts), limit)

    def prepare(self, module: str, model: dict[str, Any], options: dict[str, Any]) -> str | None:
        """Make the system's own form of the model."""
        where: str | None = _engine_module(module).prepare(Model(**model), options)
        return where

    def load(self, module: str, request: dict[str, Any]) -> dict[str, Any]:
        """Open the model."""
        engine = _engine_module(module).load(LoadRequest.from_json(request))
        self.engine = engine
        return {"versions": dict(engine.versions), "settings": dict(engine.settings)}

    def run(self, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        """Read a prompt and continue it."""
        return attrs.asdict(timed_run(self._loaded(), prompt, new_tokens))

    def score(self, tokens: list[int], begin: int) -> float:
        """Log-likelihood of the tokens of a window from `begin` on."""
        rows = self._loaded().logits(tokens[:-1])[begin - 1 :]
        return log_likelihood(rows, tokens[begin:])

    def greedy(self, tokens: list[int]) -> list[int]:
        """The likeliest token after each token of a text."""
        return [int(token) for token in self._loaded().logits(tokens).argmax(axis=1)]

    def memory(self) -> int:
        """Bytes: the most physical memory that this process has used."""
        return peak_memory()

    def _loaded(self) -> Engine:
        assert self.engine is not None, "load comes first"
        return self.engine


def timed_run(
    engine: Engine,
    prompt: list[int],
    new_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time one prompt; each next token is the likeliest one."""
    engine.begin(len(prompt) + new_tokens)
    began = clock()
    token = int(engine.feed(prompt).argmax())
    first = clock()
    for _ in range(new_tokens - 1):
        token = int(engine.feed([token]).argmax())
    return Timing(
        prompt_tokens=len(prompt), new_tokens=new_tokens, ttft=first - began, decode=clock() - first
    )


def peak_memory() -> int:
    """VmHWM of this process, in bytes; where there is no such thing, `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(requests: IO[str], answers: IO[str], worker: Worker | None = None) -> None:
    """Answer requests until there are no more."""
    worker = worker or Worker()
    # Not `for line in requests`: that reads ahead.
    while line := requests.readline():
        answers.write(json.dumps(answer(worker, json.loads(line))) + "\n")
        answers.flush()


def answer(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do one request; whatever goes wrong in foreign code becomes a sentence."""
    arguments = {name: value for name, value in request.items() if name != "do"}
    try:
        return {"ok": getattr(worker, request["do"])(**arguments)}
    except ImportError as error:
        return {"error": f"not installed: {_first_cause(error)}"}
    except Exception as error:
        import traceback

        traceback.print_exc()
        known = type(error).__module__.split(".")[0] in ("gemcore", "peer_comparison")
        kind = "" if known else f"{type(error).__name__}: "
        return {"error": kind + (" ".join(str(error).split()) or "no reason given")}


def _first_cause(error: BaseException) -> str:
    """What was missing at first: packages wrap it in errors of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def main() -> None:
    """Serve on stdin and stdout; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answers:
        serve(sys.stdin, answers)


def _engine_module(name: str) -> Any:
    return importlib.import_module(f"peer_comparison.engines.{name}")
