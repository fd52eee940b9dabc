"""`gem run`: answer one prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.build_options import (
    device_options,
    open_for_command,
    open_options,
    read_recipe,
    sampling_options,
    sampling_settings,
)
from gemcore.cli.display import note, read_text_argument

if TYPE_CHECKING:
    from gemcore.generation import Generation
    from gemcore.routes import Routes
    from gemcore.session import EncodedPrompt, Session


@click.command()
@click.argument("prompt", required=False)
@open_options
@device_options
@sampling_options
@click.option("--stop", multiple=True, help="End the answer before this text; may be repeated.")
@click.option(
    "--no-chat", is_flag=True, help="Continue the prompt as plain text, without template."
)
@click.option(
    "--explain", is_flag=True, help="Show after the answer which experts worked for which token."
)
@click.option(
    "--explain-html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write which experts worked to this HTML page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
def run(
    *,
    prompt: str | None,
    recipe_file: Path | None,
    bundle: Path | None,
    strict: bool,
    require_target: bool,
    rpc: str | None,
    stop: tuple[str, ...],
    no_chat: bool,
    explain: bool,
    explain_html: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Answer PROMPT, or the text on stdin.

    The first run fetches the model and compiles it; later runs start at once.
    """
    recipe = read_recipe(recipe_file, given | {"chat": False if no_chat else None})
    sampling = sampling_settings(recipe)
    text = read_text_argument(prompt)
    explains = explain or explain_html is not None
    if explain_html is not None:
        _check_folder(explain_html)
    session = open_for_command(
        recipe, bundle, strict=strict, require_target=require_target, rpc=rpc
    )
    if explains:
        from gemcore.routes import check_experts

        check_experts(session.bundle.manifest)
    encoded = _encoded(session, text, system=recipe.run.system, chat=recipe.run.chat)
    stream = session.stream(
        encoded,
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
    # Before the routes are computed: the explanation is no part of what answering takes.
    report = run_report(session, stream.result)
    if not as_json:
        click.echo()
        note(report_line(report))
    if explains:
        routes = _routes(session, encoded, stream.result)
        if explain_html is not None:
            _write_page(explain_html, routes, report)
        if as_json:
            report["routing"] = routes.to_json()
        elif explain:
            _show(routes)
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))


def _check_folder(path: Path) -> None:
    from gemcore.errors import UsageError

    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}, so make it first")


def _routes(session: Session, prompt: EncodedPrompt, result: Generation) -> Routes:
    """Which experts worked in prompt and answer, with the prior that the prompt had."""
    prior = session.prior_of(prompt.tokens)
    assert prior is not None
    return session.routes([*prompt.tokens, *result.token_ids], prior.tolist())


def _show(routes: Routes) -> None:
    from gemcore.cli.explanation import explanation, shows_colour

    click.echo()
    for line in explanation(routes, colour=shows_colour()):
        click.echo(line)


def _write_page(path: Path, routes: Routes, report: dict[str, Any]) -> None:
    from gemcore.cache import write_atomically
    from gemcore.cli.explanation_page import explanation_page

    parts = [("Prompt", report["prompt_tokens"]), ("Answer", report["generated_tokens"])]
    about = [report["model"], f"quantizer {report['quantizer']}", f"router {report['router']}"]
    with write_atomically(path) as file:
        file.write(explanation_page(routes, parts, about).encode())
    note(f"which experts worked: {path}")


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
    """What `gem run --json` prints; times in milliseconds, memory in megabytes (10**6 bytes).

    Of a model that does not run on the hardware it is for, they are the emulator's, and say so by name.
    """
    from gemcore.build import manifest_summary
    from gemcore.runtime.memory import peak_memory_bytes

    speed = result.tokens_per_second
    times = {
        "ttft_ms": round(result.ttft * 1e3, 2),
        "decode_tokens_per_s": None if speed is None else round(speed, 2),
        "peak_memory_mb": round(peak_memory_bytes() / 1e6, 1),
    }
    return {
        "text": result.text,
        **manifest_summary(session.bundle),
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": len(result.token_ids),
        "finish_reason": result.finish_reason,
        "drafted_tokens": result.drafted_tokens,
        "accepted_tokens": result.accepted_tokens,
        "execution": session.execution,
        **({"machine": session.machine} if session.machine else {}),
        **{
            name if session.execution == "native" else f"emulator_{name}": value
            for name, value in times.items()
        },
    }


def report_line(values: dict[str, Any]) -> str:
    """The quiet line after an answer, from `run_report`."""
    parts = [
        values["model"],
        f"quantizer {values['quantizer']}",
        f"router {values['router']}",
        f"target {values['target']}",
        f"{values['prompt_tokens']} + {values['generated_tokens']} tokens",
    ]
    if values["execution"] != "native":
        seconds = values["emulator_ttft_ms"] / 1e3
        parts += [
            f"emulated by {values['machine']}",
            f"no speed of the device: the emulator's first token took {seconds:.1f} s",
        ]
        return " · ".join(parts)
    speed = values["decode_tokens_per_s"]
    parts += [
        *([f"on {values['machine']}"] if "machine" in values else []),
        f"TTFT {values['ttft_ms']:.0f} ms",
        *([] if speed is None else [f"{speed:.0f} tokens/s"]),
        f"peak {values['peak_memory_mb']:.0f} MB",
    ]
    return " · ".join(parts)
