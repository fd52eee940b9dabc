"""What the developer of an Android app gets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gemcore.bundle import WEIGHTS
from gemcore.export import copy_weights
from gemcore.reports import ExportReport
from gemcore.runtime.plan import PLAN, bundle_plan

if TYPE_CHECKING:
    from gem_arm.android import AndroidPhone
    from gemcore.bundle import Bundle

_ABI = "jniLibs/arm64-v8a"

_LINK = """\
Copy `jniLibs/` to `app/src/main/` and the headers to `app/src/main/cpp/include/`; in `CMakeLists.txt`:

```cmake
add_library(gem_model SHARED IMPORTED)
set_target_properties(gem_model PROPERTIES IMPORTED_LOCATION
    ${{CMAKE_SOURCE_DIR}}/../jniLibs/arm64-v8a/{library})
target_include_directories(your_code PRIVATE include)
target_link_libraries(your_code gem_model)
```

The library needs no other one, not even the C library, and is aligned to pages of 16 KB. It needs a
processor with the dot-product instructions (`asimddp`): every phone with Cortex-A55, A75 or newer cores.
`{weights}` belongs into the app's files, from where it can be mapped; `assets/` are compressed.
"""

_CALL = """\
The comments of `gem.h` say what each function does. A whole answer, without the tokenizer:

```c
#include "gem.h"
#include "gem_model.h"

gem_model *model;
/* memory, cache, workspace: zeroed, aligned to GEM_ALIGNMENT bytes; file: {weights}, mapped */
gem_open(memory, gem_model_bytes(), file, file_bytes, &model);
gem_use_cache(model, cache, 2048);                       /* gem_cache_bytes(2048) */
gem_use_workspace(model, workspace, workspace_bytes);    /* gem_workspace_bytes(model, 128, 1) */
static float logits[GEM_VOCABULARY];
gem_feed(model, prompt, prompt_tokens, NULL, logits);    /* at most 128 tokens at a time here */
int32_t next = most_likely(logits);
gem_feed(model, &next, 1, NULL, logits);                 /* and so on, until a stop token */
```

Stop tokens: {stop}. `tokenizer.json` is read by the `tokenizers` library, which exists for Rust, C++ and
Kotlin. To spread a pass over threads, give `gem_use_threads` a function that runs tasks on yours.

The runner does the same in a Linux program, on an emulator or on an aarch64 machine:

```sh
qemu-aarch64 -cpu {cpu} -L /usr/aarch64-linux-gnu ./{runner} generate {plan} 8 1 504 3575 314 253
```
"""


def export(phone: AndroidPhone, bundle: Bundle, folder: Path) -> ExportReport:
    """Write the library where Gradle looks for it, headers, weights, and a runner with its plan."""
    from gem_arm.android import HEADERS, LIBRARY, RUNNER, UNVERIFIED

    (folder / _ABI).mkdir(parents=True)
    (folder / "include").mkdir()
    library = f"{_ABI}/{LIBRARY}"
    shutil.copy2(bundle.folder / LIBRARY, folder / library)
    for header in HEADERS:
        shutil.copyfile(bundle.folder / header, folder / "include" / header)
    shutil.copy2(bundle.folder / RUNNER, folder / RUNNER)
    weights = copy_weights(bundle, folder)
    (folder / PLAN).write_text(bundle_plan(bundle, library, WEIGHTS, 1), encoding="utf-8")
    stop = ", ".join(map(str, bundle.manifest.text["stop_token_ids"]))
    return ExportReport(
        files=(
            (library, "the compiled model: an ELF shared library for aarch64 Android 12 and newer"),
            ("include/gem.h", "the interface of every such library"),
            ("include/gem_model.h", "constants of this model"),
            (RUNNER, "a program for aarch64 Linux that loads the library"),
            (PLAN, "what the runner reads"),
            *weights,
        ),
        link=_LINK.format(library=LIBRARY, weights=WEIGHTS),
        call=_CALL.format(weights=WEIGHTS, stop=stop, cpu=phone.cpu, runner=RUNNER, plan=PLAN),
        verified=(
            "GEM's own tests run such a library, of a small random model with a router, on an "
            f"emulator of a {phone.cpu}, and compare its logits with those of this machine, bit by bit: "
            "`python -m pytest tests/hwtargets/gem_arm/test_android.py`; and with `-m slow` of the "
            "whole default model, with and without one.",
            "The same tests read the library with LLVM's tools: no NEEDED entry, segments at multiples of "
            "16 KB, and no symbols but those of `gem.h`.",
        ),
        unverified=UNVERIFIED,
    )
