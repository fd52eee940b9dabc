"""The commands that need a model, as a user types them: in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROMPT = "tell me a tale"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def gem(cache):
    def run(*arguments, check=None, text="", **environment):
        done = subprocess.run(
            [sys.executable, "-m", "gemcore", *map(str, arguments)],
            env=os.environ | {"GEM_CACHE": str(cache)} | environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, done.stderr
        return done

    return run


def test_answer_goes_to_stdout_and_the_report_to_stderr(gem, tiny_folder):
    first = gem("run", "-m", tiny_folder, "--max-tokens", 8, PROMPT, check=0)
    assert "compiling" in first.stderr
    second = gem("run", "-m", tiny_folder, "--max-tokens", 8, PROMPT, check=0)
    assert second.stdout == first.stdout != ""
    assert "compiling" not in second.stderr
    for part in ("quantizer q4a-g32", "router none", "target host", "TTFT", "peak"):
        assert part in second.stderr


HEAVY = ("torch", "tvm", "tvm_ffi", "transformers", "rich", "requests", "gguf", "numpy.random")
if sys.platform == "linux":  # where a child encodes the prompt
    HEAVY += ("tokenizers", "jinja2")

MODULES = f"""
import json, sys
from gemcore.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""


def test_a_second_run_brings_nothing_heavy_into_memory(gem, cache, tiny_folder):
    arguments = ["run", "-m", str(tiny_folder), "--max-tokens", "8", "--json", PROMPT]
    gem(*arguments, check=0)
    done = subprocess.run(
        [sys.executable, "-c", MODULES, *arguments],
        env=os.environ | {"GEM_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stderr.splitlines()[-1]) == []
    # Python, NumPy and TVM's runtime: the model is nearly nothing.
    assert json.loads(done.stdout)["peak_memory_mb"] < 65


ALONE = """
import sys
from gemcore.cli.main import main
from gemcore.runtime import child
child.in_child = lambda work: None
main(sys.argv[1:])
"""


@pytest.mark.parametrize("options", [[], ["--no-chat"], ["--system", "be brief"]])
def test_where_no_child_can_encode_the_answer_is_the_same(gem, cache, tiny_folder, options):
    arguments = ["run", "-m", str(tiny_folder), "--max-tokens", "8", *options, PROMPT]
    with_child = gem(*arguments, check=0)
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments],
        env=os.environ | {"GEM_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert alone.stdout == with_child.stdout


def test_json_report(gem, tiny_folder):
    done = gem(
        "run", "-m", tiny_folder, "--max-tokens", 8, "--json", "--threads", 1, PROMPT, check=0
    )
    values = json.loads(done.stdout)
    assert values["model"] == "tiny"
    assert values["generated_tokens"] == 8
    assert values["finish_reason"] == "length"
    assert values["ttft_ms"] > 0
    assert values["peak_memory_mb"] > 10
    plain = gem("run", "-m", tiny_folder, "--max-tokens", 8, PROMPT, check=0)
    assert plain.stdout == values["text"] + "\n"


def test_prompt_lookup_gives_the_same_answer(gem, tiny_folder):
    command = ("run", "-m", tiny_folder, "--max-tokens", 60, "--json", PROMPT)
    plain = json.loads(gem(*command, check=0).stdout)
    quick = json.loads(gem(*command, "--prompt-lookup", 8, check=0).stdout)
    assert quick["text"] == plain["text"]
    assert (plain["drafted_tokens"], plain["accepted_tokens"]) == (0, 0)
    assert 0 < quick["accepted_tokens"] <= quick["drafted_tokens"]


def test_prompt_from_stdin(gem, tiny_folder):
    piped = gem("run", "-m", tiny_folder, "--max-tokens", 8, text=PROMPT, check=0)
    typed = gem("run", "-m", tiny_folder, "--max-tokens", 8, PROMPT, check=0)
    assert piped.stdout == typed.stdout


def test_warm_run_imports_no_torch(gem, cache, tiny_folder):
    script = (
        "import sys; from gemcore.cli.main import main\n"
        f"sys.argv = ['gem', 'run', '-m', {str(tiny_folder)!r}, '--max-tokens', '3', 'x']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'tvm', 'transformers') if name in sys.modules])"
    )
    gem("run", "-m", tiny_folder, "--max-tokens", 3, "x", check=0)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"GEM_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_recipe_file_and_the_command_line_wins(gem, tiny_folder, tmp_path):
    recipe = tmp_path / "gem.toml"
    recipe.write_text(
        f'model = "{tiny_folder}"\nquantizer = {{name = "q8-g32"}}\n[run]\nmax_tokens = 5\n'
    )
    values = json.loads(gem("run", "--recipe", recipe, "--json", PROMPT, check=0).stdout)
    assert (values["quantizer"], values["generated_tokens"]) == ("q8-g32", 5)
    done = gem("run", "--recipe", recipe, "--json", "--max-tokens", 3, "-q", "q3s-g32", PROMPT)
    values = json.loads(done.stdout)
    assert (values["quantizer"], values["generated_tokens"]) == ("q3s-g32", 3)


def test_compile_then_run_the_bundle(gem, tiny_folder, tmp_path):
    bundle = tmp_path / "tiny.gem"
    done = gem("compile", "-m", tiny_folder, "-o", bundle, check=0)
    assert "9 weights quantized" in done.stdout
    by_bundle = gem("run", "--bundle", bundle, "--max-tokens", 8, PROMPT, check=0)
    by_model = gem("run", "-m", tiny_folder, "--max-tokens", 8, PROMPT, check=0)
    assert by_bundle.stdout == by_model.stdout


def test_chat_keeps_the_conversation(gem, tiny_folder):
    words = ("chat", "-m", tiny_folder, "--max-tokens", 4)
    done = gem(*words, text="hello\nand again\n/new\nhello\n", check=0)
    answers = done.stdout.splitlines()
    assert len(answers) >= 3
    single = gem(*words, text="hello\n", check=0).stdout.rstrip("\n")
    assert done.stdout.startswith(single)
    assert done.stdout.rstrip("\n").endswith(single)


def test_bench(gem, tiny_folder):
    words = ("bench", "-m", tiny_folder, "--prompt-tokens", 32, "--new-tokens", 8)
    done = gem(*words, "--repetitions", 2, "--threads", 1, "--json", check=0)
    values = json.loads(done.stdout)
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms", "peak_memory_mb"):
        assert values[name] > 0
    low, high = values["spread"]["ttft_ms"]
    assert low <= values["ttft_ms"] <= high
    assert values["threads"] == 1
    table = gem(*words, check=0).stdout
    assert "prefill, 32 tokens" in table


def test_perplexity_with_its_reference(gem, tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the sea is deep and the sea is blue " * 5)
    done = gem(
        "eval", "perplexity", "-m", tiny_folder, "--text", text, "--float32", "--json", check=0
    )
    values = json.loads(done.stdout)
    assert values["compiled"]["tokens"] == values["float32"]["tokens"]
    assert values["compiled"]["perplexity"] == pytest.approx(
        values["float32"]["perplexity"], rel=0.3
    )


def test_targets_are_listed(gem):
    assert "host" in gem("targets", check=0).stdout
    listed = json.loads(gem("targets", "list", "--json", check=0).stdout)
    assert {"host", "rpi4", "pixel6", "iphone13", "npu", "ethos-u85"} <= {
        one["name"] for one in listed
    }


def test_predictions_are_called_so_and_this_machine_is_held_against_its_own(gem, tiny_folder):
    words = ("predict", "-m", tiny_folder, "--prompt-tokens", 8, "--new-tokens", 2)
    found = json.loads(gem(*words, "--json", check=0).stdout)
    devices = {row["device"]: row for row in found["predictions"]}
    assert {"host", "rpi4", "pixel6", "iphone13", "npu", "ethos-u85"} <= devices.keys()
    assert {row["execution"] for row in devices.values()} == {"predicted"}
    # 1.5 GHz is slower than any machine that builds GEM.
    assert devices["rpi4"]["tokens_per_second"] < devices["host"]["tokens_per_second"]
    assert found["check"]["measured_speed"] > 0
    lines = gem(*words, "--device", "rpi4", check=0).stdout.splitlines()
    assert lines[0].startswith("predicted, not measured")
    assert [line.split()[0] for line in lines[1:3]] == ["device", "rpi4"]
    assert "this machine with" in lines[4]


def test_export_says_what_each_file_is(gem, tiny_folder, tmp_path):
    done = gem("export", "-m", tiny_folder, "-o", tmp_path / "app", check=0)
    told = [line.split(": ", 1)[0] for line in done.stdout.splitlines()]
    assert str(tmp_path / "app" / "README.md") in told
    for name in told:
        assert Path(name).exists()
    again = gem("export", "-m", tiny_folder, "-o", tmp_path / "app")
    assert_one_sentence(again, 2, "app")


def assert_one_sentence(done, code, message):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("gem: "), done.stderr
    assert message in lines[-1]
    assert len(lines) == 1, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--router", "scra"], 2, "unknown router 'scra'"),
        (["--quantizer", "q4a-g23"], 2, "did you mean 'q4a-g32'?"),
        (["--target", "hots"], 2, "did you mean 'host'?"),
        (["--quantizer", "q4a-g32:had=f16"], 2, "did you mean 'head'?"),
        (["--target", "host:instructions=mmx"], 2, "vnni512, avx2, neon-dot, neon, plain"),
        (["-m", "smollm2-153m"], 2, "did you mean 'smollm2-135m'?"),
        (["-m", "./nothing.gguf"], 2, "no such file"),
        (["--bundle", "nothing.gem"], 2, "no bundle at nothing.gem"),
        (["--recipe", "nothing.toml"], 2, "nothing.toml"),
        (["--temperature", "-1"], 2, "temperature"),
        (["--top-p", "0"], 2, "top_p"),
        (["--max-tokens", "0"], 2, "max_tokens"),
    ],
)
def test_wrong_words(gem, words, code, message):
    assert_one_sentence(gem("run", *words, PROMPT), code, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "the prompt is empty"),
        (["x " * 300], "the context holds 256"),
        (["--context-length", "20", PROMPT], "the context holds 20"),
        (["--threads", "9999", PROMPT], "threads must be from 1 to"),
        (["--no-chat", "--system", "s", PROMPT], "needs the chat template"),
    ],
)
def test_wrong_prompts(gem, tiny_folder, words, message):
    gem("run", "-m", tiny_folder, "--max-tokens", 3, PROMPT, check=0)
    assert_one_sentence(gem("run", "-m", tiny_folder, *words), 2, message)


