"""A Jinja environment for templates that came with a model, and so from a stranger.

Jinja's immutable sandbox keeps templates from Python's internals. On top of it, this environment
bounds what a template can make the machine do: steps (turns of loops, and calls), time, the size of
each text that it makes, and the size of the result.
"""

from __future__ import annotations

import contextvars
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jinja2.runtime import Context

MAX_STEPS = 200_000
"""Turns of loops plus calls in one rendering; a chat of 1000 messages takes some ten thousand."""

MAX_SECONDS = 10.0
"""Time for one rendering; an ordinary one takes a millisecond."""

MAX_CHARACTERS = 8 * 2**20
"""Length of the result and of each text on the way; elements, for lists."""

# Each of these makes a text as long as a number says, or as its format string says.
_PADDING_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}
)
_PADDING_FILTERS = ("batch", "center", "format", "indent", "slice", "wordwrap", "xmlattr")
_USELESS_GLOBALS = ("cycler", "joiner", "lipsum")


@attrs.define
class _Budget:
    """What one rendering has left."""

    steps: int = MAX_STEPS
    deadline: float = attrs.field(factory=lambda: time.monotonic() + MAX_SECONDS)


_budget: contextvars.ContextVar[_Budget] = contextvars.ContextVar("template_budget")


def _step() -> None:
    budget = _budget.get()
    budget.steps -= 1
    if budget.steps < 0:
        raise SecurityError(f"it takes more than {MAX_STEPS} steps")
    if time.monotonic() > budget.deadline:
        raise SecurityError(f"it takes more than {MAX_SECONDS:g} seconds")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _step()
        yield item


def _check_length(length: int) -> None:
    if length > MAX_CHARACTERS:
        raise SecurityError(f"it makes a text or list of more than {MAX_CHARACTERS} elements")


def _checked(value: Any) -> Any:
    if isinstance(value, str | list | tuple | dict):
        _check_length(len(value))
    return value


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(value), str(old), str(new)
    _check_length(len(text) + (text.count(old) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _join(value: Iterable[Any], separator: str = "", attribute: str | int | None = None) -> str:
    parts = []
    length = 0
    for item in value:
        part = str(item if attribute is None else item[attribute])
        length += len(part) + len(separator)
        _check_length(length)
        parts.append(part)
    return separator.join(parts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # As transformers has it: Jinja's own filter escapes HTML characters.
    if isinstance(indent, int) and indent > 16:
        raise SecurityError("it indents JSON by more than 16 spaces")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(date_format: str) -> str:
    _check_length(64 * len(date_format))
    return datetime.now().strftime(date_format)


class _PlainNamespace(Namespace):
    """A namespace without attributes that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"it sets the attribute {name!r}")
        super().__setitem__(name, value)


class _Bounds(NodeTransformer):
    """Rewrites a parsed template so that its loops count and its long texts are measured."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._filter(node.iter, "gem_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return self._filter(node, "gem_checked")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:  # noqa: N802
        self.generic_visit(node)
        node.filter = self._filter(node.filter, "gem_checked")
        return node

    @staticmethod
    def _filter(node: nodes.Node | None, name: str) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=getattr(node, "lineno", 1))


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment that chat templates expect, as transformers gives it to them, bounded."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        for name in _USELESS_GLOBALS:
            self.globals.pop(name, None)
        for name in _PADDING_FILTERS:
            self.filters.pop(name, None)
        self.filters.update(
            tojson=_tojson,
            replace=_replace,
            join=_join,
            gem_counted=_counted,
            gem_checked=_checked,
        )
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            namespace=_PlainNamespace,
        )

    def render_bounded(self, source: str, variables: dict[str, Any]) -> str:
        """The template's result; whatever it raises or exceeds comes as a Jinja or Python error."""
        tree = _Bounds().visit(self.parse(source))
        code = self.compile(tree)
        template = self.template_class.from_code(self, code, self.make_globals(None))
        token = _budget.set(_Budget())
        try:
            pieces = []
            length = 0
            for piece in template.generate(variables):
                length += len(piece)
                _check_length(length)
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _budget.reset(token)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, refused where the result would be huge."""
        sized = (str, list, tuple)
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            _check_length(len(left) + len(right))
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, sized) and isinstance(times, int):
                    _check_length(len(value) * times)
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("it formats text with %")
        if operator in {"*", "**"} and isinstance(left, int) and isinstance(right, int):
            growth = right if operator == "**" else 1
            if left.bit_length() * max(growth, 1) + right.bit_length() > 1024:
                raise SecurityError("it computes with numbers of more than 1024 bits")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute: none of Python's, and no padding of text."""
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Let `str.format` be refused as an unsafe attribute, rather than made safe."""

    def call(
        __self,  # noqa: N805 - the template's own arguments may have any name
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """A call from the template: one step, with a result that is not too long."""
        _step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            # These are replaced by what foresees the length of the result.
            name = getattr(__obj, "__name__", "")
            if name == "replace":
                return _replace(owner, *args)
            if name == "join":
                return _join(args[0], owner)
        return _checked(super().call(__context, __obj, *args, **kwargs))
