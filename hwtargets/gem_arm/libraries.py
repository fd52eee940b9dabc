"""TVM's runtime libraries for aarch64, out of the very wheels that PyPI has for such machines.

Nothing of a wheel is installed or run here: two pinned files are taken out of pinned wheels, and kept in the
user's cache. Where PyPI is, and how to get there, is what pip's configuration says.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import attrs

from gemcore.cache import cache_folder, cache_root, file_digest, locked, write_atomically
from gemcore.errors import GemError

_PLATFORM = "manylinux_2_28_aarch64"


@attrs.frozen(kw_only=True)
class RuntimeLibrary:
    """A library inside a wheel.

    Attributes:
        requirement: the wheel's project and version, as pip takes them.
        wheel_sha256: of the wheel.
        member: path of the library in the wheel.
        sha256: of the library.
    """

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str

    @property
    def name(self) -> str:
        """File name of the library."""
        return self.member.rpartition("/")[2]


LIBRARIES = (
    RuntimeLibrary(
        requirement="apache-tvm-ffi==0.1.14.post1",
        wheel_sha256="c7a759781d4fbf2b99fa12f2741f250b882b06acc2747bb02831d491d1ac7d3c",
        member="tvm_ffi/lib/libtvm_ffi.so",
        sha256="673d816bd962daddb55d8b0f8ae137e797500307951d0f721227731df0c13e24",
    ),
    RuntimeLibrary(
        requirement="apache-tvm==0.27.0.post1",
        wheel_sha256="4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
        member="tvm/lib/libtvm_runtime.so",
        sha256="ba06950fac134b8d71549111fad2c6605cd6f738061fe0482f217c37ccbdff05",
    ),
)
"""What the runner links with; of the versions that setup.cfg pins."""


def runtime_folder() -> Path:
    """The folder with all `LIBRARIES`, fetched and checked where they are not there yet.

    Raises:
        GemError: they cannot be fetched, or are not what they should be.
    """
    folder = cache_root() / "runtimes" / "aarch64-linux"
    if not all(_present(library, folder) for library in LIBRARIES):
        cache_folder("runtimes", "aarch64-linux")
        with locked(folder):
            for library in LIBRARIES:
                if not _present(library, folder):
                    _fetch(library, folder)
    return folder


def _present(library: RuntimeLibrary, folder: Path) -> bool:
    path = folder / library.name
    return path.is_file() and file_digest(path) == library.sha256


def _fetch(library: RuntimeLibrary, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as temporary:
        wheel = _download(library, Path(temporary))
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(library.member) as member,
                write_atomically(folder / library.name) as file,
            ):
                shutil.copyfileobj(member, file)
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
            raise GemError(f"{wheel.name} is damaged ({error}): try again") from error
    if file_digest(folder / library.name) != library.sha256:
        (folder / library.name).unlink()
        raise GemError(f"{library.member} of {wheel.name} is not the pinned file (SHA-256 differs)")


def _download(library: RuntimeLibrary, folder: Path) -> Path:
    words = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    chosen = ["--only-binary=:all:", "--platform", _PLATFORM, "--python-version", "3.11"]
    command = [sys.executable, "-m", "pip", "download", *words, *chosen]
    done = subprocess.run(
        [*command, "--dest", str(folder), library.requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise GemError(
            f"pip cannot fetch {library.requirement} for {_PLATFORM}, which the runner links with "
            f"({said[-1] if said else 'no reason given'}): check the network and pip's configuration"
        )
    if file_digest(wheels[0]) != library.wheel_sha256:
        raise GemError(f"{wheels[0].name} is not the pinned wheel (SHA-256 differs): not used")
    return wheels[0]
