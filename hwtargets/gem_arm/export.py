"""What the developer of an application on an aarch64 board gets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gem_arm.linux import LIBRARY, copy_runtime
from gem_arm.runner import LIBRARY_FOLDER, RUNNER, SOURCE
from gemcore.bundle import WEIGHTS
from gemcore.export import copy_bundle
from gemcore.reports import ExportReport
from gemcore.runtime.plan import PLAN, bundle_plan

if TYPE_CHECKING:
    from gem_arm.linux import LinuxBoard
    from gemcore.bundle import Bundle

BUNDLE = "model.gem"

_LINK = """\
There are two ways, and both run the same code and the same weights.

**With Python on the board**, nothing is linked: install GEM {gem} there, with the TVM that made the bundle
(`apache-tvm=={tvm}`, `apache-tvm-ffi=={ffi}`), and open it. Other versions refuse it with a sentence.

**Without Python**, `gem-runner` needs the two libraries in `lib/`, which it finds beside itself, and the
system's own libstdc++, libm, libdl and libc (glibc 2.28 or newer). Its source, `runner.cc`, is what to begin
with for an application in C++; this compiles it, with the headers of the Python package `apache-tvm-ffi`:

```sh
aarch64-linux-gnu-g++ -O2 -std=c++17 -isystem .../tvm_ffi/include runner.cc -o gem-runner \\
    -Wl,--no-as-needed lib/libtvm_ffi.so lib/libtvm_runtime.so -Wl,-rpath,'$ORIGIN/lib' -ldl
```

The processor must be an aarch64 one with {needs}; the code was compiled for `{cpu}`.
"""

_CALL = """\
With Python:

```python
from gemcore import open_session

for piece in open_session("model.gem").stream("What is the capital of France?", max_tokens=64):
    print(piece, end="", flush=True)
```

or `gem run --bundle model.gem "What is the capital of France?"`.

Without Python, tokens go in and come out, each printed as soon as it is known; `model.gem/tokenizer.json`
says which text they are, in the format of the `tokenizers` library:

```sh
./gem-runner generate plan.txt 16 504 3575 282 4649 314
```

`gem-runner serve` answers requests on stdin instead, with the model loaded once; `runner.cc` says how.
`threads` in `plan.txt` is how many threads compute.
"""


def export(board: LinuxBoard, bundle: Bundle, folder: Path) -> ExportReport:
    """Write bundle, runner, TVM's libraries, the runner's source and a plan to `folder`."""
    copy_bundle(bundle, folder / BUNDLE)
    copy_runtime(folder / LIBRARY_FOLDER)
    shutil.copy2(bundle.folder / RUNNER, folder / RUNNER)
    shutil.copyfile(SOURCE, folder / SOURCE.name)
    library, weights = f"{BUNDLE}/{LIBRARY}", f"{BUNDLE}/{WEIGHTS}"
    plan = bundle_plan(bundle, library, weights, board.device.cores)
    (folder / PLAN).write_text(plan, encoding="utf-8")
    versions = bundle.manifest.versions
    return ExportReport(
        files=(
            (BUNDLE, "the bundle: all that GEM needs"),
            (f"{BUNDLE}/{LIBRARY}", "in it, the compiled model"),
            (f"{BUNDLE}/{WEIGHTS}", "in it, the packed weights"),
            (RUNNER, "runs the model without Python"),
            (LIBRARY_FOLDER, "TVM's runtime libraries, out of the wheels of PyPI"),
            (PLAN, "tells the runner where weights are and what shape they have"),
            (SOURCE.name, "the source of the runner"),
        ),
        link=_LINK.format(
            gem=versions["gem"],
            tvm=versions["tvm"],
            ffi=versions["tvm-ffi"],
            needs=", ".join(sorted(board.needs)),
            cpu=board.cpu,
        ),
        call=_CALL,
        verified=(
            f"`make test-targets` runs the whole default model for {board.name} under `qemu-aarch64 -cpu "
            f"{board.cpu}` and compares logits of a 32-token prompt and the next 8 tokens with those of the "
            "machine that compiled it; `make test` does the same with a small model, bit by bit.",
            "`gem-runner generate` with four threads, on the same emulator, in the tests of "
            "`make test`: its tokens are those of GEM.",
            "Every file of the bundle was compared with its SHA-256 before it was copied.",
        ),
        unverified=(
            "Speed: nothing was run on a board. `gem predict --device "
            f"{board.name}` gives a limit by published figures.",
            "Memory and heat of a board under load.",
        ),
    )
