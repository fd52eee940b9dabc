"""TVM's runtime called through its C interface (`tvm/ffi/c_api.h`), without TVM's Python packages.

Those take several times the memory and time of the two libraries, for parts that running a model has no
use for. Objects of the package `tvm_ffi` are taken as arguments all the same.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from ctypes import (
    POINTER,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint16,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gemcore.errors import GemError

# Values of TVMFFITypeIndex.
_NONE, _INT, _TEXT, _OBJECT, _FUNCTION, _TENSOR = 0, 1, 8, 64, 68, 70
_HEADER = 24
"""Bytes of a TVMFFIObject, which every object begins with."""

_LETTERS = "iuf"  # NumPy's letters for DLPack's kinds of numbers: int, uint, float


class _Any(ctypes.Structure):
    """TVMFFIAny: a number, or a pointer, and what it is."""

    _fields_ = (("type_index", c_int32), ("padding", c_int32), ("value", c_int64))


class _Text(ctypes.Structure):
    """TVMFFIByteArray."""

    _fields_ = (("data", c_void_p), ("size", c_size_t))

    def read(self) -> str:
        return ctypes.string_at(self.data, self.size).decode("utf-8", "replace")


class _DLTensor(ctypes.Structure):
    """A tensor on the processor, as DLPack describes it."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("dimensions", c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


@functools.cache
def runtime_library() -> ctypes.CDLL:
    """The library of TVM's C interface, with TVM's runtime loaded beside it; GemError without TVM."""
    try:
        # Compiled models look for these symbols among those that are loaded globally.
        library = ctypes.CDLL(str(_library("tvm_ffi")), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(_library("tvm", "tvm_runtime")), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise GemError(f"TVM's runtime library cannot be loaded: {error}") from error
    out = POINTER(c_void_p)
    for name, types in (
        ("TVMFFIFunctionGetGlobal", (POINTER(_Text), out)),
        ("TVMFFIFunctionCall", (c_void_p, POINTER(_Any), c_int32, POINTER(_Any))),
        ("TVMFFIErrorMoveFromRaised", (out,)),
        ("TVMFFITensorFromDLPack", (c_void_p, c_int32, c_int32, out)),
        ("TVMFFIObjectDecRef", (c_void_p,)),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = types, c_int
    library.TVMFFIErrorMoveFromRaised.restype = None
    return library


@functools.cache
def _python() -> ctypes.PyDLL:
    """Python's own C interface; not `ctypes.pythonapi`, whose declarations all of a process share."""
    python = ctypes.PyDLL(None)
    python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, c_char_p)
    python.PyCapsule_GetPointer.restype = c_void_p
    python.PyCapsule_SetName.argtypes = (ctypes.py_object, c_char_p)
    return python


def _library(package: str, name: str | None = None) -> Path:
    """Path of the library `name` in an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise GemError("TVM is not installed: run 'pip install apache-tvm==0.27.0.post1'")
    return Path(spec.origin).parent / "lib" / f"lib{name or package}.so"


class Object:
    """An object of TVM's that Python holds one count of."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._release = runtime_library().TVMFFIObjectDecRef

    def __chandle__(self) -> int:
        """Address of the object, by the name that `tvm_ffi` has for it."""
        return self._handle

    def __del__(self) -> None:
        self._release(self._handle)

    def __getitem__(self, name: str) -> Function:
        """The function `name` of a module; KeyError when it has none."""
        found: Function | None = global_function("ffi.ModuleGetFunction")(self, name, False)
        if found is None:
            raise KeyError(name)
        return found


class Function(Object):
    """A function of TVM's.

    Arguments are None, int, str or objects, where a bool is an int; results are None, int or objects. What
    goes wrong inside is a RuntimeError with the sentence of TVM.
    """

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self._call = runtime_library().TVMFFIFunctionCall

    def __call__(self, *arguments: Any) -> Any:
        """Call it; other Python threads run meanwhile."""
        result = _Any()
        given = (_Any * len(arguments))()
        kept = [_set(given[place], value) for place, value in enumerate(arguments)]
        failed = self._call(self._handle, given, len(arguments), result)
        del kept  # texts had to stay until here
        if failed:
            raise RuntimeError(raised_error())
        return _result(result)


class Tensor(Object):
    """An array of TVM's on the processor; `numpy.asarray` gives a view of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        tensor = self._described()
        return tuple(tensor.shape[: tensor.dimensions])

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array interface, version 3; the array then keeps this tensor."""
        tensor = self._described()
        return {
            "version": 3,
            "data": (self.data_ptr(), False),
            "shape": self.shape,
            "typestr": f"{_LETTERS[tensor.kind]}{tensor.bits // 8}",
        }

    def data_ptr(self) -> int:
        """Address of its first byte, by the name that `tvm_ffi` has for it."""
        tensor = self._described()
        return int(tensor.data + tensor.byte_offset)

    def _described(self) -> _DLTensor:
        return _DLTensor.from_address(self._handle + _HEADER)


def global_function(name: str) -> Function:
    """A function that TVM knows by `name`; GemError when it does not."""
    spelled, handle = name.encode(), c_void_p()
    text = _Text(ctypes.cast(c_char_p(spelled), c_void_p), len(spelled))
    if runtime_library().TVMFFIFunctionGetGlobal(text, handle):
        raise GemError(f"TVM's runtime failed: {raised_error()}")
    if not handle.value:
        raise GemError(f"TVM's runtime has no function {name}: another version is installed")
    return Function(handle.value)


def tensor_on(array: npt.NDArray[Any]) -> Tensor:
    """A tensor on the memory of a contiguous array, which it keeps."""
    # A DLPack capsule belongs to whoever takes its content and renames it.
    capsule, python, handle = array.__dlpack__(), _python(), c_void_p()
    content = python.PyCapsule_GetPointer(capsule, b"dltensor")
    if runtime_library().TVMFFITensorFromDLPack(content, 0, 1, handle):
        raise RuntimeError(raised_error())
    python.PyCapsule_SetName(capsule, b"used_dltensor")
    assert handle.value is not None
    return Tensor(handle.value)


def _set(argument: _Any, value: Any) -> Any:
    """Write a value as an argument; what is returned must stay until the call is over."""
    if isinstance(value, str):
        text = c_char_p(value.encode())
        argument.type_index = _TEXT
        argument.value = ctypes.cast(text, c_void_p).value or 0
        return text
    if isinstance(value, int):
        argument.type_index, argument.value = _INT, value
    elif value is not None:
        handle = value.__chandle__()
        argument.type_index = c_int32.from_address(handle + 8).value
        argument.value = handle
    return None


def _result(result: _Any) -> Any:
    kind, value = result.type_index, result.value
    if kind >= _OBJECT:
        return {_FUNCTION: Function, _TENSOR: Tensor}.get(kind, Object)(value)
    if kind not in (_NONE, _INT):
        raise RuntimeError(f"TVM's runtime returned a value of type {kind}")
    return value if kind == _INT else None


def raised_error() -> str:
    """What TVM says about the error it has just raised, which is thereby taken from it."""
    handle = c_void_p()
    runtime_library().TVMFFIErrorMoveFromRaised(handle)
    if not handle.value:
        return "no reason given"
    error = Object(handle.value)
    kind, message = (_Text * 2).from_address(error.__chandle__() + _HEADER)
    return f"{kind.read()}: {message.read()}"
