"""The diverging colour scale of the gain matrix: orange for loss, blue for gain, safe without green.

The stops are those of ColorBrewer's PuOr and RdBu (https://colorbrewer2.org), and darker ones around
a dark middle for dark pages.
"""

from __future__ import annotations

from bisect import bisect_right

RGB = tuple[int, int, int]

LIGHT: tuple[RGB, ...] = (
    (179, 88, 6),
    (241, 163, 64),
    (254, 224, 182),
    (247, 247, 247),
    (209, 229, 240),
    (103, 169, 207),
    (33, 102, 172),
)
DARK: tuple[RGB, ...] = (
    (253, 170, 72),
    (196, 106, 20),
    (104, 61, 20),
    (38, 42, 48),
    (29, 66, 102),
    (44, 113, 176),
    (116, 184, 236),
)
BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)


def diverging(value: float, limit: float, stops: tuple[RGB, ...] = LIGHT) -> RGB:
    """The colour of a value between -limit (first stop) and limit (last one); beyond, the last."""
    share = 0.5 if limit <= 0 else min(1.0, max(0.0, 0.5 + value / (2 * limit)))
    place = share * (len(stops) - 1)
    below = min(int(place), len(stops) - 2)
    part = place - below
    red, green, blue = (
        round(low + part * (high - low))
        for low, high in zip(stops[below], stops[below + 1], strict=True)
    )
    return red, green, blue


def ink(background: RGB) -> RGB:
    """Black or white, whichever is easier to read on the background."""
    return max((BLACK, WHITE), key=lambda colour: contrast(colour, background))


def contrast(one: RGB, other: RGB) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2.2 defines it (text needs 4.5)."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def scale_limit(values: list[float]) -> float:
    """The end of a scale: the least round number that no value exceeds."""
    largest = max((abs(value) for value in values), default=0.0)
    steps = [factor * 10.0**power for power in range(-3, 4) for factor in (1, 2, 3, 4, 5, 6, 8)]
    place = bisect_right(steps, largest * (1 - 1e-9))
    return steps[place] if place < len(steps) else largest


def css(colour: RGB) -> str:
    """The colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _luminance(colour: RGB) -> float:
    def linear(channel: int) -> float:
        share = channel / 255
        return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)

    red, green, blue = (linear(channel) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
