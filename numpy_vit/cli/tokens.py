"""numpy-vit tokens: how many tokens a picture becomes."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .common import OK, printable, refuse, terminal_width
from .options import add, positive

if TYPE_CHECKING:
    from ..models.image_tokens import Eye, ImageTokens, Size

SIZE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)
SIDE = re.compile(r"\d+")
NUMBER = re.compile(r"-?\d+")
COLUMNS = {  # key -> heading, whether it is a number; the most important first
    "model": ("model", False),
    "picture": ("height x width", False),
    "total": ("tokens in all", True),
    "image_tokens": ("image tokens", True),
    "markers": ("markers", True),
    "resized": ("resized to", False),
    "tiles": ("tiles", False),
    "patches": ("patches", True),
    "macs": ("MACs", True),
}
ORDER = ("model", "picture", "resized", "tiles", "patches", "image_tokens", "markers", "total", "macs")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "tokens",
        help="how many tokens a picture becomes for a multimodal model",
        description="Say what a model's own processor makes of a picture: the size it is resized to, tiles, patches, the "
        "tokens that the language model gets, the special tokens around and between them (markers), and the encoder's "
        "multiply-accumulates. From the size alone: no weights are needed. All sizes are height x width.",
        epilog="MODEL is a published model's name (`numpy-vit trace --list`), a folder with config.json and "
        "preprocessor_config.json, a converted file, or a cached hub name. Example: "
        "numpy-vit tokens qwen2.5-vl siglip2 photo.jpg 1080x1920 --budget 1000",
    )
    command.add_argument(
        "words",
        nargs="+",
        metavar="MODEL|HEIGHTxWIDTH|PICTURE",
        help="one or several models; sizes or pictures; and key=value for what preprocessor_config.json says otherwise "
        "(max_pixels=1003520)",
    )
    command.add_argument("--budget", type=positive, metavar="TOKENS", help="also say what to set for at most so many tokens")
    add(command, "--json")
    command.set_defaults(key_values="words")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..files.jsonfile import json_text
    from ..models.image_tokens import eye

    models, pictures, settings = sorted_out(arguments.words)
    eyes = [eye(model).changed(settings) for model in models]
    found = [(picture, seen.look(size)) for picture, size in pictures.items() for seen in eyes]
    advice = [budgeted(seen, list(pictures.values()), arguments.budget) for seen in eyes if arguments.budget]
    if arguments.json:
        rows = [{"picture": picture, **row.to_dict()} for picture, row in found]
        print(json_text({"sizes": "height, width", "rows": rows, **({"budget": advice} if advice else {})}))
        return OK
    print("\n".join(table(found)))
    for line in [*facts(found), *map(said, advice)]:
        print(line)
    return OK


def sorted_out(words: Sequence[str]) -> tuple[list[str], "dict[str, Size]", dict[str, int | bool]]:
    """Models, pictures (as given -> size), settings. Raises InputError where one of the first two is missing."""
    from ..models.image_tokens import size_of
    from ..pictures.images import SUFFIXES

    models: list[str] = []
    pictures: dict[str, Size] = {}
    settings: dict[str, int | bool] = {}
    for word in words:
        path = Path(word)
        if match := SIZE.fullmatch(word):
            pictures[word] = int(match[1]), int(match[2])
        elif path.is_file() and word.lower().endswith(SUFFIXES):
            pictures[word] = size_of(word)
        elif "=" in word and not path.exists():
            key, _, value = word.partition("=")
            settings[key] = setting(word, value)
        elif SIDE.fullmatch(word) and not path.exists():
            raise InputError(f"{word}: give a size as HEIGHTxWIDTH ({word}x{word} is a square)")
        elif word.lower().endswith(SUFFIXES):
            raise InputError(f"{word}: no such picture")
        else:
            models.append(word)
    refuse(
        (not models, "no model is given: qwen2.5-vl, say; `numpy-vit trace --list` has all names"),
        (not pictures, "no size or picture is given: 1080x1920 (height x width), say"),
    )
    return models, pictures, settings


def setting(word: str, value: str) -> int | bool:
    """The value after KEY=: a whole number, true or false."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not NUMBER.fullmatch(value):
        raise InputError(f"{word}: a whole number is expected, or true or false")
    return int(value)


def table(found: "Sequence[tuple[str, ImageTokens]]") -> list[str]:
    """One row for each picture and model, side by side."""
    from ..writing.text import fitted

    rows = [cells(picture, row) for picture, row in found]
    columns = {key: (heading, [row[key] for row in rows], number) for key, (heading, number) in COLUMNS.items()}
    left_out: list[str] = []
    lines = fitted(columns, ORDER, terminal_width(), left_out=left_out)
    return [*lines, f"(too narrow here for: {', '.join(left_out)})"] if left_out else lines


def cells(picture: str, row: "ImageTokens") -> dict[str, str]:
    """A row as text."""
    size, tiles = by(row.size), f"{row.tiles[0]} x {row.tiles[1]}"
    return {
        "model": printable(row.model),
        "picture": size if SIZE.fullmatch(picture) else f"{printable(picture)} {size}",
        "resized": by(row.resized),
        "tiles": "-" if row.tiles == (1, 1) else f"{tiles} + 1" if row.thumbnail else tiles,
        "patches": f"{row.patches:,}",
        "image_tokens": "-" if row.image_tokens is None else f"{row.image_tokens:,}",
        "markers": f"{sum(row.markers.values()):,}" if row.image_tokens is not None else "-",
        "total": "-" if row.total is None else f"{row.total:,}",
        "macs": "-" if row.macs is None else f"{row.macs / 1e9:,.1f} G",
    }


def by(size: "Size") -> str:
    return f"{size[0]} x {size[1]}"


def facts(found: "Sequence[tuple[str, ImageTokens]]") -> list[str]:
    """What the columns mean, as far as they are used here."""
    lines = ["sizes are height x width; tiles rows x columns"]
    if any(row.thumbnail for _, row in found):
        lines[0] += ", + 1: the whole picture once more"
    if any(row.image_tokens is None for _, row in found):
        lines.append("-: an encoder alone, without a language model; all its patches are there for what comes after")
    seen: dict[str, ImageTokens] = {}
    for _, row in sorted(found, key=lambda item: (len(item[1].markers), sum(item[1].markers.values()))):
        if row.markers:
            seen[row.model] = row  # of each model the picture with most of them
    for name, row in seen.items():
        text = ", ".join(f"{count} {marker}" if count > 1 else marker for marker, count in row.markers.items() if count)
        lines.append(f"markers of {printable(name)} for {by(row.size)}: {text}")
    return lines


def budgeted(seen: "Eye", sizes: "list[Size]", budget: int) -> dict[str, Any]:
    """What to set for a budget."""
    from ..models.image_tokens import settings_for

    return {"model": seen.name, "at most": budget, "set": settings_for(seen, sizes, budget)}


def said(advice: dict[str, Any]) -> str:
    """The same in words."""
    name, budget, found = printable(advice["model"]), advice["at most"], advice["set"]
    if found is None:
        return f"{name}: nothing that can be set brings these pictures to {budget:,} tokens"
    if not found:
        return f"{name}: at most {budget:,} tokens as it is"
    text = " ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in found.items())
    return f"{name}: at most {budget:,} tokens with {text}"
