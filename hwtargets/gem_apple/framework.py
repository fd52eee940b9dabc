"""An `.xcframework` made without Xcode: a folder with a static library, headers and two descriptions.

Its form is that of Apple's `xcodebuild -create-xcframework`: one folder for each platform, and an
`Info.plist` that lists them.
"""

from __future__ import annotations

import plistlib
import shutil
from collections.abc import Sequence
from pathlib import Path

NAME = "GemModel"
FRAMEWORK = f"{NAME}.xcframework"
SLICE = "ios-arm64"
LIBRARY = f"lib{NAME}.a"

SHADERS = Path(__file__).parent / "native" / "gem_products.metal"
"""The matrix products once more, for the GPU."""


def write_framework(folder: Path, library: Path, headers: Sequence[Path]) -> Path:
    """Write the framework into `folder` and give its path.

    Args:
        folder: where it is made.
        library: the static library for phones.
        headers: what an app includes; a module map makes them the Swift module `GemModel`.
    """
    framework = folder / FRAMEWORK
    own = framework / SLICE
    (own / "Headers").mkdir(parents=True)
    shutil.copyfile(library, own / LIBRARY)
    for header in headers:
        shutil.copyfile(header, own / "Headers" / header.name)
    (own / "Headers" / "module.modulemap").write_text(
        module_map([header.name for header in headers]), encoding="utf-8"
    )
    (own / "Metal").mkdir()
    shutil.copyfile(SHADERS, own / "Metal" / SHADERS.name)
    with (framework / "Info.plist").open("wb") as file:
        plistlib.dump(description(), file)
    return framework


def module_map(headers: Sequence[str]) -> str:
    """What makes the headers a module, for Swift and for `@import`."""
    lines = [f'  header "{name}"' for name in headers]
    return "\n".join([f"module {NAME} {{", *lines, "  export *", "}", ""])


def description() -> dict[str, object]:
    """The framework's `Info.plist`."""
    return {
        "AvailableLibraries": [
            {
                "BinaryPath": LIBRARY,
                "HeadersPath": "Headers",
                "LibraryIdentifier": SLICE,
                "LibraryPath": LIBRARY,
                "SupportedArchitectures": ["arm64"],
                "SupportedPlatform": "ios",
            }
        ],
        "CFBundlePackageType": "XFWK",
        "XCFrameworkFormatVersion": "1.0",
    }
