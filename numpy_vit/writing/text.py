"""Columns and lines on a terminal, shapes, and plain data as JSON can hold it."""

import math
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def display_width(text: str) -> int:
    """Columns a text takes on a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fitted(
    columns: Mapping[str, tuple[str, Sequence[str], bool]],
    order: Sequence[str],
    width: int,
    optional: Sequence[str] = (),
    left_out: list[str] | None = None,
) -> list[str]:
    """Columns side by side in `width`, as lines; those that do not fit are left out, never cut.

    columns    key -> heading, cells, whether they are numbers; the most important first, of which two are always kept: where
               even they do not fit, each row takes several lines
    order      the keys as they are to stand
    optional   keys that may be left out while less important ones are kept
    left_out   gets the headings of those that do not fit
    """
    widths = {key: max(map(display_width, (heading, *cells))) for key, (heading, cells, _) in columns.items()}
    kept: list[str] = []
    for n, key in enumerate(columns):
        if n < 2 or sum(widths[k] + 2 for k in kept) + widths[key] <= width:
            kept.append(key)
        elif key not in optional:
            break

    def padded(key: str, text: str) -> str:
        pad = " " * (widths[key] - display_width(text))
        return pad + text if columns[key][2] else text + pad

    shown = [key for key in order if key in kept]
    if left_out is not None:
        left_out += [columns[key][0] for key in order if key in columns and key not in kept]
    rows = zip(*([columns[key][0], *columns[key][1]] for key in shown), strict=True)
    if sum(widths[key] + 2 for key in shown) - 2 > width:
        return [
            "\n".join([*wrapped(row[0], width, ""), *(line for text in row[1:] for line in wrapped(text, width))])
            for row in rows
        ]
    return ["  ".join(padded(key, text) for key, text in zip(shown, row, strict=True)).rstrip() for row in rows]


def wrapped(text: str, width: int, indent: str = "    ") -> list[str]:
    """Text in lines of at most `width` columns; Chinese may break anywhere."""
    result, current = [], indent
    for word in text.split(" "):
        pieces = [word] if display_width(word) == len(word) else list(word)
        for n, piece in enumerate(pieces):
            space = " " if n == 0 and current.strip() else ""
            if display_width(current + space + piece) > width and current.strip():
                result.append(current)
                current, space = indent, ""
            current += space + piece
    return [*result, current]


def paragraphs(texts: Iterable[str], width: int) -> list[str]:
    """Each text in lines of at most `width` columns, the second and later ones indented. English alone."""
    return [line for text in texts for line in textwrap.wrap(text, width, subsequent_indent="  ")]


def clean(value: Any) -> Any:
    """Plain data that JSON can hold: NaN and infinity become null."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shape_text(shape: Iterable[int], between: str = " ") -> str:
    return between.join(map(str, shape))
