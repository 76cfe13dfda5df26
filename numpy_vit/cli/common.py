"""What the commands share: options, finding pictures, reading them in batches, progress."""

import argparse
import collections
import contextlib
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arithmetic.threads import OURS, hold_blas, threads_to_use
from ..config import DIGITS
from ..errors import InputError, printable

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL.Image import Image

    from ..model import ViT

BATCH = 16
READERS = min(4, os.cpu_count() or 1)  # threads that read pictures
AHEAD = BATCH  # how many pictures at most are read before they are asked for
SMALL_MODEL = 20_000_000  # bytes: a second thread gains nothing below


def add_model_options(command: argparse.ArgumentParser, stops: bool = False) -> None:
    """Which model, in which arithmetic, at which size; and whether --strict also stops at an unreadable picture."""
    command.add_argument(
        "--weights",
        metavar="MODEL",
        default=DIGITS,
        help="a converted file, a Hugging Face folder or a hub name (default: the shipped digits model)",
    )
    command.add_argument("--preprocessor", metavar="FILE", help="a preprocessor_config.json, or a published way: clip, ...")
    command.add_argument("--dtype", choices=("float32", "float64", "portable"), default="float32")
    command.add_argument("--image", metavar="HxW", type=image_size, help="run at another image size (positions are resized)")
    strict = "stop at the first unreadable picture, and check" if stops else "also check"
    command.add_argument("--strict", action="store_true", help=f"{strict} the invariants of every step")


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


def share_threads(arguments: argparse.Namespace) -> None:
    """Before NumPy is imported: one BLAS thread, and threads of numpy_vit's own (arithmetic.parallel) for what is large.

    As many as OPENBLAS_NUM_THREADS or OMP_NUM_THREADS say, else one a processor. Where there is little or nothing to
    compute one thread is enough: a second one of OpenBLAS's would only spin. Left alone: goldens (`portable` arithmetic
    makes one matrix product at a time), and who has set NUMPY_VIT_THREADS.
    """
    if getattr(arguments, "action", None) is not None or getattr(arguments, "dtype", None) == "portable":
        return
    if hasattr(arguments, "threads"):  # bench, whose option goes before the variable
        os.environ[OURS] = str(arguments.threads or threads_to_use())
    elif little_to_compute(arguments):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return
    os.environ.setdefault(OURS, str(threads_to_use()))
    hold_blas()


def little_to_compute(arguments: argparse.Namespace) -> bool:
    """Whether the command runs a small model, or none."""
    values = getattr(arguments, "with_values", None)
    weights = values[0] if values else getattr(arguments, "weights", None)
    if weights is None or weights == DIGITS:
        return True
    if Path(weights).is_dir():
        return sum(file.stat().st_size for file in Path(weights).glob("*.safetensors")) < SMALL_MODEL
    return Path(weights).is_file() and Path(weights).stat().st_size < SMALL_MODEL


def complain(text: str) -> None:
    """One line on stderr that is an error, whatever line breaks are in the text."""
    print(f"numpy-vit: error: {printable(' '.join(text.split()))}", file=sys.stderr)


def note(text: str) -> None:
    """One line on stderr that is no error."""
    print(f"numpy-vit: note: {printable(text)}", file=sys.stderr)