def test_files_that_are_not_models(gem, tmp_path, default_model_path):
    text = tmp_path / "text.gguf"
    text.write_text("this is a text and no model\n" * 20)
    assert_one_sentence(gem("run", "-m", text, "x"), 1, "GGUF")
    truncated = tmp_path / "truncated.gguf"
    with default_model_path.open("rb") as file:
        truncated.write_bytes(file.read(5_000_000))
    assert_one_sentence(gem("run", "-m", truncated, "x"), 1, "truncated")
    lying = bytearray(truncated.read_bytes())
    # The length of the first key's name.
    lying[24:32] = (2**62).to_bytes(8, "little")
    (tmp_path / "lying.gguf").write_bytes(lying)
    assert_one_sentence(gem("run", "-m", tmp_path / "lying.gguf", "x"), 1, "lying.gguf")


def test_changed_bundle_is_not_run(gem, tiny_bundle, tmp_path):
    folder = tmp_path / "changed.gem"
    shutil.copytree(tiny_bundle.folder, folder)
    data = bytearray((folder / "model.so").read_bytes())
    data[1000] ^= 255
    (folder / "model.so").write_bytes(data)
    assert_one_sentence(gem("run", "--bundle", folder, "x"), 1, "model.so is not what its manifest")


def test_bundle_of_another_tvm(gem, tiny_bundle, tmp_path):
    folder = tmp_path / "old.gem"
    shutil.copytree(tiny_bundle.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["versions"]["tvm"] = "0.20.0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert_one_sentence(gem("run", "--bundle", folder, "x"), 1, "made with tvm 0.20.0")


def test_bundle_is_not_changed_by_build_options(gem, tiny_bundle):
    done = gem("run", "--bundle", tiny_bundle.folder, "-q", "f16", "x")
    assert_one_sentence(done, 2, "drop --quantizer")


def test_cache_that_cannot_be_written(gem, tiny_folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = gem("run", "-m", tiny_folder, "x", GEM_CACHE=str(tmp_path / "file" / "cache"))
    assert_one_sentence(done, 1, "GEM_CACHE")


def test_full_disk_while_compiling(gem, tiny_folder, tmp_path):
    """A full disk is simulated where a bundle's weights are written."""
    script = (
        "import errno, sys, gemcore.formats.safetensors_writer as writer\n"
        "def full(path, tensors): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "writer.write_safetensors = full\n"
        "from gemcore.cli.main import main\n"
        f"sys.argv = ['gem', 'run', '-m', {str(tiny_folder)!r}, 'x']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"GEM_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("bundles/*.gem"))


def test_interrupt_while_compiling(gem, tiny_folder, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gemcore", "run", "-m", str(tiny_folder), "-q", "q8-g32", "x"],
        env=os.environ | {"GEM_CACHE": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("compiling"):
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, lines
    assert "Traceback" not in rest
    left = [
        path.name for path in (tmp_path / "bundles").iterdir() if not path.name.endswith("lock")
    ]
    assert left == []
    again = gem("run", "-m", tiny_folder, "-q", "q8-g32", "x", GEM_CACHE=str(tmp_path))
    assert again.returncode == 0
