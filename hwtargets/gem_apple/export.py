"""What the developer of an iOS app gets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gem_apple.framework import FRAMEWORK, NAME, SHADERS, SLICE
from gemcore.bundle import WEIGHTS
from gemcore.export import copy_weights
from gemcore.reports import ExportReport

if TYPE_CHECKING:
    from gemcore.bundle import Bundle

_LINK = """\
Drag `{framework}` into the project's "Frameworks, Libraries, and Embedded Content" (a static library: "Do
Not Embed"), or put it into a Swift package:

```swift
.binaryTarget(name: "{name}", path: "{framework}")
```

The library needs iOS 15 and a processor with dot products (A13 and newer), and of the system nothing but
its C library. Add `{weights}` to the app's resources.
"""

_CALL = """\
The comments of `gem.h` say what each function does. In Swift:

```swift
import {name}

let file = try Data(contentsOf: weightsURL, options: .alwaysMapped)
func room(_ bytes: Int) -> UnsafeMutableRawPointer {{
    let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: Int(GEM_ALIGNMENT))
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    return memory
}}
var model: OpaquePointer?
guard file.withUnsafeBytes({{
    gem_open(room(gem_model_bytes()), gem_model_bytes(), $0.baseAddress, $0.count, &model)
}}) == 0 else {{ fatalError(String(cString: gem_error())) }}
gem_use_cache(model, room(gem_cache_bytes(2048)), 2048)
let bytes = gem_workspace_bytes(model, 128, 1)
gem_use_workspace(model, room(bytes), bytes)
var logits = [Float](repeating: 0, count: Int(GEM_VOCABULARY))
gem_feed(model, prompt, Int64(prompt.count), nil, &logits)   // at most 128 tokens at a time here
```

`file` must live as long as the model. Stop tokens: {stop}. `tokenizer.json` is read by the `tokenizers`
library and by `swift-transformers`. To spread a pass over threads, give `gem_use_threads` a function that
runs tasks, for example with `DispatchQueue.concurrentPerform`.
"""


def export(bundle: Bundle, folder: Path) -> ExportReport:
    """Write the framework and the weights."""
    from gem_apple.phone import UNVERIFIED

    shutil.copytree(bundle.folder / FRAMEWORK, folder / FRAMEWORK)
    weights = copy_weights(bundle, folder)
    stop = ", ".join(map(str, bundle.manifest.text["stop_token_ids"]))
    headers = f"{FRAMEWORK}/{SLICE}/Headers"
    return ExportReport(
        files=(
            (FRAMEWORK, "a static library for iOS with headers, a module map and a description"),
            (f"{headers}/gem.h", "the interface of every such library"),
            (f"{headers}/gem_model.h", "constants of this model"),
            (
                f"{FRAMEWORK}/{SLICE}/Metal/{SHADERS.name}",
                "matrix products for the GPU as source, for apps that want to go further; unused here",
            ),
            *weights,
        ),
        link=_LINK.format(framework=FRAMEWORK, name=NAME, weights=WEIGHTS),
        call=_CALL.format(name=NAME, stop=stop),
        verified=(
            "GEM's own tests compile such a framework of a small random model and read it with LLVM's "
            "tools: Mach-O for arm64, platform iOS, oldest version 15.0, the symbols of `gem.h` defined, and "
            "none undefined but those of the C library: "
            "`python -m pytest tests/hwtargets/gem_apple/test_phone.py`.",
            "`gem_products.metal` gives the reference's bits where its threads run one after the other on "
            "this machine's processor: `python -m pytest tests/hwtargets/gem_apple/test_metal.py`.",
            "The same tests run the same kernels, compiled for aarch64 Linux, on an emulator, and compare "
            "logits with those of this machine, bit by bit.",
        ),
        unverified=UNVERIFIED,
    )
