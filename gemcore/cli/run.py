"""`gem run`: answer one prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import (
    open_for_command,
    open_options,
    read_recipe,
    sampling_options,
    sampling_settings,
)
from gemcore.cli.display import note, read_text_argument

if TYPE_CHECKING:
    from gemcore.generation import Generation
    from gemcore.session import EncodedPrompt, Session


@click.command()
@click.argument("prompt", required=False)
@open_options
@sampling_options
@click.option("--stop", multiple=True, help="End the answer before this text; may be repeated.")
@click.option(
    "--no-chat", is_flag=True, help="Continue the prompt as plain text, without template."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
def run(
    *,
    prompt: str | None,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    stop: tuple[str, ...],
    no_chat: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Answer PROMPT, or the text on stdin.

    The first run fetches the model and compiles it; later runs start at once.
    """
    recipe = read_recipe(recipe_file, given | {"chat": False if no_chat else None})
    sampling = sampling_settings(recipe)
    text = read_text_argument(prompt)
    session = open_for_command(recipe, bundle, strict=strict)
    stream = session.stream(
        _encoded(session, text, system=recipe.run.system, chat=recipe.run.chat),
        max_tokens=recipe.run.max_tokens,
        sampling=sampling,
        stop=stop,
        system=recipe.run.system,
        chat=recipe.run.chat,
        prompt_lookup=recipe.run.prompt_lookup,
    )
    _release_start_up()
    for piece in stream:
        if not as_json:
            click.echo(piece, nl=False)
    assert stream.result is not None
    if as_json:
        click.echo(json.dumps(run_report(session, stream.result), ensure_ascii=False, indent=2))
        return
    click.echo()
    note(report_line(session, stream.result))


def _encoded(session: Session, text: str, *, system: str | None, chat: bool) -> EncodedPrompt:
    """The prompt as tokens, made in a process of its own: this one needs neither tokenizer nor Jinja.

    Where that fails it is done here, and an error that the prompt has comes to light.
    """
    from gemcore.runtime.child import in_child
    from gemcore.session import EncodedPrompt
    from gemcore.text.decoding import DecodingData

    def encode() -> bytes:
        tokens = session.encode_prompt(text, system=system, chat=chat)
        decoding = session.tokenizer.decoding_data()
        return json.dumps(tokens).encode() + b"\n" + decoding.to_bytes()

    result = in_child(encode)
    if result is None:
        result = encode()
        session.tokenizer.release()
    tokens, _, decoding = result.partition(b"\n")
    session.tokenizer.use_decoding_data(DecodingData.from_bytes(decoding))
    return EncodedPrompt(tuple(json.loads(tokens)))


def _release_start_up() -> None:
    """Give back what only starting needed, before the weights come into memory."""
    import gc

    from gemcore.runtime.memory import (
        keep_large_blocks_apart,
        return_code_pages,
        return_free_memory,
    )

    # What plugins and templates were made with refers to itself, and would wait for the collector.
    gc.collect()
    return_free_memory()
    return_code_pages()
    keep_large_blocks_apart()


def run_report(session: Session, result: Generation) -> dict[str, Any]:
    """What `gem run --json` prints; times in milliseconds, memory in megabytes (10**6 bytes)."""
    from gemcore.build import manifest_summary
    from gemcore.runtime.memory import peak_memory_bytes

    speed = result.tokens_per_second
    return {
        "text": result.text,
        **manifest_summary(session.bundle),
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": len(result.token_ids),
        "finish_reason": result.finish_reason,
        "drafted_tokens": result.drafted_tokens,
        "accepted_tokens": result.accepted_tokens,
        "ttft_ms": round(result.ttft * 1e3, 2),
        "decode_tokens_per_s": None if speed is None else round(speed, 2),
        "peak_memory_mb": round(peak_memory_bytes() / 1e6, 1),
    }


def report_line(session: Session, result: Generation) -> str:
    """The quiet line after an answer."""
    values = run_report(session, result)
    speed = values["decode_tokens_per_s"]
    parts = [
        values["model"],
        f"quantizer {values['quantizer']}",
        f"router {values['router']}",
        f"target {values['target']}",
        f"{values['prompt_tokens']} + {values['generated_tokens']} tokens",
        f"TTFT {values['ttft_ms']:.0f} ms",
        *([] if speed is None else [f"{speed:.0f} tokens/s"]),
        f"peak {values['peak_memory_mb']:.0f} MB",
    ]
    return " · ".join(parts)
