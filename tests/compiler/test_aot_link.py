"""Tools that are missing or fail, and functions that cannot be compiled ahead of time."""

from __future__ import annotations

import pytest
from tvm import relax, tirx

from gemcore.compiler.aot_graph import read_function
from gemcore.compiler.aot_link import Toolchain, run_tool
from gemcore.errors import GemError

TOOLS = Toolchain(compiler=("no-such-compiler",), install="install the package of it")


def test_a_missing_tool_is_named_with_what_to_install():
    with pytest.raises(
        GemError,
        match="^linking needs no-such-linker, which is not in PATH: install the package of it$",
    ):
        run_tool(["no-such-linker"], TOOLS, "linking")


def test_a_file_that_is_no_program_is_one_sentence(tmp_path):
    (tmp_path / "tool").write_text("")
    with pytest.raises(GemError, match="^.*tool cannot be run: Permission denied$"):
        run_tool([str(tmp_path / "tool")], TOOLS, "linking")


def test_what_a_tool_complains_of_is_told_in_one_sentence():
    script = "echo before >&2; echo 'x.c:1: error: no semicolon' >&2; echo after >&2; exit 1"
    with pytest.raises(GemError, match="^linking failed: sh says 'x.c:1: error: no semicolon'$"):
        run_tool(["sh", "-c", script], TOOLS, "linking")
    with pytest.raises(GemError, match="^linking failed: false says ''$"):
        run_tool(["false"], TOOLS, "linking")
    assert run_tool(["echo", "well"], TOOLS, "linking") == "well\n"


def function_of(make):
    """A function of tokens, and of one cache tensor and one weight as a tuple."""
    n, blocks = tirx.Var("n", "int64"), tirx.Var("blocks", "int64")
    tokens = relax.Var("tokens", relax.TensorType((n,), "float32"))
    fields = [relax.TensorType((2, blocks), "uint8"), relax.TensorType((4,), "float32")]
    shared = relax.Var("model_params", relax.TupleType(fields))
    builder = relax.BlockBuilder()
    with builder.function("forward", [tokens, shared]):
        builder.emit_func_output(make(builder, tokens, shared))
    return builder.get()["forward"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b, t, s: b.emit(relax.op.add(t, t)), "it uses relax.add; compile it for target host"),
        (lambda b, t, s: b.emit(t), "its function forward returns what it did not compute"),
        (
            lambda b, t, s: b.emit(relax.op.shape_of(t)),
            "it uses relax.shape_of; compile it for target host",
        ),
    ],
)  # fmt: skip
def test_what_only_a_virtual_machine_could_do_is_refused(make, message):
    with pytest.raises(GemError, match=f"^this model cannot be compiled ahead of time: {message}"):
        read_function(function_of(make), "forward", ("tokens",), 1, [])


def test_a_function_of_other_inputs_is_refused():
    function = function_of(lambda b, t, s: b.emit(t))
    with pytest.raises(GemError, match="it has 1 inputs, not 2"):
        read_function(function, "forward", ("tokens", "placement"), 1, [])
