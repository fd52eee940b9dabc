"""What the developer of an application on this kind of machine gets: the bundle, and how to call it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gemcore.export import copy_bundle
from gemcore.reports import ExportReport

if TYPE_CHECKING:
    from gemcore.bundle import Bundle

BUNDLE = "model.gem"

_LINK = """\
There is nothing to link: GEM opens the bundle. Install GEM {gem} with the TVM that made it
(`apache-tvm=={tvm}`, `apache-tvm-ffi=={ffi}`); other versions refuse it with a sentence. The processor must
have {machine} with the instructions `{instructions}`; another one refuses the bundle with a sentence.
"""

_CALL = """\
```python
from gemcore import open_session

session = open_session("model.gem")
for piece in session.stream("What is the capital of France?", max_tokens=64):
    print(piece, end="", flush=True)
```

or `gem run --bundle model.gem "What is the capital of France?"`.
"""


def export(bundle: Bundle, folder: Path) -> ExportReport:
    """Write the bundle to `folder`."""
    copy_bundle(bundle, folder / BUNDLE)
    versions, details = bundle.manifest.versions, bundle.manifest.target_details
    return ExportReport(
        files=((BUNDLE, "the bundle: library, weights, tokenizer and manifest"),),
        link=_LINK.format(
            gem=versions["gem"], tvm=versions["tvm"], ffi=versions["tvm-ffi"], **details
        ),
        call=_CALL,
        verified=(
            "Every file was compared with its SHA-256 in `model.gem/manifest.json` before it was copied; "
            "GEM does it again whenever the bundle is opened.",
        ),
    )
