"""What a longer context costs: time a token while decoding, time of a prompt, bytes of the cache.

    python benchmarks/context.py [--model smollm2-135m] [--threads 1] [--contexts 256,1024,4096,8128]
                                 [--tokens 16] [--repetitions 3] [--json]

Reads random tokens up to each context in turn and decodes some tokens there. Attention must read the
keys and values of all positions, so the time of a token grows with the context by that much: the last
column says what each 1,000 positions more have cost, and the same in bytes of cache read a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

import gemcore
from gemcore.session import Session


def decode_seconds(session: Session, context: int, tokens: int) -> float:
    """Median seconds of one token behind `context` tokens that have been read."""
    seconds = []
    token = 1
    for _ in range(tokens):
        begin = time.perf_counter()
        token = int(session.feed([token]).argmax())
        seconds.append(time.perf_counter() - begin)
    session.forget(context)
    return statistics.median(seconds)


def measure(
    session: Session, contexts: list[int], tokens: int, repetitions: int
) -> list[dict[str, Any]]:
    """A row for each context; the contexts take turns, so that a slow moment hits all of them."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, session.config.vocabulary_size, contexts[-1]).tolist()
    decode: dict[int, list[float]] = {context: [] for context in contexts}
    prefill: dict[int, list[float]] = {context: [] for context in contexts}
    for _ in range(repetitions):
        session.forget()
        spent, read = 0.0, 0
        for context in contexts:
            begin = time.perf_counter()
            session.feed(ids[read:context])
            spent += time.perf_counter() - begin
            read = context
            prefill[context].append(spent)
            decode[context].append(decode_seconds(session, context, tokens))
    config = session.config
    position = 2 * config.layers * config.kv_heads * config.head_dim * 2
    rows: list[dict[str, Any]] = []
    for context in contexts:
        seconds = statistics.median(decode[context])
        row = {
            "context": context,
            "prefill_tokens_per_s": context / statistics.median(prefill[context]),
            "decode_ms": seconds * 1e3,
            "cache_mb": context * position / 1e6,
        }
        if rows:
            more = context - rows[0]["context"]
            added = seconds - rows[0]["decode_ms"] / 1e3
            row["ms_per_1000_positions"] = added * 1e6 / more
            row["cache_gb_per_s"] = more * position / added / 1e9
        rows.append(row)
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contexts", default="256,1024,2048,4096,8128")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    contexts = sorted(int(word) for word in given.contexts.split(","))
    session = gemcore.load(given.model, threads=given.threads)
    rows = measure(session, contexts, given.tokens, given.repetitions)
    if given.json:
        print(json.dumps({"model": given.model, "threads": given.threads, "rows": rows}, indent=2))
        return
    print(
        "context   prefill tokens/s   decode ms/token   cache MB   ms per 1,000 more   cache GB/s"
    )
    for row in rows:
        more = row.get("ms_per_1000_positions")
        tail = "" if more is None else f"{more:17.3f} {row['cache_gb_per_s']:12.1f}"
        print(
            f"{row['context']:7d} {row['prefill_tokens_per_s']:18.0f} {row['decode_ms']:17.2f} "
            f"{row['cache_mb']:10.1f} {tail}"
        )


if __name__ == "__main__":
    main()
