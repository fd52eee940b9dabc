r"""Answers in LaTeX: finding the final one, and whether two are written the same.

Normalisation follows `strip_string` of the MATH benchmark (Hendrycks et al., 2021,
arXiv 2103.03874), as lm-evaluation-harness does: layout, units and equivalent ways to write
fractions and roots are removed; nothing is computed.
"""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*")
_SAID = re.compile(r"(?i:the (?:final )?answer is:?)\s*(?P<answer>[^\n]+)")
_DROPPED = re.compile(r"\n|\\!|\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$|\$|\\%|%|\\[,;: ]")
_UNITS = re.compile(r"(?<=\S)\s*\\text\{ .*\Z")
_WORDS = re.compile(r"\\(?:text|mbox|mathrm|textbf)\{(?P<words>[^{}]*)\}")
_NAMED = re.compile(r"\A[a-zA-Z]{1,2} ?= ?")
_SHORT_ROOT = re.compile(r"\\sqrt(?P<one>[^{\\\s])")
_SHORT_FRACTION = re.compile(r"\\frac(?P<top>\d|\{[^{}]*\})(?P<below>\d|\{[^{}]*\})")
_PLAIN_FRACTION = re.compile(r"\A(?P<sign>-?)(?P<top>\d+)/(?P<below>\d+)\Z")
_BARE_POINT = re.compile(r"(?<![\d])\.(?=\d)")


def final_answer(text: str) -> str:
    r"""The answer that a solution ends in.

    The content of the last `\boxed{…}`; failing that, what follows "the answer is"; failing that,
    what stands between the first and the last dollar sign; failing that, the first line.

    >>> final_answer(r"so $x = \boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """
    for match in reversed(list(_BOXED.finditer(text))):
        inside = _braced(text, match.end())
        if inside is not None:
            return inside
    if said := _SAID.search(text):
        return said["answer"].strip().rstrip(".").strip("$ ")
    first, last = text.find("$"), text.rfind("$")
    if first < last:
        return text[first + 1 : last]
    return text.strip().partition("\n")[0].rstrip(".").strip()


def same_answer(predicted: str, wanted: str) -> bool:
    """Whether two answers are the same after normalisation."""
    return normalised(predicted) == normalised(wanted)


def normalised(answer: str) -> str:
    r"""An answer in the form that is compared.

    >>> normalised(r"x = \dfrac12 \text{ cm}"), normalised("0.5"), normalised("1/2")
    ('\\frac{1}{2}', '\\frac{1}{2}', '\\frac{1}{2}')
    """
    text = answer.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    text = _UNITS.sub("", text.strip())
    text = _WORDS.sub(r"\g<words>", text)
    text = _DROPPED.sub("", text)
    text = _NAMED.sub("", text.strip())
    text = _BARE_POINT.sub("0.", text)
    text = re.sub(r"\s+", "", text).rstrip(".")
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|\Z))", "", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\g<one>}", text)
    text = _SHORT_FRACTION.sub(_full_fraction, text)
    text = "1/2" if text == "0.5" else text
    return _PLAIN_FRACTION.sub(r"\g<sign>\\frac{\g<top>}{\g<below>}", text)


def _full_fraction(match: re.Match[str]) -> str:
    parts = (match[name].removeprefix("{").removesuffix("}") for name in ("top", "below"))
    return "\\frac" + "".join(f"{{{part}}}" for part in parts)


def _braced(text: str, start: int) -> str | None:
    """What the braces that open at `start` hold; None where none open, or they never close."""
    if not text.startswith("{", start):
        return None
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : place]
    return None
