"""llama.cpp out of the source package of llama-cpp-python, cross-compiled for one ARM processor."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

REQUIREMENT = "llama-cpp-python==0.3.36"
"""The source package, of the version that benchmarks/peers-requirements.txt names too."""

SOURCE = Path(__file__).parent / "llama_count.cc"
PRODUCTS = Path(__file__).parent / "llama_products.c"


def build(folder: Path, cpu: str) -> Path:
    """Compile `llama_count.cc` with llama.cpp below `folder`, where it is not there yet; its path.

    That takes some ten minutes of one core.
    """
    program = folder / "llama-count"
    if program.is_file():
        return program
    source = _source(folder)
    built = folder / "build"
    flags = f"-mcpu={cpu} -O3"
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": "aarch64-linux-gnu-gcc",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_C_FLAGS": flags,
        "CMAKE_CXX_FLAGS": flags,
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "OFF",
        # What the flags above say of the processor is all that it may use.
        "GGML_NATIVE": "OFF",
        "GGML_OPENMP": "OFF",
        "LLAMA_CURL": "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_TOOLS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_COMMON": "OFF",
    }
    words = [f"-D{name}={value}" for name, value in settings.items()]
    _run("cmake", "-S", str(source), "-B", str(built), "-G", "Ninja", *words)
    build = ("cmake", "--build", str(built), "--parallel", "2", "--target")
    _run(*build, "ggml")
    # Of the more than a hundred architectures only this one's code, or compiling takes ten times as long.
    # Who else is named in tables is never called, and may stay unresolved.
    names = sorted(path.name for path in (source / "src").glob("*.cpp"))
    objects = [f"src/CMakeFiles/llama.dir/{name}.o" for name in names]
    _run(*build, *objects)
    libraries = [next(built.rglob(f"lib{name}.a")) for name in ("ggml", "ggml-cpu", "ggml-base")]
    folders = (source / "include", source / "ggml" / "include", source / "src", built / "src")
    includes = [f"-I{folder}" for folder in folders]
    options = [
        "-std=c++17",
        "-O3",
        "-DNDEBUG",
        f"-mcpu={cpu}",
        "-Wl,--unresolved-symbols=ignore-all",
    ]
    # The build would compile the architectures sixteen at a time.
    architecture = source / "src" / "models" / "llama.cpp"
    inputs = [str(SOURCE), str(architecture), *(str(built / name) for name in objects)]
    group = ["-Wl,--start-group", *map(str, libraries), "-Wl,--end-group"]
    compiler = "aarch64-linux-gnu-g++"
    end = ["-lpthread", "-ldl", "-lm", "-o", str(program)]
    _run(compiler, *options, *includes, *inputs, *group, *end)
    return program


def build_products(folder: Path, cpu: str) -> Path:
    """Compile `llama_products.c` with llama.cpp's products alone, which takes a few seconds; its path."""
    program = folder / "llama-products"
    if not program.is_file():
        ggml = _source(folder) / "ggml"
        includes = [f"-I{ggml / part}" for part in ("include", "src", "src/ggml-cpu")]
        # As llama.cpp's own build compiles them. What the products do not call may stay unresolved.
        options = ["-O3", "-DNDEBUG", "-D_GNU_SOURCE", f"-mcpu={cpu}", "-ffunction-sections"]
        link = ["-Wl,--gc-sections", "-Wl,--unresolved-symbols=ignore-all", "-lm"]
        inputs = [str(PRODUCTS), str(ggml / "src" / "ggml-cpu" / "arch" / "arm" / "quants.c")]
        _run("aarch64-linux-gnu-gcc", *options, *includes, *inputs, *link, "-o", str(program))
    return program


def _source(folder: Path) -> Path:
    """The folder of llama.cpp's own sources, downloaded and unpacked where they are not there yet."""
    found = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary=llama-cpp-python", "--dest", str(folder)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", *options, REQUIREMENT]
        archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
        if not archives:
            _run(*pip)
            archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        found = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    return found[0]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise SystemExit(f"{command[0]} failed:\n" + "\n".join(said))
