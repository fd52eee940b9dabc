"""What an app's developer gets for a Hexagon processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gem_npu.target import PROGRAM, SOURCES
from gem_npu.toolchain import EMULATOR
from gemcore.bundle import WEIGHTS
from gemcore.export import copy_weights
from gemcore.reports import DelegationReport, ExportReport
from gemcore.runtime.plan import PLAN, bundle_plan

if TYPE_CHECKING:
    from gemcore.bundle import Bundle


def export(bundle: Bundle, folder: Path) -> ExportReport:
    """Write program, objects, sources, weights and a plan for the program to `folder`."""
    shutil.copy2(bundle.folder / PROGRAM, folder / PROGRAM)
    shutil.copytree(bundle.folder / SOURCES, folder / SOURCES)
    (folder / PLAN).write_text(bundle_plan(bundle, PROGRAM, WEIGHTS, 1), encoding="utf-8")
    files = (
        (PROGRAM, "the model and a small runner as one static program for Hexagon Linux (musl)"),
        (
            SOURCES,
            "what it is linked from: `kernels.o` (scalar), `kernels-hvx.o`, the driver and its tables in C, "
            "and `gem.h`, the interface",
        ),
        (PLAN, "where the runner finds the weights"),
        *copy_weights(bundle, folder),
    )
    delegation = DelegationReport.from_json(dict(bundle.manifest.delegation))
    share = delegation.share()
    return ExportReport(
        files=files,
        link=_LINK,
        call=_CALL,
        verified=(
            f"{share:.1%} of the multiply-accumulates of a token are in kernels that HVX runs, by the "
            "table above; `gem targets show npu` and docs/targets.md say how it is counted.",
            f"The program was executed by `{' '.join(EMULATOR)}`: `gem run --bundle` does so again, and "
            "tests/hwtargets/gem_npu compares its logits with this machine's, bit by bit.",
        ),
        unverified=delegation.unverified,
    )


_LINK = f"""\
The objects are for Hexagon version 68 with 128-byte vectors and call nothing but the driver, `memcpy`, \
`memset` and the compiler's own runtime (`__hexagon_divsi3` and the like). With the Hexagon SDK:

    hexagon-clang -mv68 -mhvx -mhvx-length=128B -O2 -ffp-contract=off -I{SOURCES} \\
        {SOURCES}/gem_driver.c {SOURCES}/gem_tables.c {SOURCES}/kernels.o {SOURCES}/kernels-hvx.o \\
        your_code.c -o your_program

The weights of this folder lie in the order in which HVX reads them: no other target's bundle may use them. \
`gem_open` wants the file mapped at a multiple of 128 bytes."""

_CALL = f"""\
The interface is `{SOURCES}/gem.h`. The program itself continues a text greedily, in token ids:

    {" ".join(EMULATOR)} {PROGRAM} generate {PLAN} 8 1 504 3575 282

Call `gem_use_threads` to spread a pass over several hardware threads; each needs an HVX context."""
