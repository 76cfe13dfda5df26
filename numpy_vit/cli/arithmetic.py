"""The options for a narrow arithmetic: which, and how its scales are measured or given."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .common import note, refuse
from .options import add
from .running import pictures

if TYPE_CHECKING:
    from ..models.narrow import NarrowViT
    from ..vit import ViT


def add_arithmetic_options(command: argparse.ArgumentParser) -> None:
    add(command, "--arithmetic", "--calibrate", "--calibration", "--scales")


def refuse_without_arithmetic(arguments: argparse.Namespace) -> None:
    """Raise InputError for options that go with --arithmetic, without it, or not with each other."""
    for option in ("calibrate", "calibration", "scales"):
        refuse((getattr(arguments, option) is not None and arguments.arithmetic is None, f"--{option} goes with --arithmetic"))
    both = arguments.calibrate is not None and arguments.scales is not None
    refuse((both, "--calibrate and --scales: give one of them"))
    refuse((arguments.calibration is not None and arguments.scales is not None, "--calibration: the scales are given"))


def narrow_model(
    arguments: argparse.Namespace, model: "ViT", prepare: Callable[[Any], Any] | None, own: Iterable[Any] | None
) -> "tuple[NarrowViT, dict[str, Any]]":
    """The model in the arithmetic asked for, and how its scales were found.

    model    what the scales are measured with
    prepare  a picture's path -> pixels, or None where that is not known
    own      pixels to measure with where no others are given, or None
    """
    from ..models.narrow import NarrowViT, calibrate, chosen, read_grids

    arithmetic = chosen(arguments.arithmetic)
    if arithmetic.steps is None:
        refuse(
            (
                arguments.calibrate or arguments.scales,
                f"arithmetic {arithmetic.name} keeps no step in integers: it needs no scales",
            )
        )
        return NarrowViT(model, arithmetic), {}
    if arguments.scales is not None:
        grids = read_grids(Path(arguments.scales), arithmetic, model.step_names())
        return NarrowViT(model, arithmetic, grids), {"scales": Path(arguments.scales).name}
    rule = arguments.calibration or "min-max"
    if arguments.calibrate is None:
        if own is None:
            raise InputError(
                f"arithmetic {arithmetic.name} needs scales: give --calibrate DIR with some pictures, or --scales FILE"
            )
        note(f"arithmetic {arithmetic.name}: its scales are measured on the pictures themselves (--calibrate gives others)")
        kept = list(own)
        return NarrowViT(model, arithmetic, calibrate(model, lambda: kept, arithmetic, rule)), {"pictures": "own", "rule": rule}
    if prepare is None:
        raise InputError("--calibrate needs a model that says how pictures are prepared: give --weights, or --scales")
    paths = pictures([arguments.calibrate])

    def batches() -> Iterator[Any]:
        for path in paths:
            yield prepare(path)

    return NarrowViT(model, arithmetic, calibrate(model, batches, arithmetic, rule)), {"pictures": len(paths), "rule": rule}
