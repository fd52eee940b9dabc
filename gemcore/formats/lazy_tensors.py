"""The tensors of a checkpoint, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gemcore.errors import FormatError
from gemcore.models.checkpoint import StoredTensor

_NAMES_SHOWN = 4


def shorten(names: list[str]) -> str:
    """List the first few names and say how many more there are.

    >>> shorten(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    shown = ", ".join(names[:_NAMES_SHOWN])
    rest = len(names) - _NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def check_shapes(
    where: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    named: Callable[[str], str] = str,
) -> None:
    """Compare a file's tensors with those that its configuration asks for.

    Args:
        where: the file or folder, for the message.
        found: the file's shapes, by Hugging Face name.
        expected: those of the configuration.
        named: turns a Hugging Face name into the name that the file uses.

    Raises:
        FormatError: tensors are missing, surplus or of another shape; the message names them.
    """
    missing = [named(name) for name in expected if name not in found]
    if missing:
        raise FormatError(f"{where} lacks {len(missing)} tensors of its model: {shorten(missing)}")
    surplus = [named(name) for name in found if name not in expected]
    if surplus:
        raise FormatError(
            f"{where} holds {len(surplus)} tensors that its model has no use for, so it is of "
            f"another kind than its configuration says: {shorten(surplus)}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise FormatError(
                f"{where}: tensor {named(name)} has shape {list(found[name])}, but the model's "
                f"configuration asks for {list(shape)}"
            )


class LazyTensors(Mapping[str, StoredTensor]):
    """A read-only mapping whose tensors are made by a function when they are looked up.

    Opening a model then costs nothing for each tensor, and one whose rows must be put in order is
    copied only while it is in use.
    """

    def __init__(self, makers: Mapping[str, Callable[[], StoredTensor]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
