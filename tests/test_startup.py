"""What must not be imported before it is needed."""

import json
import subprocess
import sys

import pytest

SLOW = {"torch", "tvm", "tvm_ffi", "transformers", "rich", "jinja2", "tokenizers", "gguf"}
SLOW |= {"requests", "huggingface_hub", "numpy"}

COMMAND = """
import json, sys
from gemcore.cli.main import main
try:
    main({arguments})
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules_after(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_gemcore_imports_nothing_slow():
    program = "import gemcore, json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    loaded = modules_after(program)
    assert "gemcore" in loaded
    assert not (SLOW | {"attrs", "click", "pluggy"}) & loaded


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plugins", "list"], ["plugins", "show", "none"]]
)
def test_light_commands_import_nothing_slow(arguments):
    loaded = modules_after(COMMAND.format(arguments=arguments))
    assert "gemcore.cli.main" in loaded
    assert not SLOW & loaded


def test_help_imports_no_command_and_no_plugin():
    loaded = modules_after(COMMAND.format(arguments=["--help"]))
    ours = {name for name in loaded if name.startswith(("gemcore.cli.", "gem_", "pluggy"))}
    assert ours == {"gemcore.cli.main"}
