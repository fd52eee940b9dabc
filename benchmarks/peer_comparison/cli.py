"""The command line of the comparison."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peer_comparison.compare import Comparison, Plan
from peer_comparison.errors import ComparisonError, SystemFailedError
from peer_comparison.process import Launcher
from peer_comparison.records import Model
from peer_comparison.report import to_json, to_markdown
from peer_comparison.surroundings import REPOSITORY, surroundings
from peer_comparison.systems import DEFAULT, SYSTEMS, find_systems

TEXTS = Path("domain_adaptive", "wikitext2", "test.jsonl")
"""Where the data folder keeps the texts for perplexity."""


class UsageMistakeError(ComparisonError):
    """The command line asks for what cannot be."""


def main(arguments: Sequence[str]) -> int:
    """Run a comparison; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return compare(given, arguments)
    except UsageMistakeError as error:
        return _failed(error, 2)
    except ComparisonError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return _failed("stopped", 1)


def compare(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Measure what was asked for, print the tables and write the JSON."""
    try:
        systems = find_systems(given.systems)
    except ComparisonError as error:
        raise UsageMistakeError(str(error)) from None
    texts = _texts_file(given)
    work = given.work.expanduser().absolute()
    _writable(work)
    if given.output is not None:
        _writable(given.output.absolute().parent)
    launcher = Launcher(
        gem_python=given.gem_python, peer_python=given.peer_python, logs=work / "logs"
    )
    try:
        with launcher.worker("source", gem=True) as source:
            model = Model(**source.ask("export", name=given.model, work=str(work)))
            tokens = []
            if texts is not None:
                tokens = source.ask(
                    "tokenize", name=given.model, texts=str(texts), limit=given.perplexity_texts
                )
    except SystemFailedError as error:
        raise ComparisonError(
            f"{given.gem_python} cannot prepare the model {given.model}: {error}"
        ) from None
    longest = max(given.prompt_tokens) + given.new_tokens
    if longest > model.context_length:
        raise UsageMistakeError(
            f"{max(given.prompt_tokens)} + {given.new_tokens} tokens do not fit the model's context "
            f"of {model.context_length}: give a smaller --prompt-tokens or --new-tokens"
        )
    comparison = Comparison(
        model=model,
        systems=systems,
        plan=Plan(
            threads=given.threads,
            prompt_tokens=given.prompt_tokens,
            new_tokens=given.new_tokens,
            rounds=given.rounds,
            texts=[text for text in tokens if len(text) > 1],
            seed=given.seed,
        ),
        launcher=launcher,
        say=_say,
    )
    around = surroundings(arguments)
    findings = comparison.run()
    print(to_markdown(comparison, around))
    if given.output is not None:
        write_json(given.output, to_json(comparison, around))
    failed = [s.name for s in systems if s.is_gem and s.name in findings.reasons]
    if failed:
        raise ComparisonError(f"{failed[0]} failed: {findings.reasons[failed[0]]}")
    if len(findings.reasons) == len(systems):
        raise ComparisonError("no system could be measured; the table says why")
    return 0


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all; ComparisonError where that cannot be done."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ComparisonError(f"cannot write {path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="peers.py",
        description="Compare GEM with its peers on the same weights: speed, memory, perplexity.",
        epilog=f"Systems: {', '.join(SYSTEMS)}, and gem:QUANTIZER. Nothing is installed; a peer that "
        "is not there is left out, and the table says so.",
    )
    parser.add_argument("--model", default="smollm2-135m", help="as gem takes it (%(default)s)")
    parser.add_argument(
        "--systems", type=_words, default=list(DEFAULT), help="names, joined by commas"
    )
    parser.add_argument("--threads", type=_numbers, default=[1, 2], help="counts (1,2)")
    parser.add_argument(
        "--prompt-tokens", type=_numbers, default=[64, 256, 1024], help="lengths (64,256,1024)"
    )
    parser.add_argument("--new-tokens", type=_at_least(2), default=64, help="(%(default)s)")
    parser.add_argument("--rounds", type=_at_least(1), default=5, help="(%(default)s)")
    parser.add_argument(
        "--perplexity-texts",
        type=_at_least(0),
        default=100,
        help="how many texts perplexity is measured on; 0 leaves it out (%(default)s)",
    )
    parser.add_argument(
        "--data", type=Path, help=f"folder of benchmark data, with {TEXTS} (GEM_DATA)"
    )
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of the prompts (%(default)s)")
    parser.add_argument(
        "--work", type=Path, default=_default_work(), help="keeps converted models (%(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write JSON to FILE")
    parser.add_argument(
        "--gem-python", type=Path, default=_default_gem_python(), help="runs GEM (%(default)s)"
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=Path(sys.executable),
        help="runs the peers (%(default)s)",
    )
    return parser


def _texts_file(given: argparse.Namespace) -> Path | None:
    """The texts for perplexity, or None where it is left out."""
    if given.perplexity_texts == 0:
        return None
    chosen = given.data or os.environ.get("GEM_DATA")
    folder = Path(chosen) if chosen else REPOSITORY.parent / "shared" / "benchmarks"
    path = folder.expanduser() / TEXTS
    if path.is_file():
        return path
    if chosen:
        raise UsageMistakeError(
            f"there is no {path}: give --data the folder of the benchmark data, or "
            "--perplexity-texts 0 to leave perplexity out"
        )
    _say("leaving out perplexity: no benchmark data; --data or GEM_DATA names its folder")
    return None


def _writable(folder: Path) -> None:
    """See before hours of measuring that results can be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComparisonError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ComparisonError(f"cannot write into {folder}: name a folder that you may write to")


def _default_work() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "gem-peers"


def _default_gem_python() -> Path:
    """The repository's own environment, where `make setup` has made one."""
    own = REPOSITORY / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    numbers = [_at_least(1)(word) for word in _words(text)]
    if not numbers or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of different numbers, as in 1,2")
    return numbers


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small: at least {least} is needed")
        return value

    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _failed(reason: object, status: int) -> int:
    _say(f"Error: {reason}")
    return status
