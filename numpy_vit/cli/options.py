"""The options that several commands have, each said once."""

import argparse
from typing import Any

from ..config import DIGITS, PRECISIONS


def image_size(text: str) -> tuple[int, int]:
    """ "384" or "224x320" -> (Y, X)."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a size like 384 or 224x320 (height x width)")
    return sides[0], sides[-1]


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, 1 or more")
    return int(text)


STRICT = "also check the invariants of every step"
SHARED: dict[str, dict[str, Any]] = {
    "--weights": dict(metavar="MODEL", help="a converted file, a Hugging Face folder, a hub name, or digits (the default)"),
    "--preprocessor": dict(metavar="FILE", help="a preprocessor_config.json, or a published way: clip, dinov2, ..."),
    "--dtype": dict(choices=PRECISIONS, default="float32", help="to compute in (default: %(default)s)"),
    "--size": dict(type=image_size, metavar="HEIGHTxWIDTH", help="run at another image size: positions are resized"),
    "--strict": dict(action="store_true", help=STRICT),
    "--batch": dict(type=positive, metavar="B", help="pictures at once (default: 1)"),
    "--top": dict(type=positive, metavar="K", help="how many classes to show (default: %(default)s)"),
    "--lang": dict(choices=("en", "zh"), default="en", help="the language (default: %(default)s)"),
    "--arithmetic": dict(
        metavar="NAME",
        help="compute as a narrower port does: bfloat16, int8-onnx, mxfp4, ..., or a JSON description (docs/arithmetics.md)",
    ),
    "--calibrate": dict(metavar="DIR", help="measure the integers' scales on these pictures"),
    "--calibration": dict(choices=("min-max", "percentile", "error"), help="how scales are measured (default: min-max)"),
    "--scales": dict(metavar="FILE", help='JSON: a step -> {"scale": ..., "zero_point": ...}, in place of measured ones'),
    "--json": dict(action="store_true", help="print JSON"),
}


def add(command: Any, *names: str, **changes: Any) -> None:
    """Add options that are in SHARED, with what this command has otherwise."""
    for name in names:
        command.add_argument(name, **{**SHARED[name], **changes})


def add_output(command: argparse.ArgumentParser, metavar: str, help: str) -> None:
    command.add_argument("-o", "--output", required=True, metavar=metavar, help=help)


def add_model_options(command: argparse.ArgumentParser, *, stops: bool = False) -> None:
    """Which model, in which arithmetic, at which size; and whether --strict also stops at an unreadable picture."""
    add(command, "--weights", default=DIGITS)
    add(command, "--preprocessor", "--dtype", "--size")
    add(command, "--strict", **({"help": f"stop at the first unreadable picture; {STRICT}"} if stops else {}))
