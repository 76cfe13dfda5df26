"""What the commands share: finding pictures, reading them in batches, running a model on them, what they say on the way."""

import argparse
import collections
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arithmetic.threads import usable_cpus
from ..errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL.Image import Image

    from ..vit import ViT

# Exit statuses; the last two are sysexits.h's EX_SOFTWARE, and a shell's 128 + SIGINT.
OK, FAILED, BAD_INPUT, BUG, INTERRUPTED = 0, 1, 2, 70, 130
BATCH = 16
READERS = min(4, usable_cpus())  # threads that read pictures
AHEAD = BATCH  # how many pictures at most are read before they are asked for


def complain(text: str) -> None:
    """One line on stderr that is an error, whatever line breaks are in the text."""
    print(f"numpy-vit: error: {printable(' '.join(text.split()))}", file=sys.stderr)


def note(*texts: str) -> None:
    """Lines on stderr that are no errors."""
    for text in texts:
        print(f"numpy-vit: note: {printable(text)}", file=sys.stderr)


def refuse(*rules: tuple[object, str]) -> None:
    """Raise InputError with the reason of the first rule that is broken. An option that would be ignored is an error."""
    for broken, why in rules:
        if broken:
            raise InputError(why)


def check_output(output: str, *suffixes: str) -> None:
    """Refuse a target that cannot be written before the work, not after it."""
    path, folder = Path(output), Path(output).parent
    special = path.exists() and not path.is_file()  # a device or a pipe is written to, not replaced
    refuse(
        (suffixes and not output.lower().endswith(suffixes), f"{output}: the name must end in {', '.join(suffixes)}"),
        (path.is_dir(), f"{output}: cannot be written (it is a folder; give a file name)"),
        (not folder.is_dir(), f"{output}: cannot be written (there is no folder {folder})"),
        (not (special or os.access(folder, os.W_OK)), f"{output}: cannot be written (Permission denied)"),
    )


class Runner:
    """A model as the options describe it, and its pixels and outputs for pictures."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from .models import open_weights

        checkpoint = open_weights(arguments.weights, arguments.preprocessor, arguments.size)
        if checkpoint.preprocess is None:
            raise InputError(
                f"{arguments.weights}: does not say how pictures are prepared: give a preprocessor_config.json (--preprocessor)"
            )
        self.name, self.strict, self.resize = arguments.weights, arguments.strict, arguments.size is not None
        self.model: ViT = checkpoint.model(arguments.dtype)

    def __call__(self, pixels: Any, record: Any = None) -> Any:
        """The model's outputs, with the steps to `record`. Raises InputError where they are no numbers."""
        from ..files.embedder import outputs

        return outputs(self.model, pixels, name=self.name, record=record, strict=self.strict, resize_positions=self.resize)

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
    with ThreadPoolExecutor(READERS, "read") as pool:
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