class Runner:
    """A model as the options describe it, and its pixels and outputs for pictures."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from ..files.loading import open_checkpoint

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

        from ..files.embedder import check_finite

        with np.errstate(all="ignore"):
            out = self.model(pixels, record, strict=self.strict, resize_positions=self.resize)
        check_finite(self.name, out.last_hidden_state if out.logits is None else out.logits)
        return out

    def look(self, picture: str) -> "tuple[Image, Any]":
        """A picture file as the model sees it, before its numbers are normalised, and its pixels (1, C, Y, X)."""
        import numpy as np
        from PIL import Image

        from ..pictures.images import Preprocess

        policy = self.model.preprocess_policy
        assert isinstance(policy, Preprocess)
        values = policy.resize_and_crop(picture)
        shown = np.rint(np.clip(values, 0, 255)).astype(np.uint8)  # it may be floats
        image = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)
        return image, policy.normalize(values)[None].astype(self.model.dtype)

    def batches(
        self, paths: Sequence[Path], failed: dict[Path, str], done: int = 0, stop: bool = False
    ) -> Generator[tuple[list[Path], Any], None, None]:
        """Yields (paths, pixels) of the next BATCH pictures that can be read, while those after them are being read.

        The others go to stderr and into `failed`, or, with `stop`, the first raises. A batch is of one size, so it is
        smaller where the next picture has another one and the model's preprocessing does not resize. The first `done`
        pictures are left out; `failed` holds those of them that could not be read.
        """
        import numpy as np

        progress = Progress(len(paths), done)
        computed = done - len(failed)
        try:
            with contextlib.closing(self._readable(paths[done:], failed, stop, progress)) as readable:
                for good, pixels in in_batches(readable):
                    yield good, np.concatenate(pixels)
                    computed += len(good)
                    progress.show(computed + len(failed))
        finally:
            progress.clear()

    def _readable(
        self, paths: Sequence[Path], failed: dict[Path, str], stop: bool, progress: "Progress"
    ) -> Generator[tuple[Path, Any], None, None]:
        """Yields (path, pixels (1, C, Y, X)) for the pictures that can be read."""
        with contextlib.closing(read_ahead(self.model.preprocess, paths)) as reading:
            for path, picture in reading:
                try:
                    pixels = picture.result()
                except InputError as error:
                    if stop:
                        raise
                    failed[path] = str(error)
                    progress.clear()
                    complain(str(error))
                else:
                    yield path, pixels


def in_batches(pictures: Iterable[tuple[Path, Any]]) -> Iterator[tuple[list[Path], list[Any]]]:
    """Yields paths and pixels of BATCH pictures each; of fewer before a picture of another size, and at the end."""
    paths: list[Path] = []
    several: list[Any] = []
    for path, pixels in pictures:
        if several and pixels.shape != several[0].shape:
            yield paths, several
            paths, several = [], []
        paths.append(path)
        several.append(pixels)
        if len(paths) == BATCH:
            yield paths, several
            paths, several = [], []
    if paths:
        yield paths, several


def read_ahead(read: Callable[[Path], Any], paths: Iterable[Path]) -> Generator[tuple[Path, "Future[Any]"], None, None]:
    """Yields each path with its `read(path)` as a future, in order; threads are at work on the AHEAD paths after it.

    Close it when done with it: pictures that nobody waits for are then not read any more.
    """
    from concurrent.futures import ThreadPoolExecutor

    pending: collections.deque[tuple[Path, Future[Any]]] = collections.deque()
    # Threads that each silence Pillow's warnings for a moment (numpy_vit.pictures.images) would switch them on for one another.
    with warnings.catch_warnings(), ThreadPoolExecutor(READERS, "read") as pool:
        warnings.simplefilter("ignore")
        try:
            for path in paths:
                pending.append((path, pool.submit(read, path)))
                if len(pending) > AHEAD:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def pictures(places: Sequence[str]) -> list[Path]:
    """The picture files named, and those in the folders named, in order. Raises InputError where there is none."""
    from ..pictures.images import SUFFIXES

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


def terminal_width() -> int:
    """The terminal's width; in a pipe, as wide as the table wants (COLUMNS overrides both)."""
    wide = 10_000 if not sys.stdout.isatty() else 80
    return max(20, shutil.get_terminal_size((wide, 24)).columns)


def wants_colour() -> bool:
    """Colours only on a terminal that has them and a user who has not said no (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Progress:
    """A line on stderr, kept up to date on a terminal; silent in a pipe."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        self.begun = done  # by an earlier run
        self.start = time.monotonic()
        self.on = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.show(done)

    def show(self, done: int) -> None:
        """How many pictures are done, how fast, and how long the others will take."""
        if self.total <= BATCH:
            return
        text = f"{done}/{self.total} pictures"
        if done > self.begun:
            rate = (done - self.begun) / max(time.monotonic() - self.start, 1e-9)
            text += f", {speed(rate)}, {duration((self.total - done) / rate)} left"
        self._write(text)

    def say(self, what: str) -> None:
        """What is being done now."""
        self._write(f"{what} ...")

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self.on:  # a line that is too long would be broken in two, and only the second be overwritten
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)


def speed(rate: float) -> str:
    """ "0.31 pictures/s", "42 pictures/s"."""
    return f"{rate:.0f} pictures/s" if rate >= 10 else f"{rate:.2g} pictures/s"


def duration(seconds: float) -> str:
    """ "42 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def summary(count: int, seconds: float, unreadable: int) -> str:
    """What a run did, in half a sentence: "40 pictures in 1.2 s, 33 pictures/s, 1 unreadable"."""
    text = f"{count} pictures in {seconds:.1f} s, {speed(count / max(seconds, 1e-9))}"
    return f"{text}, {unreadable} unreadable" if unreadable else text
