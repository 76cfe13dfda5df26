"""What the commands share: options, finding pictures, reading them in batches, progress."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DIGITS
from ..errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..model import ViT

BATCH = 16
SMALL_MODEL = 20_000_000  # bytes: a second thread gains nothing below


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Which model, in which arithmetic, at which size."""
    command.add_argument(
        "--weights",
        metavar="MODEL",
        default=DIGITS,
        help="a converted file, a Hugging Face folder or a hub name (default: the shipped digits model)",
    )
    command.add_argument("--preprocessor", metavar="FILE", help="a preprocessor_config.json, or a published way: clip, ...")
    command.add_argument("--dtype", choices=("float32", "float64", "portable"), default="float32")
    command.add_argument("--image", metavar="HxW", type=image_size, help="run at another image size (positions are resized)")
    command.add_argument("--strict", action="store_true", help="also check the invariants of every step")


def image_size(text: str) -> tuple[int, int]:
    """ "384" or "224x320" -> (Y, X)."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a size like 384 or 224x320 (height x width)")
    return sides[0], sides[-1]


def field_value(key: str, text: str) -> Any:
    """The text after KEY= as the field of ViTConfig wants it; of an unknown field, the text. Raises InputError."""
    import dataclasses

    from ..config import ViTConfig

    kind = {field.name: field.type for field in dataclasses.fields(ViTConfig)}.get(key, str)
    if key in ("image", "rope_grid"):
        try:
            return image_size(text)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{key}={text}: {error}") from error
    if key == "without_bias":
        return tuple(text.split(","))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{key}={text}: give true or false")
        return text.lower() == "true"
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"{key}={text}: a number is expected") from error


def spare_threads(arguments: argparse.Namespace) -> None:
    """Before NumPy is imported: one BLAS thread where there is little or nothing to compute.

    OpenBLAS starts its threads when NumPy is imported and keeps them spinning between matrix products; that doubles the
    CPU time of a command that runs a small model, or none. Who sets OPENBLAS_NUM_THREADS is not overruled.
    """
    if getattr(arguments, "action", None) is not None:  # a golden's model may be of any size
        return
    if hasattr(arguments, "threads"):  # bench
        set_blas_threads(arguments.threads)
        return
    values = getattr(arguments, "with_values", None)
    weights = values[0] if values else getattr(arguments, "weights", None)
    if weights is None or weights == DIGITS:
        small = True
    elif Path(weights).is_dir():
        small = sum(file.stat().st_size for file in Path(weights).glob("*.safetensors")) < SMALL_MODEL
    else:
        small = Path(weights).is_file() and Path(weights).stat().st_size < SMALL_MODEL
    if small:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def set_blas_threads(threads: int | None) -> None:
    """Before NumPy is imported: as many BLAS threads as `bench` is asked for; None: as the BLAS itself decides."""
    if threads is not None:
        for name in ("OPENBLAS", "OMP", "MKL", "BLIS"):
            os.environ[f"{name}_NUM_THREADS"] = str(threads)
        os.environ["VECLIB_MAXIMUM_THREADS"] = str(threads)


def complain(text: str) -> None:
    """One line on stderr that is an error, whatever line breaks are in the text."""
    print(f"numpy-vit: error: {printable(' '.join(text.split()))}", file=sys.stderr)


def note(text: str) -> None:
    """One line on stderr that is no error."""
    print(f"numpy-vit: note: {printable(text)}", file=sys.stderr)


class Runner:
    """A model as the options describe it, and its pixels and outputs for pictures."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from ..loading import open_checkpoint

        self.name = arguments.weights
        checkpoint = open_checkpoint(arguments.weights, preprocessor=arguments.preprocessor)
        for text in checkpoint.notes:
            note(text)
        if checkpoint.preprocess is None:
            raise InputError(
                f"{arguments.weights}: does not say how pictures are prepared: give a preprocessor_config.json (--preprocessor)"
            )
        if arguments.image is not None:
            patch = checkpoint.config.patch
            if arguments.image[0] % patch or arguments.image[1] % patch:
                raise InputError(
                    f"--image: {arguments.image[0]}x{arguments.image[1]} is not a multiple of the patch size {patch}"
                )
            checkpoint.preprocess = checkpoint.preprocess.for_image(arguments.image)
        self.model: ViT = checkpoint.model(arguments.dtype)
        self.resize = arguments.image is not None
        self.strict = arguments.strict

    def __call__(self, pixels: Any, record: Any = None) -> Any:
        """The model's outputs, with the steps to `record`. Raises InputError where they are no numbers."""
        import numpy as np

        with np.errstate(all="ignore"):
            out = self.model(pixels, record, strict=self.strict, resize_positions=self.resize)
        if not np.isfinite(out.last_hidden_state if out.logits is None else out.logits).all():
            raise InputError(f"{self.name}: gives NaN or infinite numbers: its weights or its preprocessing are damaged")
        return out

    def look(self, picture: str) -> "tuple[Image, Any]":
        """A picture file as the model sees it, before its numbers are normalised, and its pixels (1, C, Y, X)."""
        import numpy as np
        from PIL import Image

        from ..images import Preprocess

        policy = self.model.preprocess_policy
        assert isinstance(policy, Preprocess)
        values = policy.resize_and_crop(picture)
        shown = np.rint(np.clip(values, 0, 255)).astype(np.uint8)  # it may be floats
        image = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)
        return image, policy.normalize(values)[None].astype(self.model.dtype)

    def batches(self, paths: Sequence[Path], failed: dict[Path, str]) -> Iterator[tuple[list[Path], Any]]:
        """Yields (paths, pixels) for the pictures that can be read; the others go to stderr and into `failed`."""
        import numpy as np

        progress = Progress(len(paths))
        for start in range(0, len(paths), BATCH):
            good, pixels = [], []
            for path in paths[start : start + BATCH]:
                try:
                    pixels.append(self.model.preprocess(path))
                    good.append(path)
                except InputError as error:
                    failed[path] = str(error)
                    progress.clear()
                    complain(str(error))
            if good:
                if len({p.shape for p in pixels}) > 1:  # a model whose preprocessing does not resize
                    for path, one in zip(good, pixels, strict=True):
                        yield [path], one
                else:
                    yield good, np.concatenate(pixels)
            progress.show(min(start + BATCH, len(paths)))
        progress.clear()


def pictures(places: Sequence[str]) -> list[Path]:
    """The picture files named, and those in the folders named, in order. Raises InputError where there is none."""
    from ..images import SUFFIXES

    found = []
    for place in places:
        if not place:
            raise InputError("an empty name is no picture")
        path = Path(place)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"{place}: no picture in this folder")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{place}: no such file or folder")
    return found


def printable(text: str) -> str:
    """Text from a file, safe to print: control characters are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def terminal_width() -> int:
    """The terminal's width; in a pipe, as wide as the table wants (COLUMNS overrides both)."""
    wide = 10_000 if not sys.stdout.isatty() else 80
    return max(20, shutil.get_terminal_size((wide, 24)).columns)


def wants_colour() -> bool:
    """Colours only on a terminal that has them and a user who has not said no (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Progress:
    """A line on stderr, kept up to date on a terminal; silent in a pipe."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.start = time.monotonic()
        self.on = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, done: int) -> None:
        if self.on and self.total > BATCH:
            rate = done / max(time.monotonic() - self.start, 1e-9)
            print(f"\r\x1b[K{done}/{self.total} pictures, {rate:.0f} a second", end="", file=sys.stderr, flush=True)

    def say(self, what: str) -> None:
        """What is being done now."""
        if self.on:
            print(f"\r\x1b[K{what} ...", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
